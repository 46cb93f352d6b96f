"""The work of `tracin batch`: filter, score and write for each test triple, in groups that share one scoring pass."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.digests import DIGEST, digest_file, digest_of
from tracin.distributed.shards import TrainingSet
from tracin.errors import InputError, plain
from tracin.files import remove_parts, replacing
from tracin.influence.top_k import ranked_index
from tracin.progress import Clock, progress_bar
from tracin.proximity.filter import ProximityFilter, ProximityOptions
from tracin.results.seal import read_seal, write_sealed
from tracin.results.writers import PLAIN, Form, Influences, encode, finite, write_influences
from tracin.triples.labels import Labels
from tracin.triples.read import TripleLine, read_triple_lines
from tracin.triples.source import source_of
from tracin.triples.write import TrainingLines, write_triples

UNSAFE = re.compile(r"[:/ ]")  # characters of a label that become "_" in a file name, as do those that do not print
LONGEST = 215  # bytes of a base name, with which the longest file name fits
OWN = re.compile(r"triple_\d+_.*|batch_tracin_summary\.json")
SCORES_HELD = 1 << 28  # influences in memory at a time, 1 GiB in float32
MOST_TESTS = 64  # test triples that share a scoring pass; more of them gain little
SAMPLE = 8  # test triples that tell how many training triples count for all of them
SUMMARY_SECONDS = 1.0  # between two states of the summary on disk


class Job(TripleLine):
    """One test triple: a line of the file, also one that cannot be scored."""

    @property
    def base_name(self) -> str:
        """The beginning of its files' names; long labels are cut, and a digest of them tells the names apart."""
        head, tail = (in_file_name(self.labels[side]) for side in (0, 2))
        name = f"triple_{self.index:03d}_{head}_{tail}".encode()
        if len(name) <= LONGEST:
            return name.decode()
        mark = digest_of(list(self.labels)).removeprefix(DIGEST)[:16]
        return f"{name[: LONGEST - 17].decode(errors='ignore')}_{mark}"


def in_file_name(label: str) -> str:
    return "".join(mark if mark.isprintable() else "_" for mark in UNSAFE.sub("_", label))


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
            remove_parts(folder)

    def existing(self) -> list[Path]:
        """Files of these names that are there already."""
        folders = (self.folder, self.folder / "temp_triples", self.folder / "filtered_training")
        return [path for folder in folders if folder.is_dir() for path in folder.iterdir() if OWN.fullmatch(path.name)]

    def parts(self, job: Job, filtered: bool) -> dict[str, Path]:
        """The files of a test triple besides its JSON, which holds their digests."""
        found = {"csv": self.csv(job), "triple": self.triple(job)}
        return found | ({"filtered": self.filtered(job)} if filtered else {})

    def complete(self, job: Job, made: str, filtered: bool) -> bool:
        """Whether all files of this triple are there, as they were written, and what `made` them is the same."""
        try:
            run = read_seal(self.json(job))
            if run is None or run.get("made") != made:
                return False
            parts = {name: digest_file(path) for name, path in self.parts(job, filtered).items()}
        except OSError:
            return False
        return run.get("files") == parts


def read_jobs(
    path: Path,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    start: int = 0,
    count: int | None = None,
    numeric: bool = False,
    columns: str = "hrt",
) -> list[Job]:
    """The test triples from `start` on, at most `count` of them; a line that cannot be scored is a job with an error.

    `numeric`: lines hold ids, also where neither the name nor a header line says so. `columns`: their order.

    Raises:
        InputError: if the file cannot be read or has no line there.
    """
    ids = entity_to_id, relation_to_id
    source = source_of(path)
    lines = read_triple_lines(source, *ids, start, count, numeric or None, columns)
    if not lines:
        total = len(read_triple_lines(source, *ids, numeric=numeric or None, columns=columns))
        raise InputError(f"--start-index {start}: {path} has {total} lines; expected 0 to {total - 1}")
    return [Job(line.index, line.labels, line.triple, line.error) for line in lines]


@dataclass
class Summary:
    """batch_tracin_summary.json: kept up to date while the work goes on."""

    outputs: Outputs
    total: int
    filter_method: str
    run: Mapping[str, Any] | None = None
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
            **({} if self.run is None else {"run": self.run}),
        }
        with replacing(self.outputs.summary) as file:
            file.writelines(encode(content))
        self.written = time.time()


Chooser = Callable[[Job], Tensor]  # indices [k] of the training triples that count for a test triple
Scores = dict[int, tuple[Tensor, float]]  # by index of a job: influences [n] of all training triples, self-influence


