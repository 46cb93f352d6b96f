"""Wrong calls of torch.ops.tracin_ext in a child process: an exception, or a finite and right result.

    python -m tests.robustness.fuzz_ops --calls 2000 --seed 0

Each call is a valid one, as a backend makes it, with one value or two changed: shape, size, dtype, strides, range of
indices, huge and negative numbers, lists of other lengths. A call that is accepted must leave as it was what it does
not write, write nothing beyond its results, give finite numbers, and where the values are the same, the same result.
Besides, each whole number of two samples takes each of a list of small, negative and huge values.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from tests.robustness import known, pool
from tests.robustness.op_calls import (
    LARGEST,
    NUMBERS,
    SAME_VALUES,
    Call,
    Change,
    Place,
    change,
    copied,
    numbered,
    places_of,
    valid_calls,
)  # fmt: skip

CANARY = 64  # values on both sides of what an op writes
MARK = 77
SINGLES = 1_000_000_000  # numbers from here on: a call with the first (second) of two changes alone
GRID_FROM = 10 * SINGLES  # from here on: every number of these samples takes every value of NUMBERS
GRID = ("plain, float32", "everything odd, float64")


class Fuzz:
    """Calls by number; the same number and seed are the same call."""

    def __init__(self, seed: int, calls: list[Call]) -> None:
        self.seed, self.calls = seed, calls
        self.results: dict[int, list[Tensor]] = {}  # of the valid calls
        self.grid = [
            (sample, place, value)
            for sample, call in enumerate(calls)
            if call.sample in GRID
            for place in dict.fromkeys(places_of(call))
            if type(place.get(call.arguments)) is int
            for value in NUMBERS
        ]

    def changes(self, number: int) -> tuple[int, list[tuple[Place, Any, Change]]]:
        """The sample's number, and what is put where. The same number and seed give the same."""
        if number >= GRID_FROM:
            sample, place, value = self.grid[number - GRID_FROM]
            return sample, [(place, value, numbered)]
        which, single = divmod(number, SINGLES)
        rng = Random(f"{self.seed} {single}")
        sample = rng.randrange(len(self.calls))
        call = self.calls[sample]
        places = rng.sample(places_of(call), 1 + (rng.random() < 0.4))
        if len(places) == 2 and places[0].argument == places[1].argument and None in (places[0].item, places[1].item):
            del places[1]  # a whole list and an item of it
        if len(set(places)) < len(places):
            del places[1]
        changed = [(place, *change(place.get(call.arguments), rng)) for place in places]
        return sample, changed if which == 0 else changed[which - 1 : which]

    def name(self, number: int) -> str:
        sample, changed = self.changes(number)
        call = self.calls[sample]
        parts = [f"{place.name(call)} {how.__name__.strip('_')}" for place, _, how in changed]
        return f"{call.op}: " + " and ".join(sorted(parts))

    def judge(self, number: int) -> tuple[str, str, str]:
        try:
            return self.judge_call(number)
        except Exception:
            return "harness", self.name(number), traceback.format_exc()

    def judge_call(self, number: int) -> tuple[str, str, str]:
        sample, changed = self.changes(number)
        call, label = self.calls[sample], self.name(number)
        values: list[Any] = list(call.arguments)
        for place, value, _ in changed:
            place.put(values, value)
        shown = "; ".join(f"{place.name(call)} = {show(value)}" for place, value, _ in changed)
        detail = f"{call.sample}: {shown}"
        rooms = [surrounded(values[i]) if isinstance(values[i], Tensor) else None for i in call.written]
        given = [copied(v) if i not in call.written else v for i, v in enumerate(values)]
        for i, room in zip(call.written, rooms, strict=True):
            given[i] = values[i] if room is None else room[1]
        before = copied([v for i, v in enumerate(given) if i not in call.written])
        try:
            call.overload(*given)
        except Exception as error:
            wrong = pool.one_sentence(str(error).partition("\n")[0])
            ours = isinstance(error, (ValueError, RuntimeError, TypeError, IndexError, MemoryError, OverflowError))
            return ("refused", label, str(error)) if ours and not wrong else ("message", label, f"{detail}: {error!r}")
        if not same(before, [v for i, v in enumerate(given) if i not in call.written]):
            return "input changed", label, detail
        if any(room is not None and not whole(*room) for room in rooms):
            return "written outside", label, detail
        found = [given[i] for i in call.written]
        if not all(bool(x.isfinite().all()) for x in found if x.is_floating_point()):
            return "not finite", label, detail
        if all(how in SAME_VALUES for *_, how in changed) and not close(found, self.valid(sample)):
            return "wrong result", label, detail
        return "right", label, ""

    def valid(self, sample: int) -> list[Tensor]:
        if sample not in self.results:
            call = self.calls[sample]
            given = copied(list(call.arguments))
            call.overload(*given)
            self.results[sample] = [given[i] for i in call.written]
        return self.results[sample]


