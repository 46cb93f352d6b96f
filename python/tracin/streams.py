"""stdout and stderr as they are found: closed, pipes whose reader has gone, on full disks, without a width.

What is printed is beside the work: where it can no longer be, the work goes on.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from contextlib import suppress
from typing import IO, Any

from rich.console import Console

from tracin.errors import printable


def console(stderr: bool = False, **settings: Any) -> Console:
    """rich's, as wide as the terminal also where COLUMNS is 0: it would print nothing."""
    made = Console(stderr=stderr, highlight=False, **settings)
    return made if made.width > 0 else console(stderr, width=max(1, shutil.get_terminal_size().columns), **settings)


def say(message: str) -> None:
    """Prints one line on stderr."""
    try:
        print(printable(message), file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


class _ForStdout(io.StringIO):
    """What is drawn as for stdout; rich ends the process when it meets a closed pipe itself."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()


def show(*things: Any) -> None:
    """Prints on stdout what rich can draw; a note says so once if it cannot be printed."""
    drawn = _ForStdout()
    console(file=drawn).print(*things)
    show_text(drawn.getvalue().encode(drawn.encoding, "backslashreplace").decode(drawn.encoding), end="")


def show_text(text: str, end: str = "\n") -> None:
    """Prints text as it is, likewise."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        _silence(sys.stdout)
        say(f"note: nothing more is shown on stdout ({error.strerror}); the work goes on")


def flush() -> OSError | None:
    """Lets Python end without an error of its own about stdout; the error, if what was printed there is lost."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        return error
    return None


def _silence(stream: IO[str]) -> None:
    """What is printed from now on, and what has not been yet, goes nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
