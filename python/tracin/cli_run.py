"""The command `tracin run`: influences of training triples on test triples, from files to files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from click.core import ParameterSource
from torch import Tensor

from tracin.checkpoints import Checkpoint, load_checkpoint
from tracin.cli_command import Command, say
from tracin.cli_layers import layers_named
from tracin.errors import InputError
from tracin.influence import DEFAULT_LEARNING_RATE, ORDERS, PRECISIONS, TracIn
from tracin.results import (
    Influences,
    Labels,
    check_writable,
    numbered,
    write_per_triple,
    write_self,
    write_single,
    write_test,
)
from tracin.triples import read_dictionary, read_edge_map, read_names, read_triples
from tracin_ext import backends

SCORES_HELD = 64 << 20  # influences in memory at a time when all of them are written

# Options that take several values after one flag, as argparse's nargs="+" does.
SEVERAL_VALUES = ("--test-indices", "--last-layer-names")

NO_EFFECT = {
    "use_optimized_tracin": "it is the default",
    "use_gradient_checkpointing": "--batch-size bounds the memory",
    "disable_memory_cleanup": "there is no cleanup between blocks",
    "enable_multi_gpu": "one device is used",
}
NO_EFFECT_IN_MODE = {
    "test": ("test_indices",),
    "single": ("max_test_triples", "output_per_triple"),
    "self": (
        "test_path", "test_indices", "max_test_triples", "top_k", "order", "csv_output", "output_per_triple",
        "edge_map", "node_name_dict",
    ),
}  # fmt: skip


class RunCommand(Command):
    """Reads `--flag 0 3 5` as `--flag 0 --flag 3 --flag 5`, for the flags of SEVERAL_VALUES."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(spread(args)))


def spread(args: list[str]) -> Iterator[str]:
    """Repeats each flag of SEVERAL_VALUES before each of its values."""
    flag = ""
    values = 0
    for arg in args:
        is_value = not arg.startswith("-") or re.fullmatch(r"-\d+", arg) is not None
        if flag and is_value:
            if values:
                yield flag
            values += 1
        else:
            flag, values = (arg if arg in SEVERAL_VALUES else ""), 0
        yield arg


Options = SimpleNamespace  # the options by their Python names, and `given`: those named on the command line


@dataclass(frozen=True)
class Inputs:
    checkpoint: Checkpoint
    train: Tensor  # [n_train, 3]
    test: Tensor  # [n_test, 3]; no rows in mode self
    labels: Labels


def flag(*names: str, **settings: Any) -> Any:
    return click.option(*names, is_flag=True, **settings)


POSITIVE = click.IntRange(min=1)
FILE = click.Path(path_type=Path)


# fmt: off
@click.command("run", cls=RunCommand, context_settings={"max_content_width": 120})
@click.option("--model-path", type=FILE, required=True, help="Checkpoint of the trained ConvE.")
@click.option("--train", "train_path", type=FILE, required=True, help="Training triples: head, relation, tail labels.")
@click.option("--test", "test_path", type=FILE, help="Test triples; needed in modes test and single.")
@click.option("--entity-to-id", type=FILE, help="Lines label<TAB>id; needed unless the checkpoint has a dictionary.")
@click.option("--relation-to-id", type=FILE, help="Lines label<TAB>id; needed unless the checkpoint has a dictionary.")
@click.option("--edge-map", type=FILE, help="JSON of predicates; adds names of relations.")
@click.option("--node-name-dict", type=FILE, help="Lines name<TAB>id; adds names of entities.")
@flag("--skip-unknown", help="Leave out triples with unknown labels; an index then counts the triples that are kept.")
@click.option("--embedding-height", type=POSITIVE, help="Rows of one embedding's image, where the file leaves it open.")
@click.option("--embedding-width", type=POSITIVE, help="Columns of one embedding's image.")
@click.option("--stack", type=click.Choice(["height", "width"]), help="How the images of head and relation are joined.")
@click.option("--embedding-dim", type=POSITIVE, help="Checked against the checkpoint.")
@click.option("--output-channels", type=POSITIVE, help="Checked against the checkpoint.")
@click.option("--output", "-o", type=FILE, required=True, help="JSON file to write.")
@click.option(
    "--csv-output", type=FILE,
    help="CSV file to write: one for all triples in mode test, <stem>_test_<i> per triple with --output-per-triple "
    "and with several --test-indices.",
)
@flag("--output-per-triple", help="Mode test: tracin_test_<i>.json for each triple, in the folder of --output.")
@click.option("--mode", type=click.Choice(["test", "self", "single"]), default="test", show_default=True,
              help="All test triples; self-influence of training triples; the test triples of --test-indices.")
