"""How every command ends and speaks: one line on stderr for what went wrong, exit code not 0, no traceback."""

from __future__ import annotations

import errno
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from tracin import startup, streams
from tracin.distributed.ranks import RankLost, Ranks, ranks_of_environment
from tracin.errors import INTERRUPTED, INTERRUPTED_TEXT, InputError, LibraryWarning
from tracin.influence.memory import out_of_memory
from tracin.streams import say

ARGUMENTS = "tracin.arguments"  # in Context.meta: the command's name and arguments, from which it can be started again

# Arguments of the library that errors may be about, and the flags that set them.
FLAGS = {
    "accurate": "--accurate",
    "backend": "--backend",
    "batch_size": "--batch-size",
    "device": "--device",
    "direction": "--direction",
    "last_layer_names": "--last-layer-names",
    "label_smoothing": "--label-smoothing",
    "layers": "--num-last-layers",
    "learning_rates": "--learning-rate",
    "loss": "--loss",
    "margin": "--margin",
    "memory_limit": "--memory-limit",
    "method": "--method",
    "normalize": "--normalize",
    "query": "--query",
    "query_direction": "--query-direction",
}

debug_option = click.Option(
    ["--debug"],
    is_flag=True,
    expose_value=False,
    help="Show the traceback of an error, and what was imported in how much time.",
)


def describe(error: BaseException) -> tuple[str, int]:
    """One sentence for the user, and the exit code."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message()} (see {error.ctx.command_path} --help)", error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return INTERRUPTED_TEXT, INTERRUPTED
    text = str(error)
    if out_of_memory(error):
        return "out of memory; take a smaller --memory-limit or --batch-size, or --top-k to keep fewer results", 1
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EBADF) and not error.filename:
        return f"the output was closed before everything was written to it ({error.strerror})", 1
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 1
    if isinstance(error, InputError | OSError | RankLost):
        return text, 1
    return f"unexpected {type(error).__name__}: {text}; --debug shows the traceback", 1


def tell(error: BaseException, message: str) -> None:
    """Prints the error, once for all ranks of the run."""
    ranks = this_rank()
    if ranks.speaks(common=isinstance(error, InputError | click.ClickException | KeyboardInterrupt)):
        say(f"tracin: error: {by_rank()}" + " ".join(line.strip() for line in message.splitlines()))
        ranks.spoken()


def this_rank() -> Ranks:
    """Alone where the environment is wrong, which is an error of its own."""
    try:
        return ranks_of_environment()
    except InputError:
        return Ranks()


def by_rank() -> str:
    """How the messages of a rank other than the first begin."""
    rank = this_rank().rank
    return f"rank {rank}: " if rank else ""


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Takes the place of warnings.showwarning, which prints the line of code."""
    if not isinstance(message, LibraryWarning):
        say(f"tracin: warning: {by_rank()}{message}")


@contextmanager
def warned_once(ranks: Ranks) -> Iterator[None]:
    """Around what warns of the same on every rank."""
    with warnings.catch_warnings():
        if not ranks.first:
            warnings.simplefilter("ignore")
        yield


@contextmanager
def speaking_of_flags(entity_to_id: Path | None, relation_to_id: Path | None) -> Iterator[None]:
    """Errors about an argument of the library name its flag instead, those about a dictionary its file as well."""
    names = dict(FLAGS)
    if entity_to_id is not None:
        names["entity_to_id"] = f"the entity dictionary {entity_to_id}"
    if relation_to_id is not None:
        names["relation_to_id"] = f"the relation dictionary {relation_to_id}"
    try:
        yield
    except InputError as error:
        if error.argument not in names:
            raise
        raise InputError(error.calling_it(names[error.argument])) from error


class Command(click.Command):
    """A command whose errors are one line each, caught here and nowhere else; has the flag --debug."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = [str(self.name), *args]
        return super().parse_args(ctx, args)

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = show_warning
                code = super().main(arguments, prog_name, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except (Exception, KeyboardInterrupt) as error:
            if "--debug" in arguments and not isinstance(error, click.ClickException):
                traceback.print_exc()
            message, code = describe(error)
            tell(error, message)
            streams.flush()
        if "--debug" in arguments:
            say("debug: importing " + ", ".join(f"{name} {taken:.2f} s" for name, taken in startup.seconds.items()))
        if (lost := streams.flush()) is not None:
            message, code = describe(lost)
            tell(lost, message)
        sys.exit(code if isinstance(code, int) else 0)


class Group(Command, click.Group):
    """Commands under one name; errors of all of them end here.

    `modules` names those that are imported when they are asked for: tracin.cli.NAME holds the command NAME.
    """

    def __init__(self, *args: Any, modules: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.modules = modules

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        if debug_option not in cmd.params:
            cmd.params.append(debug_option)
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self.modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.modules and cmd_name not in self.commands:
            with startup.timed(f"tracin {cmd_name}"):
                self.add_command(getattr(import_module(f"tracin.cli.{cmd_name}"), cmd_name))
        return super().get_command(ctx, cmd_name)
