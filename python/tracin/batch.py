"""The work of `tracin batch`: filter, score and write for each test triple, in groups that share one scoring pass."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from tracin.distributed.shards import TrainingSet
from tracin.errors import InputError
from tracin.files import replacing
from tracin.influence.top_k import ranked_index
from tracin.progress import Clock, progress_bar
from tracin.proximity.filter import ProximityFilter, ProximityOptions
from tracin.results.writers import Influences, Triple, encode, write_single
from tracin.triples.labels import Labels
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
        ("head", head, entity_to_id),
        ("relation", relation, relation_to_id),
        ("tail", tail, entity_to_id),
    ):
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


SCORES_HELD = 1 << 28  # influences in memory at a time, 1 GiB in float32
MOST_TESTS = 64  # test triples that share a scoring pass; more of them gain little
SUMMARY_SECONDS = 1.0  # between two states of the summary on disk


@dataclass
class Summary:
    """batch_tracin_summary.json: kept up to date while the work goes on."""

    outputs: Outputs
    total: int
    filter_method: str
    results: list[dict[str, Any]] = field(default_factory=list)
    start: float = field(default_factory=time.time)
    written: float = 0.0

    def add(self, job: Job, filtered: bool, scored: bool | None, **more: Any) -> None:
        folder = self.outputs.folder
        entry = {
            "index": job.index,
            "triple": dict(zip(("head", "relation", "tail"), job.labels, strict=True)),
            "base_name": job.base_name,
            "filtering_success": filtered,
            "tracin_success": scored,
            "filtered_train_file": None
            if self.filter_method == "none"
            else str(self.outputs.filtered(job).relative_to(folder)),
            "output_csv": str(self.outputs.csv(job).relative_to(folder)),
        }
        self.results.append(entry | more)
        if time.time() - self.written > SUMMARY_SECONDS:
            self.write()

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [result for result in self.results if "error" in result]

    @property
    def skipped(self) -> int:
        return sum("skipped" in result or result["tracin_success"] is None for result in self.results)

    @property
    def succeeded(self) -> int:
        return len(self.results) - len(self.failed) - self.skipped

    def write(self) -> None:
        seconds = time.time() - self.start
        minutes, rest = divmod(int(seconds), 60)
        unfiltered = sum(not result["filtering_success"] for result in self.results)
        content = {
            "total_triples": self.total,
            "successful": self.succeeded,
            "failed_filtering": unfiltered,
            "failed_tracin": len(self.failed) - unfiltered,
            "skipped": self.skipped,
            "filter_method": self.filter_method,
            "results": iter(sorted(self.results, key=lambda result: result["index"])),
            "elapsed_time_seconds": seconds,
            "elapsed_time_formatted": f"{minutes // 60}h {minutes % 60}m {rest}s",
        }
        with replacing(self.outputs.summary) as file:
            file.writelines(encode(content))
        self.written = time.time()


@dataclass(frozen=True)
class Batch:
    """Everything the work needs. `proximity` None: no filter, all training triples count."""

    jobs: list[Job]
    outputs: Outputs
    lines: TrainingLines
    labels: Labels
    shards: TrainingSet
    proximity: ProximityOptions | None
    top_k: int | None = None
    order: str = "absolute"
    skip_filtering: bool = False
    skip_tracin: bool = False
    skip_existing: bool = False

    def run(self, clock: Clock, report: Callable[[str], None]) -> Summary:
        """Does all jobs; one that fails is reported and the rest go on."""
        method = "none" if self.proximity is None else self.proximity.method
        summary = Summary(self.outputs, len(self.jobs), method)
        nearby = None
        if self.proximity is not None and not self.skip_filtering:
            with clock("graph"):
                nearby = ProximityFilter(self.lines.train, len(self.lines.entities))
        for group in self.groups():
            todo = [job for job in group if not self.skipped(job, summary)]
            with clock("scoring"):
                scores = {} if self.skip_tracin or not todo else self.scores(group)
            with progress_bar("test triples", len(todo), self.shards.tracin.progress, "triples") as advance:
                for job in todo:
                    filtered = False
                    try:
                        with clock("filtering"):
                            rows = self.kept(job, nearby)
                        filtered = True
                        if not self.skip_tracin:
                            with clock("writing"):
                                self.write(job, rows, scores[job.index])
                        summary.add(job, True, None if self.skip_tracin else True, filter_method=method)
                    except (InputError, OSError) as error:
                        report(f"triple {job.index} ({', '.join(job.labels)}) failed: {error}")
                        summary.add(job, filtered, False, error=str(error))
                    advance(1)
        summary.write()
        return summary

    def groups(self) -> Iterator[list[Job]]:
        """Jobs that are scored together. A restart makes the same groups, so that it gives the same bits."""
        size = max(1, min(MOST_TESTS, SCORES_HELD // max(1, len(self.lines.train))))
        return (self.jobs[start : start + size] for start in range(0, len(self.jobs), size))

    def skipped(self, job: Job, summary: Summary) -> bool:
        done = self.skip_existing and job.triple is not None and self.outputs.complete(job)
        if done:
            summary.add(job, True, True, skipped=True, reason="output_exists")
        return done

    def scores(self, group: list[Job]) -> dict[int, tuple[Triple, Tensor, float]]:
        """Of each job of the group by its index: its triple, influences [n] of all training triples, self-influence."""
        known = {job.index: job.triple for job in group if job.triple is not None}
        if not known:
            return {}
        test = torch.tensor(list(known.values()))
        own = self.shards.tracin.self_influence(test).tolist()
        influences = self.shards.influence(test)
        return dict(zip(known, zip(known.values(), influences, own, strict=True), strict=True))

    def kept(self, job: Job, nearby: ProximityFilter | None) -> Tensor:  # [k] rows of the training triples that count
        if job.triple is None:
            raise InputError(job.error)
        test = torch.tensor([job.triple])
        with replacing(self.outputs.triple(job)) as file:
            file.write("\t".join(job.labels) + "\n")
        if self.proximity is None:
            return torch.arange(len(self.lines.train))
        if nearby is None:  # an earlier run has filtered
            return self.lines.read(self.outputs.filtered(job))
        rows = nearby.rows(test, self.proximity)
        if not len(rows):
            raise InputError(
                f"the {self.proximity.method} filter keeps no training triple within {self.proximity.n_hops} hops of "
                "both ends; raise --n-hops or take --filter-method none"
            )
        self.lines.write(self.outputs.filtered(job), rows)
        return rows

    def write(
        self,
        job: Job,
        rows: Tensor,  # [k] of the training triples that count
        scored: tuple[Triple, Tensor, float],  # the test triple, influences [n] of all of them, its self-influence
    ) -> None:
        triple, scores, own = scored
        best = rows[ranked_index(scores[rows], self.order)[: self.top_k]]
        result = Influences(0, triple, own, self.lines.train[best], scores[best])
        write_single(self.outputs.json(job), lambda _: self.outputs.csv(job), [result], self.labels)
