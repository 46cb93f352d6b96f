"""The jobs that are whole processes: cold start, and W3, `tracin run` on a biomedical graph in text files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.graphs import Files, Graph, Shape, write
from bench.jobs import Report, Row, limit_facts, limits_of
from bench.limits import work_of
from bench.methods import RATE
from bench.verify import Mismatch, reference_of, verify_top_k
from tracin import load_model

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = 4000  # random training triples that must not beat the reported ones


@dataclass(frozen=True)
class Run:
    """A finished process."""

    lines: tuple[tuple[float, str], ...]  # seconds since its start, line
    seconds: float
    peak_bytes: int

    def parts(self) -> dict[str, float]:
        """Seconds until each line {"part": ...} since the one before."""
        found, before = {}, 0.0
        for moment, line in self.lines:
            if line.startswith('{"part"'):
                found[json.loads(line)["part"]], before = moment - before, moment
        return found | {"end of process": self.seconds - before}

    def stages(self) -> dict[str, float]:
        """Seconds of each stage that `tracin run` names in its last line, "9.1 s: reading 3.1 s, scoring 6.0 s"."""
        total, _, stages = self.lines[-1][1].partition(" s: ")
        found = {name: float(value) for name, value in re.findall(r"(\w[\w ]*?) ([\d.]+) s\b", stages)}
        if not found:
            raise RuntimeError(f"the last line of tracin run does not split its time: {self.lines[-1][1]}")
        return {"start and end of Python, imports": self.seconds - float(total), **found}


def run_process(arguments: Sequence[str]) -> Run:
    """Runs `python ARGUMENTS`; raises with what it printed if it fails."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert process.stdout is not None
    peak: list[int] = [0]
    watcher = threading.Thread(target=watch_peak, args=(process, peak), daemon=True)
    watcher.start()
    with process.stdout:
        lines = tuple((time.perf_counter() - start, line.rstrip("\n")) for line in process.stdout)
    process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed ({process.returncode}):\n" + "\n".join(s for _, s in lines))
    return Run(lines, seconds, peak[0])


def watch_peak(process: subprocess.Popen[str], peak: list[int]) -> None:
    """Keeps the process's highest resident memory; what wait4 reports would include this process's own at the fork."""
    while process.poll() is None:
        with suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s+(\d+)", status):  # a process that ends has none
                peak[0] = max(peak[0], int(found[1]) << 10)
        time.sleep(0.02)


