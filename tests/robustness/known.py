"""Faults that exist: each harness must find exactly these, so that the table shrinks as they are mended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One line of the table.

    Args:
        harness: "geometries", "metamorphic", "files", "ops" or "kills".
        key: what the harness calls it.
        reproducer: how to see it once more; for files and ops the numbers that `--only` takes.
        what: what happens.
    """

    harness: str
    key: str
    reproducer: str
    what: str


NO_MIDDLE = "kernel of extent 1 along the stacking axis"
UNWRITTEN = "no window sees both halves: v . v' of the middle is read from memory that nobody wrote"

KNOWN_FAULTS: tuple[Fault, ...] = (
    Fault("geometries", f"native: {NO_MIDDLE}", "kernel 1 x 3 stacked in height", UNWRITTEN),
    Fault("metamorphic", f"native: {NO_MIDDLE}", "kernel 1 x 3 stacked in height", UNWRITTEN),
)


def known(harness: str) -> dict[str, Fault]:
    return {fault.key: fault for fault in KNOWN_FAULTS if fault.harness == harness}


def compare(harness: str, found: Mapping[str, str] | Iterable[str]) -> str:
    """What differs between the faults found (key -> what happened) and those known; empty if nothing does."""
    told = dict(found) if isinstance(found, Mapping) else dict.fromkeys(found, "")
    table = known(harness)
    new = [f"NEW FAULT {key}: {what}" for key, what in told.items() if key not in table]
    gone = [f"NO LONGER OCCURS, remove it from KNOWN_FAULTS: {key}" for key in table if key not in told]
    return "\n".join(new + gone)
