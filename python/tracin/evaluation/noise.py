"""Wrong triples among the training triples: which score finds them?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.models import trained
from tracin.evaluation.outcomes import outcomes
from tracin.evaluation.scores import Model, tracin_of
from tracin.evaluation.statistics import Estimate, Ranked, area, auc, counts, precision_at
from tracin.model import inverse_rows
from tracin.proximity.two_rules import two_rules
from tracin_ext.losses import bce

ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Corrupted:
    """A graph with wrong triples among its training triples.

    Args:
        graph: with the same number of training triples.
        wrong: [n] bool, which of them are wrong.
    """

    graph: Graph
    wrong: Tensor


def corrupt(graph: Graph, share: float, seed: int) -> Corrupted:
    """Gives a share of the training triples another head or tail, in equal parts, so that none is a known triple.

    Raises:
        InputError: if the share leaves no triple right or none wrong, or so many wrong triples cannot be made.
    """
    n = len(graph.train)
    number = round(share * n)
    if not 0 < number < n:
        raise InputError(f"share {share} makes {number} of {n} training triples wrong; expected at least 1, not all")
    generator = torch.Generator().manual_seed(seed)
    known = set(map(tuple, graph.known.tolist()))
    train = graph.train.clone()
    chosen: list[int] = []
    for row in torch.randperm(n, generator=generator).tolist():
        if len(chosen) == number:
            break
        made = _wrong(train[row].tolist(), 2 * (len(chosen) % 2), known, graph.num_entities, generator)
        if made is not None:
            train[row] = torch.tensor(made)
            known.add(made)
            chosen.append(row)
    if len(chosen) < number:
        raise InputError(f"only {len(chosen)} of {number} triples could be made wrong: nearly all others are known")
    wrong = torch.zeros(n, dtype=torch.bool)
    wrong[chosen] = True
    return Corrupted(replace(graph, train=train), wrong)


def _wrong(
    triple: list[int],
    column: int,
    known: set[tuple[int, ...]],
    num_entities: int,
    generator: torch.Generator,
) -> tuple[int, int, int] | None:
    """The triple with another entity in a column, so that it is not known; None if there is none."""
    for entity in torch.randperm(num_entities, generator=generator).tolist():
        made = (entity, triple[1], triple[2]) if column == 0 else (triple[0], triple[1], entity)
        if made not in known:
            return made
    return None


@dataclass(frozen=True)
class Found:
    """How well a score finds the wrong triples, mean over models.

    Args:
        auc: how often a wrong triple stands above a right one.
        precision: share of wrong triples among the first k, by k.
    """

    auc: Estimate
    precision: dict[int, float]


def suspicion(graph: Graph, model: Model, extra: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Tensor]:
    """Scores of the training triples, larger where they look wrong, by name: losses, self-influences, controls.

    Args:
        graph: whose training triples the model was trained on.
        extra: further self-influences, as settings of TracIn by name.

    Returns:
        [n] each. loss is softplus(-score) of the triple, "loss, both" with that of its inverse where the model has
        inverse relations; ce the softmax cross-entropy of its tail among those that are not known; two-rules how few
        other training triples share relation and an end, or both entities.
    """
    last, train = model.last, graph.train
    scores = {"loss": _loss(model, train)}
    if last.relation.num_embeddings == 2 * graph.num_relations:
        scores["loss, both"] = scores["loss"] + _loss(model, inverse_rows(last, train))
    scores["ce"] = outcomes(last, train, graph.known).ce
    self_influences: dict[str, Mapping[str, Any]] = {"self-influence": {}, **(extra or {})}
    for name, settings in self_influences.items():
        scores[name] = tracin_of(graph, model.checkpoints[-1:], settings).self_influence(train)
    scores["two-rules"] = -torch.cat([two_rules(train, some).sum(1) for some in train.split(ROWS_AT_A_TIME)])
    scores["random"] = torch.rand(len(train), generator=torch.Generator().manual_seed(model.seed))
    return scores


@torch.no_grad()
def _loss(model: Model, triples: Tensor) -> Tensor:  # [n, 3] -> [n]
    by_row = model.last
    heads, relations, tails = triples.unbind(1)
    hidden = by_row.hidden(heads, relations)
    score = (hidden * by_row.entity(tails)).sum(1)
    return bce(score if by_row.bias is None else score + by_row.bias[tails])


def find_noise(
    graph: Graph,
    recipe: Recipe,
    folder: Path,
    *,
    share: float = 0.05,
    repeats: int = 1,
    at: Sequence[int] = (),
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Found]:
    """Corrupts training triples, trains a model on them, and ranks the triples by each score, `repeats` times.

    Args:
        at: the k of the precisions; without any, the number of wrong triples.
        others: see `corrupt`, `suspicion`, `trained`.

    Returns:
        By score: the mean over repeats, with bootstrap intervals over the wrong and over the right triples.
    """
    ranked: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for run in range(repeats):
        made = corrupt(graph, share, seed + run)
        checkpoints = trained(made.graph, recipe, folder, seed=seed + run, progress=progress)
        for name, scores in suspicion(made.graph, Model(checkpoints, seed + run), extra).items():
            ranked.setdefault(name, []).append((scores.double().cpu(), made.wrong))
        tell(f"model {run + 1} of {repeats} is trained and asked")
    ks = list(at) or [round(share * len(graph.train))]
    return {name: _found(some, ks, bootstrap, seed) for name, some in ranked.items()}


def _found(ranked: Sequence[tuple[Tensor, Tensor]], ks: Sequence[int], bootstrap: int, seed: int) -> Found:
    generator = torch.Generator().manual_seed(seed)
    placed = [(Ranked.of(scores[None]), wrong) for scores, wrong in ranked]

    def drawn() -> float:
        total = 0.0
        for places, wrong in placed:
            weights = torch.empty(len(wrong), dtype=torch.float64)
            for group in (wrong, ~wrong):
                weights[group] = counts(int(group.sum()), generator)
            total += area(places, wrong, weights)
        return total / len(ranked)

    value = sum(auc(*some) for some in ranked) / len(ranked)
    interval = Estimate.of(value, torch.tensor([drawn() for _ in range(bootstrap)], dtype=torch.float64))
    precision = {k: sum(precision_at(*some, k) for some in ranked) / len(ranked) for k in ks}
    return Found(interval, precision)
