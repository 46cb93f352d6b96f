"""The command `tracin`."""

from __future__ import annotations

import click

from tracin.cli.command import Command, Group
from tracin.machine import format_info, info, version

COMMANDS = ("audit", "batch", "check", "evaluate", "explain", "explore", "index", "query", "run", "train")


@click.group("tracin", cls=Group, modules=COMMANDS)
@click.version_option(version(), message="%(prog)s %(version)s", help="Show the version.")
def main() -> None:
    """Which training triples made a ConvE model predict a triple: exact TracIn influences."""


@main.command("info", cls=Command)
def show_info() -> None:
    """What runs on this machine, and why nothing faster is in use."""
    click.echo(format_info(info()))
