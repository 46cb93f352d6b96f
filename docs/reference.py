"""Writes docs/reference.md, the page of all commands and flags, from their definitions: python -m docs.reference."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from tracin.cli import main

PAGE = Path(__file__).with_name("reference.md")
VERSION = "`tracin --version` says which version this is, `tracin NAME --help` what follows here."
SCRIPTS = {"run": "run_tracin.py", "batch": "batch_tracin_with_filtering.py"}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Those of groups by both names, after the group."""
    yield from commands_of(main, "")


def commands_of(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name="tracin")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None:
            yield before + name, command
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{before}{name} ")


def page() -> str:
    parts = [
        "# Commands and flags",
        "Written by `python -m docs.reference` from the definitions of the commands.",
        VERSION,
    ]
    for name, command in commands():
        parts += section(name, command)
    return "\n\n".join(parts) + "\n"


def section(name: str, command: click.Command) -> Iterator[str]:
    yield f"## tracin {name}"
    if name in SCRIPTS:
        script = SCRIPTS[name]
        yield f"Also `python {script}`, in the folder of the scripts, and `python -m {script.removesuffix('.py')}`."
    yield inspect.cleandoc(command.help or "")
    options = [option for option in command.params if isinstance(option, click.Option)]
    yield "\n".join(["| flag | value | default | meaning |", "|---|---|---|---|", *map(row, options)])


def row(option: click.Option) -> str:
    flags = " / ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return f"| {flags} | {value(option)} | {default(option)} | {cell(option.help or '')} |"


def value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return ", ".join(map(str, option.type.choices))
    names = {"integer range": "number", "integer": "number", "float range": "number", "float": "number"}
    kind = names.get(option.type.name, option.type.name) if option.nargs == 1 else str(option.metavar)
    return kind + (", several" if option.multiple else "")


def default(option: click.Option) -> str:
    if option.required:
        return "required"
    if option.is_flag and option.secondary_opts:
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    shown = option.default is not None and not option.is_flag and not option.multiple
    return f"{option.default}" if shown and isinstance(option.default, str | int | float) else ""


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


if __name__ == "__main__":
    PAGE.write_text(page())
