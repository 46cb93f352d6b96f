"""Sanity: does a score depend on what the model learned, and on the question that it is asked?

Source: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, https://arxiv.org/abs/1810.03292.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracin.evaluation.deletion import top_of
from tracin.evaluation.graph import Graph
from tracin.evaluation.scores import QUERIES_AT_A_TIME, Model, Score
from tracin.evaluation.statistics import spearman

TOP = 10


@dataclass(frozen=True)
class Sanity:
    """Of one score.

    Args:
        distinct: training triples in the first TOP of any query.
        most: share of the queries in whose first TOP the same triple stands, of that which stands in most.
        random_correlation: with the same score of a model with random weights: Spearman's correlation over training
            triples, mean over queries. None for scores that ask no model.
        random_overlap: share of the first TOP that the two have in common, mean over queries; None likewise.
    """

    distinct: int
    most: float
    random_correlation: float | None
    random_overlap: float | None


def sanity(
    graph: Graph,
    model: Model,
    score: Score,
    queries: Tensor,  # [q, 3]
) -> Sanity:
    """What a score's first TOP lists use, and what is left of them when the model has random weights."""
    k = min(TOP, len(graph.train))
    top = top_of(graph, model, score, queries, k)
    used = top.flatten().bincount(minlength=len(graph.train))
    counts = int((used > 0).sum()), float(used.max()) / len(queries)
    if not score.asks_model:
        return Sanity(*counts, None, None)
    random = model.random()
    by_block = [
        spearman(score.of(graph, model, block), score.of(graph, random, block))
        for block in queries.split(QUERIES_AT_A_TIME)
    ]
    other = top_of(graph, random, score, queries, k)
    overlap = (top[:, :, None] == other[:, None, :]).any(2).double().mean()
    return Sanity(*counts, float(torch.cat(by_block).mean()), float(overlap))
