"""The command `tracin`."""

from __future__ import annotations

import click

from tracin.cli.batch import batch
from tracin.cli.check import check
from tracin.cli.command import Command, Group
from tracin.cli.run import run
from tracin.cli.train import train
from tracin.machine import format_info, info


@click.group("tracin", cls=Group)
def main() -> None:
    """Which training triples made a ConvE model predict a triple: exact TracIn influences."""


@main.command("info", cls=Command)
def show_info() -> None:
    """What runs on this machine, and why nothing faster is in use."""
    click.echo(format_info(info()))


main.add_command(check)
main.add_command(run)
main.add_command(batch)
main.add_command(train)

if __name__ == "__main__":
    main()
