"""A session whose model, triples and dictionaries come from an index: `tracin run --index`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from tracin.checkpoints.load import Checkpoint
from tracin.cli.index import checked_index
from tracin.cli.options import (
    ComputingOptions,
    FileOptions,
    InputOptions,
    Options,
    QuestionOptions,
    RankingOptions,
    fields_of,
    option,
    spelled,
)
from tracin.cli.session import Inputs, Session, enabled, names_of
from tracin.errors import InputError
from tracin.index.query import Index
from tracin.influence.tracin import TracIn
from tracin.triples.labels import Labels
from tracin.triples.named import named_triple
from tracin.triples.read import read_triples

OF_THE_INDEX = (
    "model_path",
    "train_path",
    "entity_to_id",
    "relation_to_id",
    "embedding_height",
    "embedding_width",
    "stack",
)
NO_CHOICE = ("use_last_layers_only", "num_last_layers", "last_layer_names", "use_torch_compile")


@dataclass(frozen=True, kw_only=True)
class FilesOrIndex(FileOptions):
    """A model and its training triples, or an index of them."""

    model_path: Path = option("--model-path", type=click.Path(path_type=Path), help="Checkpoint of the trained ConvE.")
    train_path: Path = option(
        "--train", type=click.Path(path_type=Path), help="Training triples: head, relation, tail labels."
    )
    index: Path | None = option(
        "--index",
        type=click.Path(path_type=Path),
        help="Folder that tracin index build wrote, in place of --model-path, --train and the dictionaries.",
    )

    checkpoints: tuple[Path, ...] = option(
        "--checkpoints",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="PATH...",
        help="Several checkpoints of one training run in place of --model-path, or a folder of them: influences are "
        "added up, each weighted by the learning rate that it was trained with.",
    )

    @property
    def several(self) -> tuple[Path, ...]:
        return self.checkpoints

    def check(self) -> None:
        """Raises UsageError unless there is either an index, or a model and its triples."""
        if self.checkpoints and (self.model_path is not None or self.index is not None):
            other = "--model-path" if self.model_path is not None else "--index"
            raise click.UsageError(f"--checkpoints and {other} both say which model; leave one out")
        if self.index is None:
            for name in ("train_path",) if self.checkpoints else ("model_path", "train_path"):
                if getattr(self, name) is None:
                    raise click.UsageError(f"Missing option '{spelled(self, name)}'.")


def check_choices(index: Path, ranking: RankingOptions, computing: ComputingOptions, inputs: InputOptions) -> None:
    """Raises UsageError for flags that say otherwise than an index can."""
    own: list[tuple[str, Options]] = [
        *((name, FilesOrIndex()) for name in OF_THE_INDEX[:2]),
        *((name, inputs) for name in OF_THE_INDEX[2:]),
        *((name, ranking) for name in NO_CHOICE[:3]),
        (NO_CHOICE[3], computing),
        *((field.name, computing.question) for field in fields_of(QuestionOptions)),
    ]
    for name, options in own:
        if name in ranking.given:
            raise click.UsageError(f"{spelled(options, name)} is decided by --index {index}; leave it out")
    if computing.backend not in ("auto", "native") or not computing.use_vectorized_gradients:
        raise click.UsageError("--index needs the native backend; leave --backend out")
    if computing.device == "cuda":
        raise click.UsageError("--index works on the CPU; leave --device out")


class IndexedSession:
    """What `Session.read` and `Session.begin` are without an index."""

    def __init__(self, session: Session, path: Path, ranking: RankingOptions) -> None:
        computing, inputs = session.options.computing, session.options.inputs
        check_choices(path, ranking, computing, inputs)
        if session.ranks.size > 1:
            raise InputError("--index answers in one process; start it without torchrun")
        self.session, self.path = session, path
        with session.clock("reading"):
            self.opened: Index = checked_index(path, memory_limit=computing.memory_limit)
        facts = self.opened.facts
        asked = "mixed" if computing.use_mixed_precision else computing.precision
        given = {"use_mixed_precision", "precision"} & computing.given
        if given and asked != facts["precision"]:
            raise click.UsageError(
                f"--index {path} is of precision {facts['precision']}, not {asked}; leave the flag out"
            )
        if len(facts["models"]) > 1:
            raise InputError(
                f"--index {path} is of {len(facts['models'])} checkpoints; tracin run takes one, tracin.Index all"
            )
        self.rate: float = facts["learning rates"][0]
        if "learning_rate" in ranking.given and ranking.learning_rate != self.rate:
            raise click.UsageError(
                f"--index {path} is of learning rate {self.rate:g}, not {ranking.learning_rate:g}; leave the flag out"
            )

    def ranking(self, ranking: RankingOptions) -> RankingOptions:
        """With what the index decides."""
        return replace(ranking, learning_rate=self.rate)

    def read(self, test: Path | Sequence[Sequence[str]] | None) -> Inputs:
        """The test triples, and all else from the index."""
        opened, options = self.opened, self.session.options.inputs
        entities, relations = opened.entity_to_id, opened.relation_to_id
        assert opened.labels is not None and entities is not None and relations is not None
        with self.session.clock("reading"):
            labels = Labels(opened.labels.entities, opened.labels.relations, *names_of(options))
            if isinstance(test, Path):
                dictionaries = dict(entities), dict(relations)
                numeric = options.numeric_triples or None
                rows = read_triples(test, *dictionaries, options.skip_unknown, numeric, options.columns)
            else:
                named = [
                    named_triple(texts, entities, relations, labels, options.numeric_triples, "--triple")
                    for texts in test or ()
                ]
                rows = torch.tensor(named, dtype=torch.int64).reshape(-1, 3)
            checkpoint = Checkpoint(opened.tracin.models[0], path=str(self.path), format="index")
            return Inputs(checkpoint, entities, relations, opened.train, len(opened), rows, labels)

    def begin(self, inputs: Inputs, tests: int) -> TracIn:
        """Says what runs."""
        session, tracin = self.session, self.opened.tracin
        computing = session.options.computing
        session.report(
            f"{self.path}: index, {len(inputs.entity_to_id)} entities, {len(inputs.relation_to_id)} relations; "
            f"{inputs.num_train} training triples" + (f", {tests} test triples" if tests else "")
        )
        tracin.batch_size = computing.batch_size or "auto"
        tracin.progress = None if not computing.quiet else False
        tracin.cache_test_factors = computing.cache_test_gradients
        for line in enabled(computing, tracin, session.ranks):
            if "memory cleanup" not in line:
                session.report(line)
        return tracin
