"""Linear datamodelling score: do a score's sums over random halves foretell what models trained on them say?

Source: Park et al., TRAK, ICML 2023, https://arxiv.org/abs/2303.14186, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.outcomes import OUTCOMES, Outcomes
from tracin.evaluation.retraining import Job, half_subsets, retrain
from tracin.evaluation.scores import QUERIES_AT_A_TIME, Model, Score
from tracin.evaluation.statistics import Estimate, Ranked, correlation, draws

SEEDS_PER_REPEAT = 10_000  # more than the subsets: models of different subsets and repeats start from different weights


@dataclass(frozen=True)
class Correlations:
    """Of one outcome.

    Args:
        scores: the mean over queries of Spearman's correlation over subsets, by score.
        beyond: the same minus that of the control, drawn together, by score; empty without a control.
        agreement: of the outcomes of two models trained on the same subset with different seeds; None without repeats.
        ceiling: what a score reaches that foretells the mean over seeds, by the agreement; None likewise.
    """

    scores: dict[str, Estimate]
    beyond: dict[str, Estimate]
    agreement: float | None
    ceiling: float | None


def subset_jobs(graph: Graph, subsets: int, repeats: int, seed: int, share: float, queries: Tensor) -> list[Job]:
    """A job for each repeat of each subset, those of one repeat together."""
    members = half_subsets(len(graph.train), subsets, seed, share)
    return [
        Job(f"subset_{i:04d}_run_{run}", members[i], (seed + run) * SEEDS_PER_REPEAT + i, queries)
        for run in range(repeats)
        for i in range(subsets)
    ]


def subset_outcomes(
    graph: Graph,
    recipe: Recipe,
    folder: Path,
    queries: Tensor,  # [q, 3]
    *,
    subsets: int,
    repeats: int = 1,
    share: float = 0.5,
    seed: int = 0,
    processes: int = 1,
    progress: bool | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Trains a model on each of some random subsets, and asks it the queries.

    Returns:
        Which training triples are in which subset, [s, n] float32; and each of OUTCOMES, [repeats, q, s] float64.
    """
    if subsets < 2:
        raise InputError(f"subsets is {subsets}; expected at least 2, over which to correlate", "subsets")
    if not 1 <= subsets < SEEDS_PER_REPEAT or repeats < 1:
        raise InputError(f"subsets is {subsets}, repeats {repeats}; expected below {SEEDS_PER_REPEAT}, and at least 1")
    jobs = subset_jobs(graph, subsets, repeats, seed, share, queries)
    results = retrain(graph, recipe, jobs, folder, processes=processes, progress=progress)
    members = torch.zeros(subsets, len(graph.train))
    for i in range(subsets):
        members[i, jobs[i].kept] = 1
    return members, {name: _by_repeat(results, name, repeats) for name in OUTCOMES}


def _by_repeat(results: Sequence[Outcomes], name: str, repeats: int) -> Tensor:  # [repeats, q, s]
    columns = torch.stack([result.named(name) for result in results])  # [repeats s, q]
    return torch.stack(columns.chunk(repeats)).transpose(1, 2)


def sums_over_subsets(
    graph: Graph,
    model: Model,
    score: Score,
    queries: Tensor,  # [q, 3]
    members: Tensor,  # [s, n] float32
) -> Tensor:  # [q, s] float64
    """What a score foretells: the sum over each subset's triples."""
    parts = [score.of(graph, model, block).double() @ members.T.double() for block in queries.split(QUERIES_AT_A_TIME)]
    return torch.cat(parts)


def correlations(
    foretold: Mapping[str, Tensor],  # score -> [q, s]
    outcome: Tensor,  # [repeats, q, s]
    *,
    control: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Correlations:
    """Means over queries of Spearman's correlations over subsets, with bootstrap intervals over queries and subsets.

    Outcomes are means over repeats; a query whose outcomes or sums are all equal counts 0. Queries and subsets are
    drawn independently; the same for all scores, so that differences of scores have intervals of their own.

    Example:
        >>> correlations({"sums": torch.rand(1, 5)}, torch.rand(1, 1, 5), bootstrap=10).scores["sums"].value <= 1
        True
    """
    repeats, q, s = outcome.shape
    ranked = {name: Ranked.of(values) for name, values in foretold.items()}
    truth = Ranked.of(outcome.mean(0))

    def means(subsets: Tensor, queries: Tensor) -> Tensor:  # [s], [q] -> [scores]
        own = truth.centred(subsets)
        by_score = [correlation(some.centred(subsets), own, subsets) @ queries / q for some in ranked.values()]
        return torch.stack(by_score)

    ones = torch.ones(s, dtype=torch.float64), torch.ones(q, dtype=torch.float64)
    value = means(*ones)
    drawn = torch.stack([means(*some) for some in draws((s, q), bootstrap, seed)])  # [B, scores]
    names = list(ranked)
    scores = {name: Estimate.of(float(value[i]), drawn[:, i]) for i, name in enumerate(names)}
    beyond = {}
    if control is not None:
        j = names.index(control)
        pairs = [(i, name) for i, name in enumerate(names) if i != j]
        beyond = {name: Estimate.of(float(value[i] - value[j]), drawn[:, i] - drawn[:, j]) for i, name in pairs}
    agreement = _agreement(outcome)
    return Correlations(scores, beyond, agreement, None if agreement is None else _ceiling(agreement, repeats))


def _agreement(
    outcome: Tensor,  # [repeats, q, s]
) -> float | None:
    """Mean over pairs of repeats and queries of Spearman's correlation over subsets."""
    repeats = len(outcome)
    if repeats == 1:
        return None
    ones = torch.ones(outcome.shape[2], dtype=torch.float64)
    ranks = [Ranked.of(some).centred(ones) for some in outcome]
    pairs = [(i, j) for i in range(repeats) for j in range(i)]
    return float(torch.stack([correlation(ranks[i], ranks[j], ones).mean() for i, j in pairs]).mean())


def _ceiling(agreement: float, repeats: int) -> float:
    """Spearman-Brown: the mean of several models agrees with that over all seeds by the root of its reliability."""
    agreement = max(0.0, agreement)
    return float((repeats * agreement / (1 + (repeats - 1) * agreement)) ** 0.5)
