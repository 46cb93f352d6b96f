"""What the local page shows, address by address; knows nothing of connections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from threading import Lock
from typing import Any
from urllib.parse import urlencode

import torch

from tracin.errors import InputError
from tracin.explanation import page as explanation_page
from tracin.explanation.answers import answers
from tracin.explanation.ask import Explainer
from tracin.explanation.page import KNOWN
from tracin.explanation.question import Question
from tracin.results.page import column, number_cell, render

FOUND = 60  # entities of a search
ANSWERS = 25
KEPT = 32  # pages of explanations
ID_DIGITS = 12

Query = Mapping[str, str]


class Explorer:
    """Pages of one model.

    Args:
        explainer: answers the questions.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer
        self.subject = explainer.subject
        self._pages: OrderedDict[Question, str] = OrderedDict()
        self._lock = Lock()

    @property
    def views(self) -> dict[str, Callable[[Query], str]]:
        """Page by address."""
        return {"": self.home, "find": self.find, "entity": self.entity, "ask": self.ask, "why": self.why}

    def page(self, address: str, query: Query) -> str:
        """The HTML of an address.

        Raises:
            KeyError: if there is no such address.
            InputError: if the query is none of it.
        """
        return self.views[address](query)

    # ---- pages ----------------------------------------------------------------------------------------------------

    def home(self, _: Query) -> str:
        train = self.subject.train
        degree = torch.bincount(torch.cat([train[:, 0], train[:, 2]]), minlength=self.subject.model.num_entities)
        most = degree.argsort(descending=True, stable=True)[:12].tolist()
        return self._listed("Look around", "", most, "The entities of most triples, to begin with:")

    def find(self, query: Query) -> str:
        text = query.get("q", "").strip()
        if not text:
            return self.home(query)
        found = self.matching(text)
        more = f"; the first {FOUND} are shown" if len(found) > FOUND else ""
        hold = "entity holds" if len(found) == 1 else "entities hold"
        hint = f"{len(found):,} {hold} “{text}”{more}." if found else f"No entity holds “{text}”."
        return self._listed("Found" if found else "Nothing found", text, found[:FOUND], hint)

    def entity(self, query: Query) -> str:
        entity = self._id(query, "id", self.subject.model.num_entities, "an entity")
        train = self.subject.train
        rows = []
        for place, column_of, own in (("tail", 0, "head"), ("head", 2, "tail")):
            counts = torch.bincount(train[train[:, column_of] == entity, 1], minlength=self.subject.model.num_relations)
            for relation in counts.argsort(descending=True, stable=True).tolist():
                link = "ask?" + urlencode({own: entity, "relation": relation})
                rows.append((place, relation, int(counts[relation]), link))
        name = self._name(entity)
        known, new = ([row for row in rows if (row[2] > 0) is side] for side in (True, False))
        groups = [
            {
                "title": title,
                "open": some is known or not known,
                "rows": [
                    {
                        "names": (name, self._relation(relation), "?")
                        if place == "tail"
                        else ("?", self._relation(relation), name),
                        "count": f"{count:,} known" if count else "",
                        "link": link,
                    }
                    for place, relation, count, link in some
                ],
            }
            for title, some in (("Relations that it is known in", known), ("Others", new))
        ]
        return self._render("entity", title=name, name=name, groups=groups, query="")

    def ask(self, query: Query) -> str:
        question = self._question(query)
        found = answers(self.subject, question, ANSWERS)
        place = question.open
        rows = []
        for answer in found.first:
            head, relation, tail = question.filled(answer.entity)
            link = "why?" + urlencode({"head": head, "relation": relation, "tail": tail})
            rows.append(
                {
                    "asked": False,
                    "cells": [
                        number_cell(answer.rank, f"{answer.rank:,g}"),
                        self._name(answer.entity),
                        number_cell(answer.score, f"{answer.score:.2f}"),
                        KNOWN[answer.known],
                        {"href": link, "text": "why?", "told": f"why {self._name(answer.entity)}?"},
                    ],
                }
            )
        columns = [
            column("rank", "number", "ascending"),
            column(place, "label"),
            column("score", "number"),
            column("known?"),
            column("because", "link"),
        ]
        given = question.head if place == "tail" else question.tail
        assert given is not None
        called = self._relation(question.relation)
        names = (self._name(given), called, "?") if place == "tail" else ("?", called, self._name(given))
        back = {"href": "entity?" + urlencode({"id": given}), "text": self._name(given)}
        title = " — ".join(names)
        return self._render("answers", title=title, names=names, columns=columns, rows=rows, back=back, query="")

    def why(self, query: Query) -> str:
        question = self._question(query)
        if question.head is None or question.tail is None:
            raise InputError("why asks about a whole triple; head and tail are needed")
        with self._lock:
            kept = self._pages.get(question)
        if kept is not None:
            return kept
        found = self.explainer.ask(question)
        back = {
            "href": "ask?" + urlencode({"head": question.head, "relation": question.relation}),
            "text": "the model’s answers",
        }
        title = "Why? " + " — ".join(found.names(found.triple))
        page = self._render("why", title=title, one=explanation_page.values(found), heading="h1", back=back, query="")
        with self._lock:
            self._pages[question] = page
            while len(self._pages) > KEPT:
                self._pages.popitem(last=False)
        return page

    # ---- parts ----------------------------------------------------------------------------------------------------

    def matching(self, text: str) -> list[int]:
        """Entities whose name or label holds a text in any case, those that begin with it first."""
        wanted = text.casefold()
        found = [
            (names.find(wanted), len(names), entity) for entity, names in enumerate(self._searched) if wanted in names
        ]
        return [entity for _, _, entity in sorted(found)]

    @cached_property
    def _searched(self) -> list[str]:
        labels = self.subject.labels
        return [
            "\n".join(dict.fromkeys((labels.entity_name(entity), labels.entity(entity)))).casefold()
            for entity in range(self.subject.model.num_entities)
        ]

    def _listed(self, title: str, query: str, entities: list[int], hint: str) -> str:
        links = [{"href": "entity?" + urlencode({"id": entity}), "text": self._name(entity)} for entity in entities]
        return self._render("found", title=title, query=query, links=links, hint=hint)

    def _render(self, kind: str, **values: Any) -> str:
        footer = (
            f"Model {self.subject.name}; {len(self.subject.train):,} training triples. Served to this machine alone."
        )
        return render("explore.html", kind=kind, form_action="'self'", footer=footer, **values)

    def _name(self, entity: int) -> str:
        return self.subject.labels.entity_name(entity)

    def _relation(self, relation: int) -> str:
        return self.subject.labels.relation_name(relation)

    def _question(self, query: Query) -> Question:
        model = self.subject.model
        ends = {
            place: self._id(query, place, model.num_entities, "an entity") if query.get(place) else None
            for place in ("head", "tail")
        }
        if ends["head"] is None and ends["tail"] is None:
            raise InputError("a question needs a head or a tail")
        relation = self._id(query, "relation", model.num_relations, "a relation")
        return Question(ends["head"], relation, ends["tail"])

    @staticmethod
    def _id(query: Query, name: str, size: int, kind: str) -> int:
        text = query.get(name, "")
        if not (text.isascii() and text.isdigit() and len(text) <= ID_DIGITS and int(text) < size):
            raise InputError(f"{name} is not the id of {kind}, a number from 0 to {size - 1}")
        return int(text)
