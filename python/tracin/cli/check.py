"""The command `tracin check`: is this the model of these triples, and is it read as it was trained?"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tracin import streams
from tracin.checkpoints.images import AmbiguousImage
from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.cli.command import Command, speaking_of_flags
from tracin.cli.options import (
    FILE,
    POSITIVE,
    DictionaryOptions,
    ImageOptions,
    Options,
    argument,
    group,
    json_option,
    option,
    takes,
)
from tracin.cli.session import dictionaries_of
from tracin.influence.layers import layers_of
from tracin.model import ConvE
from tracin.subject import PYKEEN_TRIPLES
from tracin.training.check import (
    Report,
    ScoreComparison,
    choose,
    compare_scores,
    described,
    examine,
    flags,
    shapes,
)
from tracin.triples.dictionaries import read_dictionaries
from tracin.triples.read import UnknownLabels, read_triples
from tracin.triples.scored import read_scored_triples

SCORES = 1 << 27  # of one ranking: 1.6 s on 2 cores


@dataclass(frozen=True)
class TripleFile:
    """A file of triples against the dictionaries."""

    kind: str  # train, valid or test
    path: str
    triples: int  # with known labels only
    unknown: int  # lines with an unknown label
    first_unknown: str
    entities: int  # distinct
    relations: int  # distinct


@dataclass(frozen=True)
class Facts:
    """All that is printed, also as JSON."""

    model: str
    format: str
    epoch: int | None
    learning_rate: float | None
    image: str
    image_reason: str
    parameters: dict[str, int]  # by layer
    entities: int
    relations: int
    relation_rows: int
    files: list[TripleFile]
    ranked: str
    scores: ScoreComparison | None
    report: Report


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    model: Path = argument(type=FILE)
    train_path: Path | None = option(
        "--train", type=FILE, help="Training triples; in a folder of PyKEEN's save_to_directory they are found."
    )
    valid_path: Path | None = option("--valid", type=FILE, help="Validation triples; taken as true in the ranking.")
    test_path: Path | None = option("--test", type=FILE, help="Triples to rank.  [default: the training triples]")
    dictionaries: DictionaryOptions = group(DictionaryOptions)
    image: ImageOptions = group(ImageOptions)
    sample: int | None = option(
        "--sample",
        type=POSITIVE,
        help="Triples that are ranked.  [default: 500; fewer among more than 268,000 entities]",
    )
    scores_path: Path | None = option(
        "--scores",
        type=FILE,
        help="Lines head, relation, tail, score, of the program that trained the model: is it the same model?",
    )
    seed: int = option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the samples.")
    as_json: bool = json_option("Print the same facts as JSON.")


@click.command("check", cls=Command, context_settings={"max_content_width": 120})
@takes(CheckOptions)
def check(options: CheckOptions) -> int:
    """Is MODEL the model of these triples, and is it read as it was trained? The exit code is 0 if so, else 1.

    What the file is and how it is read, what the dictionaries lack, how well training triples are told from wrong ones
    and test triples are ranked, the same with random ids, and with every other image that fits the weights.
    """
    facts = gather(options if options.train_path is not None else replace(options, train_path=found_in(options.model)))
    if options.as_json:
        click.echo(json.dumps(asdict(facts), indent=2))
    else:
        show(facts)
    return 0 if facts.report.ok else 1


def found_in(model: Path) -> Path:
    """The training triples in a folder of PyKEEN's save_to_directory."""
    inside = model / PYKEEN_TRIPLES
    if not inside.is_file():
        raise click.UsageError(f"Missing option '--train': {model} comes without its training triples.")
    return inside


