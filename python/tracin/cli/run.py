"""The command `tracin run`: influences of training triples on test triples, from files to files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tracin.cli.command import say
from tracin.cli.computing import begin, chosen_backend, notes_on_layers
from tracin.cli.inputs import (
    Options,
    describe_inputs,
    notes_on_inputs,
    read_inputs,
    speaking_of_flags,
    spelled,
)
from tracin.cli.modes import MODES, Run
from tracin.cli.options import (
    FILE,
    POSITIVE,
    ManyValuesCommand,
    computing_options,
    flag,
    input_options,
    model_options,
    ranking_options,
)
from tracin.cli.ranks import check_alike, joined, reporter, take_all_gpus
from tracin.distributed.ranks import Ranks
from tracin.distributed.shards import Shards
from tracin.errors import InputError
from tracin.files import check_writable, is_device, is_parquet
from tracin.progress import Clock

NO_EFFECT_IN_MODE = {
    "test": ("test_indices",),
    "single": ("max_test_triples", "output_per_triple"),
    "self": (
        "test_path",
        "test_indices",
        "max_test_triples",
        "top_k",
        "order",
        "csv_output",
        "output_per_triple",
    ),
}


@click.command("run", cls=ManyValuesCommand, context_settings={"max_content_width": 120})
@model_options
@click.option("--test", "test_path", type=FILE, help="Test triples; needed in modes test and single.")
@input_options
@click.option("--output", "-o", type=FILE, required=True, help="JSON file to write; Parquet if it ends in .parquet.")
@click.option(
    "--csv-output",
    type=FILE,
    help="CSV file to write (Parquet if it ends in .parquet): one for all triples in mode test, <stem>_test_<i> per "
    "triple with --output-per-triple and with several --test-indices.",
)
@click.option(
    "--show",
    type=POSITIVE,
    metavar="N",
    help="Print tables of the first N influences on the first 5 test triples; in mode self, one of N.",
)
@flag("--output-per-triple", help="Mode test: tracin_test_<i>.json for each triple, in the folder of --output.")
@click.option(
    "--mode",
    type=click.Choice(["test", "self", "single"]),
    default="test",
    show_default=True,
    help="All test triples; self-influence of training triples; the test triples of --test-indices.",
)
@click.option(
    "--test-indices",
    type=int,
    multiple=True,
    default=(0,),
    metavar="INDEX...",
    help="Mode single: lines of the test file, counted from 0.  [default: 0]",
)
@click.option("--max-test-triples", type=POSITIVE, help="Mode test: only the first so many lines of the test file.")
@ranking_options
@computing_options(device="cpu")
@flag("--resume", help="Go on where an interrupted run of the same inputs stopped; with --top-k and in mode self.")
@click.pass_context
def run(ctx: click.Context, **values: Any) -> None:
    """Influences of training triples on test triples, from a checkpoint and triples to JSON, CSV and Parquet.

    Outputs are ordered by |influence|, greatest first, and are complete or not there at all.
    """
    given = [name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    options = Options(**values, given=given)
    take_all_gpus(ctx, options)
    with joined(options) as ranks:
        run_on(options, ranks)


def run_on(options: Options, ranks: Ranks) -> None:
    """What a rank does: all of them score, rank 0 reports and writes."""
    report = reporter(options, ranks)
    clock = Clock()
    backend = chosen_backend(options)
    partial = partial_path(options, ranks)
    for note in (*notes(options), *notes_on_partial(options, ranks)):
        report(f"note: {note}")
    if ranks.first:
        prepare_outputs(options)
    with clock("reading"):
        inputs = read_inputs(options, None if options.mode == "self" else options.test_path, ranks)
        check_alike(options, inputs, ranks)
    report(describe_inputs(options, inputs))
    for note in notes_on_inputs(options, inputs):
        report(f"note: {note}")
    with speaking_of_flags():
        tracin = begin(options, inputs, backend, ranks, clock, report)
        if partial is not None and not options.resume:
            for path in partial_files(options.output):
                path.unlink(missing_ok=True)
        written = work(Run(options, inputs, Shards(tracin, inputs.train, ranks, partial), clock), report)
    if "test factors" in tracin.seconds:
        scoring = clock.seconds.pop("scoring", 0.0)
        clock.seconds["test factors"] = tracin.seconds["test factors"]
        clock.seconds["scoring"] = scoring - tracin.seconds["test factors"]
    report(f"wrote {written}")
    report(clock.split("writing"))


def work(run: Run, report: Callable[[str], None]) -> str:
    """Scores, writes, and removes what it kept of unfinished results; returns the names of the outputs."""
    shards, ranks, partial = run.shards, run.shards.ranks, run.shards.partial
    resumed = run.options.resume and partial is not None and partial.exists()
    try:
        if ranks.first:
            written = MODES[run.options.mode](run)
            shards.release()
        else:
            written = ""
            shards.serve()
    except InputError:
        raise
    except BaseException:
        if partial is not None and partial.exists() and ranks.claim("kept"):
            kept = run.options.output.with_name(partial_name(run.options.output, "*", ranks.size))
            say(f"note: what is finished is kept in {kept}; the same command with --resume goes on from there")
        raise
    scored = ("self-influence" if run.options.mode == "self" else "influence") in shards.tracin.seconds
    finished = [str(rank) for rank, before in enumerate(ranks.all(resumed and not scored)) if before]
    if ranks.size > 1 and finished:
        report(f"note: the parts of these ranks were finished before, nothing was scored: {', '.join(finished)}")
    if partial is not None:
        partial.unlink(missing_ok=True)
    return written


def partial_path(options: Options, ranks: Ranks = Ranks()) -> Path | None:  # noqa: B008
    """Where a rank's unfinished results are kept, beside the output; None for results that are written as they come."""
    if (options.top_k is None and options.mode != "self") or is_device(options.output):
        return None
    return options.output.with_name(partial_name(options.output, ranks.rank, ranks.size))


