"""A report on a training set, from the model that was trained on it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from tracin.auditing import page
from tracin.auditing.repeats import Repeats, find_repeats
from tracin.auditing.suspects import losses_of
from tracin.errors import InputError
from tracin.influence.tracin import TracIn
from tracin.results.frames import as_pandas, triple_columns
from tracin.results.saving import save_as
from tracin.subject import Subject, open_subject, scorer
from tracin.training.unusual import estimated_wrong, unusual
from tracin.triples.ids import check_ids
from tracin.triples.labels import Labels
from tracin.triples.read import Triple

FLAGGED = 100
OPPONENTS = 3  # of each flagged triple
STANDING_OUT = 4.0  # spreads above the median of the relation


@dataclass(frozen=True)
class Suspect:
    """A training triple that looks wrong."""

    row: int
    triple: Triple
    loss: float
    unusual: float  # spreads above the median of its relation
    self_influence: float
    opponents: tuple[tuple[int, float], ...]  # rows of the training triples that oppose it most, with their influence


@dataclass(frozen=True, repr=False)
class Audit:
    """What looks wrong in a training set, and what it says twice.

    Args:
        suspects: triples that look wrong, most unusual first.
        estimate: about how many training triples are wrong.
        standing_out: how many lie STANDING_OUT spreads above the median of their relation.
        repeats: copies, twin relations, test leaks, self-loops, what is seen once.
        relations: a row for each relation: relation_id, relation_label, triples, median_loss, standing_out, self_loops,
            twin (a relation that says the same), turned, share.
        train, test: the triples; `test` has no rows where there are none.
        labels, model, method: what ids are called, what was asked, how influences were computed.

    Example:
        >>> report = tracin.audit(checkpoint, train=train, test=test)
        >>> report.to_frame().head(10)
    """

    suspects: tuple[Suspect, ...]
    estimate: int
    standing_out: int
    repeats: Repeats
    relations: pl.DataFrame
    train: Tensor  # [n, 3]
    test: Tensor  # [m, 3]
    labels: Labels
    model: str
    method: str

    def __repr__(self) -> str:
        return (
            f"Audit({len(self.train):,} training triples: about {self.estimate:,} look wrong, "
            f"{len(self.repeats.copies):,} copies, {len(self.repeats.leaks):,} test triples told)"
        )

    def _repr_html_(self) -> str:
        return page.fragment(self)

    def to_frame(self) -> pl.DataFrame:
        """The triples that look wrong, most unusual first.

        Columns: place, train_index, head_id, head_label, ..., loss, unusual (spreads above the median of its relation),
        self_influence, then opponent_1, opponent_2, ... (rows of the training triples that oppose it most).
        """
        found = self.suspects
        triples = torch.tensor([each.triple for each in found], dtype=torch.int64).reshape(-1, 3)
        most = max((len(each.opponents) for each in found), default=0)
        return pl.DataFrame(
            [
                pl.Series("place", range(1, len(found) + 1), dtype=pl.Int64),
                pl.Series("train_index", [each.row for each in found], dtype=pl.Int64),
                *triple_columns(triples, self.labels),
                pl.Series("loss", [each.loss for each in found], dtype=pl.Float64),
                pl.Series("unusual", [each.unusual for each in found], dtype=pl.Float64),
                pl.Series("self_influence", [each.self_influence for each in found], dtype=pl.Float64),
                *(
                    pl.Series(
                        f"opponent_{place + 1}",
                        [each.opponents[place][0] if place < len(each.opponents) else None for each in found],
                        dtype=pl.Int64,
                    )
                    for place in range(most)
                ),
            ]
        )

    def to_pandas(self) -> Any:
        """The table of `to_frame` as a pandas data frame.

        Raises:
            InputError: if pandas is not installed.
        """
        return as_pandas(self.to_frame())

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it; rows are those of the training triples, from 0."""
        repeats = self.repeats
        return {
            "model": self.model,
            "method": self.method,
            "training_triples": len(self.train),
            "estimated_wrong": self.estimate,
            "standing_out": self.standing_out,
            "suspects": [
                self._named(each.triple) | {"train_index": each.row, "loss": each.loss, "unusual": each.unusual}
                | {"self_influence": each.self_influence}
                | {"opponents": [self._named_row(row) | {"train_index": row, "influence": score}
                                 for row, score in each.opponents]}
                for each in self.suspects
            ],
            "copies": [{"train_index": row, "first": first} for first, row in repeats.copies],
            "twin_relations": [
                asdict(twins) | {"relation": self.labels.relation(twins.relation),
                                 "other": self.labels.relation(twins.other)}
                for twins in repeats.twins
            ],
            "triples_with_a_twin": repeats.repeated,
            "test_triples": repeats.tests,
            "test_leaks": [asdict(leak) for leak in repeats.leaks],
            "test_entities_unseen": repeats.unseen[0],
            "test_relations_unseen": repeats.unseen[1],
            "odd_self_loops": [self._named_row(row) | {"train_index": row} for row in repeats.loops],
            "entities_seen_once": [self.labels.entity(entity) for entity in repeats.single_entities],
            "relations_seen_once": [self.labels.relation(relation) for relation in repeats.single_relations],
            "relations": self.relations.to_dicts(),
        }  # fmt: skip

    def _named_row(self, row: int) -> dict[str, str]:
        head, relation, tail = self.train[row].tolist()
        return self._named((head, relation, tail))

    def _named(self, triple: Triple) -> dict[str, str]:
        head, relation, tail = triple
        entity, kind = self.labels.entity, self.labels.relation
        return {"head": entity(head), "relation": kind(relation), "tail": entity(tail)}

    def names(self, triple: Triple) -> tuple[str, str, str]:
        """What head, relation and tail are called."""
        head, relation, tail = triple
        return self.labels.entity_name(head), self.labels.relation_name(relation), self.labels.entity_name(tail)

    def names_of_row(self, row: int) -> tuple[str, str, str]:
        """The same of a training triple."""
        head, relation, tail = self.train[row].tolist()
        return self.names((head, relation, tail))

    def plot(self) -> Any:
        """A bar chart of the 20 most unusual triples, as a matplotlib Figure.

        Raises:
            InputError: if matplotlib is not installed.
        """
        from tracin.results.charts import diverging_bars

        bars = [(" — ".join(self.names(each.triple)), -each.unusual) for each in self.suspects[:20]]
        return diverging_bars("spreads that the loss lies above the median of its relation", [(n, -v) for n, v in bars])

    def to_html(self) -> str:
        """A page of its own: one text that needs no network."""
        return page.render(self)

    def save(self, path: str | os.PathLike[str], csv_safe: bool = False) -> None:
        """Writes a file by the ending of its name: .html and .json have everything, .csv, .parquet the suspects.

        Args:
            path: of the file.
            csv_safe: in CSV an apostrophe stands before labels that a spreadsheet would take for a formula.

        Raises:
            InputError: for another ending.

        Example:
            >>> tracin.audit(checkpoint, train).save("audit.html")
        """
        text = {
            ".json": lambda: json.dumps(self.to_dict(), indent=2, allow_nan=False),
            ".html": self.to_html,
        }
        save_as(Path(path), self.to_frame, text, csv_safe)


