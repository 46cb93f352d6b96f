"""The JSON, CSV and Parquet files of influences: their fields, their order, and how they reach the disk.

Where JSON or CSV is the rule, a path that ends in .parquet gets a Parquet file instead.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.files import is_parquet, replacing
from tracin.results.frames import ROWS, influence_frame, parquet_file
from tracin.results.text import csv_cell, csv_records, harmless_csv_cell, json_records
from tracin.triples.labels import Labels
from tracin.triples.read import Triple

CSV_HEADER = (
    "TestHead",
    "TestHead_label",
    "TestRel",
    "TestRel_label",
    "TestTail",
    "TestTail_label",
    "TrainHead",
    "TrainHead_label",
    "TrainRel",
    "TrainRel_label",
    "TrainTail",
    "TrainTail_label",
    "TracInScore",
    "SelfInfluence",
)


@dataclass(frozen=True)
class Influences:
    """The training triples that matter to one test triple, in the order to be written."""

    test_index: int  # number of the test triple in its file, from 0
    triple: Triple
    self_influence: float | None  # None where the output does not hold it
    train: Tensor  # [k, 3] head, relation, tail
    scores: Tensor  # [k]
    indices: Tensor | None = None  # [k] numbers of the training triples in their file, from 0; None where unknown


@dataclass(frozen=True)
class Form:
    """What is added to the layouts of the original scripts.

    Args:
        run: what made the output: the last key of a JSON object, of a list's first one; in a Parquet file's metadata;
            None: not said.
        csv_safe: an apostrophe stands before labels in CSV that a spreadsheet would take for a formula.
    """

    run: Mapping[str, Any] | None = None
    csv_safe: bool = False

    @property
    def added(self) -> dict[str, Any]:
        return {} if self.run is None else {"run": self.run}


PLAIN = Form()


def write_test(
    path: Path,
    csv_path: Path | None,
    results: Iterable[Influences],
    labels: Labels,
    *,
    num_test: int,
    num_train: int,
    top_k: int | None,
    learning_rate: float | list[float],
    form: Form = PLAIN,
) -> None:
    """Mode test: one JSON object for all test triples, ids only, and one CSV file for all of them if a path is given.

    `results` is consumed as it is written, here and in the other writers, so it need not fit in memory.
    """
    with ExitStack() as files:
        results = finite(results)
        if csv_path is not None:
            results = _through(files.enter_context(_rows_file(csv_path, labels, form)), results)
        if is_parquet(path):
            write_influences(path, results, labels, form)
            return
        json_file = files.enter_context(replacing(path))

        def record(result: Influences) -> dict[str, Any]:
            return _ids("test", result.triple) | {"top_influences": _Records(result)}

        summary = {
            "num_test_triples": num_test,
            "num_training_triples": num_train,
            "top_k": top_k,
            "learning_rate": learning_rate,
            "results": map(record, results),
            **form.added,
        }
        json_file.writelines(encode(summary))


def write_single(
    path: Path,
    csv_path: Callable[[int], Path] | None,
    results: Iterable[Influences],
    labels: Labels,
    form: Form = PLAIN,
) -> None:
    """Mode single: a JSON list with one labelled object per test triple; `csv_path` gives the CSV file of an index."""
    results = finite(results)
    if csv_path is not None:
        results = _through(
            lambda result: write_influences(csv_path(result.test_index), [result], labels, form), results
        )
    if is_parquet(path):
        write_influences(path, results, labels, form)
        return

    with replacing(path) as file:
        file.writelines(encode(_with_run((single_record(result, labels) for result in results), form)))


def single_record(result: Influences, labels: Labels) -> dict[str, Any]:
    return (
        {"test_triple": list(result.triple), "test_triple_index": result.test_index}
        | _ids("test", result.triple)
        | {"self_influence": result.self_influence}
        | _labels("test", result.triple, labels)
        | {"influences": _Records(result, labels)}
    )


def _with_run(records: Iterable[dict[str, Any]], form: Form) -> Iterator[dict[str, Any]]:
    """The first record says what made all of them."""
    for place, record in enumerate(records):
        yield record if place else record | form.added


def write_per_triple(
    folder: Path,
    csv_path: Path | None,
    results: Iterable[Influences],
    labels: Labels,
    *,
    top_k: int | None,
    learning_rate: float | list[float],
    form: Form = PLAIN,
) -> None:
    """Mode test, files per triple: `tracin_test_<i>.json` in `folder`, `<stem>_test_<i><suffix>` beside `csv_path`."""
    for result in finite(results):
        if csv_path is not None:
            write_influences(numbered(csv_path, result.test_index), [result], labels, form)
        record = (
            {"test_index": result.test_index}
            | _ids("test", result.triple)
            | _labels("test", result.triple, labels)
            | {"self_influence": result.self_influence, "top_influences": _Records(result, labels)}
            | {"top_k": top_k, "learning_rate": learning_rate}
            | form.added
        )
        with replacing(folder / f"tracin_test_{result.test_index}.json") as file:
            file.writelines(encode(record))


def finite(results: Iterable[Influences]) -> Iterator[Influences]:
    """The same results; InputError names the first that is not a number."""
    for result in results:
        test = f"test triple {result.test_index} {list(result.triple)}"
        own = result.self_influence
        if own is not None and not math.isfinite(own):
            raise notfinite("self-influence", own, test)
        if not bool(result.scores.isfinite().all()):
            place = int((~result.scores.isfinite()).nonzero()[0])
            train = f"training triple {result.train[place].tolist()}"
            raise notfinite("influence", result.scores[place].item(), f"{train} on {test}")
        yield result


def notfinite(what: str, value: float, triple: str) -> InputError:
    """For the score of a triple that is not a number."""
    return InputError(
        f"the {what} of {triple} (ids) is {value}: the model's weights or the learning rate are too large for the "
        "precision; check the model, or take --precision float64"
    )


def numbered(path: Path, index: int) -> Path:
    """The file of test triple `index` beside `path`."""
    return path.with_name(f"{path.stem}_test_{index}{path.suffix}")


def _ids(prefix: str, triple: Triple) -> dict[str, Any]:
    head, relation, tail = triple
    return {f"{prefix}_head": head, f"{prefix}_relation": relation, f"{prefix}_tail": tail}


def _labels(prefix: str, triple: Triple, labels: Labels) -> dict[str, str]:
    head, relation, tail = triple
    fields = {
        f"{prefix}_head_label": labels.entity(head),
        f"{prefix}_relation_label": labels.relation(relation),
        f"{prefix}_tail_label": labels.entity(tail),
    }
    if labels.node_names is not None:
        fields |= {
            f"{prefix}_head_name": labels.entity_name(head),
            f"{prefix}_tail_name": labels.entity_name(tail),
        }
    if labels.relation_names is not None:
        fields[f"{prefix}_relation_name"] = labels.relation_name(relation)
    return fields


@dataclass(frozen=True)
class _Records:
    """A JSON list of influences, with labels if there are any."""

    result: Influences
    labels: Labels | None = None

    def encode(self, depth: int) -> Iterator[str]:
        return json_records(self.result.train, self.result.scores, self.labels, depth, self.result.indices)


def _csv_writer(file: IO[str], labels: Labels, form: Form) -> Callable[[Influences], None]:
    """Writes the header, and gives a function that writes the rows of one test triple."""
    cell = harmless_csv_cell if form.csv_safe else csv_cell
    csv.writer(file).writerow(CSV_HEADER)

    def write_rows(result: Influences) -> None:
        file.writelines(csv_records(result.triple, result.self_influence, result.train, result.scores, labels, cell))

    return write_rows


@contextmanager
def _parquet_writer(path: Path, labels: Labels, form: Form) -> Iterator[Callable[[Influences], None]]:
    """Gives a function that takes the rows of one test triple; they reach the file about ROWS at a time."""
    waiting: list[Influences] = []
    count = 0
    with parquet_file(path, form.run) as write:

        def write_rows(result: Influences) -> None:
            nonlocal count
            for start in range(0, len(result.scores), ROWS):
                waiting.append(_part(result, slice(start, start + ROWS)))
                count += len(waiting[-1].scores)
                if count >= ROWS:
                    write(_frame(waiting, labels))
                    waiting.clear()
                    count = 0

        yield write_rows
        if waiting:
            write(_frame(waiting, labels))


def _part(result: Influences, rows: slice) -> Influences:
    indices = None if result.indices is None else result.indices[rows]
    return replace(result, train=result.train[rows], scores=result.scores[rows], indices=indices)


def _frame(results: list[Influences], labels: Labels) -> pl.DataFrame:
    """One row for each training triple of each test triple."""
    counts = torch.tensor([len(result.scores) for result in results], dtype=torch.int64)
    scores = torch.cat([result.scores for result in results])
    own = [result.self_influence for result in results if result.self_influence is not None]
    indices = [result.indices for result in results if result.indices is not None]
    return influence_frame(
        labels,
        torch.tensor([result.test_index for result in results]).repeat_interleave(counts),
        torch.tensor([result.triple for result in results]).repeat_interleave(counts, 0),
        torch.tensor(own, dtype=scores.dtype).repeat_interleave(counts) if len(own) == len(results) else None,
        torch.cat(indices) if len(indices) == len(results) else None,
        torch.cat([result.train for result in results]),
        scores,
    )


@contextmanager
def _rows_file(path: Path, labels: Labels, form: Form) -> Iterator[Callable[[Influences], None]]:
    """A CSV or Parquet file, by the ending of its name, as a function that writes the rows of one test triple."""
    if is_parquet(path):
        with _parquet_writer(path, labels, form) as write_rows:
            yield write_rows
    else:
        with replacing(path) as file:
            yield _csv_writer(file, labels, form)


def write_influences(path: Path, results: Iterable[Influences], labels: Labels, form: Form = PLAIN) -> None:
    """A CSV or Parquet file, by the ending of its name, of the influences on some test triples."""
    with _rows_file(path, labels, form) as write_rows:
        for result in results:
            write_rows(result)


def _through(write: Callable[[Influences], None], results: Iterable[Influences]) -> Iterator[Influences]:
    """The same results, each written as it passes."""
    for result in results:
        write(result)
        yield result


@cache
def _flat(depth: int) -> Callable[[object], str]:
    """Encodes a dict of plain values by the C encoder, which knows no indent: 3 times as fast as json with one."""
    return json.JSONEncoder(separators=(",\n" + "  " * depth, ": "), allow_nan=False).encode


def encode(value: object, depth: int = 0) -> Iterator[str]:
    """The text of `json.dumps(value, indent=2)` in pieces; an iterator becomes a list, consumed as it is written.

    Raises:
        ValueError: for numbers that JSON has no word for.
    """
    nested = (dict, list, tuple, Iterator, _Records)
    if not isinstance(value, nested):
        yield json.dumps(value, allow_nan=False)
        return
    pad, end = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict) and value and not any(isinstance(item, nested) for item in value.values()):
        yield "{" + pad + _flat(depth + 1)(value)[1:-1] + end + "}"
        return
    left, right = "{}" if isinstance(value, dict) else "[]"
    separator = left
    if isinstance(value, _Records):
        for text in value.encode(depth + 1):
            yield separator + pad + text
            separator = ","
        yield left + right if separator == left else end + right
        return
    items = value.items() if isinstance(value, dict) else (("", item) for item in value)
    for key, item in items:
        yield separator + pad + (f"{json.dumps(key)}: " if isinstance(value, dict) else "")
        yield from encode(item, depth + 1)
        separator = ","
    yield left + right if separator == left else end + right
