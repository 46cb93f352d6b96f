"""The modes of `tracin run`: what is scored, and what is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from tracin.cli.inputs import Inputs, Options
from tracin.distributed.shards import Shards
from tracin.errors import InputError
from tracin.files import is_parquet
from tracin.influence.tracin import ranked_rows
from tracin.progress import Clock
from tracin.results.tables import influence_table, self_influence_table
from tracin.results.writers import Influences, numbered, write_per_triple, write_self, write_single, write_test

TESTS_SHOWN = 5  # by --show
SCORES_HELD = 64 << 20  # influences in memory at a time when all of them are written


@dataclass(frozen=True)
class Run:
    """Everything that a mode needs."""

    options: Options
    inputs: Inputs
    shards: Shards
    clock: Clock


def score(run: Run, indices: list[int], with_self: bool = True) -> Iterator[Influences]:
    """The influences on the test triples of these indices, one after the other; with --top-k, all scored by now."""
    test = run.inputs.test[indices]
    own: list[float | None] = [None] * len(test)
    if with_self:
        with run.clock("scoring"):
            own = run.shards.tracin.self_influence(test).tolist()
    best = ranked(run, test)
    return (
        Influences(index, (head, relation, tail), self_influence, train, scores, rows)
        for index, (head, relation, tail), self_influence, (rows, train, scores) in zip(
            indices, test.tolist(), own, best, strict=True
        )
    )


def shown(run: Run, results: Iterable[Influences]) -> Iterator[Influences]:
    """The same results; with --show, the first few are printed as they pass."""
    console = Console(highlight=False)
    for count, result in enumerate(results):
        if run.options.show is not None and count < TESTS_SHOWN:
            console.print(influence_table(result, run.inputs.labels, run.options.show))
        yield result


def ranked(
    run: Run,
    test: Tensor,  # [n_test, 3]
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:  # rows [k], training triples [k, 3], influences [k], a test triple each
    """The training triples in the order to be written; without --top-k, all of them, a few test triples at a time."""
    if run.options.top_k is None:
        return all_ranked(run, test)
    with run.clock("scoring"):
        top = run.shards.top_k(test, run.options.top_k, run.options.order)
    return zip(top.indices, top.triples, top.scores, strict=True)


def all_ranked(
    run: Run,
    test: Tensor,  # [n_test, 3]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    train, order = run.shards.triples(), run.options.order
    for tests in test.split(max(1, SCORES_HELD // len(train))):
        with run.clock("scoring"):
            dense = run.shards.influence(tests)
        for scores in dense:
            with run.clock("scoring"):
                rows = ranked_rows(scores, order)
                scores = scores[rows]
            yield rows, train[rows], scores


def run_test(run: Run) -> str:
    options, inputs = run.options, run.inputs
    test = inputs.test[: options.max_test_triples]
    indices = list(range(len(test)))
    facts = {"top_k": options.top_k, "learning_rate": options.learning_rate}
    if options.output_per_triple:
        results = shown(run, score(run, indices))
        write_per_triple(options.output.parent, options.csv_output, results, inputs.labels, **facts)
        csv = "" if options.csv_output is None else f", {numbered(options.csv_output, 0)}, ..."
        return f"{len(test)} files {options.output.parent / 'tracin_test_<i>.json'}{csv}"
    with_self = options.csv_output is not None or is_parquet(options.output)
    results = shown(run, score(run, indices, with_self))
    sizes = {"num_test": len(test), "num_train": inputs.num_train}
    write_test(options.output, options.csv_output, results, inputs.labels, **sizes, **facts)
    csv = "" if options.csv_output is None else f", {options.csv_output} (one file of all test triples)"
    return f"{options.output}{csv}"


def run_single(run: Run) -> str:
    options, inputs = run.options, run.inputs
    indices, csv = list(options.test_indices), options.csv_output
    for index in indices:
        if not 0 <= index < len(inputs.test):
            raise InputError(
                f"--test-indices {index}: {options.test_path} has {len(inputs.test)} test triples; "
                f"expected an index from 0 to {len(inputs.test) - 1}"
            )

    def csv_path(index: int) -> Path:
        return csv if len(indices) == 1 else numbered(csv, index)

    results = shown(run, score(run, indices))
    write_single(options.output, None if csv is None else csv_path, results, inputs.labels)
    return ", ".join(str(path) for path in [options.output, *(map(csv_path, indices) if csv is not None else [])])


def run_self(run: Run) -> str:
    with run.clock("scoring"):
        own = run.shards.self_influence()
    train, labels = run.shards.triples(), run.inputs.labels
    if run.options.show is not None:
        Console(highlight=False).print(self_influence_table(train, own, labels, run.options.show))
    write_self(run.options.output, train, own, labels)
    return str(run.options.output)


MODES = {"test": run_test, "single": run_single, "self": run_self}
