"""The command `tracin batch`: for each test triple, the training triples near it, ranked by influence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from tracin.batch import Batch, Job, Outputs, Summary, TrainingLines, read_jobs
from tracin.cli.command import say
from tracin.cli.computing import begin, chosen_backend, notes_on_layers
from tracin.cli.inputs import Inputs, Options, describe_inputs, notes_on_inputs, read_inputs, speaking_of_flags, spelled
from tracin.cli.options import (
    FILE,
    POSITIVE,
    ManyValuesCommand,
    computing_options,
    flag,
    input_options,
    model_options,
    ranking_options,
    together,
)
from tracin.cli.ranks import check_alike, joined, reporter, take_all_gpus
from tracin.distributed.ranks import Ranks
from tracin.distributed.shards import share_out
from tracin.progress import Clock
from tracin.proximity.filter import METHODS, ProximityOptions

COUNT = click.IntRange(min=0)

filter_options = together(
    click.option(
        "--filter-method",
        type=click.Choice([*METHODS, "none"]),
        default="pyg",
        show_default=True,
        help="How nearby training triples are chosen; none: all of them.",
    ),
    click.option("--n-hops", type=COUNT, default=2, show_default=True, help="Radius around head and tail."),
    click.option(
        "--min-degree",
        type=COUNT,
        default=2,
        show_default=True,
        help="Of one end of an edge, unless it touches the test triple.",
    ),
    flag(
        "--preserve-test-edges/--no-preserve-test-edges",
        default=True,
        help="Whether edges of the test triple's head and tail are kept whatever their degree.",
    ),
    flag("--strict-hop-constraint", help="Both ends within --n-hops of the test triple, as they are in any case."),
    flag("--path-filtering", help="Only edges on the way from head to tail."),
    click.option("--max-total-path-length", type=COUNT, help="Of those ways.  [default: 2 * n-hops; pyg: any]"),
    flag("--strict-path-filtering", help="igraph: the path alone decides, not the degree."),
    click.option("--cache", type=FILE, help="Accepted; no file is kept: the graph is built anew, in seconds."),
)


@click.command("batch", cls=ManyValuesCommand, context_settings={"max_content_width": 120})
@click.option("--test-triples", type=FILE, required=True, help="Test triples: head, relation, tail labels.")
@model_options
@input_options
@click.option("--output-dir", type=FILE, required=True, help="Folder of the outputs; made if it is not there.")
@filter_options
@click.option("--start-index", type=COUNT, default=0, show_default=True, help="First line of the test triples.")
@click.option("--max-triples", type=POSITIVE, help="How many lines.  [default: all]")
@flag("--skip-existing", help="Leave out test triples whose JSON and CSV are there and complete.")
@flag("--skip-filtering", help="Take the filtered training triples that an earlier run wrote.")
@flag("--skip-tracin", help="Filter only.")
@ranking_options
@computing_options(device="auto")
@click.pass_context
def batch(ctx: click.Context, **values: Any) -> None:
    """Influences of nearby training triples on each test triple: a JSON and a CSV file each, and a summary.

    The model and the graph are read once, all test triples are scored together. A test triple that fails is reported,
    the rest go on; the exit code is then 1. A run that was stopped can be started again: what it ends with is the same.
    """
    given = [name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    options = Options(**values, given=given)
    take_all_gpus(ctx, options)
    with joined(options) as ranks:
        failed = batch_on(options, ranks)
    if failed:
        sys.exit(1)


def batch_on(options: Options, ranks: Ranks) -> bool:
    """What a rank does: all of them score, rank 0 filters, reports and writes. Returns whether a test triple failed."""
    report = reporter(options, ranks)
    clock = Clock()
    backend = chosen_backend(options)
    for note in (*notes(options), *notes_on_layers(options)):
        report(f"note: {note}")
    outputs = Outputs(options.output_dir)
    if ranks.first:
        outputs.prepare()
    jobs: list[Job] = []
    with clock("reading"):
        inputs = read_inputs(options, None, ranks)
        check_alike(options, inputs, ranks)
        if ranks.first:
            ids = dictionaries(inputs)
            chosen = options.start_index, options.max_triples, options.numeric_triples
            jobs = read_jobs(options.test_triples, *ids, *chosen)
    report(f"{describe_inputs(options, inputs)}, {len(jobs)} test triples")
    for note in notes_on_inputs(options, inputs):
        report(f"note: {note}")
    with speaking_of_flags():
        tracin = begin(options, inputs, backend, ranks, clock, report)
        shards = share_out(tracin, inputs.train, ranks)
        if not ranks.first:
            shards.serve()
            return False
        lines = TrainingLines(shards.triples(), *ids)
        work = Batch(
            jobs,
            outputs,
            lines,
            inputs.labels,
            shards,
            near(options),
            options.top_k,
            options.order,
            options.skip_filtering,
            options.skip_tracin,
            options.skip_existing,
        )
        summary = work.run(clock, say)
        shards.release()
    report(f"wrote {outputs.summary}: {told(summary)}")
    report(clock.split("other"))
    return bool(summary.failed)


def dictionaries(inputs: Inputs) -> tuple[dict[str, int], dict[str, int]]:
    checkpoint = inputs.checkpoint
    assert checkpoint.entity_to_id is not None and checkpoint.relation_to_id is not None
    return checkpoint.entity_to_id, checkpoint.relation_to_id


def near(options: Options) -> ProximityOptions | None:
    if options.filter_method == "none":
        return None
    return ProximityOptions(
        options.filter_method,
        options.n_hops,
        options.min_degree,
        options.preserve_test_edges,
        options.strict_hop_constraint,
        options.path_filtering,
        options.max_total_path_length,
        options.strict_path_filtering,
    )


def notes(options: Options) -> Iterator[str]:
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
    unused = {"strict_path_filtering": f"with --filter-method {options.filter_method}"}
    if options.filter_method == "igraph":
        unused = {}
    if not options.path_filtering:
        unused["max_total_path_length"] = "without --path-filtering"
    if options.skip_filtering:
        unused = dict.fromkeys(filters, "with --skip-filtering")
    if options.filter_method == "none":
        unused = dict.fromkeys((*filters, "skip_filtering"), "with --filter-method none")
    for name, reason in unused.items():
        if name in options.given:
            yield f"{spelled(name)} has no effect {reason}"
    if options.cache is not None:
        yield f"--cache has no effect: the graph is built anew in seconds, {options.cache} is neither read nor written"
    if options.strict_hop_constraint and "strict_hop_constraint" not in unused:
        yield "--strict-hop-constraint changes nothing: edges within --n-hops of both ends meet it"


def told(summary: Summary) -> str:
    parts = {"successful": summary.succeeded, "failed": len(summary.failed), "skipped": summary.skipped}
    return ", ".join(f"{count} {name}" for name, count in parts.items() if count) or "nothing to do"
