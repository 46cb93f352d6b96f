"""Valid calls of every op, taken from what the backends really call, and ways to make one argument wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tracin
from tests.samples.models import random_model, random_triples

NAMESPACE = "tracin_ext"
HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**59, 2**60, 2**61, 2**62, 2**63 - 1)
LARGEST = 1 << 24  # values of a tensor that is copied
NUMBERS = (0, -1, 1, 2, 3, 7, 12, 13, -(2**31), -(2**62), -(2**63), *HUGE)
# For many test triples alone, or writing lists; tests/tracin_ext/test_op_sizes.py tries their numbers and indices.
OF_PAIRS = {"factor_block", "norm_block", "pair_scores", "bounded_top_k", "rows_in_reach", "table_scores"}
VARIANTS = ("plain", "kernel larger than an embedding", "everything odd", "inverse relations at odd rows")


@dataclass(frozen=True)
class Call:
    """A call with the values that its arguments had before it."""

    op: str
    arguments: tuple[Any, ...]  # tensors, lists of tensors, lists of numbers, numbers
    sample: str  # what it came from

    @property
    def overload(self) -> Any:
        return getattr(getattr(torch.ops, NAMESPACE), self.op).default

    @property
    def names(self) -> list[str]:
        return [argument.name for argument in self.overload._schema.arguments]

    @property
    def written(self) -> list[int]:
        """Positions of the arguments that the op writes, as its schema says."""
        schema = self.overload._schema.arguments
        return [i for i, a in enumerate(schema) if a.alias_info is not None and a.alias_info.is_write]


def registered() -> set[str]:
    """Ops that have a kernel for the CPU, but for those of single pairs."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for name in torch._C._dispatch_get_all_op_names() if has_kernel(name, "CPU")]
    ours = {name.partition("::")[2].partition(".")[0] for name in names if name.startswith(f"{NAMESPACE}::")}
    return ours - OF_PAIRS


def copied(value: Any) -> Any:
    """Tensors expanded beyond memory stay as they are: no two values of them differ."""
    if isinstance(value, Tensor):
        return value if value.numel() > LARGEST else value.clone(memory_format=torch.preserve_format)
    return [copied(item) for item in value] if isinstance(value, (list, tuple)) else value


class Recorder(TorchDispatchMode):
    """Keeps the calls of our ops that pass by."""

    def __init__(self, sample: str) -> None:
        super().__init__()
        self.sample, self.calls = sample, []  # type: ignore[var-annotated]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, op = func._schema.name.partition("::")
        if space == NAMESPACE:
            given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | (kwargs or {})
            values = tuple(copied(given[a.name]) for a in func._schema.arguments)
            self.calls.append(Call(op, values, self.sample))
        return func(*args, **(kwargs or {}))


def valid_calls() -> list[Call]:
    """One call of each op for each variant and precision."""
    found: list[Call] = []
    for variant in VARIANTS:
        for precision in ("float32", "float64", "mixed"):
            recorder = Recorder(f"{variant}, {precision}")
            with recorder:
                ti = tracin.TracIn(
                    random_model(variant), 0.5, backend="native", precision=precision, device="cpu", progress=False
                )
                ti.top_k(random_triples(9), random_triples(3, seed=1), k=4)
                ti.self_influence(random_triples(5))
            firsts = {call.op: call for call in reversed(recorder.calls) if call.op not in OF_PAIRS}
            found += firsts.values()
    missing = registered() - {call.op for call in found}
    assert not missing, f"no backend calls {missing}"
    return found


@dataclass(frozen=True)
class Place:
    """One value of a call: an argument, or an item of a list."""

    argument: int
    item: int | None

    def get(self, arguments: tuple[Any, ...]) -> Any:
        value = arguments[self.argument]
        return value if self.item is None else value[self.item]

    def put(self, arguments: list[Any], value: Any) -> None:
        if self.item is None:
            arguments[self.argument] = value
        else:
            arguments[self.argument] = [value if i == self.item else x for i, x in enumerate(arguments[self.argument])]

    def name(self, call: Call) -> str:
        name = call.names[self.argument]
        return name if self.item is None else f"{name}[{self.item}]"


