"""The answer to a question about a model, as an object that shows, draws and saves itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import polars as pl
import torch
from torch import Tensor

from tracin.explanation import page
from tracin.explanation.answers import Answer, Answers
from tracin.explanation.presence import Presence
from tracin.explanation.reasons import MOST, Reason, Side
from tracin.explanation.small_sets import ShownSet
from tracin.explanation.ties import Path, in_words
from tracin.results.frames import as_pandas, triple_columns
from tracin.results.saving import save_as
from tracin.results.words import in_letters, ordinal, percent
from tracin.triples.labels import Labels
from tracin.triples.read import Triple


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why the model predicts a triple: which training triples speak for it, and which against.

    Args:
        triple: head, relation, tail.
        open: the place that the question left open, "head" or "tail"; "" for neither.
        rival: the triple with another tail that this one is compared with; None: with none.
        answers: what the model answers.
        presence: whether the triple is in the training set, as such or in other words.
        pro, contra: what speaks for, and against; their reasons are the strongest, by name in `to_frame`.
        paths: ways from head to tail through training triples that speak for it.
        train: the training triples.
        labels: what ids are called.
        model, method: what was asked, and how the scores were computed.
        kind: of the scores, "accurate" or "tracin".
        sets: the smallest sets that were asked for.
        seconds: that the answer took.

    Example:
        >>> why = tracin.explain(checkpoint, "entity 20", "predicate:3", "entity 17", train=train)
        >>> why.to_frame().select("side", "head_label", "relation_label", "tail_label", "score")
    """

    triple: Triple
    open: str
    rival: Triple | None
    answers: Answers
    presence: Presence
    pro: Side
    contra: Side
    paths: tuple[Path, ...]
    train: Tensor  # [n, 3]
    labels: Labels
    model: str
    method: str
    kind: str
    sets: tuple[ShownSet, ...] = ()
    seconds: float = 0.0

    def __repr__(self) -> str:
        head, relation, tail = self.names(self.triple)
        return f"Explanation({head} --{relation}-> {tail}: {self.rank_words()})"

    def _repr_html_(self) -> str:
        return page.fragment(self)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Of both sides, for first."""
        return (*self.pro.reasons, *self.contra.reasons)

    def names(self, triple: Triple) -> tuple[str, str, str]:
        """What head, relation and tail are called."""
        head, relation, tail = triple
        return self.labels.entity_name(head), self.labels.relation_name(relation), self.labels.entity_name(tail)

    # ---- in words ---------------------------------------------------------------------------------------------------

    def rank_words(self) -> str:
        """Such as "the model puts this tail 3rd of 135, other known answers left out (5th with them)"."""
        asked, place = self.answers.asked, "head" if self.open == "head" else "tail"
        filtered, plain = ordinal(asked.filtered_rank), ordinal(asked.rank)
        raw = "" if filtered == plain else f", other answers known to be true left out ({plain} with them)"
        return f"the model puts this {place} {filtered} of {self.answers.count:,}{raw}"

    def side_words(self, side: Side) -> str:
        """Such as "for: the 5 strongest of 1,240 that count carry 31 % of what speaks for it"."""
        name = "for" if side is self.pro else "against"
        if not side.reasons:
            return f"{name}: nothing"
        shown = len(side.reasons)
        strongest = "the strongest" if shown == 1 else f"the {in_letters(shown)} strongest"
        of_all = f"{strongest} of {max(side.count, shown):,} that count"
        verb = "carries" if shown == 1 else "carry"
        return f"{name}: {of_all} {verb} {percent(side.shown)} of what speaks {name} it"

    def balance(self) -> float:
        """The share of what speaks for, of all that speaks for or against."""
        both = self.pro.total - self.contra.total
        return self.pro.total / both if both else 0.5

    # ---- as data ----------------------------------------------------------------------------------------------------

    def to_frame(self) -> pl.DataFrame:
        """The reasons as a table, a row each: first those for, then those against, then the facts of smallest sets.

        Columns: test_head_id, test_head_label, ..., side, place (1 is strongest), train_index, head_id, head_label,
        ..., score, share (of all that speaks on its side), a column for each term of the score, tie (in words), hops
        (from the question's nearer end), path (edges of the shortest way from head to tail that it lies on), two_rules.
        Where smallest sets were asked for, also found, rank_before and rank_after: of the set; its side is its kind.
        """
        reasons = (*self.reasons, *(reason for one in self.sets for reason in one.reasons))
        sides = ["for" if reason.score > 0 else "against" for reason in self.reasons]
        sides += [one.found.kind for one in self.sets for _ in one.reasons]
        triples = torch.tensor([reason.triple for reason in reasons], dtype=torch.int64).reshape(-1, 3)
        asked = torch.tensor(self.triple).expand(len(reasons), 3)
        places = [*range(1, len(self.pro.reasons) + 1), *range(1, len(self.contra.reasons) + 1)]
        places += [place for one in self.sets for place in range(1, len(one.reasons) + 1)]
        names = [name for name in (reasons[0].terms if reasons else ())]
        return pl.DataFrame(
            [
                *triple_columns(asked, self.labels, "test_"),
                pl.Series("side", sides, dtype=pl.String),
                pl.Series("place", places, dtype=pl.Int64),
                pl.Series("train_index", [reason.row for reason in reasons], dtype=pl.Int64),
                *triple_columns(triples, self.labels),
                pl.Series("score", [reason.score for reason in reasons], dtype=pl.Float64),
                pl.Series("share", [reason.share for reason in reasons], dtype=pl.Float64),
                *(pl.Series(name, [reason.terms[name] for reason in reasons], dtype=pl.Float64) for name in names),
                pl.Series("tie", [in_words(reason.tie) for reason in reasons], dtype=pl.String),
                pl.Series("hops", [reason.tie.hops for reason in reasons], dtype=pl.Int64),
                pl.Series("path", [reason.tie.path for reason in reasons], dtype=pl.Int64),
                pl.Series("two_rules", [reason.two_rules for reason in reasons], dtype=pl.Float64),
                *self._set_columns(),
            ]
        )

    def _set_columns(self) -> list[pl.Series]:
        if not self.sets:
            return []
        of_sets = [one.found for one in self.sets for _ in one.reasons]
        nothing: list[Any] = [None] * len(self.reasons)
        ranks = {
            name: [None if verdict is None else verdict.rank for verdict in verdicts]
            for name, verdicts in (
                ("rank_before", [one.before for one in of_sets]),
                ("rank_after", [one.after for one in of_sets]),
            )
        }
        return [
            pl.Series("found", nothing + [one.found for one in of_sets], dtype=pl.Boolean),
            *(pl.Series(name, nothing + values, dtype=pl.Float64) for name, values in ranks.items()),
        ]

    def to_pandas(self) -> Any:
        """The table of `to_frame` as a pandas data frame.

        Raises:
            InputError: if pandas is not installed.
        """
        return as_pandas(self.to_frame())

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "triple": self._triple(self.triple),
            "open": self.open or None,
            "against": None if self.rival is None else self._triple(self.rival),
            "model": self.model,
            "method": self.method,
            "training_triples": len(self.train),
            "rank": self.answers.asked.rank,
            "filtered_rank": self.answers.asked.filtered_rank,
            "ranked_entities": self.answers.count,
            "answers": [self._answer(answer) for answer in self.answers.first],
            "in_training_set": list(self.presence.rows),
            "same_entities_in_training_set": [
                {"row": twin.row, "relation": self.labels.relation(twin.relation), "turned": twin.turned,
                 "share": twin.share}
                for twin in self.presence.twins
            ],
            **{name: self._side(side) for name, side in (("for", self.pro), ("against_it", self.contra))},
            "paths": [
                {"rows": list(path.rows), "entities": [self.labels.entity(entity) for entity in path.entities],
                 "weakest": path.weakest, "total": path.total}
                for path in self.paths
            ],
            **({"sets": [self._set(one) for one in self.sets]} if self.sets else {}),
        }  # fmt: skip

    def to_grainsack(self) -> dict[str, Any]:
        """A row of GRainsaCK: the prediction, the triples that explain it, and the seconds that it took.

        The explanation is the first smallest set that was found, else the strongest reasons for.

        Source: https://github.com/rbarile17/grainsack
        """
        found = next((one.reasons for one in self.sets if one.found.found), self.pro.reasons)
        return {
            "prediction": self._labels(self.triple),
            "explanation": [self._labels(reason.triple) for reason in found],
            "time": self.seconds,
        }

    def _labels(self, triple: Triple) -> list[str]:
        head, relation, tail = triple
        return [self.labels.entity(head), self.labels.relation(relation), self.labels.entity(tail)]

    def _set(self, one: ShownSet) -> dict[str, Any]:
        found = one.found
        ranks = {
            name: None if verdict is None else list(verdict.ranks)
            for name, verdict in (("ranks_before", found.before), ("ranks_after", found.after))
        }
        return {
            "kind": found.kind,
            "found": found.found,
            "size": len(found.facts),
            "facts": [
                self._triple(reason.triple) | {"train_index": reason.row, "score": reason.score}
                for reason in one.reasons
            ],
            **ranks,
            "tried": [{"size": size.size, "tried": size.tried, "possible": size.possible} for size in found.sizes],
            "max_size": found.max_size,
            "entities": [self.labels.entity(entity) for entity in found.entities],
            "verified": found.verified,
            "words": found.sentence(),
        }

    def _answer(self, answer: Answer) -> dict[str, Any]:
        return {
            "entity": self.labels.entity(answer.entity),
            "score": answer.score,
            "rank": answer.rank,
            "filtered_rank": answer.filtered_rank,
            "known": answer.known or None,
        }

    def _side(self, side: Side) -> dict[str, Any]:
        return {
            "total": side.total,
            "triples": side.number,
            "triples_that_count": side.count,
            "share_that_counts": MOST,
            "reasons": [
                self._triple(reason.triple)
                | {
                    "train_index": reason.row,
                    "score": reason.score,
                    "share": reason.share,
                    "terms": reason.terms,
                    "tie": in_words(reason.tie),
                    "hops": reason.tie.hops,
                    "path": reason.tie.path,
                    "two_rules": reason.two_rules,
                }
                for reason in side.reasons
            ],
        }

    def _triple(self, triple: Triple) -> dict[str, Any]:
        head, relation, tail = triple
        ids = {"head": head, "relation": relation, "tail": tail}
        labels = (self.labels.entity(head), self.labels.relation(relation), self.labels.entity(tail))
        return ids | dict(zip(("head_label", "relation_label", "tail_label"), labels, strict=True))

    # ---- as a picture and files -------------------------------------------------------------------------------------

    def plot(self) -> Any:
        """A bar chart of the reasons, as a matplotlib Figure.

        Raises:
            InputError: if matplotlib is not installed.
        """
        from tracin.results.charts import diverging_bars

        bars = [(" — ".join(self.names(reason.triple)), reason.score) for reason in self.reasons]
        return diverging_bars(" — ".join(self.names(self.triple)), bars)

    def to_html(self) -> str:
        """A page of its own: one text that needs no network."""
        return page.render([self])

    def to_markdown(self) -> str:
        """The same in Markdown."""
        return page.markdown([self])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file by the ending of its name: .html, .json, .csv, .parquet or .md.

        Raises:
            InputError: for another ending.

        Example:
            >>> tracin.explain(checkpoint, 20, 3, 17, train=train).save("why.html")
        """
        save_all([self], FilePath(path))


FORMS = ("tracin", "grainsack")  # of JSON


def save_all(explanations: list[Explanation], path: FilePath, csv_safe: bool = False, form: str = "tracin") -> None:
    """One file of several explanations, by the ending of its name; JSON in one of FORMS.

    Raises:
        InputError: for an ending that is none of those of `Explanation.save`.
    """
    save_as(
        path,
        frame=lambda: pl.concat([each.to_frame() for each in explanations], how="diagonal"),
        text={
            ".json": lambda: as_json(explanations, form),
            ".html": lambda: page.render(explanations),
            ".md": lambda: page.markdown(explanations),
        },
        csv_safe=csv_safe,
    )


def as_json(explanations: list[Explanation], form: str = "tracin", always_list: bool = False) -> str:
    """One explanation or a list; the rows of GRainsaCK are always a list."""
    if form == "grainsack":
        return json.dumps([each.to_grainsack() for each in explanations], indent=4, allow_nan=False)
    whole: Any = [each.to_dict() for each in explanations]
    return json.dumps(whole[0] if len(whole) == 1 and not always_list else whole, indent=2, allow_nan=False)