@click.option("--test-indices", type=int, multiple=True, default=(0,), metavar="INDEX...",
              help="Mode single: lines of the test file, counted from 0.  [default: 0]")
@click.option("--max-test-triples", type=POSITIVE, help="Mode test: only the first so many lines of the test file.")
@click.option("--top-k", type=POSITIVE, help="Training triples per test triple.  [default: all]")
@click.option("--order", type=click.Choice(ORDERS), default="absolute", show_default=True,
              help="Largest |influence| first, largest first, or smallest first.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=DEFAULT_LEARNING_RATE,
              show_default=True, help="Factor on all influences; the checkpoint's own is not used.")
@flag("--use-last-layers-only", help="Only the gradients of the last layers, see --num-last-layers.")
@click.option("--num-last-layers", type=POSITIVE, default=2, show_default=True,
              help="How many, from the end of bn0, conv, bn1, bn2, fc: 1 is fc, 2 is bn2 and fc.")
@click.option("--last-layer-names", multiple=True, metavar="NAME...",
              help="Only the gradients of these layers, by layer (fc) or parameter (fc.weight: its whole layer).")
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), default="cpu", show_default=True,
              help="auto takes CUDA where there is some.")
@click.option("--backend", type=click.Choice(["auto", *backends.NAMES]), default="auto", show_default=True,
              help="auto takes native, else factored.")
@click.option("--precision", type=click.Choice(list(PRECISIONS)), default="float32", show_default=True)
@click.option("--batch-size", type=POSITIVE, help="Training triples at a time.  [default: what fits in memory]")
@click.option("--threads", type=POSITIVE, help="CPU threads.  [default: one per core]")
@flag("--use-vectorized-gradients/--disable-vectorized-gradients", default=True,
      help="The latter takes the sequential backend: one backward pass per triple.")
@flag("--cache-test-gradients/--disable-test-gradient-caching", default=True,
      help="The test side is computed once in either case.")
