"""What `tracin batch` does for each test triple, where its files lie, and which of them are complete."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.results.writers import Triple, replacing
from tracin.triples.lines import BYTE_ORDER_MARK, decode, pieces_of
from tracin.triples.read import read_triples

UNSAFE = re.compile(r"[:/ ]")  # characters of a label that become "_" in a file name
ENDS = 1 << 14  # bytes at each end of an output that tell whether it is whole
LINES_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class Job:
    """One test triple."""

    index: int  # of its line in the file, from 0
    labels: tuple[str, str, str]  # head, relation, tail; empty where the line has none
    triple: Triple | None  # their ids; None: it cannot be scored
    error: str | None = None  # why not

    @property
    def base_name(self) -> str:
        """The beginning of its files' names."""
        head, tail = (UNSAFE.sub("_", self.labels[side]) for side in (0, 2))
        return f"triple_{self.index:03d}_{head}_{tail}"


@dataclass(frozen=True)
class Outputs:
    """The files in the output folder; all of them are written whole or not at all."""

    folder: Path

    @property
    def summary(self) -> Path:
        return self.folder / "batch_tracin_summary.json"

    def triple(self, job: Job) -> Path:
        return self.folder / "temp_triples" / f"{job.base_name}.txt"

    def filtered(self, job: Job) -> Path:
        return self.folder / "filtered_training" / f"{job.base_name}_filtered_train.txt"

    def json(self, job: Job) -> Path:
        return self.folder / f"{job.base_name}_tracin.json"

    def csv(self, job: Job) -> Path:
        return self.folder / f"{job.base_name}_tracin.csv"

    def prepare(self) -> None:
        """Makes the folders, and removes what a killed run was still writing."""
        for folder in (self.folder, self.folder / "temp_triples", self.folder / "filtered_training"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"--output-dir {self.folder}: cannot make {folder} ({error.strerror}); name another folder"
                ) from None
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)

    def complete(self, job: Job) -> bool:
        """Whether JSON and CSV are of this triple and end with the same influence: a cut or foreign file is neither."""
        try:
            start, end = both_ends(self.json(job))
            _, rows = both_ends(self.csv(job))
        except OSError:
            return False
        names = zip(("head", "relation", "tail"), self.labels_of(job), strict=True)
        own = all(f'"test_{name}_label": {label}' in start for name, label in names)
        scores = re.findall(r'"influence": ([^,\s}]+)', end)
        last = rows.split("\n")[-2].split(",") if rows.endswith("\n") else []
        return own and bool(scores) and end.rstrip("\n").endswith("\n]") and len(last) >= 14 and last[-2] == scores[-1]

    @staticmethod
    def labels_of(job: Job) -> list[str]:
        return [json.dumps(label) for label in job.labels]


def both_ends(path: Path) -> tuple[str, str]:
    """The first and the last ENDS bytes of a file, as text."""
    with open(path, "rb") as file:
        start = file.read(ENDS)
        file.seek(max(0, path.stat().st_size - ENDS))
        return start.decode(errors="replace"), file.read().decode(errors="replace")


def read_jobs(
    path: Path,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    start: int = 0,
    count: int | None = None,
    numeric: bool = False,
) -> list[Job]:
    """The lines from `start` on, at most `count` of them; a line that cannot be scored is a job with an error.

    `numeric`: lines hold ids, also where the name ends in .del.

    Raises:
        InputError: if the file cannot be read or has no line there.
    """
    content = b"".join(pieces_of(path)).removeprefix(BYTE_ORDER_MARK)
    lines = decode(content, 1, path).rstrip().split("\n")
    if start >= len(lines):
        raise InputError(
            f"--start-index {start}: {path} has {len(lines)} lines; expected 0 to {max(0, len(lines) - 1)}"
        )
    chosen = lines[start:] if count is None else lines[start : start + count]
    names: list[Mapping[str, str]] | None = None
    if numeric or path.suffix == ".del":
        names = [{str(row): label for label, row in ids.items()} for ids in (entity_to_id, relation_to_id)]
    return [job_of(path, index, line, entity_to_id, relation_to_id, names) for index, line in enumerate(chosen, start)]


def job_of(
    path: Path,
    index: int,
    line: str,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    names: Sequence[Mapping[str, str]] | None,  # labels by id, of entities and relations, if lines hold ids
) -> Job:
    cells = line.strip().split("\t")
    if len(cells) < 3:
        return Job(index, ("", "", ""), None, f"{path} line {index + 1}: expected head<TAB>relation<TAB>tail")
    if names is not None:
        cells = [names[column == 1].get(cell, f"id {cell}") for column, cell in enumerate(cells[:3])]
    head, relation, tail = labels = (cells[0], cells[1], cells[2])
    for name, label, ids in (
        ("head", head, entity_to_id), ("relation", relation, relation_to_id), ("tail", tail, entity_to_id)
    ):  # fmt: skip
        if label not in ids:
            text = f"{path} line {index + 1}: {name} {label!r} is not in the dictionary ({len(ids)} labels)"
            return Job(index, labels, None, text)
    return Job(index, labels, (entity_to_id[head], relation_to_id[relation], entity_to_id[tail]))


class TrainingLines:
    """Training triples as text: what the filter kept is written, and read again, as lines of labels."""

    def __init__(
        self,
        train: Tensor,  # [n, 3]
        entity_to_id: Mapping[str, int],  # in the order of ids, both
        relation_to_id: Mapping[str, int],
    ) -> None:
        self.train = train
        self.ids = entity_to_id, relation_to_id
        self.entities, self.relations = (pl.Series(list(ids), dtype=pl.String) for ids in self.ids)

    def write(
        self,
        path: Path,
        rows: Tensor,  # [k]
    ) -> None:
        with replacing(path) as file:
            for some in rows.split(LINES_AT_A_TIME):
                head, relation, tail = (pl.Series(column.numpy()) for column in self.train[some].unbind(1))
                labels = {"h": self.entities[head], "r": self.relations[relation], "t": self.entities[tail]}
                file.write(pl.DataFrame(labels).write_csv(include_header=False, separator="\t", quote_style="never"))

    def read(self, path: Path) -> Tensor:  # [k] rows of the training triples that the file holds
        """Raises InputError if there is no such file, or it holds others."""
        triples = read_triples(path, *self.ids)
        codes, wanted = self._codes(self.train), self._codes(triples)
        foreign = (~torch.isin(wanted, codes)).nonzero()[:, 0]
        if len(foreign):
            raise InputError(
                f"{path} line {int(foreign[0]) + 1}: this triple is not in the training file; filter again"
            )
        return torch.isin(codes, wanted).nonzero()[:, 0]

    def _codes(
        self,
        triples: Tensor,  # [n, 3]
    ) -> Tensor:  # [n] one number per triple
        heads, relations, tails = triples.unbind(1)
        return (heads * len(self.relations) + relations) * len(self.entities) + tails
