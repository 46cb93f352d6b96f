"""The end-to-end jobs W1 (every method), W2 (every test triple), scored in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.graphs import Graph
from bench.limits import Work, measure_bandwidth, measure_rates, native_flops, plain_flops, seconds_at, work_of
from bench.measure import measure
from bench.methods import DENSE_BATCH, RATE, Method, Score
from bench.verify import Reference, reference_of, top_overlap, verify_top_k
from tracin import InputError, TracIn

Row = dict[str, Any]
Report = Callable[[str], None]
WARM = 8  # training triples of a subset method's first call, which is verified and not timed


@dataclass(frozen=True)
class Sizes:
    """How much of each job is run."""

    w1_train: int = 32_768
    w1_test: int = 100
    w2_train: int | None = None  # all
    w2_test: int | None = None
    w2_checked: int = 50
    repeats: int = 5
    subset: int = 1  # slow methods are timed on 1 / subset of their triples, `patience` s at most for a second time
    patience: float = 10.0


FULL = Sizes()
QUICK = Sizes(4096, 16, 4096, 512, w2_checked=8, repeats=3, subset=6, patience=0.5)


def limits_of(work: Work, quick: bool) -> dict[str, Any]:
    """The machine's limits at a job's block shapes, and the job's FLOPs."""
    return {
        "rates": measure_rates(work, quick),
        "bandwidth": measure_bandwidth(),
        "flops": plain_flops(work),
        "native_flops": native_flops(work),
        "work": vars(work),
    }


def limit_facts(limits: dict[str, Any], seconds: float, precision: str, form: str) -> Row:
    """Plain limit / time; and the same for the FLOPs really done, so that a figure above 1 is not misread."""
    plain = seconds_at(limits["flops"], limits["rates"], precision)
    facts: Row = {"plain_limit_s": plain, "plain_limit_share": plain / seconds}
    if form != "dense":
        done = plain if form == "plain" else seconds_at(limits["native_flops"], limits["rates"], precision)
        facts |= {"done_limit_s": done, "done_limit_share": done / seconds}
    return facts


def w1(graph: Graph, methods: Sequence[Method], sizes: Sizes, quick: bool, report: Report) -> dict[str, Any]:
    """Every method on the first training and test triples."""
    train, test = graph.train[: sizes.w1_train], graph.test[: sizes.w1_test]
    report(f"W1: {len(train)} training x {len(test)} test triples of {graph.source}")
    limits = limits_of(work_of(graph.model, train, test), quick)
    report("reference: the factored form in float64, checked against float64 autograd")
    reference = reference_of(graph.model, train, test, RATE)
    rows: list[Row] = []
    for method in methods:
        if quick and not method.quick:
            rows.append({"method": method.name, "unavailable": "left out of a quick run, which it would outlast"})
        else:
            rows.append(compare(method, graph, train, test, reference, sizes, limits))
        report(describe(rows[-1]))
    baseline = next((row for row in rows if row["method"] == "sequential" and "seconds" in row), None)
    for row in rows:
        if baseline and "seconds" in row:
            row["speed_up"] = baseline["seconds"] / row["seconds"]
    return {"job": "W1", "graph": graph.source, "train": len(train), "test": len(test), "limits": limits, "rows": rows}


def compare(
    method: Method,
    graph: Graph,
    train: Tensor,  # [n, 3]
    test: Tensor,  # [q, 3]
    reference: Reference,
    sizes: Sizes,
    limits: dict[str, Any],
) -> Row:
    """Verifies a method, then times it; a method that cannot run here gives a row that says why."""
    row: Row = {"method": method.name, "kind": method.kind, "precision": method.precision}
    start = time.perf_counter()
    try:
        score, row["runs"] = method.make(graph.model)
    except (InputError, ImportError) as error:
        return row | {"unavailable": str(error)}
    row["prepare_s"] = time.perf_counter() - start
    row |= (
        on_subset(method, score, train, test, reference, sizes)
        if method.train
        else in_full(method, score, train, test, reference, sizes)
    )
    pairs = len(train) * len(test)
    row |= {"triples_per_s": len(train) / row["seconds"], "pairs_per_s": pairs / row["seconds"]}
    return row | limit_facts(limits, row["seconds"], method.precision, method.form)


def in_full(
    method: Method, score: Score, train: Tensor, test: Tensor, reference: Reference, sizes: Sizes
) -> Row:  # [n, 3], [q, 3]
    start = time.perf_counter()
    scores = score(train, test)
    first = time.perf_counter() - start
    error = reference.verify(method.name, scores, method.tolerance)
    top = top_overlap(scores, reference.scores)
    del scores
    timing, _ = measure(lambda: score(train, test), sizes.repeats, warmup=0)
    return {
        "seconds": timing.median,
        "spread": timing.spread,
        "first_call_s": first,
        "error": error,
        "top_10_overlap": top,
        "peak_bytes": timing.peak_bytes,
        "timed_train": len(train),
        "timed_test": len(test),
    }


