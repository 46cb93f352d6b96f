"""Deletion: does a prediction fall when the training triples that a score names are left out, and the model retrained?

Alone, each prediction's triples are left out and a model is trained for it; together, those of all predictions are left
out at once, one model for all: the necessary protocol of Kelpie (Rossi et al., SIGMOD 2022), section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tracin.digests import digest_of
from tracin.errors import InputError
from tracin.evaluation.graph import Graph, Recipe, drawn
from tracin.evaluation.models import NAMED
from tracin.evaluation.outcomes import Outcomes, outcomes
from tracin.evaluation.retraining import Job, retrain
from tracin.evaluation.scores import QUERIES_AT_A_TIME, Model, Score
from tracin.evaluation.statistics import Estimate, draws

CHANGES = ("margin", "-ce", "mrr", "hits@1")


@dataclass(frozen=True)
class Change:
    """Of the predictions, after deletion minus before: a mean over predictions and models.

    Args:
        removed: training triples left out for one model, mean.
        changes: by CHANGES; falls are below 0.
    """

    removed: float
    changes: dict[str, Estimate]


def first_ranked(
    graph: Graph,
    model: Model,
    number: int,
    seed: int,
) -> Tensor:  # [at most number, 3]
    """Some of the test triples whose tail the model ranks first, at random, in file order."""
    questions = graph.questions()
    first = questions[outcomes(model.last, questions, graph.known).rank == 1]
    if len(first) == 0:
        raise InputError("the model ranks the tail of no test triple first; train it longer")
    return first[drawn(len(first), number, seed)]


def top_of(
    graph: Graph,
    model: Model,
    score: Score,
    queries: Tensor,  # [q, 3]
    k: int,
) -> Tensor:  # [q, k] int64
    """The training triples that speak most for each query, best first; equal ones in random order."""
    generator = torch.Generator().manual_seed(model.seed)
    order = torch.randperm(len(graph.train), generator=generator)
    parts = [
        order[score.of(graph, model, block)[:, order].argsort(dim=1, descending=True, stable=True)[:, :k]]
        for block in queries.split(QUERIES_AT_A_TIME)
    ]
    return torch.cat(parts)


def delete(
    graph: Graph,
    recipe: Recipe,
    folder: Path,
    tops: Mapping[str, Tensor],  # score -> [q, at least max(ks)] int64
    queries: Tensor,  # [q, 3]
    *,
    ks: Sequence[int] = (1, 4, 10),
    together: bool = False,
    repeats: int = 1,
    seed: int = 0,
    bootstrap: int = 1000,
    processes: int = 1,
    progress: bool | None = None,
) -> dict[str, dict[int, Change]]:
    """Trains models without the first k training triples of each score, and compares them with models of all triples.

    Args:
        graph, recipe, folder, processes, progress: see `retrain`.
        tops: for each score, the training triples of each query, best first.
        queries: the predictions.
        ks: how many are left out for a prediction.
        together: one model without the triples of all predictions, in place of one for each.
        repeats: models with different seeds; each is compared with that of all triples of the same seed.

    Returns:
        By score and k; intervals are drawn over predictions.
    """
    n = len(graph.train)
    if max(ks) >= n or min(ks) < 1:
        raise InputError(f"k is {list(ks)}; expected at least 1, and below the {n} training triples")
    groups = [torch.arange(len(queries))] if together else list(torch.arange(len(queries)).split(1))
    runs = range(seed, seed + repeats)
    before = {run: _job(torch.arange(n), run, queries) for run in runs}
    after = {
        (score, k): {run: [_without(top[group, :k], n, run, queries[group]) for group in groups] for run in runs}
        for score, top in tops.items()
        for k in ks
    }
    jobs = [*before.values(), *(job for by_run in after.values() for some in by_run.values() for job in some)]
    jobs = list({job.name: job for job in jobs}.values())  # scores may name the same triples
    found = retrain(graph, recipe, jobs, folder, processes=processes, progress=progress)
    results = {job.name: result for job, result in zip(jobs, found, strict=True)}
    base = torch.stack([_values([results[job.name]]) for job in before.values()]).mean(0)

    def change(by_run: Mapping[int, Sequence[Job]]) -> Change:
        values = torch.stack([_values([results[job.name] for job in some]) for some in by_run.values()]).mean(0)
        removed = [n - len(job.kept) for some in by_run.values() for job in some]
        return Change(sum(removed) / len(removed), _estimates(values - base, bootstrap, seed))

    return {score: {k: change(after[score, k]) for k in ks} for score in tops}


def _without(left_out: Tensor, n: int, seed: int, queries: Tensor) -> Job:
    kept = torch.ones(n, dtype=torch.bool)
    kept[left_out.flatten()] = False
    return _job(kept.nonzero().flatten(), seed, queries)


def _job(kept: Tensor, seed: int, queries: Tensor) -> Job:
    """Named by what it is, so that a result serves every score that leaves out the same."""
    return Job(f"kept_{digest_of([kept, queries]).rpartition(':')[2][:NAMED]}_seed_{seed}", kept, seed, queries)


def _values(results: Sequence[Outcomes]) -> Tensor:  # [q, CHANGES]
    parts = [torch.stack([some.margin, -some.ce, 1 / some.rank, (some.rank == 1).double()], dim=1) for some in results]
    return torch.cat(parts)


def _estimates(
    changes: Tensor,  # [q, CHANGES]
    bootstrap: int,
    seed: int,
) -> dict[str, Estimate]:
    q = len(changes)
    drawn = torch.stack([weights @ changes / q for (weights,) in draws((q,), bootstrap, seed)])
    value = changes.mean(0)
    return {name: Estimate.of(float(value[i]), drawn[:, i]) for i, name in enumerate(CHANGES)}
