"""Starts a command on several ranks of this machine, as torchrun does."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(arguments: Sequence[str], ranks: int) -> tuple[int, str]:
    """Runs `python -m tracin ARGUMENTS` as so many processes; once one fails, the others are ended.

    Returns:
        The exit code, and the reason where the process that failed first could not give it: it was killed.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks say what is to be said
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        max_restarts=0,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="tracin",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "tracin", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode, ""
        name = str(-failure.exitcode)
        with suppress(ValueError):
            name = signal.Signals(-failure.exitcode).name
        return 128 - failure.exitcode, f"rank {rank} was ended by the signal {name}"
    except SignalException as error:
        return 128 + error.sigval, ""
    return 0, ""
