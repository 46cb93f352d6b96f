"""Time and memory of the proximity filter on a synthetic biomedical graph, as a table on the screen.

python -m bench.proximity [--edges N] [--tests T] [--n-hops H]
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial

import click
import numpy as np
import torch
from torch import Tensor

from bench.graphs import BIOMEDICAL, generate
from bench.measure import machine, machine_line, measure, reset_peak_memory
from bench.verify import Mismatch
from tracin.proximity.filter import METHODS, ProximityFilter, ProximityOptions


@click.command()
@click.option("--edges", type=click.IntRange(min=1000), default=18_000_000, help="Training triples.", show_default=True)
@click.option("--tests", type=click.IntRange(min=1), default=10, help="Test triples.", show_default=True)
@click.option("--n-hops", type=click.IntRange(min=0), default=2, help="Paths: twice as long.", show_default=True)
def main(edges: int, tests: int, n_hops: int) -> None:
    """Verifies the filter, then times it on random test triples, the last two at the largest hubs."""
    entities = max(100, BIOMEDICAL.entities * edges // BIOMEDICAL.train)
    shape = replace(BIOMEDICAL, entities=entities, train=edges, test=max(0, tests - 2))
    triples = torch.from_numpy(generate(shape))
    train, test = triples[:edges], with_hubs(triples, edges)[-tests:]
    click.echo(machine_line(machine()))
    built, near = measure(lambda: ProximityFilter(train, entities), repeats=1, warmup=0)
    click.echo(
        f"{edges:,} triples of {entities:,} entities, {train.nbytes / 2**30:.1f} GiB as ids: built in "
        f"{built.median:.1f} s, peak {built.peak_bytes / 2**30:.1f} GiB"
    )
    verify(near, train, test[:1], n_hops, entities)
    verify(near, train, test[-1:], n_hops, entities)
    for method in METHODS:
        for path_filtering in (False, True):
            options = ProximityOptions(method, n_hops, path_filtering=path_filtering)
            click.echo(f"{method:8}  {'path filtering' if path_filtering else '':14}  {time(near, test, options)}")


def with_hubs(
    triples: Tensor,  # [edges + t, 3]
    edges: int,
) -> Tensor:  # [t + 2, 3] the test triples, one from the largest hub to an ordinary entity, one between the largest two
    degree = np.bincount(triples[:edges, ::2].flatten().numpy())
    second, first = np.argsort(degree)[-2:].tolist()
    hubs = torch.tensor([[first, 0, int(triples[0, 2])], [first, 0, second]])
    return torch.cat([triples[edges:], hubs])


def time(
    near: ProximityFilter,
    test: Tensor,  # [t, 3]
    options: ProximityOptions,
) -> str:
    """Seconds, triples kept and memory over the test triples, one at a time."""
    reset_peak_memory()
    runs = [measure(partial(near.rows, triple, options), 1, warmup=0, memory=False) for triple in test.split(1)]
    seconds, kept = [timing.median for timing, _ in runs], [len(rows) for _, rows in runs]
    peak = max(timing.peak_bytes for timing, _ in runs)
    return (
        f"median {statistics.median(seconds):6.2f} s, max {max(seconds):6.2f} s, peak {peak / 2**30:4.1f} GiB, "
        f"kept {min(kept):,} to {max(kept):,}"
    )


def verify(
    near: ProximityFilter,
    train: Tensor,  # [n, 3]
    test: Tensor,  # [1, 3]
    n_hops: int,
    entities: int,
) -> None:
    """The networkx method from the triples alone, without an index; with paths, some of the same rows."""
    heads, tails = train[:, 0].numpy(), train[:, 2].numpy()
    inside = np.ones(entities, np.bool_)
    for end in (int(test[0, 0]), int(test[0, 2])):
        ball = np.arange(entities) == end
        for _ in range(n_hops):
            reached = tails[ball[heads]], heads[ball[tails]]
            ball[np.concatenate(reached)] = True
        inside &= ball
    ends = np.isin(np.arange(entities), test[:, ::2].numpy())
    edges = np.unique(np.minimum(heads, tails) * entities + np.maximum(heads, tails))
    degree = np.bincount(np.concatenate([edges // entities, edges % entities]), minlength=entities)
    enough, inside = (degree >= 2) | ends, inside | ends
    expected = np.flatnonzero(inside[heads] & inside[tails] & (enough[heads] | enough[tails]))
    rows = near.rows(test, ProximityOptions("networkx", n_hops)).numpy()
    if not np.array_equal(rows, expected):
        raise Mismatch(f"test triple {test.tolist()}: {len(rows)} rows, expected {len(expected)}")
    on_paths = near.rows(test, ProximityOptions("networkx", n_hops, path_filtering=True)).numpy()
    if not np.isin(on_paths, rows).all():
        raise Mismatch(f"test triple {test.tolist()}: path filtering adds rows")


if __name__ == "__main__":
    main()
