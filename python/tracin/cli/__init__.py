"""The command `tracin`."""

from __future__ import annotations

import json

import click

from tracin.cli.command import Command, Group
from tracin.machine import format_info, info, version

COMMANDS = ("audit", "batch", "check", "evaluate", "explain", "explore", "index", "query", "replay", "run", "train")


@click.group("tracin", cls=Group, modules=COMMANDS)
@click.version_option(version(), message="%(prog)s %(version)s", help="Show the version.")
def main() -> None:
    """Which training triples made a ConvE model predict a triple: exact TracIn influences."""


@main.command("info", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the same facts as JSON.")
def show_info(as_json: bool) -> None:
    """What runs on this machine, and why nothing faster is in use."""
    click.echo(json.dumps(info(), indent=2) if as_json else format_info(info()))
