"""Each native op beside the machine's limits: `python -m pytest bench --benchmark-only`.

The shapes are FB15k-237's. Bytes are those that must cross the memory bus once: the model's fc weights, the distinct
embedding rows, the test factors, and the scores, not what the op really moves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from bench.graphs import FB15K237, Graph, synthetic
from bench.limits import Work, measure_bandwidth, measure_rates, plain_flops, work_of
from bench.methods import RATE
from bench.verify import Reference, reference_of
from tracin.influence.layers import layers_of
from tracin.losses import bce
from tracin_ext import backends
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.ops import merge_top_k

BLOCK, TESTS, CHECKED = 4096, 100, 64  # training triples, test triples; triples that are verified
TOP = 10
STATUS = tracin_ext.status()
native = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return synthetic(replace(FB15K237, train=BLOCK, test=TESTS))


@pytest.fixture(scope="module")
def block(graph: Graph) -> Tensor:  # [BLOCK, 3], in the order in which TracIn hands blocks over
    return graph.train[order_by_head_relation(graph.train)].contiguous()


@pytest.fixture(scope="module")
def backend(graph: Graph) -> backends.Backend:
    layers = tuple(layers_of(graph.model))
    return backends.create("native", graph.model, layers, torch.float32, torch.device("cpu"), bce)


@pytest.fixture(scope="module")
def work(graph: Graph, block: Tensor) -> Work:
    return work_of(graph.model, block, graph.test)


@pytest.fixture(scope="module")
def limits(work: Work) -> dict[str, Any]:
    return {"mm": measure_rates(work, quick=True)["float32"], "memory": max(measure_bandwidth().values())}


def annotate(benchmark: Any, limits: dict[str, Any], flops: float, moved: float) -> None:
    """Rates of the op beside the machine's."""
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        gflop_per_s=flops / seconds / 1e9,
        gbyte_per_s=moved / seconds / 1e9,
        mm_gflop_per_s=max(limits["mm"].values()) / 1e9,
        memory_gbyte_per_s=limits["memory"] / 1e9,
        isa=STATUS["isa"],
    )


def model_bytes(work: Work) -> int:
    """The fc weights, as D x F and F x D, and the distinct embedding rows."""
    return 4 * (2 * work.dim * work.features + work.dim * (work.heads + work.relations))


@native
def test_influence_block(
    benchmark: Any, graph: Graph, block: Tensor, backend: backends.Backend, work: Work, limits: dict[str, Any]
) -> None:
    tests = backend.test_factors(graph.test)
    reference = reference_of(graph.model, block[:CHECKED], graph.test, RATE)
    reference.verify("influence_block", backend.scores(tests, block[:CHECKED], RATE), 1e-5)
    benchmark(backend.scores, tests, block, RATE)
    test_bytes = 4 * work.test * (work.features + 6 * work.dim + work.statistics)
    moved = model_bytes(work) + test_bytes + 8 * work.train * work.test
    annotate(benchmark, limits, sum(plain_flops(work).values()), moved)


@native
def test_self_influence_block(
    benchmark: Any, graph: Graph, block: Tensor, backend: backends.Backend, work: Work, limits: dict[str, Any]
) -> None:
    few = block[:8]
    exact = reference_of(graph.model, few, few, RATE).scores.diagonal()
    Reference(exact[None]).verify("self_influence_block", backend.self_influence(few, RATE)[None], 1e-5)
    benchmark(backend.self_influence, block, RATE)
    flops = plain_flops(replace(work, test=0))
    SMS = 2.0 * work.train * work.statistics**2  # S^T M S of each triple
    annotate(benchmark, limits, sum(flops.values()) + SMS, model_bytes(work) + 4 * work.train)


@native
@pytest.mark.parametrize("order", ["absolute", "proponents", "opponents"])
def test_merge_top_k(benchmark: Any, limits: dict[str, Any], order: str) -> None:
    scores = torch.randn(TESTS, BLOCK, generator=torch.Generator().manual_seed(0))
    index = torch.arange(BLOCK)
    best, best_index = torch.zeros(TESTS, TOP), torch.full((TESTS, TOP), -1)

    def merge() -> None:
        best_index.fill_(-1)
        merge_top_k(scores, index, order, best, best_index)

    merge()
    key = {"absolute": scores.abs(), "proponents": scores, "opponents": -scores}[order]
    assert torch.equal(best_index, key.topk(TOP, 1).indices)
    benchmark(merge)
    annotate(benchmark, limits, 0.0, scores.nbytes + index.nbytes)