@flag("--use-torch-compile", help="Take the compiled backend.")
@flag("--use-mixed-precision", help="No effect yet: full precision is used.")
@flag("--use-optimized-tracin", help="Accepted; the default.")
@flag("--use-gradient-checkpointing", help="Accepted; no effect.")
@flag("--disable-memory-cleanup", help="Accepted; no effect.")
@flag("--enable-multi-gpu", help="Accepted; one device is used.")
@flag("--quiet", help="Print warnings and errors only.")
@click.pass_context
# fmt: on
def run(ctx: click.Context, **values: Any) -> None:
    """Influences of training triples on test triples, from a checkpoint and triples to JSON and CSV.

    Outputs are ordered by |influence|, greatest first, and are complete or not there at all.
    """
    given = [name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    options = Options(**values, given=given)
    report = (lambda _: None) if options.quiet else say
    backend = chosen_backend(options)
    for note in notes(options):
        report(f"note: {note}")
    prepare_outputs(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    inputs = read_inputs(options)
    report(describe_inputs(options, inputs))
    for note in notes_on_inputs(options, inputs):
        report(f"note: {note}")
    tracin = create(options, inputs, backend)
    report(f"running: {tracin.backend} backend, {tracin.description}")
    start = time.perf_counter()
    written = MODES[options.mode](options, inputs, tracin)
    report(f"scored and written in {time.perf_counter() - start:.2f} s: {written}")


def chosen_backend(options: Options) -> str:
    """The one backend that the flags ask for."""
    asked = {options.backend: "--backend"} if options.backend != "auto" else {}
    if options.use_torch_compile:
        asked.setdefault("compiled", "--use-torch-compile")
    if not options.use_vectorized_gradients:
        asked.setdefault("sequential", "--disable-vectorized-gradients")
    if len(asked) > 1:
        flags = " and ".join(f"{by} ({name})" for name, by in asked.items())
        raise click.UsageError(f"{flags} ask for different backends; choose one")
    return next(iter(asked), "auto")


def notes(options: Options) -> Iterator[str]:
    """One line for each flag that does not do here what its name says."""
    for name, reason in NO_EFFECT.items():
        if name in options.given:
            yield f"{spelled(name)} has no effect: {reason}"
    for name in NO_EFFECT_IN_MODE[options.mode]:
        if name in options.given:
            yield f"{spelled(name)} has no effect in mode {options.mode}"
    if options.use_mixed_precision:
        yield f"--use-mixed-precision has no effect yet: {options.precision} is used"
    if not options.cache_test_gradients:
        yield "--disable-test-gradient-caching has no effect: the test side is computed once and kept"
    if "num_last_layers" in options.given and (options.last_layer_names or not options.use_last_layers_only):
        yield "--num-last-layers has no effect: " + (
            "--last-layer-names decides" if options.last_layer_names else "--use-last-layers-only was not given"
        )


def spelled(name: str) -> str:
    """The flag of an option's Python name."""
    return "--" + name.removesuffix("_path").replace("_", "-")


def prepare_outputs(options: Options) -> None:
    """Finds out before the work whether its results can be written; makes the folder of a file per triple."""
    if options.mode != "self" and options.test_path is None:
        raise click.UsageError(f"mode {options.mode} needs --test")
    outputs = [path for path in (options.output, options.csv_output) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise click.UsageError("--output and --csv-output name the same file")
    for path in outputs:
        if options.mode == "test" and options.output_per_triple:
            path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)


def read_inputs(options: Options) -> Inputs:
    """Reads every file that the command names and checks them against each other."""
    checkpoint = load_checkpoint(
        options.model_path,
        options.embedding_height,
        options.embedding_width,
        options.stack,
        None if options.entity_to_id is None else read_dictionary(options.entity_to_id),
        None if options.relation_to_id is None else read_dictionary(options.relation_to_id),
    )
    for name in ("embedding_dim", "output_channels"):
        size, asked = checkpoint.model.config[name], getattr(options, name)
        if asked not in (None, size):
            raise InputError(f"{spelled(name)} is {asked}, but {options.model_path} has {size}; leave the flag out")
    entities, relations = checkpoint.entity_to_id, checkpoint.relation_to_id
    if entities is None or relations is None:
        missing = "--entity-to-id" if entities is None else "--relation-to-id"
        raise InputError(f"{options.model_path} holds no dictionary of labels; name one with {missing}")
    labels = Labels(
        {index: label for label, index in entities.items()},
        {index: label for label, index in relations.items()},
        None if options.node_name_dict is None else read_names(options.node_name_dict),
        None if options.edge_map is None else read_edge_map(options.edge_map),
    )
    train = read_triples(options.train_path, entities, relations, skip_unknown=options.skip_unknown)
    test = train[:0]
    if options.mode != "self":
        test = read_triples(options.test_path, entities, relations, skip_unknown=options.skip_unknown)
    return Inputs(checkpoint, train, test, labels)


def describe_inputs(options: Options, inputs: Inputs) -> str:
    config = inputs.checkpoint.model.config
    test = f", {len(inputs.test)} test triples" if options.mode != "self" else ""
    return (
        f"{options.model_path}: {inputs.checkpoint.format}, {len(inputs.labels.entities)} entities, "
        f"{len(inputs.labels.relations)} relations, embeddings of {config['embedding_dim']} as "
        f"{config['embedding_height']} x {config['embedding_width']} stacked in {config['stack']}; "
        f"{len(inputs.train)} training triples{test}"
    )


def notes_on_inputs(options: Options, inputs: Inputs) -> Iterator[str]:
    own = inputs.checkpoint.learning_rate
    if own not in (None, options.learning_rate) and "learning_rate" not in options.given:
        yield f"--learning-rate {options.learning_rate} is used, not the checkpoint's {own:g}"
    if options.mode != "self" and (options.top_k or 0) > len(inputs.train):
        yield f"--top-k {options.top_k} exceeds the {len(inputs.train)} training triples: all are written"


def create(options: Options, inputs: Inputs, backend: str) -> TracIn:
    layers: str | int | list[str] = "all"
    if options.last_layer_names:
        layers = layers_named(options.last_layer_names, inputs.checkpoint.model)
    elif options.use_last_layers_only:
        layers = options.num_last_layers
    return TracIn(
        inputs.checkpoint,
        options.learning_rate,
        layers=layers,
        precision=options.precision,
        backend=backend,
        device=options.device,
        batch_size=options.batch_size or "auto",
        progress=False if options.quiet else None,
    )


def score(
    options: Options, inputs: Inputs, tracin: TracIn, indices: list[int], with_self: bool = True
) -> Iterator[Influences]:
    """The influences on the test triples of these indices, one test triple after the other."""
    test = inputs.test[indices]
    own = tracin.self_influence(test).tolist() if with_self else [None] * len(test)
    best = ranked(tracin, inputs.train, test, options.top_k, options.order)
    for index, (head, relation, tail), self_influence, (rows, scores) in zip(
        indices, test.tolist(), own, best, strict=True
    ):
        yield Influences(index, (head, relation, tail), self_influence, inputs.train[rows], scores)


def ranked(
    tracin: TracIn,
    train: Tensor,  # [n_train, 3]
    test: Tensor,  # [n_test, 3]
    top_k: int | None,
    order: str,
) -> Iterator[tuple[Tensor, Tensor]]:  # rows of train [k], their influences [k], for each test triple
    """The training triples in the order to be written; all of them without top_k, for a few test triples at a time."""
    if top_k is not None:
        top = tracin.top_k(train, test, top_k, order)
        yield from zip(top.indices, top.scores, strict=True)
        return
    for tests in test.split(max(1, SCORES_HELD // len(train))):
        for scores in tracin.influence(train, tests):
            key = {"absolute": -scores.abs(), "proponents": -scores, "opponents": scores}[order]
            rows = key.argsort(stable=True)
            yield rows, scores[rows]


def run_test(options: Options, inputs: Inputs, tracin: TracIn) -> str:
    test = inputs.test[: options.max_test_triples]
    indices = list(range(len(test)))
    facts = {"top_k": options.top_k, "learning_rate": options.learning_rate}
    if options.output_per_triple:
        results = score(options, inputs, tracin, indices)
        write_per_triple(options.output.parent, options.csv_output, results, inputs.labels, **facts)
        csv = "" if options.csv_output is None else f", CSV files {numbered(options.csv_output, 0)}, ..."
        return f"{len(test)} files {options.output.parent / 'tracin_test_<i>.json'}{csv}"
    results = score(options, inputs, tracin, indices, with_self=options.csv_output is not None)
    sizes = {"num_test": len(test), "num_train": len(inputs.train)}
    write_test(options.output, options.csv_output, results, inputs.labels, **sizes, **facts)
    csv = "" if options.csv_output is None else f", {options.csv_output} (one CSV of all test triples)"
    return f"{options.output}{csv}"


def run_single(options: Options, inputs: Inputs, tracin: TracIn) -> str:
    indices, csv = list(options.test_indices), options.csv_output
    for index in indices:
        if not 0 <= index < len(inputs.test):
            raise InputError(
                f"--test-indices {index}: {options.test_path} has {len(inputs.test)} test triples; "
                f"expected an index from 0 to {len(inputs.test) - 1}"
            )

    def csv_path(index: int) -> Path:
        return csv if len(indices) == 1 else numbered(csv, index)

    results = score(options, inputs, tracin, indices)
    write_single(options.output, None if csv is None else csv_path, results, inputs.labels)
    return ", ".join(str(path) for path in [options.output, *(map(csv_path, indices) if csv is not None else [])])


def run_self(options: Options, inputs: Inputs, tracin: TracIn) -> str:
    write_self(options.output, inputs.train, tracin.self_influence(inputs.train))
    return str(options.output)


MODES = {"test": run_test, "single": run_single, "self": run_self}
