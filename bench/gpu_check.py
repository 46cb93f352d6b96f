"""Everything that needs a GPU, in one command: tests, compute-sanitizer where it is installed, and the benchmark.

    make gpu-check

Writes results/gpu_check.json. The benchmark is W1 and W2 on FB15k-237 where TRACIN_DATA and TRACIN_CHECKPOINTS lead to
it, else on a synthetic graph of its shape; every result is verified against float64 before it is timed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import torch

import tracin_ext
from bench.cuda_model import GPUS, steps
from bench.graphs import Graph, load_fb15k237
from bench.jobs import FULL, QUICK, RATE, Sizes
from bench.limits import Work, work_of
from bench.measure import machine, measure
from bench.report import write_json
from bench.verify import reference_of, verify_top_k
from tracin import TracIn
from tracin_ext.backends.native import reason_against

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/tracin_ext", "tests/influence/test_tracin.py"]
SANITIZED = "cuda and (opcheck or factored_scores or merge_top_k or relation_tables)"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PRECISIONS = {"float32": 1e-5, "mixed": 1e-2}  # -> error allowed of the worst test triple


def gpu() -> dict[str, Any]:
    """The GPU and what was built for it; raises ClickException with the reason if the ops cannot run there."""
    if not torch.cuda.is_available():
        raise click.ClickException("this check needs a GPU: PyTorch sees no CUDA device")
    if reason := reason_against(torch.device("cuda")):
        raise click.ClickException(reason)
    major, minor = torch.cuda.get_device_capability()
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": f"{major}.{minor}",
        "cuda": torch.version.cuda,
        "targets": tracin_ext.status()["cuda_targets"],
    }


def counts(output: str) -> dict[str, int]:
    """Passed, failed, skipped and error counts of pytest's last line."""
    last = output.strip().splitlines()[-1] if output.strip() else ""
    return {name.removesuffix("s"): int(number) for number, name in re.findall(r"(\d+) ([a-z]+)", last) if name != "in"}


def run_tests(select: str, *prefix: str) -> dict[str, Any]:
    """The tests whose name has "cuda" in it; failed if any fails or none is run."""
    command = [*prefix, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", select, *TESTS]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = counts(process.stdout)
    passed = process.returncode == 0 and found.get("passed", 0) > 0
    if not passed:
        click.echo(process.stdout + process.stderr)
    return {"passed": passed, "tests": found}


def sanitize() -> dict[str, Any]:
    """The ops under every tool of compute-sanitizer, or why not."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"unavailable": "compute-sanitizer is not on PATH; it comes with the CUDA toolkit"}
    return {tool: run_tests(SANITIZED, program, "--tool", tool, "--error-exitcode", "1") for tool in TOOLS}


def predicted(work: Work, precision: str) -> dict[str, float]:
    """Seconds that the data-sheets allow (docs/cuda-performance.md), by GPU."""
    mixed = precision == "mixed"
    return {gpu.name: sum(step.seconds(gpu, mixed) for step in steps(work, mixed)) for gpu in GPUS}


def benchmark(graph: Graph, sizes: Sizes, device: str) -> list[dict[str, Any]]:
    """W1 in every backend, and W2 natively; both include the copy of the results to the CPU."""
    rows: list[dict[str, Any]] = []
    train, test = graph.train[: sizes.w1_train], graph.test[: sizes.w1_test]
    reference, work = reference_of(graph.model, train, test, RATE), work_of(graph.model, train, test)
    for backend in ("factored", "native"):
        for precision, tolerance in PRECISIONS.items():
            if (backend, precision) == ("factored", "mixed"):
                continue
            ti = TracIn(graph.model, RATE, precision=precision, backend=backend, device=device, progress=False)
            error = reference.verify(ti.description, ti.influence(train, test), tolerance)
            timing, _ = measure(lambda ti=ti: ti.influence(train, test), sizes.repeats)  # type: ignore[misc]
            rows.append(
                {
                    "job": "W1",
                    "runs": ti.description,
                    "seconds": timing.median,
                    "spread": timing.spread,
                    "error": error,
                    "predicted_s": predicted(work, precision),
                }
            )
    train, test = graph.train[: sizes.w2_train], graph.test[: sizes.w2_test]
    checked = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: sizes.w2_checked]
    exact, work = reference_of(graph.model, train, test[checked], RATE).scores, work_of(graph.model, train, test)
    for precision, tolerance in PRECISIONS.items():
        ti = TracIn(graph.model, RATE, precision=precision, backend="native", device=device, progress=False)
        timing, top = measure(lambda ti=ti: ti.top_k(train, test), sizes.repeats)  # type: ignore[misc]
        error, overlap = verify_top_k(ti.description, top.indices[checked], top.scores[checked], exact, tolerance)
        rows.append(
            {
                "job": "W2",
                "runs": ti.description,
                "seconds": timing.median,
                "spread": timing.spread,
                "error": error,
                "top_10_overlap": overlap,
                "predicted_s": predicted(work, precision),
            }
        )
    return rows


def folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes in the benchmark.")
def main(quick: bool) -> None:
    """Tests, compute-sanitizer and benchmark of the CUDA ops. Exits with 1 if anything fails."""
    result: dict[str, Any] = gpu() | {"machine": machine()}
    click.echo(f"{result['gpu']}, built for {', '.join(result['targets'])}")
    result["tests"] = run_tests("cuda")
    click.echo(f"tests: {result['tests']}")
    result["sanitizer"] = sanitize()
    click.echo(f"compute-sanitizer: {result['sanitizer']}")
    graph, _ = load_fb15k237(folder("TRACIN_DATA"), folder("TRACIN_CHECKPOINTS"), ROOT / "build" / "bench")
    result["benchmark"] = benchmark(graph, QUICK if quick else FULL, "cuda")
    for row in result["benchmark"]:
        click.echo(f"{row['job']}: {row['seconds']:.3f} s, error {row['error']:.1e}: {row['runs']}")
    write_json(ROOT / "results" / "gpu_check.json", result)
    sanitized = all(tool["passed"] for tool in result["sanitizer"].values() if isinstance(tool, dict))
    if not (result["tests"]["passed"] and sanitized):
        raise click.ClickException("something failed; see above and results/gpu_check.json")
    click.echo("all passed; wrote results/gpu_check.json")


if __name__ == "__main__":
    main()
