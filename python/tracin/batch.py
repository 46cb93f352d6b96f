"""The work of `tracin batch`: filter, score and write for each test triple, in groups that share one scoring pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tracin.batch_jobs import Job, Outputs, TrainingLines
from tracin.clock import Clock
from tracin.distributed.shards import Shards
from tracin.errors import InputError
from tracin.influence.tracin import ranked_rows
from tracin.progress import progress_bar
from tracin.proximity.filter import ProximityFilter, ProximityOptions
from tracin.results.writers import Influences, encode, replacing, write_single
from tracin.triples.labels import Labels

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
    shards: Shards
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
                                self.write(job, rows, *scores[job.index])
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

    def scores(self, group: list[Job]) -> dict[int, tuple[Tensor, float]]:
        """Influences [n] of all training triples, and the self-influence, of each job of the group by its index."""
        known = [job for job in group if job.triple is not None]
        if not known:
            return {}
        test = torch.tensor([job.triple for job in known])
        own = self.shards.tracin.self_influence(test).tolist()
        influences = self.shards.influence(test)
        return {job.index: (scores, norm) for job, scores, norm in zip(known, influences, own, strict=True)}

    def kept(self, job: Job, nearby: ProximityFilter | None) -> Tensor:  # [k] rows of the training triples that count
        if job.triple is None:
            raise InputError(job.error)
        test = torch.tensor([job.triple])
        with replacing(self.outputs.triple(job)) as file:
            file.write("\t".join(job.labels) + "\n")
        if self.proximity is None:
            return torch.arange(len(self.lines.train))
        if self.skip_filtering:
            return self.lines.read(self.outputs.filtered(job))
        assert nearby is not None
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
        scores: Tensor,  # [n] influences of all of them
        own: float,
    ) -> None:
        assert job.triple is not None
        best = rows[ranked_rows(scores[rows], self.order)[: self.top_k]]
        result = Influences(0, job.triple, own, self.lines.train[best], scores[best])
        write_single(self.outputs.json(job), lambda _: self.outputs.csv(job), [result], self.labels)