def places_of(call: Call) -> list[Place]:
    """Numbers come several times: they are few among the tensors, and they have many values."""
    found = []
    for i, value in enumerate(call.arguments):
        found += [Place(i, None)]
        if isinstance(value, list):
            found += [Place(i, item) for item in range(len(value))]
    numbers = [place for place in found if type(place.get(call.arguments)) is int]
    return found + numbers * (len(found) // max(1, 2 * len(numbers)))


Change = Callable[[Any, Random], Any]


def _strided(x: Tensor, rng: Random) -> Tensor:
    """The same values, not contiguous."""
    wide = torch.stack([x, torch.full_like(x, 77)], -1)
    return wide[..., 0]


def _offset(x: Tensor, rng: Random) -> Tensor:
    """The same values, contiguous, at an odd place of a storage."""
    room = torch.full((x.numel() + 8,), 77, dtype=x.dtype)
    part = room[3 : 3 + x.numel()].view(x.shape)
    return part.copy_(x)


def _transposed(x: Tensor, rng: Random) -> Tensor:
    return x.mT.contiguous().mT if x.dim() >= 2 else _strided(x, rng)


def _longer(x: Tensor, rng: Random) -> Tensor:
    axis = rng.randrange(x.dim()) if x.dim() else 0
    return torch.cat([x, x.narrow(axis, 0, min(1, x.shape[axis]))], axis) if x.dim() else x[None]


def _shorter(x: Tensor, rng: Random) -> Tensor:
    axis = rng.randrange(x.dim()) if x.dim() else 0
    return x.narrow(axis, 0, max(0, x.shape[axis] - 1)).contiguous() if x.dim() else x


def _empty(x: Tensor, rng: Random) -> Tensor:
    shape = rng.choice([(0,), (0, *x.shape[1:]), (*x.shape[:-1], 0), (0, 0)])
    return x.new_empty(shape)


def _huge_empty(x: Tensor, rng: Random) -> Tensor:
    huge = rng.choice(HUGE)
    return x.new_empty(rng.choice([(0, huge), (huge, 0), (0, huge, 0), (huge, 0, huge)]))


def _expanded(x: Tensor, rng: Random) -> Tensor:
    """Sizes beyond memory by strides of 0."""
    return x.new_ones(1).expand(rng.choice([2**20, 2**40, 2**60]))


def _other_dimensions(x: Tensor, rng: Random) -> Tensor:
    return rng.choice([x.flatten(), x[None], x[..., None], x.new_ones(())])


def _other_dtype(x: Tensor, rng: Random) -> Tensor:
    kinds = (
        torch.float32,
        torch.float64,
        torch.int32,
        torch.int64,
        torch.bfloat16,
        torch.float16,
        torch.uint8,
        torch.bool,
    )
    return x.to(rng.choice([kind for kind in kinds if kind != x.dtype]))


def _index_outside(x: Tensor, rng: Random) -> Tensor:
    """Of indices: one value is out of any range; of other numbers: one is large."""
    if not x.numel() or x.dtype == torch.bool:
        return x
    x = x.clone()
    bad: list[float] = [1e3]
    if not x.is_floating_point():
        bad = [-1, -(2**31), 2**31 - 1, int(x.max()) + 1] + [2**40, 2**62, -(2**62)] * (x.dtype == torch.int64)
    x.view(-1)[rng.randrange(x.numel())] = rng.choice(bad)
    return x


def _other_indices(x: Tensor, rng: Random) -> Tensor:
    return x.flip(0) if x.dim() else x


SAME_VALUES: tuple[Change, ...] = (_strided, _offset, _transposed)  # accepted, they must give the same result
TENSORS: tuple[Change, ...] = (
    *SAME_VALUES, _longer, _shorter, _empty, _huge_empty, _expanded, _other_dimensions, _other_dtype, _index_outside,
    _other_indices,
)  # fmt: skip


def numbered(value: Any, rng: Random) -> Any:
    return rng.choice([n for n in (*NUMBERS, value + 1, value - 1, 2 * value) if abs(n) < 2**63 or n == -(2**63)])


def _no_items(value: list[Any], rng: Random) -> list[Any]:
    return rng.choice([[], value[:-1], value[1:], value + value[-1:]])


def _items_swapped(value: list[Any], rng: Random) -> list[Any]:
    value = list(value)
    if len(value) > 1:
        a, b = rng.sample(range(len(value)), 2)
        value[a], value[b] = value[b], value[a]
    return value


def change(value: Any, rng: Random) -> tuple[Any, Change]:
    if isinstance(value, Tensor):
        how: Change = rng.choice(TENSORS)
    elif isinstance(value, list):
        how = rng.choice((_no_items, _items_swapped))
    elif isinstance(value, bool):
        how = _negated
    elif isinstance(value, int):
        how = numbered
    else:
        how = _other_float
    return how(value, rng), how


def _negated(value: bool, rng: Random) -> bool:
    return not value


def _other_float(value: float, rng: Random) -> float:
    return rng.choice([0.0, -1.0, 2.0, 1e-30])