def surrounded(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Room with marks on both sides, and a copy of a contiguous tensor within it."""
    if not x.is_contiguous() or not 0 < x.numel() <= LARGEST:
        return None
    room = torch.full((x.numel() + 2 * CANARY,), MARK, dtype=x.dtype)
    return room, room[CANARY:-CANARY].view(x.shape).copy_(x)


def whole(room: Tensor, inner: Tensor) -> bool:
    return bool((room[:CANARY] == MARK).all() and (room[-CANARY:] == MARK).all())


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and (one.numel() > LARGEST or torch.equal(one.nan_to_num(), other.nan_to_num()))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    for x, y in zip(found, expected, strict=True):
        largest = float(y.abs().max()) if y.numel() else 0.0
        if x.shape != y.shape or not torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-6 * max(1.0, largest)):
            return False
    return True


def show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} of strides {list(value.stride())}"
    return f"{len(value)} items" if isinstance(value, list) else repr(value)


def faults_of(fuzz: Fuzz, outcomes: list[pool.Outcome], workers: int) -> dict[str, list[pool.Outcome]]:
    """By the change that is to blame: of two, the one that is a fault by itself, here or in another call."""
    faulty = sorted((outcome for outcome in outcomes if outcome.fault), key=lambda outcome: outcome.number)
    pairs = [outcome.number for outcome in faulty if " and " in outcome.label]
    alone = list(pool.run([i * SINGLES + n for n in pairs for i in (1, 2)], fuzz.judge, fuzz.name, workers))
    single = {o.label for o in (*faulty, *alone) if o.fault and " and " not in o.label}
    found: dict[str, list[pool.Outcome]] = {}
    for outcome in faulty:
        op, _, changed = outcome.label.partition(": ")
        blamed = next((f"{op}: {part}" for part in changed.split(" and ") if f"{op}: {part}" in single), outcome.label)
        found.setdefault(blamed, []).append(outcome)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of calls, instead of these")
    parser.add_argument("--also", type=int, nargs="*", default=[], help="numbers of calls, besides these")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the faults: key -> number, detail")
    given = parser.parse_args()
    torch.set_num_threads(1)  # before anything starts a thread: workers are forked
    begin = time.monotonic()
    fuzz = Fuzz(given.seed, valid_calls())
    numbers = list(range(given.calls)) + [GRID_FROM + i for i in range(len(fuzz.grid))]
    numbers = list(dict.fromkeys(numbers + given.also)) if given.only is None else given.only
    outcomes = list(pool.run(numbers, fuzz.judge, fuzz.name, given.workers))
    faults = faults_of(fuzz, outcomes, given.workers)
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.label.partition(":")[0], Counter())[outcome.kind] += 1
    for op, counter in sorted(counts.items()):
        print(f"{op:24}" + "".join(f"{kind:>16} {count:5}" for kind, count in sorted(counter.items())))
    seconds = time.monotonic() - begin
    print(f"{len(outcomes)} calls in {seconds:.0f} s; {len(faults)} faults")
    for key, group in faults.items():
        detail = f"{group[0].kind}, {group[0].detail}; {describe(fuzz, group[0].number)}"
        print(f"  {len(group):3} x {key}; --seed {given.seed} --only {group[0].number}: {detail}")
    print(known.report("ops", {key: group[0].detail for key, group in faults.items()}))
    if given.json:
        told = {
            key: {"number": group[0].number, "detail": f"{group[0].kind}: {group[0].detail}"}
            for key, group in faults.items()
        }
        given.json.write_text(json.dumps({"inputs": len(outcomes), "faults": told}, indent=1))


def describe(fuzz: Fuzz, number: int) -> str:
    sample, changed = fuzz.changes(number)
    call = fuzz.calls[sample]
    return f"{call.sample}: " + "; ".join(f"{place.name(call)} = {show(value)}" for place, value, _ in changed)


if __name__ == "__main__":
    main()