def cold_start(graph: Graph, files: Files, repeats: int, report: Report) -> dict[str, Any]:
    """One test triple against all training triples by a fresh process; the median of several."""
    report(f"cold start: 1 test triple x {len(graph.train)} training triples of {graph.source}, from files")
    paths = (files.model, files.train, files.test, files.entity_to_id, files.relation_to_id)
    runs = [run_process(["-m", "bench.cold", *map(str, paths)]) for _ in range(repeats)]
    runs.sort(key=lambda run: run.seconds)
    run = runs[len(runs) // 2]
    printed = [json.loads(line) for _, line in run.lines if line.startswith("{")]
    found = printed[-1]
    error = verify_listed(
        "cold start",
        graph.model,
        graph.train,
        graph.test[:1],
        torch.tensor([found["indices"]]),
        torch.tensor([found["scores"]]),
    )
    row: Row = {
        "method": "cold start, one test triple",
        "kind": "tracin",
        "precision": "float32",
        "error": error,
        "runs": next(line["runs"] for line in printed if "runs" in line),
        "seconds": run.seconds,
        "spread": (runs[-1].seconds - runs[0].seconds) / run.seconds,
        "peak_bytes": run.peak_bytes,
        "split_s": run.parts(),
        "triples_per_s": found["train"] / run.seconds,
        "timed_train": found["train"],
        "timed_test": 1,
    }
    report(describe(row))
    return {"job": "cold start", "graph": graph.source, "train": found["train"], "test": 1, "rows": [row]}


def w3(shape: Shape, work: Path, quick: bool, report: Report) -> dict[str, Any]:
    """`tracin run` on a synthetic biomedical graph, from text files of labels to JSON: the top 10 of each test."""
    start = time.perf_counter()
    files = write(shape, work)
    report(f"W3: {shape.train} training x {shape.test} test triples, {shape.entities} entities, dim {shape.dim}")
    report(f"  text files in {files.train.parent} ({time.perf_counter() - start:.1f} s)")
    output = work / f"w3-{os.getpid()}.json"
    arguments = ["-m", "tracin", "run", "--output", str(output), "--top-k", "10", "--device", "cpu"]
    options = {
        "--model-path": files.model,
        "--train": files.train,
        "--test": files.test,
        "--entity-to-id": files.entity_to_id,
        "--relation-to-id": files.relation_to_id,
    }
    for name, path in options.items():
        arguments += [name, str(path)]
    try:
        run = run_process(arguments)
        results = json.loads(output.read_text())["results"]
    finally:
        output.unlink(missing_ok=True)
    triples = torch.from_numpy(np.load(files.train.parent / "ids.npy").astype(np.int64))
    train, test = triples[: shape.train], triples[shape.train :]
    model = load_model(files.model)
    error = verify_written(model, train, test, results)
    split = run.stages()
    runs = next(line for _, line in run.lines if "running:" in line)
    row: Row = {
        "method": "tracin run, from text to JSON",
        "kind": "tracin",
        "precision": "float32",
        "error": error,
        "runs": runs.removeprefix("running: "),
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "split_s": split,
        "triples_per_s": len(train) / run.seconds,
        "timed_train": len(train),
        "pairs_per_s": len(train) * len(test) / run.seconds,
        "timed_test": len(test),
    }
    limits = limits_of(work_of(model, train, test), quick)
    scoring = split["scoring"] + split.get("test factors", 0.0)
    row |= limit_facts(limits, scoring, "float32", "native" if "native" in runs else "plain")
    report(describe(row))
    source = f"synthetic, {shape.entities} entities, {shape.relations} relations, dim {shape.dim}"
    return {
        "job": "W3",
        "graph": source,
        "train": len(train),
        "test": len(test),
        "limits": limits,
        "rows": [row],
        "file_bytes": files.train.stat().st_size,
    }


def verify_written(model: Any, train: Tensor, test: Tensor, results: list[dict[str, Any]]) -> float:  # [n, 3], [q, 3]
    """Checks the JSON's triples and scores; JSON names triples, not rows, so rows are looked up."""
    listed = [
        [(one["train_head"], one["train_relation"], one["train_tail"]) for one in record["top_influences"]]
        for record in results
    ]
    found = torch.tensor([[one["influence"] for one in record["top_influences"]] for record in results])
    return verify_listed("tracin run", model, train, test, rows_of(train, torch.tensor(listed)), found)


def rows_of(
    train: Tensor,  # [n, 3]
    listed: Tensor,  # [q, k, 3]
) -> Tensor:  # [q, k]
    """The row of train that holds each listed triple."""
    base = int(train.max()) + 1
    keys = (train[:, 0] * base + train[:, 1]) * base + train[:, 2]
    wanted = (listed[..., 0] * base + listed[..., 1]) * base + listed[..., 2]
    ordered = keys.argsort()
    place = torch.searchsorted(keys[ordered], wanted).clamp(max=len(keys) - 1)
    rows = ordered[place]
    if not torch.equal(keys[rows], wanted):
        raise Mismatch("a reported training triple is not in the training file")
    return rows


def verify_listed(
    name: str,
    model: Any,
    train: Tensor,  # [n, 3]
    test: Tensor,  # [q, 3]
    indices: Tensor,  # [q, k] rows of train
    scores: Tensor,  # [q, k]
) -> float:
    """Scores of the listed triples in float64, and that no triple of a random sample of train is above them."""
    few = torch.linspace(0, len(test) - 1, min(len(test), 10)).long().unique()
    sample = torch.randint(len(train), (min(SAMPLE, len(train)),), generator=torch.Generator().manual_seed(1))
    rows = torch.cat([indices[few].flatten(), sample]).unique()
    exact = reference_of(model, train[rows], test[few], RATE).scores
    error, _ = verify_top_k(name, torch.searchsorted(rows, indices[few]), scores[few], exact, 1e-5)
    return error


def describe(row: Row) -> str:
    split = ", ".join(f"{part} {seconds:.2f}" for part, seconds in row["split_s"].items())
    return f"  {row['method']:32} {row['seconds']:10.3f} s, peak {row['peak_bytes'] / 2**30:.2f} GiB; in s: {split}"
