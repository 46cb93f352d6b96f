"""Faults that exist: each harness must find exactly these, so that the table shrinks as they are mended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One line of the table.

    Args:
        harness: "geometries", "metamorphic", "files", "ops", "kills" or "full disks".
        key: what the harness calls it.
        reproducer: how to see it once more; for files and ops the number that `--only` takes, with seed 0.
        what: what happens.
        slow: it takes many seconds to see: the short tests leave it out.
    """

    harness: str
    key: str
    reproducer: str
    what: str
    slow: bool = False


BAD_SIZE = "a number of which only a product or a lower bound is checked, and the product overflows"
NO_CHECKSUM = "the file carries no checksum of its arrays: other values are taken over"
FIRST_OF_TWO = "of two zip members of one name one is read without a word"
NO_NAME = "the message is `No space left on device`, without the file and without a remedy"

KNOWN_FAULTS: tuple[Fault, ...] = (
    Fault("ops", "influence_block: model_sizes[2] numbered", "10000000335", f"crash: {BAD_SIZE}"),
    Fault("ops", "influence_block: model_sizes[3] numbered", "10000000935", f"crash: {BAD_SIZE}"),
    Fault("ops", "self_influence_block: model_sizes[0] numbered", "364", f"reads outside the table: {BAD_SIZE}"),
    Fault("ops", "self_influence_block: model_sizes[3] numbered", "10000000075", f"crash: {BAD_SIZE}"),
    Fault("ops", "relation_tables: model_sizes[4] numbered", "10000000555", f"crash: {BAD_SIZE}"),
    Fault("files", "checkpoints, member_twice: wrong number", "156", FIRST_OF_TWO),
    Fault("files", "checkpoints, values: wrong number", "1454", f"own format: {NO_CHECKSUM}"),
    Fault("files", "checkpoints, objects: traceback KeyError", "364", "a batch norm without its weight is a KeyError"),
    Fault("files", "checkpoints: not finite", "849", "weights or rates that overflow give NaN or infinite influences"),
    Fault("files", "partials, bytes: wrong number", "2144", NO_CHECKSUM),
    Fault("files", "partials, values: wrong number", "84", NO_CHECKSUM),
    Fault("files", "partials, pickle: wrong number", "197", NO_CHECKSUM),
    Fault("files", "partials, member_twice: wrong number", "1548", FIRST_OF_TWO),
    Fault("files", "partials: message", "1707", "texts of a damaged file stand raw in the message"),
    Fault("files", "batch outputs, bytes: wrong number", "143", "--skip-existing looks at both ends of a file only"),
    Fault("files", "edge map, a key of nested arrays: traceback RuntimeError", "1000000037", "RecursionError"),
    Fault("files", "edge map, a key with a number of 5,000 digits: traceback RuntimeError", "1000000038", "ValueError"),
    Fault("files", "line of 2,000,000 tabs: memory", "1000000048", "600 bytes a tab", slow=True),
    Fault("files", "line of 16,000,000 tabs in gzip: crash", "1000000049", "a gzip file of 16 KB aborts the process"),
    Fault("files", "line of 16,000,000 tabs in a dictionary: crash", "1000000050", "the same", slow=True),
    Fault("files", "line of 1 GiB in gzip: hang", "1000000047", "each block is added to a copy of the line", slow=True),
    Fault("files", "512 MiB of empty lines in gzip: hang", "1000000051", "each block is added to a copy", slow=True),
    Fault("kills", "run, killed while writing: something is left lying", "--jobs run", ".NAME.PID.part"),
    Fault(
        "kills", "run self, killed while writing: something is left lying", "--jobs 'run self'", ".NAME.PID.part",
        slow=True,
    ),
    Fault("kills", "train, killed while writing: something is left lying", "--jobs train", ".epoch_002.pt.PID.tmp"),
    Fault("kills", "import, SIGINT: traceback", "--imports 1", "KeyboardInterrupt while modules load is a traceback"),
    *(
        Fault("full disks", f"{output}: the message names no file", "--shares 0", NO_NAME)
        for output in (
            "JSON of mode test", "CSV of mode test", "JSON without top k", "CSV as Parquet", "files per triple",
            "mode single", "mode self", "batch",
        )
    ),
    Fault("full disks", "Parquet: traceback", "--shares 0", "polars' ComputeError is called unexpected"),
)  # fmt: skip


def known(harness: str, slow: bool = False) -> dict[str, Fault]:
    """Faults of a harness by key; those that are slow to see only where asked for."""
    return {fault.key: fault for fault in KNOWN_FAULTS if fault.harness == harness and (slow or not fault.slow)}


def report(harness: str, found: Mapping[str, str]) -> str:
    """What a harness prints at its end."""
    return compare(harness, found, slow=True) or "these are the known faults"


def compare(harness: str, found: Mapping[str, str], slow: bool = False) -> str:
    """What differs between the faults found (key -> what happened) and those known; empty if nothing does."""
    new = [f"NEW FAULT {key}: {what}" for key, what in found.items() if key not in known(harness, slow=True)]
    gone = [f"NO LONGER OCCURS, remove it from KNOWN_FAULTS: {key}" for key in known(harness, slow) if key not in found]
    return "\n".join(new + gone)
