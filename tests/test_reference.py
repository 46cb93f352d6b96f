"""docs/reference.md is what the commands' definitions say."""

from __future__ import annotations

import click

from docs.reference import PAGE, page
from tracin.cli import main


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m docs.reference"


def test_every_flag_of_every_command_is_explained() -> None:
    text = PAGE.read_text()
    for name, command in main.commands.items():
        assert f"## tracin {name}\n" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{parameter.opts[0]} of {name} has no help"
                assert all(f"{flag}" in text for flag in (*parameter.opts, *parameter.secondary_opts))
