"""The command `tracin`; also `python -m tracin`, which torchrun starts: `torchrun --nproc-per-node 2 -m tracin ...`."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from tracin.errors import INTERRUPTED, INTERRUPTED_TEXT
from tracin.startup import load_later, timed


def start(module: str = "tracin.cli", command: str = "main", prog_name: str = "tracin", **defaults: Any) -> None:
    """Runs a command, with other defaults of its options if given; an interrupt while its modules load is one line."""
    hold_streams()
    try:
        with timed("PyTorch"):
            import_module("torch")
        with timed("tracin"):
            load_later("polars")  # a fifth of a second, of which questions to an index have no use
            run = getattr(import_module(module), command)
        run(prog_name=prog_name, default_map=defaults)
    except KeyboardInterrupt:
        print(f"tracin: error: {INTERRUPTED_TEXT}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def hold_streams() -> None:
    """Closed standard streams keep their numbers: a file that is opened later would get what is printed.

    Writing to stdout fails then, also by the name /dev/stdout: its number is that of a folder.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            if name != "stdin":
                setattr(sys, name, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))
            if name == "stdout":
                folder = os.open(os.sep, os.O_RDONLY)
                os.dup2(folder, number)
                os.close(folder)


if __name__ == "__main__":
    start()
