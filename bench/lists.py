"""Whether bounded lists are those of the dense pass: every test triple of FB15k-237, k = 1, 10, 100, three orders.

python -m bench.lists [--precision float64] [--tests N] [--order ORDER]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from torch import Tensor

from bench.graphs import load_fb15k237
from bench.methods import RATE
from bench.run import FOLDER, ROOT
from tracin import TracIn
from tracin.influence import bounded
from tracin.influence.top_k import TopK
from tracin_ext.ops import ORDERS

MEMORY = "8G"  # in float64 the factors that bounds need take 3
SIZES = (100, 10, 1)  # of lists, the longest first: the dense pass finds the others on the way


@contextmanager
def dense() -> Iterator[None]:
    """Lists are found in blocks."""
    before, bounded.LEAST_SHARE = bounded.LEAST_SHARE, 1 << 62
    try:
        yield
    finally:
        bounded.LEAST_SHARE = before


def difference(found: TopK, expected: TopK, order: str) -> tuple[float, Tensor, Tensor]:
    """The largest relative difference of scores at equal ranks; each list's own, and whether its ids differ."""
    exact, scores = expected.scores[:, : found.scores.shape[1]].double(), found.scores.double()
    if order == "absolute":  # where two of equal size and opposite sign may change places
        exact, scores = exact.abs(), scores.abs()
    each = ((scores - exact).abs() / exact.abs().clamp(min=1e-30)).masked_fill(exact == 0, 0).amax(1)
    return float(each.max()), each, (found.indices != expected.indices[:, : found.indices.shape[1]]).any(1)


@click.command()
@click.option("--precision", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--tests", type=click.IntRange(min=1), help="Only so many test triples, evenly spaced.")
@click.option("--order", "orders", type=click.Choice(ORDERS), multiple=True, help="May be repeated.  [default: all]")
@click.option(
    "--limit", type=float, default=1e-6, show_default=True, help="Relative differences of scores beyond count."
)
@click.option("--data", type=FOLDER, envvar="TRACIN_DATA", required=True)
@click.option("--checkpoints", type=FOLDER, envvar="TRACIN_CHECKPOINTS", required=True)
def main(
    precision: str, tests: int | None, orders: tuple[str, ...], limit: float, data: Path, checkpoints: Path
) -> None:
    """Compares every list that bounds find with the one of the dense pass."""
    graph, _ = load_fb15k237(data, checkpoints, ROOT / "build" / "bench")
    chosen = graph.test if tests is None else graph.test[torch.linspace(0, len(graph.test) - 1, tests).long().unique()]
    for order in orders or ORDERS:
        start = time.perf_counter()
        with dense():
            of_blocks = TracIn(
                graph.model, RATE, device="cpu", precision=precision, progress=False, memory_limit=MEMORY
            )
            expected = of_blocks.top_k(graph.train, chosen, SIZES[0], order)
        took = time.perf_counter() - start
        ti = TracIn(graph.model, RATE, device="cpu", precision=precision, progress=False, memory_limit=MEMORY)
        for k in SIZES:
            start = time.perf_counter()
            found = ti.top_k(graph.train, chosen, k, order)
            worst, each, other = difference(found, expected, order)
            click.echo(
                f"{precision} {order:10} k {k:3}: {len(chosen)} lists, scores differ by at most {worst:.1e}, "
                f"{int((each > limit).sum())} lists by more than {limit:g}, {int(other.sum())} lists have other ids "
                f"at a rank; dense {took:.0f} s, {time.perf_counter() - start:.1f} s {ti.search}"
            )


if __name__ == "__main__":
    main()
