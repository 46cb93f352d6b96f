"""The command `tracin`; also `python -m tracin`, which torchrun starts: `torchrun --nproc-per-node 2 -m tracin ...`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from tracin.errors import INTERRUPTED, INTERRUPTED_TEXT


def start(module: str = "tracin.cli", command: str = "main", prog_name: str = "tracin", **defaults: Any) -> None:
    """Runs a command, with other defaults of its options if given; an interrupt while its modules load is one line."""
    try:
        getattr(import_module(module), command)(prog_name=prog_name, default_map=defaults)
    except KeyboardInterrupt:
        print(f"tracin: error: {INTERRUPTED_TEXT}", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    start()
