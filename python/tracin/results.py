"""The JSON and CSV files of influences: their fields, their order, and how they reach the disk."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from tracin.errors import InputError

Triple = tuple[int, int, int]  # head, relation, tail

CSV_HEADER = (
    "TestHead", "TestHead_label", "TestRel", "TestRel_label", "TestTail", "TestTail_label",
    "TrainHead", "TrainHead_label", "TrainRel", "TrainRel_label", "TrainTail", "TrainTail_label",
    "TracInScore", "SelfInfluence",
)  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """What ids are called: a label always, a name for people where a map of names was given.

    Args:
        entities, relations: label of each id.
        node_names: name of each entity id.
        relation_names: name of each relation label.
    """

    entities: Mapping[int, str]
    relations: Mapping[int, str]
    node_names: Mapping[int, str] | None = None
    relation_names: Mapping[str, str] | None = None

    def entity(self, index: int) -> str:
        return self.entities.get(index, f"UNKNOWN_{index}")

    def relation(self, index: int) -> str:
        return self.relations.get(index, f"UNKNOWN_{index}")

    def entity_name(self, index: int) -> str:
        label = self.entity(index)
        return label if self.node_names is None else self.node_names.get(index, label)

    def relation_name(self, index: int) -> str:
        label = self.relation(index)
        return label if self.relation_names is None else self.relation_names.get(label, label)


@dataclass(frozen=True)
class Influences:
    """The training triples that matter to one test triple, in the order to be written."""

    index: int  # of the test triple in its file
    triple: Triple
    self_influence: float | None  # None where the output does not hold it
    train: Tensor  # [k, 3] head, relation, tail
    scores: Tensor  # [k]


def write_test(
    path: Path,
    csv_path: Path | None,
    results: Iterable[Influences],
    labels: Labels,
    *,
    num_test: int,
    num_train: int,
    top_k: int | None,
    learning_rate: float,
) -> None:
    """Mode test: one JSON object for all test triples, ids only, and one CSV file for all of them if a path is given.

    `results` is consumed as it is written, here and in the other writers, so it need not fit in memory.
    """
    with ExitStack() as files:
        json_file = files.enter_context(replacing(path))
        write_rows = None if csv_path is None else _csv_writer(files.enter_context(replacing(csv_path)), labels)

        def record(result: Influences) -> dict[str, Any]:
            if write_rows is not None:
                write_rows(result)
            return _ids("test", result.triple) | {"top_influences": _influences(result)}

        summary = {
            "num_test_triples": num_test,
            "num_training_triples": num_train,
            "top_k": top_k,
            "learning_rate": learning_rate,
            "results": map(record, results),
        }
        json_file.writelines(encode(summary))


def write_single(
    path: Path, csv_path: Callable[[int], Path] | None, results: Iterable[Influences], labels: Labels
) -> None:
    """Mode single: a JSON list with one labelled object per test triple; `csv_path` gives the CSV file of an index."""

    def record(result: Influences) -> dict[str, Any]:
        if csv_path is not None:
            write_csv(csv_path(result.index), result, labels)
        return (
            {"test_triple": list(result.triple), "test_triple_index": result.index}
            | _ids("test", result.triple)
            | {"self_influence": result.self_influence}
            | _labels("test", result.triple, labels)
            | {"influences": _influences(result, labels)}
        )

    with replacing(path) as file:
        file.writelines(encode(map(record, results)))


def write_per_triple(
    folder: Path,
    csv_path: Path | None,
    results: Iterable[Influences],
    labels: Labels,
    *,
    top_k: int | None,
    learning_rate: float,
) -> None:
    """Mode test, files per triple: `tracin_test_<i>.json` in `folder`, `<stem>_test_<i><suffix>` beside `csv_path`."""
    for result in results:
        if csv_path is not None:
            write_csv(numbered(csv_path, result.index), result, labels)
        record = (
            {"test_index": result.index}
            | _ids("test", result.triple)
            | _labels("test", result.triple, labels)
            | {"self_influence": result.self_influence, "top_influences": _influences(result, labels)}
            | {"top_k": top_k, "learning_rate": learning_rate}
        )
        with replacing(folder / f"tracin_test_{result.index}.json") as file:
            file.writelines(encode(record))


def write_self(
    path: Path,
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
) -> None:
    """Mode self: a JSON list of the training triples, greatest self-influence first, ties in the given order."""
    order = scores.argsort(descending=True, stable=True)
    rows = zip(train[order].tolist(), scores[order].tolist(), strict=True)
    records = ({"head": h, "relation": r, "tail": t, "self_influence": score} for (h, r, t), score in rows)
    with replacing(path) as file:
        file.writelines(encode(records))


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


def _influences(result: Influences, labels: Labels | None = None) -> Iterator[dict[str, Any]]:
    for triple, score in zip(result.train.tolist(), result.scores.tolist(), strict=True):
        record = _ids("train", triple) | {"influence": score}
        yield record if labels is None else record | _labels("train", triple, labels)


def _csv_writer(file: IO[str], labels: Labels) -> Callable[[Influences], None]:
    """Writes the header, and gives a function that writes the rows of one test triple."""
    writer = csv.writer(file)
    writer.writerow(CSV_HEADER)

    def columns(triple: Triple) -> tuple[str, ...]:
        head, relation, tail = triple
        entities, relations = (labels.entity, labels.entity_name), (labels.relation, labels.relation_name)
        pairs = ((head, entities), (relation, relations), (tail, entities))
        return tuple(name(index) for index, names in pairs for name in names)

    def write_rows(result: Influences) -> None:
        test = columns(result.triple)
        pairs = zip(result.train.tolist(), result.scores.tolist(), strict=True)
        writer.writerows((*test, *columns(triple), score, result.self_influence) for triple, score in pairs)

    return write_rows


def write_csv(path: Path, result: Influences, labels: Labels) -> None:
    """One CSV file of one test triple."""
    with replacing(path) as file:
        _csv_writer(file, labels)(result)


@cache
def _flat(depth: int) -> Callable[[object], str]:
    """Encodes a dict of plain values by the C encoder, which knows no indent: 3 times as fast as json with one."""
    return json.JSONEncoder(separators=(",\n" + "  " * depth, ": ")).encode


def encode(value: object, depth: int = 0) -> Iterator[str]:
    """The text of `json.dumps(value, indent=2)` in pieces; an iterator becomes a list, consumed as it is written."""
    nested = (dict, list, tuple, Iterator)
    if not isinstance(value, nested):
        yield json.dumps(value)
        return
    pad, end = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict) and value and not any(isinstance(item, nested) for item in value.values()):
        yield "{" + pad + _flat(depth + 1)(value)[1:-1] + end + "}"
        return
    left, right = "{}" if isinstance(value, dict) else "[]"
    separator = left
    items = value.items() if isinstance(value, dict) else (("", item) for item in value)
    for key, item in items:
        yield separator + pad + (f"{json.dumps(key)}: " if isinstance(value, dict) else "")
        yield from encode(item, depth + 1)
        separator = ","
    yield left + right if separator == left else end + right


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Opens a text file that takes the place of `path` once it is written whole; a failure leaves `path` as it was."""
    if is_device(path):
        with open(path, "w", encoding="utf-8", newline="") as file:
            yield file
        return
    target = path.resolve()  # a link stays a link
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def is_device(path: Path) -> bool:
    """Devices and pipes are written to, never replaced; so is /dev/stdout, which may lead to a plain file."""
    return str(path.parent) in ("/dev", "/dev/fd") or (path.exists() and not path.is_file())


def check_writable(path: Path) -> None:
    """Raises unless a file can be written at `path`, so that a wrong output shows before the work and not after it.

    Raises:
        InputError: if the folder does not exist or cannot be written to, or `path` is a folder.
    """
    if path.is_dir():
        raise InputError(f"output {path} is a folder; name a file in it")
    if is_device(path):
        return
    folder = path.resolve().parent
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"output {path}: {folder} {kind}; create the folder or name another")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"output {path}: cannot write to {folder} ({error.strerror}); choose another folder") from None