def audit(
    model: Any,
    train: Any = None,  # [n, 3]
    test: Any = None,  # [m, 3]
    *,
    k: int = FLAGGED,
    opponents: int = OPPONENTS,
    entity_to_id: Any = None,
    relation_to_id: Any = None,
    node_names: Mapping[int, str] | None = None,
    relation_names: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Audit:
    """Says which training triples look wrong, and what the training set says twice.

    Args:
        model: the path of a checkpoint, of a folder of PyKEEN's save_to_directory or of an index, a Checkpoint, a
            ConvE, an Index, a PyKEEN model, or the result of a PyKEEN pipeline.
        train: the training triples, in any form that `TracIn.top_k` takes; None: those of the folder or of the result.
        test: test triples, which are looked up in the training set.
        k: how many triples are flagged.
        opponents: training triples that speak against a flagged one, at most so many each.
        entity_to_id, relation_to_id: where the checkpoint has none, as `load_checkpoint` takes them.
        node_names, relation_names: names for people: of entity ids, of relation labels.
        arguments: of `TracIn`, such as device or precision.

    Returns:
        An Audit: shows itself in a notebook; `to_frame()`, `plot()`, `save(path)`. No file is changed.

    Raises:
        InputError: without training triples, and as `TracIn`.

    Example:
        >>> report = tracin.audit("model.pt", train="train.txt", test=test)
        >>> report.save("audit.html")
    """
    subject = open_subject(
        model,
        train,
        () if test is None else (test,),
        entity_to_id=entity_to_id,
        relation_to_id=relation_to_id,
        node_names=node_names,
        relation_names=relation_names,
    )
    return audit_subject(subject, scorer(subject, **arguments), k, opponents)


def audit_subject(subject: Subject, tracin: TracIn, k: int = FLAGGED, opponents: int = OPPONENTS) -> Audit:
    """The report; `subject.others` are the test triples."""
    for name, value, least in (("k", k, 1), ("opponents", opponents, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r}; expected {'a positive' if least else 'no negative'} number", name)
    train, test = subject.train, subject.others
    check_ids(test, subject.model.num_entities, subject.model.num_relations, "test")
    losses = losses_of(subject, tracin.progress)
    strange = unusual(losses, train[:, 1])
    rows = strange.argsort(descending=True, stable=True)[:k]
    own = TracIn(subject.checkpoint, device=tracin.device, progress=tracin.progress).self_influence(train[rows])
    against: list[tuple[tuple[int, float], ...]] = [()] * len(rows)
    if opponents:
        top = tracin.top_k(train, train[rows], k=opponents, order="opponents")
        pairs = (
            zip(one.tolist(), other.tolist(), strict=True) for one, other in zip(top.indices, top.scores, strict=True)
        )
        against = [tuple((row, score) for row, score in each if score < 0) for each in pairs]
    found = []
    for place, row in enumerate(rows.tolist()):
        head, relation, tail = train[row].tolist()
        figures = float(losses[row]), float(strange[row]), float(own[place])
        found.append(Suspect(row, (head, relation, tail), *figures, against[place]))
    repeats = find_repeats(train, test)
    return Audit(
        suspects=tuple(found),
        estimate=estimated_wrong(losses),
        standing_out=int((strange >= STANDING_OUT).sum()),
        repeats=repeats,
        relations=relation_summary(subject, losses, strange, repeats),
        train=train,
        test=test,
        labels=subject.labels,
        model=subject.name,
        method=tracin.description,
    )


def relation_summary(
    subject: Subject,
    losses: Tensor,  # [n]
    strange: Tensor,  # [n]
    repeats: Repeats,
) -> pl.DataFrame:
    """A row for each relation of the training triples, most triples first."""
    train, labels = subject.train, subject.labels
    twins = {each.relation: each for each in reversed(repeats.twins)}  # the first, of the greatest share, stays
    frame = pl.DataFrame(
        {
            "relation_id": train[:, 1].numpy(),
            "loss": losses.numpy(),
            "out": (strange >= STANDING_OUT).numpy(),
            "loop": (train[:, 0] == train[:, 2]).numpy(),
        }
    )
    summary = (
        frame.group_by("relation_id")
        .agg(
            pl.len().cast(pl.Int64).alias("triples"),
            pl.col("loss").median().alias("median_loss"),
            pl.col("out").sum().cast(pl.Int64).alias("standing_out"),
            pl.col("loop").sum().cast(pl.Int64).alias("self_loops"),
        )
        .sort("triples", "relation_id", descending=[True, False])
    )
    ids = summary["relation_id"].to_list()
    own = [twins.get(relation) for relation in ids]
    return summary.with_columns(
        pl.Series("twin", [None if each is None else labels.relation(each.other) for each in own], dtype=pl.String),
        pl.Series("turned", [None if each is None else each.turned for each in own], dtype=pl.Boolean),
        pl.Series("share", [None if each is None else each.share for each in own], dtype=pl.Float64),
    ).insert_column(1, pl.Series("relation_label", [labels.relation(relation) for relation in ids], dtype=pl.String))
