"""Options that name a model and its triples, for the commands that ask about one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import torch

from tracin.cli.command import speaking_of_flags
from tracin.cli.options import (
    FILE,
    THREADS,
    DictionaryOptions,
    ImageOptions,
    Options,
    device_option,
    flag,
    group,
    option,
)
from tracin.errors import InputError
from tracin.influence.questions import METHODS
from tracin.influence.tracin import TracIn
from tracin.streams import say
from tracin.subject import SAMPLES, Subject, open_subject, scorer
from tracin.triples.dictionaries import read_dictionaries, read_edge_map, read_names


@dataclass(frozen=True, kw_only=True)
class SubjectOptions(Options):
    train_path: Path | None = option(
        "--train", type=FILE, help="Training triples; in a folder of PyKEEN's save_to_directory they are found."
    )
    known_paths: tuple[Path, ...] = option(
        "--known", type=FILE, multiple=True, help="Further true triples, which filtered ranks leave out; several times."
    )
    dictionaries: DictionaryOptions = group(DictionaryOptions)
    node_name_dict: Path | None = option("--node-name-dict", type=FILE, help="Lines name<TAB>id: names of entities.")
    edge_map: Path | None = option("--edge-map", type=FILE, help="JSON of predicates: names of relations.")
    image: ImageOptions = group(ImageOptions)
    method: str | None = option(
        "--method",
        type=click.Choice(METHODS),
        help="How training triples are scored.  [default: accurate; tracin for a model that is no ConvE]",
    )
    samples: int | None = option(
        "--samples",
        type=click.IntRange(min=0),
        help=f"Training samples that correct the accurate scores; more take longer.  [default: {SAMPLES}]",
    )
    device: str = device_option()
    threads: int | None = option("--threads", type=THREADS, help="CPU threads.  [default: one per core]")
    quiet: bool = flag("--quiet", help="Print warnings and errors only, and what was asked for.")


def opened_subject(model: Path, options: SubjectOptions) -> Subject:
    """The model with its triples, as the options name them; errors speak of flags."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    given = options.dictionaries
    with speaking_of_flags(given.entity_to_id, given.relation_to_id):
        entities, relations = read_dictionaries(given.entity_to_id, given.relation_to_id)
        try:
            subject = open_subject(
                model,
                options.train_path,
                options.known_paths,
                entity_to_id=entities,
                relation_to_id=relations,
                node_names=None if options.node_name_dict is None else read_names(options.node_name_dict),
                relation_names=None if options.edge_map is None else read_edge_map(options.edge_map),
                image=options.image.shape,
                numeric=given.numeric_triples or None,
                columns=given.columns,
            )
        except InputError as error:
            if error.argument != "train" or options.train_path is not None:
                raise
            raise InputError(str(error).replace("give them with train", "name them with --train")) from error
    if not options.quiet:
        say(f"{model}: {subject.checkpoint.format}; {len(subject.train):,} training triples")
    return subject


def tracin_of(subject: Subject, options: SubjectOptions) -> TracIn:
    """What scores, with progress on a terminal."""
    given = {"method": options.method, "samples": options.samples}
    chosen = {name: value for name, value in given.items() if value is not None}
    return scorer(subject, device=options.device, progress=False if options.quiet else None, **chosen)
