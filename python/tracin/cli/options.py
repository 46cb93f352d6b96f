"""Options of commands as frozen dataclasses, whose fields carry their click option; groups that several share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from tracin.cli.command import Command
from tracin.errors import InputError
from tracin.influence.arguments import DEFAULT_LEARNING_RATE, PRECISIONS
from tracin.influence.directions import DIRECTIONS
from tracin.influence.fisher import NORMALIZE
from tracin.influence.memory import SIZES, parse_size
from tracin.influence.questions import METHODS
from tracin.losses import LOSSES, OVER_TAILS
from tracin.triples.form import COLUMNS
from tracin_ext import backends
from tracin_ext.ops import ORDERS

T = TypeVar("T", bound="Options")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of a command, or a group of them, in the order of the help; made by `takes`.

    `given` has the names of all options of the command that were named on the command line.
    """

    given: frozenset[str] = frozenset()


def fields_of(options: type[Options] | Options) -> Iterator[dataclasses.Field[Any]]:
    """The fields that are options, those of groups in their place."""
    for field in dataclasses.fields(options):
        if "group" in field.metadata:
            yield from fields_of(field.metadata["group"])
        elif "add" in field.metadata:
            yield field


def valued(options: Options) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields that are options, those of groups in their place, with their values."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Options):
            yield from valued(value)
        elif "add" in field.metadata:
            yield field, value


def spelled(options: Options, name: str) -> str:
    """The flag of an option's name."""
    return next(str(field.metadata["flag"]) for field in fields_of(options) if field.name == name)


def filled(options: type[T], values: Mapping[str, Any], given: frozenset[str]) -> T:
    """From the values of all options of the command by their names."""
    own = {}
    for field in dataclasses.fields(options):
        if "group" in field.metadata:
            own[field.name] = filled(field.metadata["group"], values, given)
        elif "add" in field.metadata:
            own[field.name] = values[field.name]
    return options(**own, given=given)


def option(*flags: str, **settings: Any) -> Any:
    """A field that is an option, with its settings for click; it has the option's default, a required one has none."""
    metadata = {"flag": flags[0].split("/")[0], "add": partial(click.option, *flags, **settings)}
    if settings.get("required"):
        return dataclasses.field(metadata=metadata)
    empty = False if settings.get("is_flag") else () if settings.get("multiple") else None
    return dataclasses.field(default=settings.get("default", empty), metadata=metadata)


def flag(*flags: str, **settings: Any) -> Any:
    return option(*flags, is_flag=True, **settings)


def argument(**settings: Any) -> Any:
    """A field that is a positional argument of the command."""
    return dataclasses.field(metadata={"add": partial(click.argument, **settings)})


def group(options: type[Options]) -> Any:
    """A field that is a group of options."""
    return dataclasses.field(default_factory=options, metadata={"group": options})


def takes(options: type[T]) -> Callable[[Callable[[T], Any]], Callable[..., Any]]:
    """For a function that becomes a command: it is given its options, filled from the command line."""

    def decorate(function: Callable[[T], Any]) -> Callable[..., Any]:
        @wraps(function)
        def with_options(**values: Any) -> Any:
            source = click.get_current_context().get_parameter_source
            given = frozenset(name for name in values if source(name) is ParameterSource.COMMANDLINE)
            return function(filled(options, values, given))

        command: Callable[..., Any] = with_options
        for field in reversed(list(fields_of(options))):
            command = field.metadata["add"](field.name)(command)
        return command

    return decorate


# Options that take several values after one flag, as argparse's nargs="+" does.
SEVERAL_VALUES = ("--test-indices", "--last-layer-names", "--checkpoints")


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


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Bytes, as a number or with a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        size = int(value) if str(value).isdecimal() else value
        try:
            return parse_size(size)
        except InputError:
            self.fail(f"{size!r}; expected {SIZES}", param, ctx)


POSITIVE = click.IntRange(min=1)
THREADS = click.IntRange(1, 1024)  # with many more, PyTorch and polars fail to start them, and end the process
FILE = click.Path(path_type=Path)
STACK = click.Choice(["height", "width"])


def device_option() -> Any:
    return option(
        "--device",
        type=click.Choice(["cpu", "cuda", "auto"]),
        default="auto",
        show_default=True,
        help="auto takes CUDA where there is some.",
    )


