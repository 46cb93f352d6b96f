"""What the commands read, and how they name it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.cli.command import warned_once
from tracin.distributed.ranks import Ranks
from tracin.errors import InputError
from tracin.triples.dictionaries import read_dictionaries, read_edge_map, read_names
from tracin.triples.labels import Labels
from tracin.triples.read import check_parts, read_triples, read_triples_part

Options = SimpleNamespace  # the options by their Python names, and `given`: those named on the command line


@dataclass(frozen=True)
class Inputs:
    checkpoint: Checkpoint
    train: Tensor  # [n_part, 3]; this rank's part, in the order of ranks
    num_train: int  # of all ranks
    test: Tensor  # [n_test, 3]; no rows where none are read
    labels: Labels


def spelled(name: str) -> str:
    """The flag of an option's Python name."""
    return "--" + name.removesuffix("_path").replace("_", "-")


def read_inputs(options: Options, test_path: Path | None, ranks: Ranks) -> Inputs:
    """Reads every file that the command names and checks them against each other; no `test_path`: no test triples.

    Of the training triples each rank reads its part; what only outputs need, rank 0 alone.
    """
    given = read_dictionaries(options.entity_to_id, options.relation_to_id)
    with naming_dictionaries(options):
        image = options.embedding_height, options.embedding_width, options.stack
        checkpoint = load_checkpoint(options.model_path, *image, *given)
    for name in ("embedding_dim", "output_channels"):
        size, asked = checkpoint.model.config[name], getattr(options, name)
        if asked not in (None, size):
            raise InputError(f"{spelled(name)} is {asked}, but {options.model_path} has {size}; leave the flag out")
    entities, relations = checkpoint.entity_to_id, checkpoint.relation_to_id
    if entities is None or relations is None:
        missing = "--entity-to-id" if entities is None else "--relation-to-id"
        raise InputError(f"{options.model_path} holds no dictionary of labels; name one with {missing}")
    labels = Labels(
        dict(enumerate(entities)),  # a checkpoint's dictionaries are in the order of ids
        dict(enumerate(relations)),
        read_names(options.node_name_dict) if ranks.first and options.node_name_dict is not None else None,
        read_edge_map(options.edge_map) if ranks.first and options.edge_map is not None else None,
    )
    with naming_dictionaries(options):
        files, numeric = (options.train_path, entities, relations), options.numeric_triples or None
        part = read_triples_part(*files, ranks.rank, ranks.size, options.skip_unknown, numeric)
        counts = ranks.all(part.count)
        with warned_once(ranks):
            check_parts(options.train_path, counts)
        test = part.triples[:0]
        if ranks.first and test_path is not None:
            test = read_triples(test_path, entities, relations, options.skip_unknown, numeric)
    num_train = sum(count.lines - count.skipped for count in counts)
    return Inputs(checkpoint, part.triples, num_train, test, labels)


def describe_inputs(options: Options, inputs: Inputs) -> str:
    config = inputs.checkpoint.model.config
    test = f", {len(inputs.test)} test triples" if len(inputs.test) else ""
    return (
        f"{options.model_path}: {inputs.checkpoint.format}, {len(inputs.labels.entities)} entities, "
        f"{len(inputs.labels.relations)} relations, embeddings of {config['embedding_dim']} as "
        f"{config['embedding_height']} x {config['embedding_width']} stacked in {config['stack']}; "
        f"{inputs.num_train} training triples{test}"
    )


def notes_on_inputs(options: Options, inputs: Inputs) -> Iterator[str]:
    own = inputs.checkpoint.learning_rate
    if own not in (None, options.learning_rate) and "learning_rate" not in options.given:
        yield f"--learning-rate {options.learning_rate} is used, not the checkpoint's {own:g}"
    if len(inputs.test) and (options.top_k or 0) > inputs.num_train:
        yield f"--top-k {options.top_k} exceeds the {inputs.num_train} training triples: all are written"


@contextmanager
def naming_dictionaries(options: Options) -> Iterator[None]:
    """Errors about a dictionary name its file."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for kind, path in (("entity", options.entity_to_id), ("relation", options.relation_to_id)):
            text = text if path is None else text.replace(f"the {kind} dictionary", f"the {kind} dictionary {path}")
        raise InputError(text) from error


# Arguments of tracin.TracIn, at the start of a message or anywhere.
FLAG_AT_START = {"layers": "--num-last-layers", "device": "--device", "backend": "--backend"}
FLAG = {
    "learning_rates": "--learning-rate",
    "batch_size": "--batch-size",
    "memory_limit": "--memory-limit",
    "last_layer_names": "--last-layer-names",
}


@contextmanager
def speaking_of_flags() -> Iterator[None]:
    """Errors about an argument of the library name the flag instead."""
    try:
        yield
    except InputError as error:
        text = re.sub(rf"\b({'|'.join(FLAG)})\b", lambda match: FLAG[match[0]], str(error))
        text = re.sub(rf"^({'|'.join(FLAG_AT_START)}) (?=is |')", lambda match: FLAG_AT_START[match[1]] + " ", text)
        raise InputError(text) from error
