"""The command for GPU machines, where there is none; and the arithmetic of the predicted times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import tracin_ext
from bench import cuda_model, gpu_check
from bench.cuda_model import GPUS, Gpu, Step, occupancy, steps
from bench.graphs import Shape, synthetic
from bench.jobs import Sizes
from bench.limits import plain_flops
from tracin_ext.backends.native import reason_against

ROOT = Path(__file__).resolve().parents[2]
WORKS = cuda_model.read_works(ROOT / "results")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_a_gpu_it_says_so_and_fails() -> None:
    result = CliRunner().invoke(gpu_check.main)
    assert result.exit_code == 1
    assert "this check needs a GPU: PyTorch sees no CUDA device" in result.output


@pytest.mark.slow
def test_tests_that_are_all_skipped_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "TESTS", ["tests/tracin_ext/test_full_float32.py"])
    assert gpu_check.run_tests("inside_and_after") == {"passed": True, "tests": {"passed": 2, "deselected": 1}}
    if not torch.cuda.is_available():
        assert gpu_check.run_tests("exact_inside")["passed"] is False


def test_sanitizer_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "compute-sanitizer is not on PATH" in gpu_check.sanitize()["unavailable"]


@pytest.mark.slow
def test_the_benchmark_verifies_and_times_both_jobs() -> None:
    """On the CPU, where its arithmetic is the same."""
    if reason := reason_against(torch.device("cpu")):
        pytest.skip(reason)
    shape = Shape("tiny", 60, 5, 300, 12, dim=12, height=4, width=3, channels=3)
    sizes = Sizes(w1_train=64, w1_test=4, w2_train=None, w2_test=None, w2_checked=3, repeats=1)
    precisions = gpu_check.PRECISIONS if tracin_ext.status()["bfloat16"] else {"float32": 1e-5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_check, "PRECISIONS", precisions)
        rows = gpu_check.benchmark(synthetic(shape), sizes, "cpu")
    assert [row["job"] for row in rows] == ["W1"] * (1 + len(precisions)) + ["W2"] * len(precisions)
    assert all(row["seconds"] > 0 and row["error"] <= 1e-2 for row in rows)
    assert all(set(row["predicted_s"]) == {gpu.name for gpu in GPUS} for row in rows)


@pytest.mark.parametrize("name", WORKS)
def test_every_kernel_of_a_block_is_a_step(name: str) -> None:
    kernels = {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cuh")} - {"launch", "warp", "gradients"}
    kernels |= {"statistics", "tap_gradients", "pixel_gradients"}  # of gradients.cuh
    kernels -= {"self_scores", "jacobians"}  # of the other two ops
    assert {step.name for step in steps(WORKS[name], True) if not step.product} == kernels


@pytest.mark.parametrize("name", WORKS)
def test_products_are_those_of_the_plain_limit(name: str) -> None:
    flops = {step.name: step.flops for step in steps(WORKS[name], False) if step.product}
    plain = plain_flops(WORKS[name])
    assert flops["u = v W"] == plain["forward"]
    assert flops["y = delta W"] == plain["backward"]
    assert flops["linear terms"] + flops["delta . delta'"] == pytest.approx(plain["linear"])
    assert flops["v . v'"] <= plain["features"]  # tests of one (head, relation) share it


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
