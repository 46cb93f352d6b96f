"""The command `tracin query`: questions to an index, answered one by one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from tracin import streams
from tracin.cli.command import Command, tell
from tracin.cli.options import (
    FILE,
    POSITIVE,
    THREADS,
    Options,
    argument,
    flag,
    json_option,
    memory_limit_option,
    option,
    order_option,
    takes,
)
from tracin.errors import InputError
from tracin.index.query import Index
from tracin.progress import Clock
from tracin.results.records import record_of
from tracin.results.tables import influence_table
from tracin.results.writers import Influences
from tracin.streams import say, show
from tracin.triples.labels import Labels
from tracin.triples.named import named_triple
from tracin.triples.read import Triple

STDIN = "-"
LONGEST_LINE = 1 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class QueryOptions(Options):
    directory: Path = argument(type=FILE)
    texts: tuple[str, ...] = argument(nargs=-1, metavar="HEAD RELATION TAIL")
    top_k: int = option(
        "--top-k", type=POSITIVE, default=10, show_default=True, help="Training triples for each question."
    )
    order: str = order_option()
    as_json: bool = json_option("One JSON object a line for each question.")
    numeric_triples: bool = flag("--numeric-triples", help="Questions are ids, not labels.")
    memory_limit: int | None = memory_limit_option()
    threads: int | None = option("--threads", type=THREADS, help="CPU threads.  [default: one per core]")
    quiet: bool = flag("--quiet", help="Print answers, warnings and errors only.")


@dataclass(frozen=True)
class Question:
    """What was asked, and where."""

    texts: tuple[str, ...]
    called: str  # by errors


@click.command("query", cls=Command, context_settings={"max_content_width": 120})
@takes(QueryOptions)
def query(options: QueryOptions) -> None:
    """The training triples that made the model predict HEAD RELATION TAIL, from the index in the folder DIRECTORY.

    Labels, or ids. Several questions are asked by several times three words, or by - in their place: then lines of
    standard input, tabs between head, relation and tail, are answered as they come; one that cannot be is said on
    standard error, the rest is answered, and the exit code is 1.
    """
    clock = Clock()
    from_stdin = options.texts == (STDIN,)
    if not from_stdin and (not options.texts or len(options.texts) % 3):
        raise click.UsageError(
            f"{len(options.texts)} words are no questions; expected HEAD RELATION TAIL, once or several times, or -"
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with clock("opening the index"):
        opened = Index(options.directory, memory_limit=options.memory_limit)
    failed, labels = 0, labels_of(opened)
    if not from_stdin:
        for number, triple in enumerate([triple_of(opened, each, options) for each in named(options.texts)]):
            with clock("answering"):
                result = answer(opened, triple, number, options)
            show_result(result, labels, options.as_json)
    for number, question in enumerate(lines_of_stdin() if from_stdin else ()):
        try:
            with clock("answering"):
                result = answer(opened, triple_of(opened, question, options), number, options)
            show_result(result, labels, options.as_json)
        except InputError as error:
            failed += 1
            tell(error, str(error))
    if not options.quiet:
        say(clock.split("the rest"))
    if failed:
        click.get_current_context().exit(1)


def named(texts: Sequence[str]) -> Iterator[Question]:
    for start in range(0, len(texts), 3):
        yield Question(tuple(texts[start : start + 3]), "question" if len(texts) == 3 else f"question {start // 3 + 1}")


def lines_of_stdin() -> Iterator[Question]:
    """A question for each line that is not empty, as soon as it is there."""
    stream: Any = getattr(sys.stdin, "buffer", sys.stdin)
    for number, data in enumerate(iter(lambda: stream.readline(LONGEST_LINE), b""), 1):
        called = f"standard input line {number}"
        text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
        text = text.removeprefix("\ufeff").rstrip("\r\n")
        if text.strip():
            yield Question(tuple(text.split("\t") if "\t" in text else text.split()), called)


def triple_of(opened: Index, question: Question, options: QueryOptions) -> Triple:
    if len(question.texts) != 3:
        raise InputError(
            f"{question.called} has {len(question.texts)} columns; expected head, relation and tail with tabs between"
        )
    entities = opened.entity_to_id or ids(opened.tracin.models[0].num_entities)
    relations = opened.relation_to_id or ids(opened.tracin.models[0].num_relations)
    numeric = options.numeric_triples or opened.labels is None
    return named_triple(question.texts, entities, relations, opened.labels, numeric, question.called)


def answer(opened: Index, triple: Triple, number: int, options: QueryOptions) -> Influences:
    top = opened.top_k(torch.tensor([triple]), options.top_k, options.order)
    return Influences(number, triple, None, opened.train[top.indices[0]], top.scores[0], top.indices[0])


def ids(count: Any) -> dict[str, int]:
    return {str(index): index for index in range(count)}


def labels_of(opened: Index) -> Labels:
    """Those of the index, else ids."""
    if opened.labels is not None:
        return opened.labels
    model = opened.tracin.models[0]
    entities, relations = (range(int(count)) for count in (model.num_entities, model.num_relations))  # type: ignore[arg-type]
    return Labels({i: str(i) for i in entities}, {i: str(i) for i in relations})


def show_result(result: Influences, labels: Labels, as_json: bool) -> None:
    """On standard output, at once."""
    if not as_json:
        show(influence_table(result, labels))
        return
    streams.show_text(json.dumps(record_of(result, labels), allow_nan=False))
