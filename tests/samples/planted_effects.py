"""A small graph for evaluations, and outcomes that are sums of planted effects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tracin.evaluation.graph import Graph, Recipe

ENTITIES, RELATIONS, TRAIN, TEST = 9, 2, 30, 4
SMALL: dict[str, Any] = dict(embedding_dim=12, embedding_height=4, embedding_width=3, output_channels=3, batch_size=8)
RECIPE = Recipe(2, SMALL)


def small_graph(train: int = TRAIN, test: int = TEST, seed: int = 0) -> Graph:
    """Distinct random triples, training and test triples apart, one validation triple."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(ENTITIES * RELATIONS * ENTITIES, generator=generator)[: train + test + 1]
    heads, rest = chosen // (RELATIONS * ENTITIES), chosen % (RELATIONS * ENTITIES)
    triples = torch.stack([heads, rest // ENTITIES, rest % ENTITIES], dim=1)
    return Graph(triples[:train], triples[train : train + test], triples[train + test :], ENTITIES, RELATIONS)


def planted(
    queries: int,
    train: int,
    subsets: int,
    noise: float,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Effects [q, n], subsets [s, n] of halves, and outcomes [q, s]: sums of effects over members, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    effects = torch.randn(queries, train, generator=generator)
    order = torch.rand(subsets, train, generator=generator).argsort(dim=1)
    members = (order < train // 2).float()
    sums = effects.double() @ members.T.double()
    return effects, members, sums + noise * sums.std() * torch.randn(sums.shape, generator=generator)
