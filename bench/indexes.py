"""Jobs with an index: it is built, opened, asked one question and many, in warm and in fresh processes."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.graphs import BIOMEDICAL, BIOMEDICAL_SMALL, LEARNABLE, LEARNABLE_SMALL, Files, Graph, Shape, write
from bench.jobs import Report, Row
from bench.processes import Run, run_process, verify_listed
from bench.trained import QUICK_STEPS, STEPS, trained_model
from tracin import load_model

SCORED = re.compile(r"by bounds: ([\d,]+) of [\d,]+ pairs scored, ([\d,]+) bounds")
ONE = 1000  # questions to a warm process


def index_jobs(graph: Graph, files: Files, work: Path, quick: bool, report: Report) -> dict[str, Any]:
    """Both kinds of index of FB15k-237: build, one question warm (Q1) and in a fresh process (Q2), W2."""
    report(f"indexes of {len(graph.train)} training triples of {graph.source}")
    questions, whole, repeats = (30, 256, 1) if quick else (ONE, len(graph.test), 5)
    chosen = torch.randperm(len(graph.test), generator=torch.Generator().manual_seed(0))[:questions]
    rows = []
    for store in ("compact", "norms"):
        directory = work / f"index-{store}"
        rows.append(build(files, directory, store, len(graph.train)))
        report(describe(rows[-1]))
        test = graph.test[chosen]
        rows.append(ask(directory, work, graph.model, graph.train, test, f"Q1, {store}"))
        report(describe(rows[-1]))
        rows.append(fresh(directory, graph.test[0].tolist(), f"Q2, {store}", repeats))
        report(describe(rows[-1]))
        if store == "compact":
            test = graph.test[:whole]
            rows.append(ask(directory, work, graph.model, graph.train, test, "W2 with an index", together=True))
            report(describe(rows[-1]))
        shutil.rmtree(directory)
    return {"job": "index", "graph": graph.source, "train": len(graph.train), "test": len(graph.test), "rows": rows}


def w3q(quick: bool, work: Path, report: Report) -> dict[str, Any]:
    """100 questions to an index of norms of the graph of W3: random weights, and some that a graph has shaped."""
    shape, learnable = (BIOMEDICAL_SMALL, LEARNABLE_SMALL) if quick else (BIOMEDICAL, LEARNABLE)
    report(f"W3q: indexes of {shape.train} training triples, {shape.test} questions")
    steps = QUICK_STEPS if quick else STEPS
    path, mrr = trained_model(learnable, work, steps, report)
    rows = of_graph(shape, write(shape, work), work, "random weights", report)
    rows += of_graph(learnable, replace(write(learnable, work), model=path), work, "trained", report)
    source = f"synthetic, {shape.entities} entities, {shape.relations} relations, dim {shape.dim}"
    facts = {"train": shape.train, "test": shape.test, "trained_steps": steps, "trained_mrr": mrr}
    return {"job": "W3q", "graph": source, **facts, "rows": rows}


def of_graph(shape: Shape, files: Files, work: Path, weights: str, report: Report) -> list[Row]:
    directory = work / "index-w3"
    built = build(files, directory, "norms", shape.train)
    built["method"] += f", {weights}"
    report(describe(built))
    triples = torch.from_numpy(np.load(files.train.parent / "ids.npy").astype(np.int64))
    train, test = triples[: shape.train], triples[shape.train :]
    asked = ask(directory, work, load_model(files.model), train, test, f"W3q, {weights}", together=True)
    report(describe(asked))
    shutil.rmtree(directory)
    return [built, asked]


def build(files: Files, directory: Path, store: str, triples: int) -> Row:
    shutil.rmtree(directory, ignore_errors=True)
    arguments = ["-m", "tracin", "index", "build", files.model, "--train", files.train, "--store", store]
    arguments += ["--entity-to-id", files.entity_to_id, "--relation-to-id", files.relation_to_id, "-o", directory]
    run = run_process([*map(str, arguments)])
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return {
        "method": f"build, {store}",
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "index_bytes": size,
        "triples_per_s": triples / run.seconds,
    }


def ask(
    directory: Path,
    work: Path,
    model: Any,
    train: Tensor,  # [n, 3]
    test: Tensor,  # [q, 3]
    name: str,
    together: bool = False,
) -> Row:
    """Questions in a process of their own, one by one or together; the answers are verified."""
    tests = work / "questions.npy"
    np.save(tests, test.numpy())
    arguments = ["-m", "bench.questions", str(directory), str(tests), str(len(test)), *(["all"] if together else [])]
    run = run_process(arguments)
    tests.unlink()
    printed = [json.loads(line) for _, line in run.lines if line.startswith("{")]
    answers = printed[-1]
    indices, scores = torch.tensor(answers["indices"]), torch.tensor(answers["scores"])
    error = verify_listed(name, model, train, test, indices, scores)
    counted = [match for text in answers["searches"] if (match := SCORED.search(text))]
    pairs, bounds = (sum(int(match[i].replace(",", "")) for match in counted) for i in (1, 2))
    parts = run.parts()
    return {
        "method": name,
        "questions": len(test),
        "seconds": sum(answers["seconds"]) if together else statistics.median(answers["seconds"]),
        "percentile_99_s": None if together else float(np.percentile(answers["seconds"], 99)),
        "first_s": None if together else answers["seconds"][0],
        "open_s": parts["open the index"],
        "peak_bytes": run.peak_bytes,
        "pairs_scored": pairs,
        "bounds": bounds,
        "by_blocks": len(answers["searches"]) - len(counted),
        "error": error,
    }


def fresh(directory: Path, triple: Sequence[int], name: str, repeats: int) -> Row:
    """One question to a process that starts for it; the median of several."""
    arguments = ["-m", "tracin", "query", str(directory), *map(str, triple), "--json", "--numeric-triples", "--debug"]
    runs: list[Run] = sorted((run_process(arguments) for _ in range(repeats)), key=lambda run: run.seconds)
    run = runs[len(runs) // 2]
    told = " ".join(line for _, line in run.lines if line.startswith("debug:") or " s: opening the index" in line)
    split = {part.strip(): float(value) for part, value in re.findall(r"([A-Za-z][\w ]*?) ([\d.]+) s\b", told)}
    split = {part.removeprefix("debug: importing "): value for part, value in split.items()}
    return {
        "method": name,
        "questions": 1,
        "seconds": run.seconds,
        "spread": (runs[-1].seconds - runs[0].seconds) / run.seconds,
        "peak_bytes": run.peak_bytes,
        "split_s": split,
    }


def describe(row: Row) -> str:
    more = []
    if row.get("percentile_99_s"):
        more.append(f"99th percentile {row['percentile_99_s']:.4f} s")
    if "index_bytes" in row:
        more.append(f"{row['index_bytes'] / 1e6:,.0f} MB")
    if "open_s" in row:
        more.append(f"opened in {row['open_s']:.2f} s, {row['pairs_scored']:,} pairs, {row['bounds']:,} bounds")
    if "split_s" in row:
        more += [f"{part} {seconds:.2f}" for part, seconds in row["split_s"].items()]
    return f"  {row['method']:32} {row['seconds']:10.4f} s, peak {row['peak_bytes'] / 2**30:.2f} GiB; {', '.join(more)}"