@dataclass(frozen=True)
class Batch:
    """Everything the work needs.

    Args:
        proximity: None: no filter, all training triples count.
        form: what the outputs say of the run that made them.
    """

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
    form: Form = PLAIN

    def run(self, clock: Clock, report: Callable[[str], None]) -> Summary:
        """Does all jobs; one that fails is reported and the rest go on."""
        summary = Summary(self.outputs, len(self.jobs), self.method, self.form.run)
        choose = self.chooser(clock)
        for group in self.groups():
            todo = [job for job in group if not self.skipped(job, summary)]
            with clock("scoring"):
                scores = {} if self.skip_tracin or not todo else self.scores(group)
            with progress_bar("test triples", len(todo), self.shards.tracin.progress, "triples") as advance:
                for job in todo:
                    self.do(job, choose, scores, summary, clock, report)
                    advance(1)
        summary.write()
        return summary

    def do(
        self,
        job: Job,
        choose: Chooser,
        scores: Scores,
        summary: Summary,
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        """Filters for one test triple, writes its files, and adds it to the summary, also if that fails."""
        filtered = False
        try:
            with clock("filtering"):
                indices = self.filtered(job, choose)
            filtered = True
            if not self.skip_tracin:
                with clock("writing"):
                    self.write(job, indices, *scores[job.index])
        except (InputError, OSError) as error:
            report(f"triple {job.index} ({', '.join(map(plain, job.labels))}) failed: {error}")
            summary.add(job, filtered, False, error=str(error))
        else:
            summary.add(job, True, None if self.skip_tracin else True, filter_method=self.method)

    @property
    def method(self) -> str:
        return "none" if self.proximity is None else self.proximity.method

    def skipped(self, job: Job, summary: Summary) -> bool:
        done = self.skip_existing and job.triple is not None and self.outputs.complete(job, *self.made(job))
        if done:
            summary.add(job, True, True, skipped=True, reason="output_exists")
        return done

    def made(self, job: Job) -> tuple[str, bool]:
        """A digest of all that decides what the files of a test triple hold, and whether one of them is filtered."""
        return digest_of([self._made, job.index, list(job.labels)]), self.proximity is not None

    @cached_property
    def _made(self) -> str:
        labels = self.labels
        maps = (labels.entities, labels.relations, labels.node_names or {}, labels.relation_names or {})
        names: list[Mapping[Any, str]] = list(maps)
        texts = ["\n".join(f"{key}\t{name}" for key, name in some.items()) for some in names]
        named = [labels.node_names is not None, labels.relation_names is not None]
        how = [repr(self.proximity), self.top_k, self.order, self.form.csv_safe]
        return digest_of([self.form.run, how, texts, named, self.lines.train])

    def groups(self) -> Iterator[list[Job]]:
        """Jobs that are scored together. A restart makes the same groups, so that it gives the same bits."""
        size = max(1, min(MOST_TESTS, SCORES_HELD // max(1, len(self.lines.train))))
        return (self.jobs[start : start + size] for start in range(0, len(self.jobs), size))

    def scores(self, group: list[Job]) -> Scores:
        known = [(job.index, job.triple) for job in group if job.triple is not None]
        if not known:
            return {}
        test = torch.tensor([triple for _, triple in known])
        own = self.shards.tracin.self_influence(test).tolist()
        influences = self.shards.influence(test)
        return {index: (scores, norm) for (index, _), scores, norm in zip(known, influences, own, strict=True)}

    def chooser(self, clock: Clock) -> Chooser:
        """How the training triples that count are found for a test triple."""
        if self.proximity is None:
            everything = torch.arange(len(self.lines.train))
            return lambda job: everything
        if self.skip_filtering:
            return lambda job: self.lines.read(self.outputs.filtered(job))
        with clock("graph"):
            _ = self.graph
        return partial(self.near, self.proximity)

    @cached_property
    def graph(self) -> ProximityFilter:
        return ProximityFilter(self.lines.train, len(self.lines.entities))

    def kept_of_some(self) -> list[int]:
        """How many training triples count for each of some test triples; at most so many where simple paths decide."""
        known = [job for job in self.jobs if job.triple is not None]
        some = known[:: max(1, len(known) // SAMPLE)][:SAMPLE]
        options = self.proximity
        if options is None:
            return [len(self.lines.train)] * len(some)
        if options.method != "pyg":  # whose paths take the time that an estimate should not
            options = replace(options, path_filtering=False, strict_path_filtering=False)
        return [len(self.graph.rows(torch.tensor([job.ids]), options)) for job in some]

    def near(self, options: ProximityOptions, job: Job) -> Tensor:  # [k]
        """Chosen by the filter, and written."""
        indices = self.graph.rows(torch.tensor([job.ids]), options)
        if not len(indices):
            raise InputError(
                f"the {options.method} filter keeps no training triple within {options.n_hops} hops of "
                "both ends; raise --n-hops or take --filter-method none"
            )
        self.lines.write(self.outputs.filtered(job), indices)
        return indices

    def filtered(self, job: Job, choose: Chooser) -> Tensor:  # [k] indices of the training triples that count
        """Raises InputError for a line that cannot be scored."""
        test = torch.tensor([job.ids])
        write_triples(self.outputs.triple(job), test, self.lines.entities, self.lines.relations)
        return choose(job)

    def write(
        self,
        job: Job,
        indices: Tensor,  # [k] of the training triples that count
        scores: Tensor,  # [n] influences of all of them
        own: float,
    ) -> None:
        best = indices[ranked_index(scores[indices], self.order)[: self.top_k]]
        result = Influences(0, job.ids, own, self.lines.train[best], scores[best], best)
        write_influences(self.outputs.csv(job), finite([result]), self.labels, self.form)
        made, filtered = self.made(job)
        parts = {name: digest_file(path) for name, path in self.outputs.parts(job, filtered).items()}
        run = {**(self.form.run or {}), "made": made, "files": parts}
        write_sealed(self.outputs.json(job), result, self.labels, replace(self.form, run=run))
