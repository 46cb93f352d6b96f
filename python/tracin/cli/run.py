"""The command `tracin run`: influences of training triples on test triples, from files to files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from tracin.cli.indexed import FilesOrIndex, IndexedSession
from tracin.cli.options import (
    FILE,
    POSITIVE,
    ComputingOptions,
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
from tracin.cli.outputs import (
    check_apart,
    check_ending,
    check_room,
    csv_bytes,
    inputs_of,
    json_bytes,
    learning_rate_of,
    make_folder,
    row_bytes,
    run_of,
)
from tracin.cli.session import Inputs, Session, notes_on_layers, opened
from tracin.distributed.ranks import Ranks
from tracin.distributed.shards import TrainingSet, share_out
from tracin.errors import InputError
from tracin.files import check_writable, is_device, is_parquet, locked, watched
from tracin.influence.top_k import ranked_index
from tracin.results.records import record_of, triple_record
from tracin.results.self_influence import write_self
from tracin.results.tables import influence_table, self_influence_table
from tracin.results.writers import (
    Form,
    Influences,
    numbered,
    write_per_triple,
    write_single,
    write_test,
)
from tracin.streams import say, show, show_text
from tracin.triples.labels import Labels

TESTS_SHOWN = 5  # by --show
SCORES_HELD = 64 << 20  # influences in memory at a time when all of them are written
NO_EFFECT_IN_MODE = {
    "test": ("test_indices",),
    "single": ("max_test_triples", "output_per_triple"),
    "self": (
        "test_path",
        "triples",
        "test_indices",
        "max_test_triples",
        "order",
        "output_per_triple",
    ),
}


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    files: FilesOrIndex = group(FilesOrIndex)
    test_path: Path | None = option(
        "--test", type=FILE, help="Test triples; needed in modes test and single, or else --triple."
    )
    triples: tuple[tuple[str, str, str], ...] = option(
        "--triple",
        nargs=3,
        type=str,
        multiple=True,
        metavar="HEAD RELATION TAIL",
        help="A test triple by labels, names or ids, without a file of them; may be given several times. The mode is "
        "then single, with all of them, unless --mode says test.",
    )
    inputs: InputOptions = group(InputOptions)
    output: Path = option(
        "--output", "-o", type=FILE, required=True, help="JSON file to write; Parquet if it ends in .parquet."
    )
    csv_output: Path | None = option(
        "--csv-output",
        type=FILE,
        help="CSV file to write (Parquet if it ends in .parquet): one for all triples in modes test and self, "
        "<stem>_test_<i> per triple with --output-per-triple and with several --test-indices.",
    )
    show: int | None = option(
        "--show",
        type=POSITIVE,
        metavar="N",
        help="Print tables of the first N influences on the first 5 test triples; in mode self, one of N.",
    )
    output_per_triple: bool = flag(
        "--output-per-triple", help="Mode test: tracin_test_<i>.json for each triple, in the folder of --output."
    )
    mode: str = option(
        "--mode",
        type=click.Choice(["test", "self", "single"]),
        default="test",
        show_default=True,
        help="All test triples; self-influence of training triples; the test triples of --test-indices or --triple.",
    )
    test_indices: tuple[int, ...] = option(
        "--test-indices",
        type=int,
        multiple=True,
        default=(0,),
        metavar="INDEX...",
        help="Mode single: lines of the test file, counted from 0.  [default: 0]",
    )
    max_test_triples: int | None = option(
        "--max-test-triples", type=POSITIVE, help="Mode test: only the first so many lines of the test file."
    )
    ranking: RankingOptions = group(RankingOptions)
    computing: ComputingOptions = group(ComputingOptions)
    text: TextOptions = group(TextOptions)
    resume: bool = flag(
        "--resume", help="Go on where an interrupted run of the same inputs stopped; with --top-k and in mode self."
    )
    as_json: bool = json_option("Print the names of the outputs as JSON, with what --show would print as tables.")


@click.command("run", cls=ManyValuesCommand, context_settings={"max_content_width": 120})
@takes(RunOptions)
def run(options: RunOptions) -> None:
    """Influences of training triples on test triples, from a checkpoint and triples to JSON, CSV and Parquet.

    Outputs are ordered by |influence|, greatest first, and are complete or not there at all.
    """
    options = with_triples(options)
    with opened(options) as session, ExitStack() as held:
        ranks, clock = session.ranks, session.clock
        partial = partial_path(options, ranks)
        session.note(*notes(options), *notes_on_partial(options, ranks))
        check_needed(options)
        if ranks.first:
            prepare_outputs(options)
            held.enter_context(locked(options.output))
        elif partial is not None:
            make_folder(partial)
        source: Session | IndexedSession = session
        if options.files.index is not None:
            source = IndexedSession(session, options.files.index, options.ranking)
            options = replace(options, ranking=source.ranking(options.ranking))
        inputs = source.read(None if options.mode == "self" else options.test_path or options.triples)
        if ranks.first:
            session.note(
                *check_room(
                    expected_sizes(options, inputs),
                    f"{tests_of(options, inputs)} test triples x {inputs.num_train} training triples",
                )
            )
        tracin = source.begin(inputs, len(inputs.test))
        if partial is not None and not options.resume:
            for path in partial_files(options.output):
                path.unlink(missing_ok=True)
        shown: list[dict[str, Any]] = []
        files: list[Path] = []
        with watched(files.append):
            written = work(Run(options, session, inputs, share_out(tracin, inputs.train, ranks, partial), shown))
        if options.as_json and ranks.first:
            outputs = [str(path) for path in files if path.exists()]
            show_text(json.dumps({"outputs": outputs, "shown": shown}, indent=2, allow_nan=False))
        if "test factors" in tracin.seconds:
            clock.tell_apart("test factors", tracin.seconds["test factors"], within="scoring")
        session.report(f"wrote {written}")
        session.report(clock.split("writing"))


def with_triples(options: RunOptions) -> RunOptions:
    """Where test triples are named on the command line, mode single takes all of them."""
    if not options.triples or options.mode == "self":
        return options
    for name in ("test_path", "test_indices"):
        if name in options.given:
            raise click.UsageError(f"--triple and {spelled(options, name)} both say what to explain; leave one out")
    mode = options.mode if "mode" in options.given else "single"
    return replace(options, mode=mode, test_indices=tuple(range(len(options.triples))))


def notes(options: RunOptions) -> Iterator[str]:
    """One line for each flag that does not do here what its name says."""
    for name in NO_EFFECT_IN_MODE[options.mode]:
        if name in options.given:
            yield f"{spelled(options, name)} has no effect in mode {options.mode}"
    yield from notes_on_layers(options.ranking)


def check_needed(options: RunOptions) -> None:
    options.files.check()
    if options.mode != "self" and options.test_path is None and not options.triples:
        raise click.UsageError(f"mode {options.mode} needs --test or --triple")


def prepare_outputs(options: RunOptions) -> None:
    """Finds out before the work whether its results can be written, and over nothing that is read; makes folders."""
    outputs = [path for path in (options.output, options.csv_output) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise click.UsageError("--output and --csv-output name the same file")
    if options.mode == "test" and options.output_per_triple and is_parquet(options.output):
        raise click.UsageError("--output-per-triple writes JSON, a Parquet file holds all test triples; leave one out")
    check_apart([*outputs, *partial_files(options.output), *numbered_files(options)], inputs_of(options))
    for flag_, path, form in (("--output", options.output, "JSON"), ("--csv-output", options.csv_output, "CSV")):
        if path is not None:
            check_ending(flag_, path, form)
            if not path.is_dir():
                make_folder(path)
            check_writable(path)


def numbered_files(options: RunOptions) -> Iterator[Path]:
    """The files of single test triples that are there already."""
    csv = options.csv_output
    patterns = [(options.output.parent, r"tracin_test_\d+\.json")] if options.output_per_triple else []
    if csv is not None:
        patterns.append((csv.parent, rf"{re.escape(csv.stem)}_test_\d+{re.escape(csv.suffix)}"))
    for folder, pattern in patterns:
        names = os.listdir(folder) if folder.is_dir() else ()
        yield from (folder / name for name in names if re.fullmatch(pattern, name))


def tests_of(options: RunOptions, inputs: Inputs) -> int:
    if options.mode == "single":
        return len(options.test_indices)
    return len(inputs.test[: options.max_test_triples]) if options.mode == "test" else 1


def expected_sizes(options: RunOptions, inputs: Inputs) -> dict[Path, float]:
    """Bytes of each output, about."""
    count = tests_of(options, inputs) * min(options.ranking.top_k or inputs.num_train, inputs.num_train)
    labelled = options.mode != "test" or options.output_per_triple
    sizes = {
        options.output: count * row_bytes(options.output, json_bytes(inputs.train, inputs.labels if labelled else None))
    }
    tests = inputs.train if options.mode == "self" else inputs.test
    if options.csv_output is not None and len(tests):
        sizes[options.csv_output] = count * row_bytes(options.csv_output, csv_bytes(inputs.train, tests, inputs.labels))
    return sizes


@dataclass(frozen=True)
class Run:
    """Everything that a mode needs."""

    options: RunOptions
    session: Session
    inputs: Inputs
    shards: TrainingSet
    shown: list[dict[str, Any]]  # what --show asks for, where --json prints it

    def form(self, num_test: int | None) -> Form:
        made = run_of(self.shards.tracin, self.inputs, self.options.ranking, self.options.mode, num_test)
        return Form(made, self.options.text.csv_safe)


def work(run: Run) -> str:
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
    finished = [str(rank) for rank, before in enumerate(ranks.all_gather(resumed and not scored)) if before]
    if ranks.size > 1 and finished:
        run.session.note(f"the parts of these ranks were finished before, nothing was scored: {', '.join(finished)}")
    if partial is not None:
        partial.unlink(missing_ok=True)
    return written


def score(run: Run, indices: list[int], with_self: bool = True) -> Iterable[Influences]:
    """The influences on the test triples of these indices, one after the other; with --top-k, all scored by now.

    Without it, all training triples count, and a few test triples are scored at a time.
    """
    test = run.inputs.test[indices]
    own: list[float | None] = [None] * len(test)
    if with_self:
        with run.session.clock("scoring"):
            own = run.shards.tracin.self_influence(test).tolist()
    ranking = run.options.ranking
    if ranking.top_k is None:
        best = all_ranked(run, test)
    else:
        with run.session.clock("scoring"):
            top = run.shards.top_k(test, ranking.top_k, ranking.order)
        best = zip(top.indices, top.triples, top.scores, strict=True)
    return (
        Influences(index, (head, relation, tail), self_influence, train, scores, rows)
        for index, (head, relation, tail), self_influence, (rows, train, scores) in zip(
            indices, test.tolist(), own, best, strict=True
        )
    )


def shown(run: Run, results: Iterable[Influences]) -> Iterator[Influences]:
    """The same results; with --show, the first few are printed as they pass."""
    for count, result in enumerate(results):
        if run.options.show is not None and count < TESTS_SHOWN:
            if run.options.as_json:
                run.shown.append(record_of(result, run.inputs.labels, run.options.show))
            else:
                show(influence_table(result, run.inputs.labels, run.options.show))
        yield result


def all_ranked(
    run: Run,
    test: Tensor,  # [n_test, 3]
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:  # rows [n], training triples [n, 3], influences [n], a test triple each
    """All training triples in the order to be written."""
    train, order = run.shards.triples(), run.options.ranking.order
    for tests in test.split(max(1, SCORES_HELD // len(train))):
        with run.session.clock("scoring"):
            dense = run.shards.influence(tests)
        for scores in dense:
            with run.session.clock("scoring"):
                rows = ranked_index(scores, order)
                scores = scores[rows]
            yield rows, train[rows], scores


def run_test(run: Run) -> str:
    options, inputs = run.options, run.inputs
    test = inputs.test[: options.max_test_triples]
    indices = list(range(len(test)))
    if options.output_per_triple:
        results = shown(run, score(run, indices))
        write_per_triple(
            options.output.parent,
            options.csv_output,
            results,
            inputs.labels,
            top_k=options.ranking.top_k,
            learning_rate=learning_rate_of(run.shards.tracin, options.ranking),
            form=run.form(len(test)),
        )
        csv = "" if options.csv_output is None else f", {numbered(options.csv_output, 0)}, ..."
        return f"{len(test)} files {options.output.parent / 'tracin_test_<i>.json'}{csv}"
    with_self = options.csv_output is not None or is_parquet(options.output)
    results = shown(run, score(run, indices, with_self))
    write_test(
        options.output,
        options.csv_output,
        results,
        inputs.labels,
        num_test=len(test),
        num_train=inputs.num_train,
        top_k=options.ranking.top_k,
        learning_rate=learning_rate_of(run.shards.tracin, options.ranking),
        form=run.form(len(test)),
    )
    csv = "" if options.csv_output is None else f", {options.csv_output} (one file of all test triples)"
    return f"{options.output}{csv}"


def run_single(run: Run) -> str:
    options, inputs = run.options, run.inputs
    indices, csv = list(options.test_indices), options.csv_output
    tables = {} if csv is None else {i: csv if len(indices) == 1 else numbered(csv, i) for i in indices}
    for index in indices:
        if not 0 <= index < len(inputs.test):
            raise InputError(
                f"--test-indices {index}: {options.test_path} has {len(inputs.test)} test triples; "
                f"expected an index from 0 to {len(inputs.test) - 1}"
            )
    results = shown(run, score(run, indices))
    write_single(options.output, tables.__getitem__ if tables else None, results, inputs.labels, run.form(len(indices)))
    return ", ".join(map(str, [options.output, *(tables[index] for index in indices if tables)]))


def run_self(run: Run) -> str:
    with run.session.clock("scoring"):
        own = run.shards.self_influence()
    train, labels, options = run.shards.triples(), run.inputs.labels, run.options
    top_k = options.ranking.top_k
    if options.show is not None:
        most = min(options.show, top_k or options.show)
        if options.as_json:
            run.shown.extend(self_records(train, own, labels, most))
        else:
            show(self_influence_table(train, own, labels, most))
    write_self(options.output, train, own, labels, run.form(None), options.csv_output, top_k)
    return ", ".join(str(path) for path in (options.output, options.csv_output) if path is not None)


def self_records(
    train: Tensor,  # [n, 3]
    own: Tensor,  # [n]
    labels: Labels,
    limit: int,
) -> Iterator[dict[str, Any]]:
    """The training triples of the greatest self-influence."""
    for index in own.argsort(descending=True, stable=True)[:limit].tolist():
        yield {
            **triple_record("train_", train[index].tolist(), labels),
            "self_influence": float(own[index]),
            "index": index,
        }


MODES = {"test": run_test, "single": run_single, "self": run_self}


def partial_path(options: RunOptions, ranks: Ranks = Ranks()) -> Path | None:  # noqa: B008
    """Where a rank's unfinished results are kept, beside the output; None for results that are written as they come."""
    if (options.ranking.top_k is None and options.mode != "self") or is_device(options.output):
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


def notes_on_partial(options: RunOptions, ranks: Ranks) -> Iterator[str]:
    """Raises InputError if the results to go on from are those of another number of ranks."""
    if partial_path(options) is None:
        if options.resume:
            reason = "without --top-k" if options.ranking.top_k is None else "for an output that is no file"
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
