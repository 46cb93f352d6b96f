"""Options as dataclasses: what a command is given, how flags are spelled and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tracin.cli.options import (
    ImageOptions,
    ManyValuesCommand,
    Options,
    argument,
    flag,
    group,
    option,
    spelled,
    spread,
    takes,
)


@dataclass(frozen=True, kw_only=True)
class SomeOptions(Options):
    place: Path = argument(type=click.Path(path_type=Path))
    count: int = option("--count", type=int, required=True, help="How many.")
    image: ImageOptions = group(ImageOptions)
    last_layer_names: tuple[str, ...] = option("--last-layer-names", multiple=True)
    loud: bool = flag("--loud/--quiet", default=True)


def given(*arguments: str) -> SomeOptions:
    """What the command's function is given."""
    seen: list[SomeOptions] = []

    @click.command(cls=ManyValuesCommand)
    @takes(SomeOptions)
    def command(options: SomeOptions) -> None:
        seen.append(options)

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.stderr
    (options,) = seen
    return options


def test_a_command_is_given_its_options() -> None:
    named = frozenset({"place", "count", "embedding_width"})
    options = given("a/b", "--count", "3", "--embedding-width", "4")
    assert options == SomeOptions(
        place=Path("a/b"), count=3, image=ImageOptions(embedding_width=4, given=named), given=named
    )
    assert (options.image.shape, options.last_layer_names, options.loud) == ((None, 4, None), (), True)
    options = given("a", "--count", "3", "--last-layer-names", "b", "c", "--quiet")
    assert (options.last_layer_names, options.loud) == (("b", "c"), False)
    assert options.given == {"place", "count", "last_layer_names", "loud"} == options.image.given


def test_options_stand_in_the_order_of_the_fields() -> None:
    @click.command()
    @takes(SomeOptions)
    def command(options: SomeOptions) -> None:
        raise AssertionError

    names = ["place", "count", "embedding_height", "embedding_width", "stack", "last_layer_names", "loud"]
    assert [parameter.name for parameter in command.params] == names
    options = SomeOptions(place=Path(), count=1)
    assert [spelled(options, name) for name in names[1:]] == [
        "--count",
        "--embedding-height",
        "--embedding-width",
        "--stack",
        "--last-layer-names",
        "--loud",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--test-indices 0 3 -1 --top-k 2", "--test-indices 0 --test-indices 3 --test-indices -1 --top-k 2"),
        ("--last-layer-names a b -o x", "--last-layer-names a --last-layer-names b -o x"),
        ("--test-indices --top-k 2", "--test-indices --top-k 2"),
        ("--top-k 1 2", "--top-k 1 2"),
        ("", ""),
    ],
)
def test_spread(arguments: str, expected: str) -> None:
    assert list(spread(arguments.split())) == expected.split()
