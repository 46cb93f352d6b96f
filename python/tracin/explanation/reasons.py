"""The training triples that speak for a prediction and those against it, with how much each weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tracin.explanation.ties import Surroundings, Tie
from tracin.influence.tracin import TracIn
from tracin.model import ConvE
from tracin.proximity.two_rules import two_rules
from tracin.triples.read import Triple

MOST = 0.9  # of what speaks for, or against: the strongest triples that make it up are those that count


@dataclass(frozen=True)
class Reason:
    """A training triple and what it says of the question."""

    row: int
    triple: Triple
    score: float
    share: float  # of all that speaks on its side
    terms: dict[str, float]  # break-down of the score, where the method has one
    tie: Tie
    two_rules: float  # what two rules without a model say: 0, 1 or 2


@dataclass(frozen=True)
class Side:
    """All that speaks for, or all that speaks against."""

    reasons: tuple[Reason, ...]  # strongest first
    total: float  # sum of the scores of all its triples, not of the shown ones alone
    number: int  # of training triples on this side
    count: int  # the strongest that together make up MOST of the total

    @property
    def shown(self) -> float:
        """The share of the total that the reasons make up."""
        return sum(reason.share for reason in self.reasons)


def influences(tracin: TracIn, train: Tensor, triples: Sequence[Triple]) -> Tensor:  # [m, n]
    """The scores of all training triples for some questions."""
    return tracin.influence(train, torch.tensor(list(triples), dtype=torch.int64))


def terms_of(
    tracin: TracIn,
    train: Tensor,  # [n, 3]
    triple: Triple,
    rows: Tensor,  # [k]
) -> dict[str, Tensor]:  # each [k]
    """What the scores of some training triples consist of; empty where the method does not tell."""
    if not len(rows) or not all(isinstance(model, ConvE) for model in tracin.models):
        return {}
    parts = tracin.breakdown(train, torch.tensor([triple]), rows[None])
    return {name: values[0].double().cpu() for name, values in parts.items()}


def sides(
    tracin: TracIn,
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    triple: Triple,
    rival: Triple | None,
    around: Surroundings,
    k: int,
) -> tuple[Side, Side]:
    """What speaks for the triple (rather than its rival), and against; up to k reasons each."""
    values = scores.double()
    order = values.argsort(descending=True, stable=True)
    picked = [order[:k][values[order[:k]] > 0], order.flip(0)[:k][values[order.flip(0)[:k]] < 0]]
    reasons = reasons_of(tracin, train, values, triple, rival, around, torch.cat(picked))
    found, place = [], 0
    for chosen, sign in zip(picked, (1, -1), strict=True):
        of_side = (values * sign).clamp_min(0)
        own = tuple(reasons[place : place + len(chosen)])
        place += len(chosen)
        found.append(Side(own, sign * float(of_side.sum()), int((of_side > 0).sum()), counted(of_side)))
    return found[0], found[1]


def reasons_of(
    tracin: TracIn,
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    triple: Triple,
    rival: Triple | None,
    around: Surroundings,
    rows: Tensor,  # [k]
) -> list[Reason]:
    """Some training triples with all that is said of them."""
    values = scores.double()
    totals = {sign: float((values * sign).clamp_min(0).sum()) for sign in (1, -1)}
    terms = terms_of(tracin, train, triple, rows)
    if rival is not None:
        theirs = terms_of(tracin, train, rival, rows)
        terms = {name: parts - theirs[name] for name, parts in terms.items()}
    rules = two_rules(train[rows], torch.tensor([triple]))[0] if len(rows) else torch.empty(0)
    found = []
    for place, row in enumerate(rows.tolist()):
        head, relation, tail = train[row].tolist()
        own = float(values[row])
        found.append(
            Reason(
                row,
                (head, relation, tail),
                own,
                abs(own) / totals[1 if own > 0 else -1] if own else 0.0,
                {name: float(parts[place]) for name, parts in terms.items()},
                around.tie((head, relation, tail)),
                float(rules[place]),
            )
        )
    return found


def counted(
    strengths: Tensor,  # [n], none negative
) -> int:
    """How many of the strongest make up MOST of the sum."""
    total = float(strengths.sum())
    if total <= 0:
        return 0
    running = strengths.sort(descending=True).values.cumsum(0)
    return int((running < MOST * total).sum()) + 1
