"""The accurate method on all of FB15k-237: what is prepared once, single questions, and a hundred."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from bench.graphs import Graph
from bench.jobs import Report, Row
from bench.measure import peak_memory, reset_peak_memory
from tracin import InputError, TracIn

SAMPLES = (1024, 4096)
CHECKED = 2048  # training triples on whose scores float32 is compared with float64
TOLERANCE = 1e-3


def accurate_job(graph: Graph, quick: bool, report: Report) -> dict[str, Any]:
    """Scores of every training triple on test triples, by the native backend in float32."""
    report(f"accurate scores of {len(graph.train)} training triples of {graph.source}")
    train = graph.train[:CHECKED] if quick else graph.train
    single, several = (5, 20) if quick else (50, 100)
    rows: list[Row] = []
    for samples in SAMPLES:
        error = error_of(graph, samples)
        if not error <= TOLERANCE:
            raise InputError(f"accurate scores of {samples} samples are off by {error:.1e}, more than {TOLERANCE:.0e}")
        reset_peak_memory()
        ti = TracIn(graph.model, method="accurate", direction="both", samples=samples, memory_cleanup=False)
        start = time.perf_counter()
        ti.influence(train, graph.test[:1])
        first = time.perf_counter() - start
        each = []
        for triple in graph.test[1 : 1 + single]:
            start = time.perf_counter()
            ti.influence(train, triple)
            each.append(time.perf_counter() - start)
        start = time.perf_counter()
        ti.top_k(train, graph.test[:several], k=10)
        together = time.perf_counter() - start
        del ti  # and what it keeps, before the next one's peak
        rows.append(
            {
                "method": f"accurate, {samples:,} samples",
                "first_s": first,
                "seconds": statistics.median(each),
                "percentile_99_s": float(np.percentile(each, 99)),
                "questions": several,
                "together_s": together,
                "peak_bytes": peak_memory(),
                "error": error,
            }
        )
        report(f"  {rows[-1]['method']:24} first {first:.2f} s, then {rows[-1]['seconds']:.3f} s, "
               f"{several} in {together:.2f} s; worst error {error:.0e}")  # fmt: skip
    return {"job": "accurate", "graph": graph.source, "train": len(train), "test": several, "rows": rows}


def error_of(graph: Graph, samples: int) -> float:
    """Of float32 on the native backend against float64 in PyTorch, for some of the triples alone: the worst test's."""
    some = graph.train[torch.randperm(len(graph.train), generator=torch.Generator().manual_seed(0))[:CHECKED]]

    def scores(**options: Any) -> torch.Tensor:
        ti = TracIn(graph.model, method="accurate", direction="both", samples=samples, progress=False, **options)
        return ti.influence(some, graph.test[:4]).double()

    found, expected = scores(), scores(backend="factored", precision="float64")
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
