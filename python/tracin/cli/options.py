"""Options that several commands share, in the order of their help."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from tracin.cli.command import Command
from tracin.errors import InputError
from tracin.influence.arguments import DEFAULT_LEARNING_RATE, ORDERS, PRECISIONS
from tracin.influence.memory import parse_size
from tracin_ext import backends

Decorator = Callable[[Any], Any]

# Options that take several values after one flag, as argparse's nargs="+" does.
SEVERAL_VALUES = ("--test-indices", "--last-layer-names")


class ManyValuesCommand(Command):
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


def flag(*names: str, **settings: Any) -> Decorator:
    return click.option(*names, is_flag=True, **settings)


def together(*options: Decorator) -> Decorator:
    """One decorator for several, whose options stand in the help in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


POSITIVE = click.IntRange(min=1)
FILE = click.Path(path_type=Path)

model_options = together(
    click.option("--model-path", type=FILE, required=True, help="Checkpoint of the trained ConvE."),
    click.option(
        "--train", "train_path", type=FILE, required=True, help="Training triples: head, relation, tail labels."
    ),
)
DICTIONARY = "Dictionary of labels, in any form of the README; needed unless the checkpoint has one."
dictionary_options = together(
    click.option("--entity-to-id", type=FILE, help=DICTIONARY),
    click.option("--relation-to-id", type=FILE, help=DICTIONARY),
    flag("--numeric-triples", help="Triples are ids, not labels; told without it of *.del and of PyKEEN's files."),
)
name_options = together(
    click.option("--edge-map", type=FILE, help="JSON of predicates; adds names of relations."),
    click.option("--node-name-dict", type=FILE, help="Lines name<TAB>id; adds names of entities."),
)
skip_option = flag(
    "--skip-unknown", help="Leave out triples with unknown labels; an index then counts the triples that are kept."
)
image_options = together(
    click.option(
        "--embedding-height", type=POSITIVE, help="Rows of one embedding's image, where the file leaves it open."
    ),
    click.option("--embedding-width", type=POSITIVE, help="Columns of one embedding's image."),
    click.option(
        "--stack", type=click.Choice(["height", "width"]), help="How the images of head and relation are joined."
    ),
)
size_options = together(
    click.option("--embedding-dim", type=POSITIVE, help="Checked against the checkpoint."),
    click.option("--output-channels", type=POSITIVE, help="Checked against the checkpoint."),
)
input_options = together(dictionary_options, name_options, skip_option, image_options, size_options)
ranking_options = together(
    click.option("--top-k", type=POSITIVE, help="Training triples per test triple.  [default: all]"),
    click.option(
        "--order",
        type=click.Choice(ORDERS),
        default="absolute",
        show_default=True,
        help="Largest |influence| first, largest first, or smallest first.",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_LEARNING_RATE,
        show_default=True,
        help="Factor on all influences; the checkpoint's own is not used.",
    ),
    flag("--use-last-layers-only", help="Only the gradients of the last layers, see --num-last-layers."),
    click.option(
        "--num-last-layers",
        type=POSITIVE,
        default=2,
        show_default=True,
        help="How many, from the end of bn0, conv, bn1, bn2, fc: 1 is fc, 2 is bn2 and fc.",
    ),
    click.option(
        "--last-layer-names",
        multiple=True,
        metavar="NAME...",
        help="Only the gradients of these layers, by layer (fc) or parameter (fc.weight: its whole layer).",
    ),
)


def computing_options(device: str) -> Decorator:
    """`device` is the default of --device."""
    return together(
        click.option(
            "--device",
            type=click.Choice(["cpu", "cuda", "auto"]),
            default=device,
            show_default=True,
            help="auto takes CUDA where there is some.",
        ),
        click.option(
            "--backend",
            type=click.Choice(["auto", *backends.NAMES]),
            default="auto",
            show_default=True,
            help="auto takes native, else factored.",
        ),
        click.option(
            "--precision",
            type=click.Choice(list(PRECISIONS)),
            default="float32",
            show_default=True,
            help="Of all computations; mixed: float32 with backward and pair products in bfloat16.",
        ),
        click.option(
            "--batch-size",
            type=POSITIVE,
            help="Training triples at a time; halved when memory runs out.  [default: what fits in memory]",
        ),
        click.option(
            "--memory-limit",
            type=Size(),
            metavar="SIZE",
            help="For the whole process, such as 4G.  [default: half of what is available]",
        ),
        click.option(
            "--threads",
            type=POSITIVE,
            help="CPU threads.  [default: one per core; on several ranks, each its share of them]",
        ),
        flag(
            "--use-vectorized-gradients/--disable-vectorized-gradients",
            default=True,
            help="The latter takes the sequential backend: one backward pass per triple.",
        ),
        flag(
            "--cache-test-gradients/--disable-test-gradient-caching",
            default=True,
            help="The latter computes the test side anew for every block of training triples.",
        ),
        flag("--use-torch-compile", help="Take the compiled backend."),
        flag(
            "--use-mixed-precision",
            help="The same as --precision mixed: bfloat16 products where the processor has them.",
        ),
        flag("--use-optimized-tracin", help="Accepted; the default."),
        flag(
            "--use-gradient-checkpointing",
            help="The sequential backend computes activations again in its backward pass; the others keep none.",
        ),
        flag("--disable-memory-cleanup", help="Keep buffers and cached GPU memory from one call to the next."),
        flag("--enable-multi-gpu", help="A process on each GPU of this machine, as torchrun starts them."),
        flag("--quiet", help="Print warnings and errors only."),
    )
