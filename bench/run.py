"""The command `python -m bench`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click
import torch

from bench import accurate, indexes, jobs, losses, processes, scaling, training
from bench.graphs import BIOMEDICAL, BIOMEDICAL_SMALL, Files, Graph, load_fb15k237
from bench.measure import machine, machine_line
from bench.methods import METHODS, Method
from bench.peers import PEERS, missing
from bench.plots import draw
from bench.report import SECTIONS, read_results, table_md, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
FOLDER = click.Path(path_type=Path)
Section = Callable[[], dict[str, Any]]


def chosen(names: str | None, every: tuple[str, ...], what: str) -> list[str]:
    """The given names in the order of `every`; all of them for None."""
    if names is None:
        return list(every)
    asked = [name.strip() for name in names.split(",")]
    if unknown := [name for name in asked if name not in every]:
        raise click.BadParameter(f"{', '.join(unknown)}; expected some of: {', '.join(every)}", param_hint=what)
    return [name for name in every if name in asked]


def run_ops(quick: bool) -> dict[str, Any]:
    """The pytest-benchmark suite of the ops, by pytest in a process of its own."""
    output = ROOT / "build" / "bench" / "ops.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    arguments = [
        "bench/test_ops_speed.py",
        "--benchmark-only",
        f"--benchmark-json={output}",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    if quick:
        arguments += ["--benchmark-max-time=0.3", "--benchmark-min-rounds=3"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environment, check=True)
    found = json.loads(output.read_text()) if output.exists() else {"benchmarks": []}
    return {"job": "ops", "benchmarks": found["benchmarks"]}


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes, under 2 minutes: does everything work?")
@click.option("--only", metavar="NAMES", help=f"Comma-separated sections: {', '.join(SECTIONS)}.")
@click.option("--methods", metavar="NAMES", help='Comma-separated methods of w1 ("factored,native"); see the table.')
@click.option("--output", type=FOLDER, help="Folder of the results.  [default: results, or results/quick]")
@click.option("--data", type=FOLDER, envvar="TRACIN_DATA", help="Folder with FB15k-237.tar.gz; without: synthetic.")
@click.option(
    "--checkpoints",
    type=FOLDER,
    envvar="TRACIN_CHECKPOINTS",
    help="Folder with fb15k-237/epoch_14.pt, node_dict.txt, rel_dict.txt; without: a random model.",
)
@click.option("--work", type=FOLDER, default=ROOT / "build" / "bench", help="Folder for generated graphs, kept.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: one per core]")
def main(
    quick: bool,
    only: str | None,
    methods: str | None,
    output: Path | None,
    data: Path | None,
    checkpoints: Path | None,
    work: Path,
    threads: int | None,
) -> None:
    """Measures TracIn; every result is verified against float64 before it is timed. About half an hour on 2 cores.

    Writes <section>.json, table.md, time_by_backend.png and roofline.png. Sections: w1, every method on 32,768
    training x 100 test triples; w2, the top 10 of every test triple of FB15k-237; w3, 18.6 million triples from text
    through `tracin run`; cold, one test triple by a fresh process; index and w3q, questions to indexes; accurate,
    the accurate method; losses, W1 with losses of all tails; training, an epoch beside PyKEEN's; scaling;
    ops, each native op.
    """
    names = chosen(only, SECTIONS, "--only")
    every = {method.name.replace(", ", "-").replace(" ", "-"): method for method in (*METHODS, *PEERS)}
    compared = [every[name] for name in chosen(methods, tuple(every), "--methods")]
    output = output or ROOT / "results" / ("quick" if quick else "")
    if threads is not None:
        torch.set_num_threads(threads)
    start = time.perf_counter()
    facts = machine()
    click.echo(machine_line(facts))
    for line in missing(compared if "w1" in names else ()):
        click.echo(line)
    for name in names:
        began = time.perf_counter()
        result = sections(quick, compared, data, checkpoints, work)[name]()
        result |= {"quick": quick, "machine": facts, "harness_s": time.perf_counter() - began}
        write_json(output / f"{name}.json", result)
    results = read_results(output)
    write_text(output / "table.md", table_md(results))
    pictures = draw(results, output)
    click.echo("\n" + table_md(results))
    click.echo(
        f"{time.perf_counter() - start:.0f} s; wrote {output}: "
        + ", ".join([*(f"{name}.json" for name in names), "table.md", *(path.name for path in pictures)])
    )


def sections(
    quick: bool, compared: list[Method], data: Path | None, checkpoints: Path | None, work: Path
) -> dict[str, Section]:
    """Every section as a call without arguments; FB15k-237 is read at most once."""
    sizes = jobs.QUICK if quick else jobs.FULL
    report = click.echo

    def fb15k237() -> tuple[Graph, Files]:
        return loaded(data, checkpoints, work)

    return {
        "w1": lambda: jobs.w1(fb15k237()[0], compared, sizes, quick, report),
        "w2": lambda: jobs.w2(fb15k237()[0], sizes, quick, report),
        "w3": lambda: processes.w3(BIOMEDICAL_SMALL if quick else BIOMEDICAL, work, quick, report),
        "cold": lambda: processes.cold_start(*fb15k237(), 1 if quick else 5, report),
        "index": lambda: indexes.index_jobs(*fb15k237(), work, quick, report),
        "w3q": lambda: indexes.w3q(quick, work, report),
        "accurate": lambda: accurate.accurate_job(fb15k237()[0], quick, report),
        "losses": lambda: losses.losses_job(fb15k237()[0], sizes, quick, report),
        "training": lambda: training.training_job(fb15k237()[0], quick, report),
        "scaling": lambda: scaling.scaling(fb15k237()[0], quick, report),
        "ops": lambda: run_ops(quick),
    }


loaded = cache(load_fb15k237)
