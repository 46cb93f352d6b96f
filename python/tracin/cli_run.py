"""The command `tracin run`: influences of training triples on test triples, from files to files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from tracin.arguments import DEFAULT_LEARNING_RATE
from tracin.check import doubt
from tracin.cli_command import Command, say
from tracin.cli_inputs import (
    Inputs,
    Options,
    describe_inputs,
    notes_on_inputs,
    read_inputs,
    speaking_of_flags,
    spelled,
)
from tracin.cli_layers import layers_named
from tracin.cli_modes import MODES, Clock, Run
from tracin.errors import InputError
from tracin.frames import is_parquet
from tracin.influence import ORDERS, PRECISIONS, TracIn
from tracin.memory import parse_size
from tracin.results import check_writable, is_device
from tracin_ext import backends

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


class Size(click.ParamType):
    """Bytes, as a number or with a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(int(value) if str(value).isdecimal() else value)
        except InputError as error:
            self.fail(str(error).removeprefix("memory_limit is "), param, ctx)


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
@click.option("--output", "-o", type=FILE, required=True, help="JSON file to write; Parquet if it ends in .parquet.")
@click.option(
    "--csv-output", type=FILE,
    help="CSV file to write (Parquet if it ends in .parquet): one for all triples in mode test, <stem>_test_<i> per "
    "triple with --output-per-triple and with several --test-indices.",
)
@click.option("--show", type=POSITIVE, metavar="N",
              help="Print tables of the first N influences on the first 5 test triples; in mode self, one of N.")
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
@click.option("--memory-limit", type=Size(), metavar="SIZE",
              help="For the whole process, such as 4G.  [default: half of what is available]")
@flag("--resume", help="Go on where an interrupted run of the same inputs stopped; with --top-k and in mode self.")
@click.option("--threads", type=POSITIVE, help="CPU threads.  [default: one per core]")
@flag("--use-vectorized-gradients/--disable-vectorized-gradients", default=True,
      help="The latter takes the sequential backend: one backward pass per triple.")
@flag("--cache-test-gradients/--disable-test-gradient-caching", default=True,
      help="The test side is computed once in either case.")
@flag("--use-torch-compile", help="Take the compiled backend.")
@flag("--use-mixed-precision", help="The same as --precision mixed: bfloat16 products where the processor has them.")
@flag("--use-optimized-tracin", help="Accepted; the default.")
@flag("--use-gradient-checkpointing", help="Accepted; no effect.")
@flag("--disable-memory-cleanup", help="Accepted; no effect.")
@flag("--enable-multi-gpu", help="Accepted; one device is used.")
@flag("--quiet", help="Print warnings and errors only.")
@click.pass_context
# fmt: on
def run(ctx: click.Context, **values: Any) -> None:
    """Influences of training triples on test triples, from a checkpoint and triples to JSON, CSV and Parquet.

    Outputs are ordered by |influence|, greatest first, and are complete or not there at all.
    """
    given = [name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    options = Options(**values, given=given)
    if options.use_mixed_precision and "precision" in options.given and options.precision != "mixed":
        raise click.UsageError(f"--use-mixed-precision and --precision {options.precision} disagree; choose one")
    report = (lambda _: None) if options.quiet else say
    clock = Clock()
    backend = chosen_backend(options)
    partial = partial_path(options)
    for note in (*notes(options), *notes_on_partial(options, partial)):
        report(f"note: {note}")
    prepare_outputs(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with clock("reading"):
        inputs = read_inputs(options)
    report(describe_inputs(options, inputs))
    for note in notes_on_inputs(options, inputs):
        report(f"note: {note}")
    with clock("setting up"):
        doubted = doubt(inputs.checkpoint.model, inputs.train)
    if doubted is not None:
        warnings.warn(f"{doubted}; tracin check says more", stacklevel=1)
    with speaking_of_flags():
        with clock("setting up"):
            tracin = create(options, inputs, backend)
        report(f"running: {tracin.backend} backend, {tracin.description}")
        written = work(Run(options, inputs, tracin, clock, partial))
    if "test factors" in tracin.seconds:
        scoring = clock.seconds.pop("scoring")
        clock.seconds["test factors"] = tracin.seconds["test factors"]
        clock.seconds["scoring"] = scoring - tracin.seconds["test factors"]
    report(f"wrote {written}")
    report(clock.split("writing"))


def work(run: Run) -> str:
    """Scores, writes, and removes what it kept of unfinished results; returns the names of the outputs."""
    partial = run.partial
    if partial is None:
        return MODES[run.options.mode](run)
    if not run.options.resume:
        partial.unlink(missing_ok=True)
    try:
        written = MODES[run.options.mode](run)
    except InputError:
        raise
    except BaseException:
        if partial.exists():
            say(f"note: what is finished is kept in {partial}; the same command with --resume goes on from there")
        raise
    partial.unlink(missing_ok=True)
    return written


def partial_path(options: Options) -> Path | None:
    """Where unfinished results are kept, beside the output; None for results that are written as they come."""
    if (options.top_k is None and options.mode != "self") or is_device(options.output):
        return None
    return options.output.with_name(f"{options.output.name}.partial")


def notes_on_partial(options: Options, partial: Path | None) -> Iterator[str]:
    if partial is None:
        if options.resume:
            reason = "without --top-k" if options.top_k is None else "for an output that is no file"
            yield f"--resume has no effect {reason}: influences are written as they come"
    elif options.resume and not partial.exists():
        yield f"--resume has no effect: there is no {partial}"
    elif partial.exists() and not options.resume:
        yield f"{partial}, what an interrupted run finished, is overwritten; --resume goes on from it instead"


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
    unnamed = options.mode == "self" and not is_parquet(options.output) and options.show is None
    for name in NO_EFFECT_IN_MODE[options.mode] + (("edge_map", "node_name_dict") if unnamed else ()):
        if name in options.given:
            yield f"{spelled(name)} has no effect in mode {options.mode}"
    if not options.cache_test_gradients:
        yield "--disable-test-gradient-caching has no effect: the test side is computed once and kept"
    if "num_last_layers" in options.given and (options.last_layer_names or not options.use_last_layers_only):
        yield "--num-last-layers has no effect: " + (
            "--last-layer-names decides" if options.last_layer_names else "--use-last-layers-only was not given"
        )


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
        precision="mixed" if options.use_mixed_precision else options.precision,
        backend=backend,
        device=options.device,
        batch_size=options.batch_size or "auto",
        progress=False if options.quiet else None,
        memory_limit=options.memory_limit,
    )