@dataclass(frozen=True, kw_only=True)
class FileOptions(Options):
    model_path: Path = option("--model-path", type=FILE, required=True, help="Checkpoint of the trained ConvE.")
    train_path: Path = option(
        "--train", type=FILE, required=True, help="Training triples: head, relation, tail labels."
    )

    @property
    def several(self) -> tuple[Path, ...]:
        """Files of checkpoints, or their folder, in place of the one of `model_path`."""
        return ()


def columns_option() -> Any:
    return option(
        "--columns",
        type=click.Choice(COLUMNS),
        default="hrt",
        show_default=True,
        help="Order of head, relation and tail in the files of triples; htr is that of OpenKE.",
    )


DICTIONARY = (
    "Dictionary of labels, lines label<TAB>id or another form of docs/formats.md; needed unless the checkpoint has one."
)


@dataclass(frozen=True, kw_only=True)
class DictionaryOptions(Options):
    entity_to_id: Path | None = option("--entity-to-id", type=FILE, help=DICTIONARY)
    relation_to_id: Path | None = option("--relation-to-id", type=FILE, help=DICTIONARY)
    numeric_triples: bool = flag(
        "--numeric-triples", help="Triples are ids, not labels; told without it of *.del and of PyKEEN's files."
    )
    columns: str = columns_option()


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    embedding_height: int | None = option(
        "--embedding-height", type=POSITIVE, help="Rows of one embedding's image, where the file leaves it open."
    )
    embedding_width: int | None = option("--embedding-width", type=POSITIVE, help="Columns of one embedding's image.")
    stack: str | None = option("--stack", type=STACK, help="How the images of head and relation are joined.")

    @property
    def shape(self) -> tuple[int | None, int | None, str | None]:
        """As `tracin.load_checkpoint` takes it."""
        return self.embedding_height, self.embedding_width, self.stack


@dataclass(frozen=True, kw_only=True)
class ModelOptions(DictionaryOptions):
    """How a model and its triples are read."""

    skip_unknown: bool = flag(
        "--skip-unknown", help="Leave out triples with unknown labels; an index then counts the triples that are kept."
    )
    image: ImageOptions = group(ImageOptions)
    embedding_dim: int | None = option("--embedding-dim", type=POSITIVE, help="Checked against the checkpoint.")
    output_channels: int | None = option("--output-channels", type=POSITIVE, help="Checked against the checkpoint.")


@dataclass(frozen=True, kw_only=True)
class InputOptions(ModelOptions):
    edge_map: Path | None = option("--edge-map", type=FILE, help="JSON of predicates; adds names of relations.")
    node_name_dict: Path | None = option(
        "--node-name-dict", type=FILE, help="Lines name<TAB>id; adds names of entities."
    )


def order_option() -> Any:
    return option(
        "--order",
        type=click.Choice(ORDERS),
        default="absolute",
        show_default=True,
        help="Largest |influence| first, largest first, or smallest first.",
    )


def learning_rate_option() -> Any:
    return option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_LEARNING_RATE,
        show_default=True,
        help="Factor on all influences; the checkpoint's own is not used.",
    )


def memory_limit_option() -> Any:
    return option(
        "--memory-limit",
        type=Size(),
        metavar="SIZE",
        help="For the whole process, such as 4G.  [default: half of what is available]",
    )


