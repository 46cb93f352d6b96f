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


KNOWN_FAULTS: tuple[Fault, ...] = ()


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
