"""docs/reference.md is what the commands' definitions say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from docs.reference import PAGE, commands, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m docs.reference"


def test_every_flag_of_every_command_is_explained() -> None:
    text = PAGE.read_text()
    for name, command in commands():
        assert f"## tracin {name}\n" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{parameter.opts[0]} of {name} has no help"
                assert all(f"{flag}" in text for flag in (*parameter.opts, *parameter.secondary_opts))


@pytest.mark.slow
def test_every_message_of_the_troubleshooting_table_is_one_of_ours() -> None:
    """Its words between dots stand in string literals of the sources, which Python joins over lines."""
    texts = []
    for path in (*(ROOT / "python").rglob("*.py"), *(ROOT / "tracin_ext").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    table = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(messages) >= 15
    for message in messages:
        for piece in filter(None, (piece.strip(" ,:;") for piece in message.split("..."))):
            assert any(piece in text for text in texts), f"no message says {piece!r}"
