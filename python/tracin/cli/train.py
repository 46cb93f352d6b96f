"""The command `tracin train`: a ConvE and its checkpoints from files of triples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from tracin.checkpoints.load import load_checkpoint
from tracin.cli.command import Command, say
from tracin.errors import InputError
from tracin.training.loop import DEFAULT_EPOCHS, TrainingOptions
from tracin.training.loop import train as train_model
from tracin.training.ranking import evaluate
from tracin.triples.dictionaries import read_dictionaries
from tracin.triples.read import make_dictionaries, read_triples

FILE = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)

OPTION_HELP = {
    "embedding_dim": "Values of an embedding, a multiple of height x width.",
    "embedding_height": "Rows of one embedding's image.",
    "embedding_width": "Columns of one embedding's image.",
    "output_channels": "Filters of the convolution.",
    "kernel_height": "Rows of a filter.",
    "kernel_width": "Columns of a filter.",
    "stack": "How the images of head and relation are joined.",
    "input_dropout": "Dropout of the image.",
    "feature_dropout": "Dropout of whole feature maps.",
    "hidden_dropout": "Dropout of the projection.",
    "inverse": "Also train (tail, inverse relation, head).",
    "learning_rate": "Adam's, in the first epoch.",
    "decay": "Factor on the learning rate after each epoch.",
    "batch_size": "Distinct (head, relation) of a step.",
    "label_smoothing": "Share of a target spread over all entities.",
    "seed": "Of initial weights, order and dropout.",
}


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds a flag for each field of TrainingOptions."""
    for field in reversed(dataclasses.fields(TrainingOptions)):
        flag = "--" + field.name.replace("_", "-")
        kind: Any = click.Choice(["height", "width"]) if field.name == "stack" else type(field.default)
        add = click.option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            field.name,
            type=kind,
            default=field.default,
            show_default=True,
            help=OPTION_HELP[field.name],
        )
        command = add(command)
    return command


@click.command("train", cls=Command, context_settings={"max_content_width": 120})
@click.option("--train", "train_path", type=FILE, required=True, help="Training triples: head, relation, tail labels.")
@click.option("--valid", "valid_path", type=FILE, help="Triples to rank at each checkpoint.")
@click.option("--test", "test_path", type=FILE, help="Triples to rank at the end; true for every ranking's filter.")
@click.option("--entity-to-id", type=FILE, help="Lines label<TAB>id.  [default: the files' labels, sorted]")
@click.option("--relation-to-id", type=FILE, help="Lines label<TAB>id.  [default: the files' labels, sorted]")
@click.option("--skip-unknown", is_flag=True, help="Leave out triples with labels that the dictionaries lack.")
@click.option("--output", "-o", type=FILE, required=True, help="Folder for the checkpoints epoch_NNN.pt.")
@click.option(
    "--epochs",
    type=POSITIVE,
    default=DEFAULT_EPOCHS,
    show_default=True,
    help="Number of the last epoch; those before --resume count.",
)
@click.option("--every", type=POSITIVE, help="Epochs between checkpoints.  [default: only the last epoch]")
@click.option("--resume", type=FILE, help="Checkpoint to go on from, with its dictionaries and options.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "auto"]),
    default="cpu",
    show_default=True,
    help="auto takes CUDA where there is some.",
)
@click.option("--threads", type=POSITIVE, help="CPU threads.  [default: one per core]")
@click.option("--quiet", is_flag=True, help="Print the result, warnings and errors only.")
@training_options
@click.pass_context
def train(
    ctx: click.Context,
    train_path: Path,
    valid_path: Path | None,
    test_path: Path | None,
    entity_to_id: Path | None,
    relation_to_id: Path | None,
    skip_unknown: bool,
    output: Path,
    epochs: int,
    every: int | None,
    resume: Path | None,
    device: str,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a ConvE; its checkpoints hold all that `tracin run` needs besides the triples.

    1-N binary cross-entropy over distinct (head, relation) with label smoothing, Adam, exponential decay.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    paths = [path for path in (train_path, valid_path, test_path) if path is not None]
    entities, relations = dictionaries(paths, entity_to_id, relation_to_id, resume)
    triples = {path: read_triples(path, entities, relations, skip_unknown) for path in paths}
    if not quiet:
        say(f"{len(entities)} entities, {len(relations)} relations, {len(triples[train_path])} training triples")
    result = train_model(
        triples[train_path],
        num_entities=len(entities),
        num_relations=len(relations),
        epochs=epochs,
        valid=None if valid_path is None else triples[valid_path],
        known=None if test_path is None else triples[test_path],
        output=output,
        every=every,
        resume_from=resume,
        entity_to_id=entities,
        relation_to_id=relations,
        device=device,
        progress=False if quiet else None,
        **{name: value for name, value in options.items() if ctx.get_parameter_source(name) is not DEFAULT},
    )
    click.echo(f"epoch {result.epoch}: loss {result.losses[-1]:.5f}")
    if result.ranking is not None:
        click.echo(f"validation: {result.ranking}")
    if test_path is not None:
        both = result.model.relation.num_embeddings == 2 * len(relations)
        known = torch.cat(list(triples.values()))
        click.echo(f"test: {evaluate(result.model, triples[test_path], known, both_directions=both)}")
    click.echo(f"checkpoint: {result.path}")


DEFAULT = ParameterSource.DEFAULT


def dictionaries(
    paths: Sequence[Path], entity_to_id: Path | None, relation_to_id: Path | None, resume: Path | None
) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of entities and relations: from the files given, else the checkpoint, else from the labels of the triples."""
    given = read_dictionaries(entity_to_id, relation_to_id)
    for path, dictionary in zip((entity_to_id, relation_to_id), given, strict=True):
        if dictionary is not None and sorted(dictionary.values()) != list(range(len(dictionary))):
            missing = next(number for number in range(len(dictionary)) if number not in set(dictionary.values()))
            raise InputError(f"{path}: no label has id {missing}; expected all from 0 to {len(dictionary) - 1}")
    if resume is not None:
        checkpoint = load_checkpoint(resume)
        made = [checkpoint.entity_to_id, checkpoint.relation_to_id]
    elif None in given:
        made = list(make_dictionaries(paths))
    else:
        made = [None, None]
    entities, relations = (one if one is not None else other for one, other in zip(given, made, strict=True))
    if entities is None or relations is None:
        raise InputError(f"{resume} holds no dictionaries; name them with --entity-to-id and --relation-to-id")
    return entities, relations
