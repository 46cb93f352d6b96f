"""The commands `tracin index build` and `tracin index info`."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from tracin.cli.command import Command, Group, speaking_of_flags
from tracin.cli.options import (
    FILE,
    THREADS,
    FileOptions,
    ManyValuesCommand,
    ModelOptions,
    Options,
    argument,
    flag,
    group,
    learning_rate_option,
    memory_limit_option,
    option,
    takes,
)
from tracin.cli.outputs import in_words
from tracin.cli.session import read_inputs
from tracin.distributed.ranks import Ranks, ranks_of_environment
from tracin.errors import InputError
from tracin.index.builder import STORES, build
from tracin.index.folder import check_place
from tracin.index.query import Index
from tracin.influence.layers import layers_named
from tracin.streams import say, show_text
from tracin.training.check import doubt


@click.group("index", cls=Group)
def index() -> None:
    """An index of training triples in a folder, from which tracin query and tracin run --index answer at once."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions(Options):
    model: Path = argument(type=FILE)
    train_path: Path = option(
        "--train", type=FILE, required=True, help="Training triples: head, relation, tail labels."
    )
    inputs: ModelOptions = group(ModelOptions)
    output: Path = option(
        "--output",
        "-o",
        type=FILE,
        required=True,
        help="Folder for the index: new, empty, or that of an index, which stays until the new one is whole.",
    )
    store: str = option(
        "--store",
        type=click.Choice(STORES),
        default="compact",
        show_default=True,
        help="compact: with all that the triples are scored with, about 5 kB for each; norms: 0.1 kB, where the few "
        "triples that matter to a question are computed again, for graphs of millions of triples.",
    )
    accurate: bool = flag(
        "--accurate",
        help="Also store what tracin explain needs of the triples, which then answers at once: about 4 kB for each.",
    )
    learning_rate: float = learning_rate_option()
    last_layer_names: tuple[str, ...] = option(
        "--last-layer-names",
        multiple=True,
        metavar="NAME...",
        help="Only the gradients of these layers, entity or relation among them.",
    )
    precision: str = option(
        "--precision",
        type=click.Choice(["float32", "float64"]),
        default="float32",
        show_default=True,
        help="Of all computations.",
    )
    memory_limit: int | None = memory_limit_option()
    threads: int | None = option("--threads", type=THREADS, help="CPU threads.  [default: one per core]")
    quiet: bool = flag("--quiet", help="Print warnings and errors only.")


@index.command("build", cls=ManyValuesCommand, context_settings={"max_content_width": 120})
@takes(BuildOptions)
def build_index(options: BuildOptions) -> None:
    """Write an index of MODEL and its training triples; it holds all that a question needs besides its triple."""
    start = time.perf_counter()
    if ranks_of_environment().size > 1:
        raise click.UsageError("an index is built by one process; start it without torchrun")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    check_place(options.output)
    with speaking_of_flags(options.inputs.entity_to_id, options.inputs.relation_to_id):
        files = FileOptions(model_path=options.model, train_path=options.train_path)
        inputs = read_inputs(files, options.inputs, None, Ranks())
        model = inputs.checkpoint.model
        if (doubted := doubt(model, inputs.train)) is not None:
            warnings.warn(f"{doubted}; tracin check says more", stacklevel=1)
        build(
            inputs.checkpoint,
            inputs.train,
            options.output,
            learning_rates=options.learning_rate,
            layers=layers_named(options.last_layer_names, model) if options.last_layer_names else "all",
            precision=options.precision,
            store=options.store,
            accurate=options.accurate,
            memory_limit=options.memory_limit,
            progress=False if options.quiet else None,
        )
    if not options.quiet:
        made = Index(options.output)
        say(f"wrote {options.output}: {len(made):,} training triples, {in_words(made.bytes)}, {options.store}")
        say(f"{time.perf_counter() - start:.2f} s")


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    directory: Path = argument(type=FILE)
    verify: bool = flag(
        "--verify", help="Also compare the model, the triples and the dictionaries with their SHA-256 digests."
    )


@index.command("info", cls=Command)
@takes(InfoOptions)
def show_info(options: InfoOptions) -> None:
    """What the index in the folder DIRECTORY is of; all its checksums are compared."""
    opened = Index(options.directory)
    if options.verify:
        opened.verify()
    facts = opened.facts
    sizes: dict[str, Any] = facts["models"][0]["config"]
    lines = {
        "index": f"version {facts['version']}, by tracin-ext {facts['tracin']}",
        "size": f"{in_words(opened.bytes)}, {facts['store']}",
        "triples": f"{facts['count']:,}, {facts['training triples']}",
        "model": f"{len(facts['models'])} checkpoint{'s' * (len(facts['models']) > 1)}, {facts['model weights']}",
        "": f"{sizes['num_entities']:,} entities, {sizes['num_relations']:,} relation rows, "
        f"embeddings of {sizes['embedding_dim']}",
        "labels": "of entities and relations" if opened.labels is not None else "none: questions are ids",
        "layers": ", ".join(facts["layers"]),
        "precision": facts["precision"],
        "accurate": "gradients of " + ("both directions" if direction == "both" else "the triples as they stand")
        if (direction := facts.get("accurate"))
        else "tracin explain computes the gradients of the triples itself",
        "rate": ", ".join(f"{rate:g}" for rate in facts["learning rates"]),
        "whole": "checksums and digests are right" if options.verify else "checksums are right",
    }
    show_text("\n".join(f"{name:<11}{text}" for name, text in lines.items()))


def checked_index(path: Path, **settings: Any) -> Index:
    """An index that a command can answer from: it has labels.

    Raises:
        InputError: if it has none.
    """
    opened = Index(path, **settings)
    if opened.labels is None:
        raise InputError(f"{path} was built without dictionaries of labels, which this needs; build it with them")
    return opened
