"""The command for GPU machines, where there is none; and the arithmetic of the predicted times."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tracin_ext
from bench import cuda_model
from bench.cuda_model import GPUS, Gpu, Step, occupancy, steps
from bench.gpu_check import __main__ as gpu_check
from bench.gpu_check import jobs, tiny
from bench.gpu_check.__main__ import ALL_RIGHT, NO_ERRORS, Check
from bench.graphs import Shape, synthetic
from bench.jobs import Sizes
from bench.limits import plain_flops
from tests.samples.models import EDGES, VARIANTS
from tracin_ext.backends.native import reason_against

ROOT = Path(__file__).resolve().parents[2]
WORKS = cuda_model.read_works(ROOT / "results")


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """One that writes to a folder of the test's."""
    monkeypatch.setattr(Check, "work", property(lambda self: tmp_path))
    return Check("cpu", True, tmp_path, tmp_path / "wheels", 60, 1, gpu_check.environment())


@pytest.mark.slow
def test_a_step_is_noted_as_it_ends(check: Check) -> None:
    assert check.python("right", 30, "-c", "print('3 passed in 1 s')")
    assert not check.python("wrong", 30, "-c", "raise SystemExit(3)")
    assert not check.python("slow", 1, "-c", "import time; time.sleep(60)")
    found = json.loads((check.out / "gpu_check.json").read_text())["steps"]
    assert {name: step["passed"] for name, step in found.items()} == {"right": True, "wrong": False, "slow": False}
    assert (found["right"]["said"], found["slow"]["said"]) == ("3 passed in 1 s", "timed out")
    assert found["slow"]["seconds"] < 30
    check.seconds = 0
    assert not check.python("late", 30, "-c", "pass")
    assert check.result["steps"]["late"]["said"] == "no time left"


@pytest.mark.parametrize(
    ("output", "passed"),
    [
        (f"{ALL_RIGHT}\n========= ERROR SUMMARY: 0 errors", True),
        (f"{ALL_RIGHT}\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", True),
        (f"{ALL_RIGHT}\n========= ERROR SUMMARY: 2 errors", False),
        (f"{ALL_RIGHT}\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", False),
        ("========= ERROR SUMMARY: 0 errors", False),  # it ended before it had run
        (ALL_RIGHT, False),  # the tool did not
    ],
)
def test_a_sanitizer_is_judged_by_its_summary_and_the_programs_last_line(
    check: Check, output: str, passed: bool
) -> None:
    step = check.begin("tool", [sys.executable, "-c", f"print({output!r})"])
    assert step.end(30, 5, NO_ERRORS) is passed


def test_sanitizer_that_is_missing_is_said(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "TESTS", ("--version",))
    check.environment["PATH"] = "/nonexistent"
    gpu_check.tests(check)
    assert "compute-sanitizer is not on PATH" in check.result["steps"]["sanitizer"]["said"]


def test_what_is_watched_exists() -> None:
    watched = {part for _, parts in gpu_check.TOOLS.values() for part in parts} | {*tiny.MODELS}
    assert watched <= {*VARIANTS, *EDGES, *tiny.TOLERANCES}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_a_gpu_it_says_so_and_fails(tmp_path: Path) -> None:
    """Before anything is built."""
    command = [sys.executable, "-m", "bench.gpu_check", "--out", tmp_path, "--seconds", "20", "--only", "card"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert "PyTorch sees no CUDA device" in found.stdout
    assert re.search(r"^FAILED: gpu$", found.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_benchmark_verifies_and_times_both_jobs() -> None:
    """On the CPU, where its arithmetic is the same."""
    if reason := reason_against(torch.device("cpu")):
        pytest.skip(reason)
    shape = Shape("tiny", 60, 5, 300, 12, dim=12, height=4, width=3, channels=3)
    sizes = Sizes(w1_train=64, w1_test=4, w2_train=None, w2_test=None, w2_checked=3, repeats=1)
    precisions = jobs.PRECISIONS if tracin_ext.status()["bfloat16"] else {"float32": 1e-5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "PRECISIONS", precisions)
        graph = synthetic(shape)
        rows: list[dict[str, Any]] = [*jobs.w1(graph, sizes, "cpu"), *jobs.w2(graph, sizes, "cpu")]
    assert [row["job"] for row in rows] == ["W1"] * len(precisions) + ["W2"] * len(precisions)
    assert all(row["seconds"] > 0 and row["error"] <= 1e-2 for row in rows)
    assert all(set(row["predicted_s"]) == {gpu.name for gpu in GPUS} for row in rows)


@pytest.mark.parametrize("name", WORKS)
def test_every_kernel_of_a_block_is_a_step(name: str) -> None:
    sources = [path.read_text() for path in (ROOT / "csrc" / "cuda").glob("*.cuh")]
    kernels = {kernel for text in sources for kernel in re.findall(r"(\w+)_kernel\(", text)}
    kernels -= {"self_scores", "squares"}  # of self_influence_block
    assert {step.name for step in steps(WORKS[name], True) if not step.product} == kernels


@pytest.mark.parametrize("name", WORKS)
def test_products_are_those_of_the_plain_limit(name: str) -> None:
    work = WORKS[name]
    flops = {step.name: step.flops for step in steps(work, False) if step.product}
    plain = plain_flops(work)
    assert flops["u = v W"] == plain["forward"]
    assert flops["y = delta W"] == plain["backward"]
    assert flops["linear terms"] + flops["delta . delta'"] == pytest.approx(plain["linear"])
    # Tests of one (head, relation) share the middle, pairs of one head the head's half; the relation's is a table.
    assert flops["v . v', middle"] + flops["v . v', heads"] < plain["features"]
    assert work.mixed_features + 2 * work.half == work.features


def test_a_step_takes_the_larger_of_its_two_limits() -> None:
    gpu = Gpu("any", "sm_90", float32=100.0, bfloat16=1000.0, bandwidth=10.0, shared=1 << 16)
    assert Step("computes", 200, 10, narrow=True).seconds(gpu, mixed=False) == 2
    assert Step("computes", 2000, 10, narrow=True).seconds(gpu, mixed=True) == 2
    assert Step("moves", 200, 100).seconds(gpu, mixed=False) == 10


def test_occupancy_is_limited_by_registers_and_shared_memory() -> None:
    assert occupancy(32, 0, GPUS[0]) == 1.0
    assert occupancy(33, 0, GPUS[0]) == 0.75  # rounded up to 40: six blocks of 256 threads
    assert occupancy(128, 0, GPUS[0]) == 0.25
    assert occupancy(32, 40 << 10, GPUS[0]) == 4 / 8


def test_the_page_is_the_models() -> None:
    """All of it but the compiler's report, whose figures depend on the version of nvcc."""
    page = cuda_model.OUTPUT.read_text()
    for work in WORKS.values():
        assert "\n".join(cuda_model.job_table(work)) in page
