"""How time grows with training triples, test triples, threads, dimension and entities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.graphs import FB15K237, Graph, synthetic
from bench.jobs import Report
from bench.measure import measure
from bench.methods import RATE
from bench.verify import reference_of
from tracin import TracIn

RANGE, POINTS = 30, 5  # of the sizes that are swept


def sweep(largest: int) -> list[int]:
    """Sizes over a range of 30, equally spaced on a log scale."""
    return [round(largest / RANGE ** (1 - i / (POINTS - 1))) for i in range(POINTS)]


def exponent(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    """p of seconds ~ size^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(seconds)), 1)[0])


def fixed_share(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    """a of seconds = a + b size by least squares of relative errors, as a share of the smallest size's time."""
    x, y = np.array(list(sizes), float), np.array(list(seconds), float)
    a, _ = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones_like(y), rcond=None)[0]
    return float(a / y[x.argmin()])


def verified(graph: Graph) -> Graph:
    """The graph, once a few influences are those of float64."""
    ti = TracIn(graph.model, RATE, progress=False)
    few, tests = graph.train[:64], graph.test[:3]
    reference_of(graph.model, few, tests, RATE).verify(ti.description, ti.influence(few, tests), 1e-5)
    return graph


def by_heads(
    triples: Tensor,  # [n, 3]
    size: int,
) -> Tensor:  # [size, 3]
    """Triples of random heads, all of a head's before the next: any size has as many to a head as the whole."""
    rank = torch.randperm(int(triples[:, 0].max()) + 1, generator=torch.Generator().manual_seed(0))
    return triples[rank[triples[:, 0]].argsort(stable=True)[:size]]


def timed(graph: Graph, train: int, test: int, repeats: int = 3) -> dict[str, float]:
    """Seconds and peak memory of the top 10 of some test triples over some training triples."""
    ti = TracIn(graph.model, RATE, progress=False)
    chosen, tests = by_heads(graph.train, train), by_heads(graph.test, test)
    timing, _ = measure(lambda: ti.top_k(chosen, tests), repeats)
    return {"seconds": timing.median, "spread": timing.spread, "peak_bytes": timing.peak_bytes}


def scaling(graph: Graph, quick: bool, report: Report) -> dict[str, Any]:
    """Every sweep, with its fitted exponent."""
    big_train, big_test = (15_360, 480) if quick else (len(graph.train), len(graph.test))
    base = (2048, 50) if quick else (32_768, 100)
    shape = replace(FB15K237, train=base[0], test=max(base[1], 3))
    verified(graph)
    report(f"scaling, on {graph.source} where not said otherwise")

    def of_dim(dim: int) -> dict[str, float]:
        return timed(verified(synthetic(replace(shape, dim=dim, height=dim // 10, width=10))), *base)

    def of_entities(entities: int) -> dict[str, float]:
        resized = replace(shape, entities=entities, dim=32, height=8, width=4)
        return timed(verified(synthetic(resized)), *base)

    def of_threads(threads: int) -> dict[str, float]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return timed(graph, *base)
        finally:
            torch.set_num_threads(before)

    threads = sorted({1, 2, torch.get_num_threads()})
    dims, entities = ([50, 100, 200], 30_000) if quick else ([50, 100, 200, 400], 1_450_000)
    fixed = f"{base[0]} x {base[1]}"
    return {
        "job": "scaling",
        "graph": graph.source,
        "sweeps": [
            swept(
                "training triples",
                f"{base[1]} test triples",
                sweep(big_train),
                lambda size: timed(graph, size, base[1]),
                report,
            ),
            swept(
                "test triples",
                f"{base[0] // 16} training triples",
                sweep(big_test),
                lambda size: timed(graph, base[0] // 16, size),
                report,
            ),
            swept("threads", fixed, threads, of_threads, report),
            swept("dimension", f"{fixed}, synthetic", dims, of_dim, report),
            swept("entities", f"{fixed}, synthetic, dim 32", sweep(entities), of_entities, report),
        ],
    }


def swept(
    name: str, fixed: str, sizes: list[int], time_of: Callable[[int], dict[str, float]], report: Report
) -> dict[str, Any]:
    points = [{"size": size, **time_of(size)} for size in sizes]
    seconds = [point["seconds"] for point in points]
    fitted = exponent(sizes, seconds) if len(sizes) > 1 else 0.0
    figures = ", ".join(f"{size}: {second:.3f}" for size, second in zip(sizes, seconds, strict=True))
    report(f"  time ~ {name}^{fitted:.2f}  ({fixed}; s at {figures})")
    found = {"name": name, "fixed": fixed, "points": points, "exponent": fitted}
    return found | ({"fixed_share": max(0.0, fixed_share(sizes, seconds))} if name.endswith("triples") else {})
