"""The command `tracin train`: a ConvE and its checkpoints from files of triples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from tracin.checkpoints.load import load_checkpoint
from tracin.cli.command import Command
from tracin.cli.options import (
    FILE,
    POSITIVE,
    STACK,
    THREADS,
    Options,
    columns_option,
    device_option,
    flag,
    group,
    option,
    takes,
)
from tracin.cli.outputs import check_apart, inputs_of
from tracin.errors import InputError
from tracin.streams import say, show_text
from tracin.training.loop import DEFAULT_EPOCHS, LOSSES, WHOLE_OPTIONS, TrainingOptions
from tracin.training.loop import train as train_model
from tracin.training.ranking import evaluate
from tracin.triples.dictionaries import read_dictionaries
from tracin.triples.read import make_dictionaries, read_triples
from tracin.triples.source import Source

DICTIONARY = "Lines label<TAB>id.  [default: the files' labels, sorted]"
CHOICES = {"stack": STACK, "loss": click.Choice(LOSSES)}
DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainingOptions)}


def training_option(name: str, help: str) -> Any:
    """The flag of a field of TrainingOptions, with its type and default."""
    default = DEFAULTS[name]
    flag = "--" + name.replace("_", "-")
    whole = click.IntRange(min=0 if name == "seed" else 1)
    return option(
        f"{flag}/--no-{flag[2:]}" if isinstance(default, bool) else flag,
        type=CHOICES[name] if name in CHOICES else whole if name in WHOLE_OPTIONS else type(default),
        default=default,
        show_default=True,
        help=help,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(Options):
    """The fields of `tracin.training.TrainingOptions`."""

    embedding_dim: int = training_option("embedding_dim", "Values of an embedding, a multiple of height x width.")
    embedding_height: int = training_option("embedding_height", "Rows of one embedding's image.")
    embedding_width: int = training_option("embedding_width", "Columns of one embedding's image.")
    output_channels: int = training_option("output_channels", "Filters of the convolution.")
    kernel_height: int = training_option("kernel_height", "Rows of a filter.")
    kernel_width: int = training_option("kernel_width", "Columns of a filter.")
    stack: str = training_option("stack", "How the images of head and relation are joined.")
    input_dropout: float = training_option("input_dropout", "Dropout of the image.")
    feature_dropout: float = training_option("feature_dropout", "Dropout of whole feature maps.")
    hidden_dropout: float = training_option("hidden_dropout", "Dropout of the projection.")
    inverse: bool = training_option("inverse", "Also train (tail, inverse relation, head).")
    learning_rate: float = training_option("learning_rate", "Adam's, in the first epoch.")
    decay: float = training_option("decay", "Factor on the learning rate after each epoch.")
    batch_size: int = training_option("batch_size", "Distinct (head, relation) of a step.")
    label_smoothing: float = training_option("label_smoothing", "Share of a target spread over all entities.")
    seed: int = training_option("seed", "Of initial weights, order and dropout.")
    loss: str = training_option("loss", "Of a (head, relation) and all its tails, or of each of its triples.")
    margin: float = training_option("margin", "Of the loss margin.")

    def chosen(self) -> dict[str, Any]:
        """Those that were named on the command line: a run that is resumed has its own."""
        return {name: getattr(self, name) for name in DEFAULTS if name in self.given}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    train_path: Path = option(
        "--train", type=FILE, required=True, help="Training triples: head, relation, tail labels."
    )
    valid_path: Path | None = option("--valid", type=FILE, help="Triples to rank at each checkpoint.")
    test_path: Path | None = option(
        "--test", type=FILE, help="Triples to rank at the end; true for every ranking's filter."
    )
    entity_to_id: Path | None = option("--entity-to-id", type=FILE, help=DICTIONARY)
    relation_to_id: Path | None = option("--relation-to-id", type=FILE, help=DICTIONARY)
    columns: str = columns_option()
    skip_unknown: bool = flag("--skip-unknown", help="Leave out triples with labels that the dictionaries lack.")
    output: Path = option("--output", "-o", type=FILE, required=True, help="Folder for the checkpoints epoch_NNN.pt.")
    epochs: int = option(
        "--epochs",
        type=POSITIVE,
        default=DEFAULT_EPOCHS,
        show_default=True,
        help="Number of the last epoch; those before --resume count.",
    )
    every: int | None = option(
        "--every", type=POSITIVE, help="Epochs between checkpoints.  [default: only the last epoch]"
    )
    resume: Path | None = option(
        "--resume", type=FILE, help="Checkpoint to go on from, with its dictionaries and options."
    )
    device: str = device_option()
    threads: int | None = option("--threads", type=THREADS, help="CPU threads.  [default: one per core]")
    quiet: bool = flag("--quiet", help="Print the result, warnings and errors only.")
    training: TrainingFlags = group(TrainingFlags)


@click.command("train", cls=Command, context_settings={"max_content_width": 120})
@takes(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train a ConvE; its checkpoints hold all that `tracin run` needs besides the triples.

    Batches of distinct (head, relation), all of whose tails are scored; Adam, exponential decay. The default loss is
    1-N binary cross-entropy with label smoothing.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    check_apart(checkpoints_of(options), inputs_of(options))
    paths = [path for path in (options.train_path, options.valid_path, options.test_path) if path is not None]
    sources = {path: Source(path) for path in paths}  # read twice: for the labels, then for the triples
    entities, relations = dictionaries(options, list(sources.values()))
    triples = {
        path: read_triples(source, entities, relations, options.skip_unknown, columns=options.columns)
        for path, source in sources.items()
    }
    training = triples[options.train_path]
    if not options.quiet:
        say(f"{len(entities)} entities, {len(relations)} relations, {len(training)} training triples")
    result = train_model(
        training,
        num_entities=len(entities),
        num_relations=len(relations),
        epochs=options.epochs,
        valid=None if options.valid_path is None else triples[options.valid_path],
        known=None if options.test_path is None else triples[options.test_path],
        output=options.output,
        every=options.every,
        resume_from=options.resume,
        entity_to_id=entities,
        relation_to_id=relations,
        device=options.device,
        progress=False if options.quiet else None,
        **options.training.chosen(),
    )
    show_text(f"epoch {result.epoch}: loss {result.losses[-1]:.5f}")
    if result.ranking is not None:
        show_text(f"validation: {result.ranking}")
    if options.test_path is not None:
        both = result.model.relation.num_embeddings == 2 * len(relations)
        known = torch.cat(list(triples.values()))
        show_text(f"test: {evaluate(result.model, triples[options.test_path], known, both_directions=both)}")
    show_text(f"checkpoint: {result.path}")


def checkpoints_of(options: TrainOptions) -> list[Path]:
    """The checkpoints that will be written; the first epoch is that after the checkpoint to go on from."""
    done = 0 if options.resume is None else load_checkpoint(options.resume).epoch or 0
    epochs = range(done + 1, options.epochs + 1)
    written = [epoch for epoch in epochs if epoch == options.epochs or not epoch % (options.every or options.epochs)]
    return [options.output / f"epoch_{epoch:03d}.pt" for epoch in written]


def dictionaries(options: TrainOptions, sources: Sequence[Source]) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of entities and relations: from the files given, else the checkpoint, else from the labels of the triples."""
    given = read_dictionaries(options.entity_to_id, options.relation_to_id)
    for path, dictionary in zip((options.entity_to_id, options.relation_to_id), given, strict=True):
        if dictionary is not None and sorted(dictionary.values()) != list(range(len(dictionary))):
            missing = next(number for number in range(len(dictionary)) if number not in set(dictionary.values()))
            raise InputError(f"{path}: no label has id {missing}; expected all from 0 to {len(dictionary) - 1}")
    resume = options.resume
    if resume is not None:
        checkpoint = load_checkpoint(resume)
        made = [checkpoint.entity_to_id, checkpoint.relation_to_id]
    elif None in given:
        made = list(make_dictionaries(sources, columns=options.columns))
    else:
        made = [None, None]
    entities, relations = (one if one is not None else other for one, other in zip(given, made, strict=True))
    if entities is None or relations is None:
        raise InputError(f"{resume} holds no dictionaries; name them with --entity-to-id and --relation-to-id")
    return entities, relations