def partial_name(output: Path, rank: int | str, ranks: int) -> str:
    return f"{output.name}.partial" + (f".rank{rank}of{ranks}" if ranks > 1 else "")


def partial_files(output: Path) -> dict[Path, int]:
    """The files of unfinished results of this output, and how many ranks the run had that left each."""
    pattern = re.compile(re.escape(f"{output.name}.partial") + r"(?:\.rank\d+of(\d+))?")
    files = output.parent.iterdir() if output.parent.is_dir() else ()
    matches = ((path, pattern.fullmatch(path.name)) for path in files)
    return {path: int(match[1] or 1) for path, match in matches if match}


def notes_on_partial(options: Options, ranks: Ranks) -> Iterator[str]:
    """Raises InputError if the results to go on from are those of another number of ranks."""
    if partial_path(options) is None:
        if options.resume:
            reason = "without --top-k" if options.top_k is None else "for an output that is no file"
            yield f"--resume has no effect {reason}: influences are written as they come"
        return
    left_by = sorted(set(partial_files(options.output).values()))
    names = [str(options.output.with_name(partial_name(options.output, "*", size))) for size in left_by]
    if not options.resume:
        for name in names:
            yield f"{name}, what an interrupted run finished, is overwritten; --resume goes on from it instead"
    elif not left_by:
        yield f"--resume has no effect: there is no {partial_path(options, ranks)}"
    for name, size in zip(names, left_by, strict=True):
        if options.resume and size != ranks.size:
            raise InputError(
                f"{name} was left by a run of {count(size)}, this one has {ranks.size}; --resume on {count(size)}, or "
                "remove what was left to start anew"
            )


def count(ranks: int) -> str:
    return "1 process" if ranks == 1 else f"{ranks} ranks"


def notes(options: Options) -> Iterator[str]:
    """One line for each flag that does not do here what its name says."""
    unnamed = options.mode == "self" and not is_parquet(options.output) and options.show is None
    for name in NO_EFFECT_IN_MODE[options.mode] + (("edge_map", "node_name_dict") if unnamed else ()):
        if name in options.given:
            yield f"{spelled(name)} has no effect in mode {options.mode}"
    yield from notes_on_layers(options)


def prepare_outputs(options: Options) -> None:
    """Finds out before the work whether its results can be written; makes the folder of a file per triple."""
    if options.mode != "self" and options.test_path is None:
        raise click.UsageError(f"mode {options.mode} needs --test")
    outputs = [path for path in (options.output, options.csv_output) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise click.UsageError("--output and --csv-output name the same file")
    if options.mode == "test" and options.output_per_triple and is_parquet(options.output):
        raise click.UsageError("--output-per-triple writes JSON, a Parquet file holds all test triples; leave one out")
    for path in outputs:
        if options.mode == "test" and options.output_per_triple:
            path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
