"""The command `tracin`; also `python -m tracin`, which torchrun starts: `torchrun --nproc-per-node 2 -m tracin ...`."""

from __future__ import annotations

import sys
from importlib import import_module

from tracin.errors import INTERRUPTED, INTERRUPTED_TEXT


def start(module: str = "tracin.cli", command: str = "main", prog_name: str = "tracin") -> None:
    """Runs a command; an interrupt while its modules load is one line, as later ones are."""
    try:
        getattr(import_module(module), command)(prog_name=prog_name)
    except KeyboardInterrupt:
        print(f"tracin: error: {INTERRUPTED_TEXT}", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    start()
