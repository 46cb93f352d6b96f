"""What the model answers: the entities that it puts first, and where the one asked about stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.explanation.question import Question
from tracin.influence.directions import by_row
from tracin.model import inverse_rows
from tracin.subject import Subject

BLOCK = 4096  # triples whose scores are computed at a time, where a model scores triples alone


@dataclass(frozen=True)
class Answer:
    """An entity in the open place of a question."""

    entity: int
    score: float
    rank: float  # among all entities, 1 is best
    filtered_rank: float  # without other answers that are known to be true
    known: str  # "training", "given" (in another file of true triples), or "" for neither


@dataclass(frozen=True)
class Answers:
    """The first answers, and the one asked about; `count` entities were ranked."""

    first: tuple[Answer, ...]
    asked: Answer
    count: int
    turned: bool  # heads were ranked as tails of the inverse relation


def answers(subject: Subject, question: Question, count: int) -> Answers:
    """The model's first `count` answers; what is asked about is the first new one where the question leaves it open.

    Raises:
        InputError: if the scores are not finite.
    """
    turned = question.open == "head" and subject.both_directions
    scores = _scores(subject, question, turned)
    if not bool(scores.isfinite().all()):
        raise InputError("the model's scores are not finite; are its weights damaged, or did it diverge?")
    trained = _true(subject.train, question)
    given = _true(subject.others, question)
    known = torch.zeros(len(scores), dtype=torch.bool)
    known[torch.cat([trained, given])] = True
    order = scores.argsort(descending=True, stable=True)
    named = question.tail if question.open == "tail" else None
    if named is None:
        new = order[~known[order]]
        named = int(new[0]) if len(new) else int(order[0])
    where = {**dict.fromkeys(given.tolist(), "given"), **dict.fromkeys(trained.tolist(), "training")}

    def answer(entity: int) -> Answer:
        own, others = scores[entity], ~known
        others[entity] = True
        rank, filtered = (_rank(some, own) for some in (scores, scores[others]))
        return Answer(entity, float(own), rank, filtered, where.get(entity, ""))

    first = tuple(answer(entity) for entity in order[:count].tolist())
    return Answers(first, answer(named), len(scores), turned)


def _rank(
    scores: Tensor,  # [m]
    own: Tensor,
) -> float:
    """Of a score among scores: the middle place of those that are equal."""
    return float((scores > own).sum() + 1 + (scores >= own).sum()) / 2


@torch.no_grad()
def _scores(subject: Subject, question: Question, turned: bool) -> Tensor:  # [N]
    model = subject.model
    was_training = model.training
    model.eval()
    try:
        if turned:
            assert question.tail is not None
            rows = inverse_rows(model, torch.tensor([[0, question.relation, question.tail]]))
            table = model.entity.weight
            hidden = by_row(model).hidden(rows[:, 0].to(table.device), rows[:, 1].to(table.device))
            scores = hidden @ table.T
            turned_scores: Tensor = scores if model.bias is None else scores + model.bias
            return turned_scores[0].double().cpu()
        if question.head is not None and hasattr(model, "score_tails"):
            pair = torch.tensor([[question.head, question.relation]], device=model.entity.weight.device)
            found: Tensor = model.score_tails(pair[:, 0], pair[:, 1])
            return found[0].double().cpu()
        device = next(model.parameters()).device
        entities = torch.arange(model.num_entities)
        heads = entities if question.head is None else torch.full_like(entities, question.head)
        tails = entities if question.head is not None else torch.full_like(entities, question.tail or 0)
        triples = torch.stack([heads, torch.full_like(entities, question.relation), tails], 1)
        return torch.cat([model(some.to(device)).double().cpu() for some in triples.split(BLOCK)])
    finally:
        model.train(was_training)


def _true(
    triples: Tensor,  # [n, 3]
    question: Question,
) -> Tensor:  # [m]
    """The entities that triples have in the open place, all else as in the question."""
    heads, relations, tails = triples.unbind(1)
    if question.open == "tail":
        return tails[(heads == question.head) & (relations == question.relation)]
    return heads[(tails == question.tail) & (relations == question.relation)]