def on_subset(
    method: Method, score: Score, train: Tensor, test: Tensor, reference: Reference, sizes: Sizes
) -> Row:  # [n, 3], [q, 3]
    """Times two sizes and extends the line through them: work per test triple is not charged to training triples."""
    tests = test[: method.test]
    batches = min(len(train), max(2 * DENSE_BATCH, (method.train or len(train)) // sizes.subset)) // DENSE_BATCH
    large, small = batches * DENSE_BATCH, max(1, batches // 4) * DENSE_BATCH
    reference.verify(method.name, score(train[:WARM], tests[:2]), method.tolerance)
    short, _ = measure(lambda: score(train[:small], tests), 1, warmup=0)
    repeats = 2 if short.best < sizes.patience else 1
    if repeats > 1:
        short, _ = measure(lambda: score(train[:small], tests), repeats, warmup=0)
    long, scores = measure(lambda: score(train[:large], tests), repeats, warmup=0)
    error = reference.verify(method.name, scores, method.tolerance)
    per_triple = (long.best - short.best) / (large - small)
    if per_triple <= 0:  # noise exceeds the difference: charge everything to the training triples
        per_triple = long.best / large
    seconds = (max(0.0, long.best - per_triple * large) + per_triple * len(train)) * len(test) / len(tests)
    return {
        "seconds": seconds,
        "spread": long.spread,
        "error": error,
        "peak_bytes": long.peak_bytes,
        "timed_train": large,
        "timed_test": len(tests),
        "timed_s": long.best,
        "scaled": f"timed on {large} training x {len(tests)} test triples",
    }


def w2(graph: Graph, sizes: Sizes, quick: bool, report: Report, backend: str = "auto") -> dict[str, Any]:
    """The top 10 of every test triple over all training triples, in float32 and mixed precision."""
    train, test = graph.train[: sizes.w2_train], graph.test[: sizes.w2_test]
    report(f"W2: {len(train)} training x {len(test)} test triples of {graph.source}, top 10 per test triple")
    limits = limits_of(work_of(graph.model, train, test), quick)
    checked = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: sizes.w2_checked]
    report(f"reference: {len(checked)} random test triples x all training triples in float64, dense")
    exact = reference_of(graph.model, train, test[checked], RATE).scores
    rows = []
    for precision, tolerance in (("float32", 1e-5), ("mixed", 1e-2)):
        rows.append(every_top_k(graph, train, test, backend, precision, tolerance, checked, exact, limits))
        report(describe(rows[-1]))
    return {"job": "W2", "graph": graph.source, "train": len(train), "test": len(test), "limits": limits, "rows": rows}


def every_top_k(
    graph: Graph,
    train: Tensor,
    test: Tensor,
    backend: str,
    precision: str,
    tolerance: float,
    checked: Tensor,  # [c] rows of test
    exact: Tensor,  # [c, n] float64
    limits: dict[str, Any],
) -> Row:
    row: Row = {"method": f"top 10 of every test triple, {precision}", "kind": "tracin", "precision": precision}
    start = time.perf_counter()
    try:
        ti = TracIn(graph.model, RATE, precision=precision, backend=backend, progress=False)
    except InputError as reason:
        return row | {"unavailable": str(reason)}
    row["prepare_s"] = time.perf_counter() - start
    few = ti.top_k(train, test[checked[:2]])
    verify_top_k(row["method"], few.indices, few.scores, exact[:2], tolerance)
    timing, top = measure(lambda: ti.top_k(train, test), repeats=1, warmup=0)
    error, same = verify_top_k(row["method"], top.indices[checked], top.scores[checked], exact, tolerance)
    # By bounds most pairs are not scored: what is done is no product whose rate the limits know.
    form = "dense" if ti.search.startswith("by bounds") else "native" if ti.backend == "native" else "plain"
    return (
        row
        | {
            "search": ti.search,
            "runs": ti.description,
            "seconds": timing.median,
            "error": error,
            "top_10_overlap": same,
            "checked_tests": len(checked),
            "peak_bytes": timing.peak_bytes,
            "triples_per_s": len(train) / timing.median,
            "pairs_per_s": len(train) * len(test) / timing.median,
            "timed_train": len(train),
            "timed_test": len(test),
        }
        | limit_facts(limits, timing.median, precision, form)
    )


def describe(row: Row) -> str:
    """One line of progress."""
    if "unavailable" in row:
        return f"  {row['method']:32} not available: {row['unavailable']}"
    scaled = f" ({row['scaled']}, scaled)" if "scaled" in row else ""
    return (
        f"  {row['method']:32} {row['seconds']:10.3f} s  {row['pairs_per_s']:12,.0f} pairs/s  "
        f"plain limit / time {row['plain_limit_share']:.4f}  error {row['error']:.1e}{scaled}"
    )