@dataclass(frozen=True, kw_only=True)
class RankingOptions(Options):
    top_k: int | None = option(
        "--top-k", type=POSITIVE, help="Training triples per test triple, in mode self in all.  [default: all]"
    )
    order: str = order_option()
    learning_rate: float = learning_rate_option()
    use_last_layers_only: bool = flag(
        "--use-last-layers-only", help="Only the gradients of the last layers, see --num-last-layers."
    )
    num_last_layers: int = option(
        "--num-last-layers",
        type=POSITIVE,
        default=2,
        show_default=True,
        help="How many, from the end of bn0, conv, bn1, bn2, fc: 1 is fc, 2 is bn2 and fc.",
    )
    last_layer_names: tuple[str, ...] = option(
        "--last-layer-names",
        multiple=True,
        metavar="NAME...",
        help="Only the gradients of these layers, by layer (fc) or parameter (fc.weight: its whole layer).",
    )


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(Options):
    method: str = option(
        "--method",
        type=click.Choice(METHODS),
        default="tracin",
        show_default=True,
        help="accurate: corrected by the damped Fisher matrix of the embeddings; predicts retraining better.",
    )
    loss: str = option(
        "--loss",
        type=click.Choice([*LOSSES, *OVER_TAILS]),
        default="bce",
        show_default=True,
        help="Of a triple in training; all but bce are of the scores of all tails.",
    )
    label_smoothing: str = option(
        "--label-smoothing",
        metavar="SHARE",
        default="0",
        show_default=True,
        help="Of the losses bce-1n and kvsall; pykeen:SHARE or libkge:SHARE as these understand it.",
    )
    margin: float = option(
        "--margin", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Of the loss margin."
    )
    query: str | None = option(
        "--query",
        metavar="QUERY",
        help="What is asked: bce, why is the score high; ce, why does it rank there; score; against:TAIL, why not that "
        "tail.  [default: the loss; with --method accurate ce]",
    )
    direction: str | None = option(
        "--direction",
        type=click.Choice(DIRECTIONS),
        help="Samples of a training triple in a model with inverse relations.  [default: forward; with --method "
        "accurate both where the model has inverse relations]",
    )
    query_direction: str | None = option(
        "--query-direction",
        type=click.Choice(DIRECTIONS),
        help="The same of test triples.  [default: as --direction; with --method accurate forward]",
    )
    normalize: str | None = option(
        "--normalize",
        type=click.Choice(NORMALIZE),
        help="Divide by the norm of the training triple's gradient, or of both.  [default: none; with --method "
        "accurate train]",
    )
    samples: int = option(
        "--samples",
        type=click.IntRange(min=0),
        default=4096,
        show_default=True,
        help="Training samples that the accurate method's correction is made of.",
    )
    ridge: float = option(
        "--ridge",
        type=click.FloatRange(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="Its damping, in mean squared norms of their gradients.",
    )
    seed: int = option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the choice of these samples."
    )


@dataclass(frozen=True, kw_only=True)
class TextOptions(Options):
    csv_safe: bool = flag(
        "--csv-safe", help="Write an apostrophe in CSV before labels that spreadsheets compute: = + - @ first."
    )


@dataclass(frozen=True, kw_only=True)
class ComputingOptions(Options):
    question: QuestionOptions = group(QuestionOptions)
    device: str = device_option()
    backend: str = option(
        "--backend",
        type=click.Choice(["auto", *backends.NAMES]),
        default="auto",
        show_default=True,
        help="auto takes native, else factored.",
    )
    precision: str = option(
        "--precision",
        type=click.Choice(list(PRECISIONS)),
        default="float32",
        show_default=True,
        help="Of all computations; mixed: float32 with backward and pair products in bfloat16.",
    )
    batch_size: int | None = option(
        "--batch-size",
        type=POSITIVE,
        help="Training triples at a time; halved when memory runs out.  [default: what fits in memory]",
    )
    memory_limit: int | None = memory_limit_option()
    threads: int | None = option(
        "--threads",
        type=THREADS,
        help="CPU threads.  [default: one per core; on several ranks, each its share of them]",
    )
    use_vectorized_gradients: bool = flag(
        "--use-vectorized-gradients/--disable-vectorized-gradients",
        default=True,
        help="The latter takes the sequential backend: one backward pass per triple.",
    )
    cache_test_gradients: bool = flag(
        "--cache-test-gradients/--disable-test-gradient-caching",
        default=True,
        help="The latter computes the test side anew for every block of training triples.",
    )
    use_torch_compile: bool = flag("--use-torch-compile", help="Take the compiled backend.")
    use_mixed_precision: bool = flag(
        "--use-mixed-precision",
        help="The same as --precision mixed: bfloat16 products where the processor has them.",
    )
    use_optimized_tracin: bool = flag("--use-optimized-tracin", help="Accepted; the default.")
    use_gradient_checkpointing: bool = flag(
        "--use-gradient-checkpointing",
        help="The sequential backend computes activations again in its backward pass; the others keep none.",
    )
    disable_memory_cleanup: bool = flag(
        "--disable-memory-cleanup", help="Keep buffers and cached GPU memory from one call to the next."
    )
    enable_multi_gpu: bool = flag(
        "--enable-multi-gpu", help="A process on each GPU of this machine, as torchrun starts them."
    )
    quiet: bool = flag("--quiet", help="Print warnings and errors only.")
