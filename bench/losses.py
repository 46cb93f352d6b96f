"""W1 with losses of the scores of all tails: the native backend, verified, beside the limit of its products."""

from __future__ import annotations

from typing import Any

import torch

from bench.graphs import Graph
from bench.jobs import Report, Row, Sizes
from bench.limits import measure_rates, plain_flops, rate_of, seconds_at, work_of
from bench.measure import measure
from tracin import InputError, TracIn
from tracin_ext.over_tails import ROW_BYTES

LOSSES = ("ce", "kvsall")
CHECKED = 512  # training triples whose influences are compared with float64
CHECKED_TESTS = 20
TOLERANCE = 1e-5


def losses_job(graph: Graph, sizes: Sizes, quick: bool, report: Report) -> dict[str, Any]:
    """Influences on all layers. To the plain limit's products these losses add 4 N D for each of G distinct (head,
    relation), scores and their way back to z, and 2 N for each of them and each test triple."""
    train, test = graph.train[: sizes.w1_train], graph.test[: sizes.w1_test]
    report(f"losses of all tails: {len(train)} training x {len(test)} test triples of {graph.source}")
    work = work_of(graph.model, train, test)
    rates, flops = measure_rates(work, quick)["float32"], plain_flops(work)
    entities, dim = graph.model.num_entities, work.dim
    rows_at_once = max(1, ROW_BYTES // (4 * entities))
    for name, columns in (("tails", dim), ("tests", len(test))):
        shapes = [(rows, entities, columns) for rows in (rows_at_once, 512, 2048)]
        rates[name] = max(rate_of(m, k, n, torch.float32) for a in shapes for m, k, n in (a, (a[0], a[2], a[1])))
    flops |= {"tails": 4.0 * entities * dim * work.pairs, "tests": 2.0 * entities * len(test) * work.pairs}
    limit = seconds_at(flops, {"float32": rates}, "float32")
    rows: list[Row] = []
    for loss in LOSSES:
        error = error_of(graph, loss)
        if not error <= TOLERANCE:
            raise InputError(f"influences of the loss {loss} are off by {error:.1e}, more than {TOLERANCE:.0e}")
        ti = TracIn(graph.model, 1.0, loss, progress=False, memory_cleanup=False)
        timing, _ = measure(lambda ti=ti: ti.influence(train, test), sizes.repeats, warmup=1)
        rows.append(
            {
                "method": f"native, loss {loss}",
                "seconds": timing.median,
                "spread": timing.spread,
                "peak_bytes": timing.peak_bytes,
                "error": error,
                "plain_limit_s": limit,
                "plain_limit_share": limit / timing.median,
            }
        )
        report(f"  {loss:8} {timing.median:.2f} s, plain limit {limit:.2f} s, worst error {error:.0e}")
    facts = {"job": "losses", "graph": graph.source, "train": len(train), "test": len(test), "pairs": work.pairs}
    return facts | {"flops": flops, "rates": rates, "rows": rows}


def error_of(graph: Graph, loss: str) -> float:
    """Of float32 on the native backend against float64 in PyTorch, for some of the triples: the worst test's."""
    some = graph.train[torch.randperm(len(graph.train), generator=torch.Generator().manual_seed(0))[:CHECKED]]

    def influences(**options: Any) -> torch.Tensor:
        ti = TracIn(graph.model, 1.0, loss, progress=False, **options)
        return ti.influence(some, graph.test[:CHECKED_TESTS]).double()

    found, expected = influences(), influences(backend="factored", precision="float64")
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
