"""Seeded changes of what a checkpoint holds: entries gone, of other types, shapes and values, and odd settings."""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from tests.robustness.mutations import Mutation

ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e300, -0.5, float("nan"), float("inf"), "", "text", "1e-3", "nan", "\ud800", [], {}, (),
    [1], {"a": 1}, {1: "a"}, b"bytes", torch.tensor(3), torch.tensor([1.0, 2.0]), 10**5000, "x" * 10_000, ["a", "a"],
)  # fmt: skip
ODD_KEYS = ("", "\x00", "\ud800", "x" * 5000, "fc.weight", "bn1.weight", "a\nb", "\x1b[31m", "0", "_metadata")


def _content(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _on_object(change: Callable[[Any, Random], None]) -> Mutation:
    def mutate(data: bytes, rng: Random) -> bytes:
        legacy = data[:2] != b"PK"
        content = _content(data)
        change(content, rng)
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
        return stream.getvalue()

    mutate.__name__ = change.__name__
    return mutate


def state_of(content: Any) -> dict[str, Any]:
    for key in ("state_dict", "model_state_dict"):
        if key in content:
            return content[key]
    return content


@_on_object
def entry_missing(content: Any, rng: Random) -> None:
    state = state_of(content)
    for key in rng.sample(sorted(state), rng.choice([1, 1, 2])):
        del state[key]


@_on_object
def entry_renamed(content: Any, rng: Random) -> None:
    state = state_of(content)
    key = rng.choice(sorted(state))
    state[rng.choice([*ODD_KEYS, key + ".x", key.upper(), "module." + key])] = state.pop(key)


@_on_object
def entry_added(content: Any, rng: Random) -> None:
    where = rng.choice([content, state_of(content)])
    where[rng.choice([*ODD_KEYS, 0, 1.5, (1, 2), None])] = rng.choice([*ODD_VALUES, torch.zeros(3)])


@_on_object
def entry_of_another_type(content: Any, rng: Random) -> None:
    state = state_of(content)
    state[rng.choice(sorted(state))] = rng.choice(ODD_VALUES)


@_on_object
def tensor_of_another_shape(content: Any, rng: Random) -> None:
    def change(x: Tensor) -> Tensor:
        return rng.choice(
            [
                lambda: x.flatten(), lambda: x[None], lambda: x[..., None], lambda: x.flatten()[:0], lambda: x.sum(),
                lambda: x[1:] if x.dim() else x, lambda: x.mT if x.dim() > 1 else x, lambda: torch.cat([x[None]] * 2),
                lambda: torch.cat([x, x]) if x.dim() else x, lambda: x.new_empty(0), lambda: x.new_zeros(2, 0, 3),
            ]
        )()  # fmt: skip

    _change_tensor(content, rng, change)


@_on_object
def tensor_of_another_dtype(content: Any, rng: Random) -> None:
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2]
    _change_tensor(content, rng, lambda x: x.to(rng.choice(kinds)))


@_on_object
def tensor_of_another_layout(content: Any, rng: Random) -> None:
    def change(x: Tensor) -> Tensor:
        x = x.float()
        return rng.choice(
            [
                lambda: x.to_sparse(), lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
                lambda: x.mT.contiguous().mT if x.dim() > 1 else x, lambda: x.expand(3, *x.shape),
                lambda: torch.nn.Parameter(x), lambda: x.to("meta"),
            ]
        )()  # fmt: skip

    _change_tensor(content, rng, change)


@_on_object
def value_that_is_no_weight(content: Any, rng: Random) -> None:
    def change(x: Tensor) -> Tensor:
        x = x.clone().float()
        x.view(-1)[rng.randrange(x.numel())] = rng.choice([torch.nan, torch.inf, 1e10, -1e30, 3e38, -1.0, 0.0])
        return x

    _change_tensor(content, rng, change)


@_on_object
def large_weights(content: Any, rng: Random) -> None:
    _change_tensor(content, rng, lambda x: x.float() * rng.choice([1e10, 1e20, 1e-30, 0.0]))


def _change_tensor(content: Any, rng: Random, change: Callable[[Tensor], Tensor]) -> None:
    state = state_of(content)
    names = [name for name in sorted(state) if isinstance(state[name], Tensor) and state[name].numel()]
    name = rng.choice(names)
    state[name] = change(state[name])


@_on_object
def odd_setting(content: Any, rng: Random) -> None:
    """Of our own format its fields; elsewhere names that programs store beside the weights."""
    value = rng.choice(ODD_VALUES)
    state = state_of(content)
    if state is content:
        state = dict(content)
        content.clear()
        content["state_dict"] = state
    config = content.get("model_config")
    choice = rng.random()
    if isinstance(config, dict) and choice < 0.4:
        config[rng.choice(sorted(config))] = value
    elif choice < 0.7 and len(content) > 1:
        content[rng.choice([key for key in content if key not in ("state_dict", "model_state_dict")])] = value
    else:
        names = ("learning_rate", "lr", "epoch", "args", "config", "model_config", "embedding_height", "stack", "type")
        content[rng.choice(names)] = value


OBJECTS: tuple[Mutation, ...] = (
    entry_missing, entry_renamed, entry_added, entry_of_another_type, tensor_of_another_shape, tensor_of_another_dtype,
    tensor_of_another_layout, value_that_is_no_weight, large_weights, odd_setting,
)  # fmt: skip
