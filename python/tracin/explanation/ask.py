"""From a model and a question to an explanation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.explanation.answer import Explanation
from tracin.explanation.answers import answers
from tracin.explanation.presence import presence
from tracin.explanation.question import Question, read_question
from tracin.explanation.reasons import influences, reasons_of, sides
from tracin.explanation.small_sets import SetFinder, ShownSet
from tracin.explanation.ties import Surroundings, graph_of
from tracin.influence.tracin import TracIn
from tracin.proximity.graph import EntityGraph
from tracin.sets.smallest import NECESSARY, SUFFICIENT, SetOptions
from tracin.subject import Subject, open_subject, scorer

SHOWN = 5  # reasons of each side
ANSWERS = 10
PATHS = 5


class Explainer:
    """Answers questions about one model; what they have in common is computed once.

    Args:
        subject: the model with its triples.
        tracin: what scores the training triples; None: made with `arguments` for `TracIn`.
        finder: of smallest sets; None: made with the default options where they are asked for.
    """

    def __init__(
        self, subject: Subject, tracin: TracIn | None = None, finder: SetFinder | None = None, **arguments: Any
    ) -> None:
        self.subject = subject
        self._finder = finder
        self.tracin = scorer(subject, **arguments) if tracin is None else tracin

    @cached_property
    def graph(self) -> EntityGraph:
        return graph_of(self.subject.train, self.subject.model.num_entities)

    @property
    def finder(self) -> SetFinder:
        if self._finder is None:
            self._finder = SetFinder(self.subject, SetOptions())
        return self._finder

    def prepare(self) -> None:
        """Computes what all questions have in common, so that the first one need not wait for it."""
        influences(self.tracin, self.subject.train, [tuple(self.subject.train[0].tolist())])

    def ask(self, question: Question, k: int = SHOWN, tails: int = ANSWERS, kinds: Sequence[str] = ()) -> Explanation:
        """The explanation of one question, with up to k reasons of each side and so many of the model's answers.

        `kinds`: of smallest sets, "necessary" and "sufficient".
        """
        start = time.perf_counter()
        for name, value in (("k", k), ("tails", tails)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; expected a positive number", name)
        if kinds and question.against is not None:
            raise InputError("a smallest set explains one answer; leave out against, or the sets", "against")
        subject = self.subject
        found = answers(subject, question, tails)
        triple = question.filled(found.asked.entity)
        rival = None if question.against is None else question.filled_against(question.against)
        asked = [triple] if rival is None else [triple, rival]
        scores: Tensor = influences(self.tracin, subject.train, asked)
        own = scores[0] if rival is None else scores[0] - scores[1]
        around = Surroundings(subject.train, subject.model.num_entities, triple, self.graph)
        pro, contra = sides(self.tracin, subject.train, own, triple, rival, around, k)
        of_head = question.open == "head"
        sets = []
        for kind in kinds:
            one = self.finder.find(kind, triple, of_head, own, found.asked.filtered_rank)
            rows = torch.tensor([fact.rows[0] for fact in one.facts], dtype=torch.int64)
            named = reasons_of(self.tracin, subject.train, own, triple, None, around, rows)
            sets.append(ShownSet(one, tuple(named)))
        return Explanation(
            triple=triple,
            open=question.open if question.head is None or question.tail is None else "",
            rival=rival,
            answers=found,
            presence=presence(subject.train, triple, found.asked.known == "given"),
            pro=pro,
            contra=contra,
            paths=tuple(around.paths(own, PATHS)),
            train=subject.train,
            labels=subject.labels,
            model=subject.name,
            method=self.tracin.description,
            kind=self.tracin.method,
            sets=tuple(sets),
            seconds=time.perf_counter() - start,
        )


def explain(
    model: Any,
    head: str | int | None,
    relation: str | int,
    tail: str | int | None = None,
    *,
    train: Any = None,  # [n, 3]
    known: Iterable[Any] = (),  # each [m, 3]
    against: str | int | None = None,
    k: int = SHOWN,
    tails: int = ANSWERS,
    necessary: bool = False,
    sufficient: bool = False,
    sets: SetOptions | None = None,
    entity_to_id: Any = None,
    relation_to_id: Any = None,
    node_names: Mapping[int, str] | None = None,
    relation_names: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Explanation:
    """Says why the model predicts a triple: the training triples that speak for it and against it, by name.

    Args:
        model: the path of a checkpoint, of a folder of PyKEEN's save_to_directory or of an index, a Checkpoint, a
            ConvE, an Index, a PyKEEN model, or the result of a PyKEEN pipeline.
        head, relation, tail: labels, names or ids. Head or tail may be None or "?": the model's first answer that is
            not known to be true is then explained.
        train: the training triples, in any form that `TracIn.top_k` takes; None: those of the folder or of the result.
        known: further triples that are true, such as those of validation and test, which filtered ranks leave out.
        against: another tail: why this tail rather than that? Scores are then those of the triple less the other's.
        k: training triples of each side.
        tails: of the model's own answers.
        necessary: also look for the smallest set of facts without which the answer is no longer first.
        sufficient: also look for the smallest set that makes it the first of other entities, to which it is added.
        sets: how those are looked for, a `SetOptions`; None: with its defaults.
        entity_to_id, relation_to_id: where the checkpoint has none, as `load_checkpoint` takes them.
        node_names, relation_names: names for people: of entity ids, of relation labels.
        arguments: of `TracIn`, such as method ("accurate" by default), samples (1,024), device or precision.

    Returns:
        An Explanation: shows itself in a notebook; `to_frame()`, `plot()`, `save(path)`.

    Raises:
        InputError: for a label that is not there, with those that are like it; without training triples; as `TracIn`.

    Example:
        >>> why = tracin.explain("model.pt", "entity 20", "predicate:3", "?", train="train.txt")
        >>> why.save("why.html")
    """
    subject = open_subject(
        model,
        train,
        known,
        entity_to_id=entity_to_id,
        relation_to_id=relation_to_id,
        node_names=node_names,
        relation_names=relation_names,
    )
    question = read_question(subject, (head, relation, tail), against)
    kinds = [kind for kind, wanted in ((NECESSARY, necessary), (SUFFICIENT, sufficient)) if wanted]
    finder = SetFinder(subject, sets or SetOptions()) if kinds else None
    return Explainer(subject, finder=finder, **arguments).ask(question, k, tails, kinds)
