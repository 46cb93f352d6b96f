"""The command `tracin batch`: for each test triple, the training triples near it, ranked by influence."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from tracin.batch import Batch, Job, Outputs, Summary, read_jobs
from tracin.cli.options import (
    FILE,
    POSITIVE,
    ComputingOptions,
    FileOptions,
    InputOptions,
    ManyValuesCommand,
    Options,
    RankingOptions,
    TextOptions,
    flag,
    group,
    json_option,
    option,
    spelled,
    takes,
)
from tracin.cli.outputs import check_apart, check_room, csv_bytes, inputs_of, json_bytes, line_bytes, run_of
from tracin.cli.session import Inputs, Session, notes_on_layers, opened
from tracin.distributed.shards import share_out
from tracin.files import locked
from tracin.proximity.filter import METHODS, ProximityOptions
from tracin.results.writers import Form
from tracin.streams import say, show_text
from tracin.triples.write import TrainingLines

COUNT = click.IntRange(min=0)


@dataclass(frozen=True, kw_only=True)
class FilterOptions(Options):
    filter_method: str = option(
        "--filter-method",
        type=click.Choice([*METHODS, "none"]),
        default="pyg",
        show_default=True,
        help="How nearby training triples are chosen; none: all of them.",
    )
    n_hops: int = option("--n-hops", type=COUNT, default=2, show_default=True, help="Radius around head and tail.")
    min_degree: int = option(
        "--min-degree",
        type=COUNT,
        default=2,
        show_default=True,
        help="Of one end of an edge, unless it touches the test triple.",
    )
    preserve_test_edges: bool = flag(
        "--preserve-test-edges/--no-preserve-test-edges",
        default=True,
        help="Whether edges of the test triple's head and tail are kept whatever their degree.",
    )
    strict_hop_constraint: bool = flag(
        "--strict-hop-constraint", help="Both ends within --n-hops of the test triple, as they are in any case."
    )
    path_filtering: bool = flag("--path-filtering", help="Only edges on the way from head to tail.")
    max_total_path_length: int | None = option(
        "--max-total-path-length", type=COUNT, help="Of those ways.  [default: 2 * n-hops; pyg: any]"
    )
    strict_path_filtering: bool = flag(
        "--strict-path-filtering", help="igraph: the path alone decides, not the degree."
    )
    cache: Path | None = option(
        "--cache", type=FILE, help="Accepted; no file is kept: the graph is built anew, in seconds."
    )

    def proximity(self) -> ProximityOptions | None:
        """None: no filter."""
        if self.filter_method == "none":
            return None
        return ProximityOptions(
            self.filter_method,
            self.n_hops,
            self.min_degree,
            self.preserve_test_edges,
            self.strict_hop_constraint,
            self.path_filtering,
            self.max_total_path_length,
            self.strict_path_filtering,
        )


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Options):
    test_triples: Path = option(
        "--test-triples", "--test", type=FILE, required=True, help="Test triples: head, relation, tail labels."
    )
    files: FileOptions = group(FileOptions)
    inputs: InputOptions = group(InputOptions)
    output_dir: Path = option(
        "--output-dir", "-o", type=FILE, required=True, help="Folder of the outputs; made if it is not there."
    )
    filter: FilterOptions = group(FilterOptions)
    start_index: int = option(
        "--start-index", type=COUNT, default=0, show_default=True, help="First line of the test triples."
    )
    max_triples: int | None = option("--max-triples", type=POSITIVE, help="How many lines.  [default: all]")
    skip_existing: bool = flag(
        "--skip-existing",
        help="Leave out test triples whose files are there, unchanged, and made from the same by the same options.",
    )
    skip_filtering: bool = flag(
        "--skip-filtering", help="Take the filtered training triples that an earlier run wrote."
    )
    skip_tracin: bool = flag("--skip-tracin", help="Filter only.")
    ranking: RankingOptions = group(RankingOptions)
    computing: ComputingOptions = group(ComputingOptions)
    text: TextOptions = group(TextOptions)
    as_json: bool = json_option("Print how many were successful as JSON.")


@click.command("batch", cls=ManyValuesCommand, context_settings={"max_content_width": 120})
@takes(BatchOptions)
def batch(options: BatchOptions) -> None:
    """Influences of nearby training triples on each test triple: a JSON and a CSV file each, and a summary.

    The model and the graph are read once, all test triples are scored together. A test triple that fails is reported,
    the rest go on; the exit code is then 1. A run that was stopped can be started again: what it ends with is the same.
    """
    with opened(options) as session:
        outputs = Outputs(options.output_dir)
        check_apart(outputs.existing(), inputs_of(options))
        if session.ranks.first:
            outputs.prepare()
        with locked(outputs.folder) if session.ranks.first else nullcontext():
            failed = batch_on(options, session, outputs)
    if failed:
        sys.exit(1)


def batch_on(options: BatchOptions, session: Session, outputs: Outputs) -> bool:
    """What a rank does: all of them score, rank 0 filters, reports and writes. Returns whether a test triple failed."""
    ranks, clock = session.ranks, session.clock
    session.note(*notes(options), *notes_on_layers(options.ranking))
    inputs = session.read(None)
    ids = inputs.entity_to_id, inputs.relation_to_id
    jobs: list[Job] = []
    if ranks.first:
        with clock("reading"):
            lines = options.start_index, options.max_triples
            form = options.inputs.numeric_triples, options.inputs.columns
            jobs = read_jobs(options.test_triples, *ids, *lines, *form)
    tracin = session.begin(inputs, len(jobs))
    shards = share_out(tracin, inputs.train, ranks)
    if not ranks.first:
        shards.serve()
        return False
    work = Batch(
        jobs,
        outputs,
        TrainingLines(shards.triples(), *ids),
        inputs.labels,
        shards,
        options.filter.proximity(),
        options.ranking.top_k,
        options.ranking.order,
        options.skip_filtering,
        options.skip_tracin,
        options.skip_existing,
        Form(run_of(tracin, inputs, options.ranking, "batch", None), options.text.csv_safe),
    )
    with clock("graph") if work.proximity is not None else nullcontext():
        kept = [] if options.skip_filtering else work.kept_of_some()
    if kept:
        count = f"{len(jobs)} test triples x {sum(kept) / len(kept):.0f} training triples"
        session.note(*check_room(expected_sizes(options, inputs, jobs, kept), count))
    summary = work.run(clock, say)
    shards.release()
    if options.as_json:
        counts = {"successful": summary.succeeded, "failed": len(summary.failed), "skipped": summary.skipped}
        show_text(json.dumps({"summary": str(outputs.summary), **counts}, indent=2))
    session.report(f"wrote {outputs.summary}: {told(summary)}")
    session.report(clock.split("other"))
    return bool(summary.failed)


def notes(options: BatchOptions) -> Iterator[str]:
    """One line for each flag that does not do here what its name says."""
    filters = (
        "n_hops",
        "min_degree",
        "preserve_test_edges",
        "strict_hop_constraint",
        "path_filtering",
        "max_total_path_length",
        "strict_path_filtering",
    )
    chosen = options.filter
    unused = {"strict_path_filtering": f"with --filter-method {chosen.filter_method}"}
    if chosen.filter_method == "igraph":
        unused = {}
    if not chosen.path_filtering:
        unused["max_total_path_length"] = "without --path-filtering"
    if options.skip_filtering:
        unused = dict.fromkeys(filters, "with --skip-filtering")
    if chosen.filter_method == "none":
        unused = dict.fromkeys((*filters, "skip_filtering"), "with --filter-method none")
    for name, reason in unused.items():
        if name in options.given:
            yield f"{spelled(options, name)} has no effect {reason}"
    if chosen.cache is not None:
        yield f"--cache has no effect: the graph is built anew in seconds, {chosen.cache} is neither read nor written"
    if chosen.strict_hop_constraint and "strict_hop_constraint" not in unused:
        yield "--strict-hop-constraint changes nothing: edges within --n-hops of both ends meet it"


def expected_sizes(options: BatchOptions, inputs: Inputs, jobs: list[Job], kept: list[int]) -> dict[Path, float]:
    """Bytes of all outputs, about; `kept`: how many training triples count for each of some test triples."""
    test = torch.tensor([next(job.ids for job in jobs if job.triple is not None)])
    sizes = 0.0
    if options.filter.filter_method != "none":
        sizes += sum(kept) * line_bytes(inputs.train, inputs.labels)
    if not options.skip_tracin:
        record = json_bytes(inputs.train, inputs.labels) + csv_bytes(inputs.train, test, inputs.labels)
        sizes += sum(min(options.ranking.top_k or count, count) for count in kept) * record
    return {options.output_dir / "outputs": sizes * len(jobs) / len(kept)}


def told(summary: Summary) -> str:
    parts = {"successful": summary.succeeded, "failed": len(summary.failed), "skipped": summary.skipped}
    return ", ".join(f"{count} {name}" for name, count in parts.items() if count) or "nothing to do"
