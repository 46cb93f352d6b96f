"""Everything that needs a GPU, in one command: tests, compute-sanitizer where it is installed, and the benchmark.

    make gpu-check

Writes results/gpu_check.json and, per section of the benchmark, results/gpu/<section>.json.
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
from bench.measure import machine
from bench.report import write_json
from tracin_ext.backends.native import reason_against

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/test_ops.py", "tests/test_backends.py", "tests/test_influence.py", "tests/test_full_float32.py"]
SANITIZED = "cuda and (opcheck or factored_scores or merge_top_k or relation_tables)"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
BENCHMARK = ("--only", "w1,w2", "--methods", "factored,native,native-mixed-precision")


def gpu() -> dict[str, Any]:
    """The GPU and what was built for it; raises ClickException with the reason if the ops cannot run there."""
    if not torch.cuda.is_available():
        raise click.ClickException("this check needs a GPU: PyTorch sees no CUDA device")
    if reason := reason_against(torch.device("cuda")):
        raise click.ClickException(reason)
    major, minor = torch.cuda.get_device_capability()
    return {
        "gpu": torch.cuda.get_device_name(), "capability": f"{major}.{minor}", "cuda": torch.version.cuda,
        "targets": tracin_ext.status()["cuda_targets"],
    }  # fmt: skip


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
    output = ROOT / "results" / "gpu"
    command = [sys.executable, "-m", "bench", *BENCHMARK, "--output", str(output), *(["--quick"] if quick else [])]
    result["benchmark"] = subprocess.run(command, cwd=ROOT, env=os.environ).returncode == 0
    write_json(ROOT / "results" / "gpu_check.json", result)
    sanitized = all(tool["passed"] for tool in result["sanitizer"].values() if isinstance(tool, dict))
    if not (result["tests"]["passed"] and sanitized and result["benchmark"]):
        raise click.ClickException("something failed; see above and results/gpu_check.json")
    click.echo("all passed; wrote results/gpu_check.json")


if __name__ == "__main__":
    main()