def gather(options: CheckOptions) -> Facts:
    """Reads every file, leaving out what the dictionaries lack, and examines the model."""
    checkpoint, told = load(options)
    model = checkpoint.model
    entities, relations = dictionaries_of(checkpoint, options.model)
    paths = {"train": options.train_path, "valid": options.valid_path, "test": options.test_path}
    files, triples = {}, {}
    for name, file in paths.items():
        if file is not None:
            triples[name], files[name] = read_file(name, file, entities, relations, options.dictionaries)
    ranked = "train" if options.test_path is None else "test"
    report = examine(
        model,
        triples["train"],
        choose(triples[ranked], options.sample or min(500, max(50, SCORES // len(entities))), options.seed),
        list(triples.values()),
        both_directions=len(model.relation.weight) == 2 * len(relations),
        seed=options.seed,
    )
    own = shapes(model)[0]
    scores = None
    if options.scores_path is not None:
        form = options.dictionaries.numeric_triples or None, options.dictionaries.columns
        scores = compare_scores(model, *read_scored_triples(options.scores_path, entities, relations, *form))
        if report.ok and not scores.same:
            report = replace(report, ok=False, verdict=told_of(scores))
    if report.ok and not told:
        text = f"the file does not tell its image, and {described(own)} explains the triples best; {flags(own)}"
        report = replace(report, ok=False, verdict=text)
    return Facts(
        model=str(options.model),
        format=checkpoint.format,
        epoch=checkpoint.epoch,
        learning_rate=checkpoint.learning_rate,
        image=described(own),
        image_reason=checkpoint.image_reason if told else "not told by the file, the first that fits the weights",
        parameters={layer: count(model, layer) for layer in layers_of(model)},
        entities=len(entities),
        relations=len(relations),
        relation_rows=len(model.relation.weight),
        files=list(files.values()),
        ranked=files[ranked].path,
        scores=scores,
        report=report,
    )


def load(options: CheckOptions) -> tuple[Checkpoint, bool]:
    """The checkpoint, and whether its image was told; if not, one that fits the weights is as good as any to start."""
    dictionaries = options.dictionaries
    given = read_dictionaries(dictionaries.entity_to_id, dictionaries.relation_to_id)
    with speaking_of_flags(dictionaries.entity_to_id, dictionaries.relation_to_id):
        try:
            return load_checkpoint(options.model, *options.image.shape, *given), True
        except AmbiguousImage as error:
            return load_checkpoint(options.model, *error.choices[0], error.stack, *given), False


def read_file(
    kind: str, path: Path, entities: dict[str, int], relations: dict[str, int], form: DictionaryOptions
) -> tuple[Tensor, TripleFile]:  # [n, 3]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownLabels)
        triples = read_triples(path, entities, relations, True, form.numeric_triples or None, form.columns)
    unknown = [item.message for item in caught if isinstance(item.message, UnknownLabels)]
    heads, kinds, tails = triples.unbind(1)
    seen = (torch.bincount(heads, minlength=len(entities)) + torch.bincount(tails, minlength=len(entities))) > 0
    return triples, TripleFile(
        kind=kind,
        path=str(path),
        triples=len(triples),
        unknown=sum(item.skipped for item in unknown),
        first_unknown=unknown[0].first if unknown else "",
        entities=int(seen.sum()),
        relations=int((torch.bincount(kinds) > 0).sum()),
    )


def count(model: ConvE, layer: str) -> int:
    return sum(value.numel() for name, value in model.named_parameters() if name.split(".")[0] == layer)


def show(facts: Facts) -> None:
    """Prints the facts, the readings as a table, and the verdict."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in lines(facts):
        grid.add_row(name, Text(text))
    streams.show(grid)
    report = facts.report
    table = Table("read as", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("separation", "MRR", "Hits@1", "Hits@3", "Hits@10"):
        table.add_column(name, justify="right")
    for reading in report.readings:
        ranking = reading.ranking
        shares = (ranking.mrr, *ranking.hits.values())
        separation = "" if reading.separation is None else f"{reading.separation:.2f}"
        table.add_row(reading.name, separation, *(f"{share:.3f}" for share in shares))
    streams.show(table)
    streams.show(
        Text(
            "separation: how often a training triple scores above the same with the tail of another; 0.5 is chance\n"
            f"MRR, Hits: filtered, {report.readings[0].ranking.count:,} ranks of {facts.ranked}"
        )
    )
    streams.show(Text(f"{'ok' if report.ok else 'not ok'}: {report.verdict}", "green" if report.ok else "red"))


def lines(facts: Facts) -> Iterator[tuple[str, str]]:
    stored = {"epoch": facts.epoch, "learning rate": facts.learning_rate}
    details = (f"{name} {value:g}" for name, value in stored.items() if value is not None)
    yield "model", ", ".join([facts.model, facts.format, *details])
    yield "image", f"{facts.image}: {facts.image_reason}"
    layers = ", ".join(f"{layer} {number:,}" for layer, number in facts.parameters.items())
    yield "weights", f"{sum(facts.parameters.values()):,}: {layers}"
    inverse = " and their inverses" if facts.relation_rows == 2 * facts.relations else ""
    yield "ids", f"{facts.entities:,} entities, {facts.relations:,} relations{inverse}, as many as in the dictionaries"
    for file in facts.files:
        known = f"{file.path}: {file.triples:,} triples of {file.entities:,} entities and {file.relations:,} relations"
        unknown = f"; left out: {file.unknown:,}, the first: {file.first_unknown}" if file.unknown else ""
        yield file.kind, known + (unknown or ", all labels known")
    if facts.scores is not None:
        yield "scores", told_of(facts.scores)


def told_of(scores: ScoreComparison) -> str:
    same = "the same model" if scores.same else "not the same model, or not read as it was trained"
    return (
        f"{same}: of {scores.count:,} {scores.kind} the largest difference is {scores.largest:.2g}, "
        f"of triple {scores.row}: {scores.theirs:.6g} in the file, {scores.ours:.6g} here"
    )
