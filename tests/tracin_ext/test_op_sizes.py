"""Numbers and indices far outside what an op can take: each call is refused or gives finite numbers, none crashes.

A process of its own makes the calls; it prints how many ended how.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tracin_ext.test_ops import ARGUMENTS, flattened, native, op
from tracin_ext.ops import has_kernel

ROOT = Path(__file__).resolve().parents[2]
EXTREMES = (
    -(2**63), -(2**62), -(2**31), -1, 0, 1, 2, 7, 12, 13, 2**31 - 1, 2**31, 2**32, 2**40, 2**59, 2**60, 2**61, 2**62,
    2**63 - 1,
)  # fmt: skip
PAIRS = 300  # calls with two changes, of each op and variant
VARIANTS = ("plain", "kernel larger than an embedding", "no window sees both halves")
WRITTEN = ("scores", "u", "v", "jacobians", "best", "best_index", "norms", "signs", "sketches")
WRITTEN += ("reached", "bounds", "count")

Place = tuple[str, int | None]  # an argument, and of a list the item


def value_at(arguments: dict[str, Any], place: Place) -> Any:
    argument, item = place
    return arguments[argument] if item is None else arguments[argument][item]


def with_value(arguments: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    argument, item = place
    if item is None:
        return arguments | {argument: value}
    return arguments | {argument: [value if i == item else old for i, old in enumerate(arguments[argument])]}


def is_index(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64) and value.numel() > 0


def places_of(arguments: dict[str, Any]) -> list[Place]:
    """Of whole numbers, and of tensors of indices."""
    single: list[Place] = [(name, None) for name in arguments]
    listed = [(name, i) for name, value in arguments.items() if isinstance(value, list) for i in range(len(value))]
    return [p for p in single + listed if type(value_at(arguments, p)) is int or is_index(value_at(arguments, p))]


def changed(value: Any, extreme: int, rng: Random) -> Any:
    """The number itself, or a tensor with one index changed to it, in its type."""
    if not isinstance(value, Tensor):
        return extreme
    limits = torch.iinfo(value.dtype)
    index = value.clone()
    index.view(-1)[rng.randrange(index.numel())] = max(limits.min, min(limits.max, extreme))
    return index


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    rng = Random(0)
    for name, make in ARGUMENTS.items():
        if not has_kernel(name, "cpu"):
            continue
        for variant in VARIANTS if name not in ("merge_top_k", "rows_in_reach") else [None]:  # which take no model
            made = make() if variant is None else make(variant=variant)
            arguments = {key: flattened(value) for key, value in made.items()}
            places = places_of(arguments)
            for place in places:
                for extreme in EXTREMES:
                    yield name, with_value(arguments, place, changed(value_at(arguments, place), extreme, rng))
            for _ in range(PAIRS):
                both = arguments
                for place in rng.sample(places, 2):
                    extreme = rng.choice(EXTREMES)
                    both = with_value(both, place, changed(value_at(both, place), extreme, rng))
                yield name, both


def end_of(name: str, arguments: dict[str, Any]) -> str:
    written = {key: arguments[key].clone() for key in WRITTEN if isinstance(arguments.get(key), Tensor)}
    try:
        op(name)(**(arguments | written))
    except ValueError:
        return "refused"
    return "finite" if all(x.isfinite().all() for x in written.values()) else "not finite"


@native
@pytest.mark.slow
def test_extreme_numbers_and_indices_are_refused_or_harmless() -> None:
    command = [sys.executable, "-m", "tests.tracin_ext.test_op_sizes"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    ends = json.loads(process.stdout)
    assert set(ends) == {"refused", "finite"}
    assert ends["refused"] > 2000


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(Counter(end_of(name, arguments) for name, arguments in calls())))
