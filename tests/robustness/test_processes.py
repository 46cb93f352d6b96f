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
pytestmark = pytest.mark.slow
native = pytest.mark.skipif(not tracin_ext.status()["available"], reason="no native extension")


def differences(harness: str, module: str, folder: Path, *arguments: object) -> tuple[str, int]:
    """How the faults that a harness finds differ from those known, and how many inputs it tried."""
    path = folder / "faults.json"
    command = [sys.executable, "-m", f"tests.robustness.{module}", *map(str, arguments), "--json", str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(path.read_text())
    return known.compare(harness, {key: str(what) for key, what in told["faults"].items()}), told["inputs"]


def reproducers(harness: str) -> list[int]:
    return [int(fault.reproducer) for fault in known.known(harness).values()]


def test_damaged_files(fixtures_dir: Path, tmp_path: Path) -> None:
    arguments = ("--inputs", 300, "--quick", "--also", *reproducers("files"))
    difference, tried = differences("files", "fuzz_files", tmp_path, *arguments)
    assert tried >= 300
    assert not difference, difference


@native
def test_wrong_op_calls(tmp_path: Path) -> None:
    difference, tried = differences("ops", "fuzz_ops", tmp_path, "--calls", 2000, "--also", *reproducers("ops"))
    assert tried >= 2000
    assert not difference, difference


def test_kills(tmp_path: Path) -> None:
    difference, stopped = differences(
        "kills", "kills", tmp_path, "--each", 3, "--imports", 1, "--jobs", "run", "batch", "train"
    )
    assert stopped >= 3  # of nine; the others had ended before their moment came
    assert not difference, difference


def test_full_disks(tmp_path: Path) -> None:
    if against := disk_full.can_mount():
        pytest.skip(against)
    difference, tried = differences("full disks", "disk_full", tmp_path, "--shares", 0.0, 0.5)
    assert tried == 2 * len(disk_full.OUTPUTS)
    assert not difference, difference
