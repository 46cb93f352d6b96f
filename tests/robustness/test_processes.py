"""Short versions of the harnesses that run in processes of their own: damaged files, wrong op calls, kills, full disks.

They start from a fresh interpreter: a fork of this one would inherit the locks of its threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tracin_ext
from tests.robustness import disk_full, known

ROOT = Path(__file__).resolve().parents[2]
native = pytest.mark.skipif(not tracin_ext.status()["available"], reason="no native extension")


def differences(harness: str, module: str, folder: Path, *arguments: object, slow: bool = False) -> tuple[str, int]:
    """How the faults that a harness finds differ from those known, and how many inputs it tried."""
    path = folder / "faults.json"
    command = [sys.executable, "-m", f"tests.robustness.{module}", *map(str, arguments), "--json", str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(path.read_text())
    return known.compare(harness, {key: str(what) for key, what in told["faults"].items()}, slow), told["inputs"]


def reproducers(harness: str, slow: bool) -> list[int]:
    return [int(fault.reproducer) for fault in known.known(harness, slow).values()]


@pytest.mark.parametrize(
    ("inputs", "slow"), [(300, False), pytest.param(10_000, True, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_damaged_files(fixtures_dir: Path, tmp_path: Path, inputs: int, slow: bool) -> None:
    arguments = ("--inputs", inputs, *([] if slow else ["--quick"]), "--also", *reproducers("files", slow))
    difference, tried = differences("files", "fuzz_files", tmp_path, *arguments, slow=slow)
    assert tried >= inputs
    assert not difference, difference


@native
def test_wrong_op_calls(tmp_path: Path) -> None:
    arguments = ("--calls", 2000, "--also", *reproducers("ops", False))
    difference, tried = differences("ops", "fuzz_ops", tmp_path, *arguments)
    assert tried >= 2000
    assert not difference, difference


@pytest.mark.parametrize(
    ("each", "slow"), [(3, False), pytest.param(30, True, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_kills(tmp_path: Path, each: int, slow: bool) -> None:
    difference, stopped = differences("kills", "kills", tmp_path, "--each", each, "--imports", 1, slow=slow)
    assert stopped >= each  # of four times as many; the others had ended before their moment came
    assert not difference, difference


def test_full_disks(tmp_path: Path) -> None:
    if against := disk_full.can_mount():
        pytest.skip(against)
    difference, tried = differences("full disks", "disk_full", tmp_path, "--shares", 0.0, 0.5)
    assert tried == 2 * len(disk_full.OUTPUTS)
    assert not difference, difference
