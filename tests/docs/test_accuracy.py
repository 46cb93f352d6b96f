"""docs/accuracy.md shows what results/accuracy says, and its commands are ours."""

from __future__ import annotations

import json
import re
import shlex

import click
import pytest

from docs.accuracy import BLOCK, PAGES, RESULTS, estimate, page
from docs.reference import commands

FILES = sorted(path for path in RESULTS.glob("*.json") if not path.name.endswith(".manifest.json"))
TEXT = "\n".join(path.read_text() for path in PAGES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_page_is_up_to_date(path) -> None:  # type: ignore[no-untyped-def]
    assert path.read_text() == page(path.read_text()), "run python -m docs.accuracy"


def test_every_result_has_its_table() -> None:
    shown = {match[2] for match in BLOCK.finditer(TEXT)}
    assert shown == {path.stem for path in FILES}


def test_estimates_are_short() -> None:
    assert estimate([0.5436, -0.02, 1.0]) == ".54 [-.02, 1.00]"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_commands_on_the_page_are_those_of_the_results(path) -> None:  # type: ignore[no-untyped-def]
    """A result's settings are those that its command on the page names, and the defaults of all others."""
    content = json.loads(path.read_text())
    text = TEXT.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if f"--output results/accuracy/{path.stem}.json" in line]
    assert len(lines) == 1
    words = shlex.split(lines[0].replace("$RECIPE", re.findall(r'RECIPE="([^"]*)"', text)[0]))
    command = dict(commands())[" ".join(words[1:3])]
    with command.make_context(" ".join(words[1:3]), words[3:]) as context:
        options = [option for option in command.params if isinstance(option, click.Option)]
        values = {option.opts[0]: context.params[option.name] for option in options if option.name in context.params}
    for flag, value in content["settings"].items():
        assert value == (list(values[flag]) if isinstance(values[flag], tuple) else values[flag]), flag
