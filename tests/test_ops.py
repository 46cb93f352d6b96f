"""Every op registered under torch.ops.tracin_ext: schema, kernel, fake kernel, typed function, checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tracin_ext import ops

STATUS = tracin_ext.status()
native = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")

# Found, not listed: an op that is registered but has no samples below fails.
REGISTERED = sorted(
    name.removeprefix("tracin_ext::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("tracin_ext::")
)

N, R, D, C, J, P = 11, 3, 6, 3, 4, 40
F, S = C * P, C * (J + 1)


def model_tensors(dtype: torch.dtype, *, bias: bool = True, settle: bool = True) -> ops.ModelTensors:
    """A checkpoint of random numbers; `settle`: with the float64 copies that settle ReLU's kink."""
    exact = [(2, 2 * D), (C, J), (C,), (2, D)] if settle else [(0,)] * 4
    taps = torch.randint(0, 2 * D, (P, J), dtype=torch.int32)
    shapes = [(N, D), (R, D), (N if bias else 0,), (P, J), (2, 2 * D), (C, J), (C,), (C, J), (D, F), (F, D), (5, D)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    tensors[3] = taps
    return ops.ModelTensors(*tensors, *(torch.randn(shape, dtype=torch.float64) for shape in exact))


def triples(count: int) -> Tensor:  # [count, 3]
    return torch.stack([torch.randint(0, bound, (count,)) for bound in (N, R, N)], 1)


def factors_of_tests(dtype: torch.dtype, Q: int, *, tables: bool = True) -> ops.TestTensors:
    """Test factors of random numbers; without `tables` only the terms of bn2, as if nothing else were tracked."""
    G = 2
    rows = [torch.randn((Q, D) if tables else (0,), dtype=dtype) for _ in range(4)]
    features = torch.randn((G, F), dtype=dtype) if tables else torch.empty(0, 0, dtype=dtype)
    linear = torch.randn((Q, 2 * D + (S if tables else 0)), dtype=dtype)
    residual = torch.randn((Q if tables else 0,), dtype=dtype)
    group = torch.randint(0, G, (Q,))
    return ops.TestTensors(triples(Q), group, features, rows[0], linear, residual, *rows[1:])


def influence_block_arguments(
    dtype: torch.dtype = torch.float32, B: int = 7, Q: int = 3, tables: bool = True, settle: bool = True
) -> dict[str, Any]:
    return {
        "model": model_tensors(dtype, bias=tables, settle=settle), "relation_step": 1,
        "tests": factors_of_tests(dtype, Q, tables=tables), "fc_bias": tables, "triples": triples(B), "rate": 0.5,
        "scores": torch.zeros(Q, B, dtype=dtype), "tile": 16,
    }  # fmt: skip


def self_influence_block_arguments(
    dtype: torch.dtype = torch.float32, B: int = 7, tables: bool = True, settle: bool = True
) -> dict[str, Any]:
    return {
        "model": model_tensors(dtype, bias=tables, settle=settle), "relation_step": 1,
        "form": torch.randn((S, S) if tables else (0, 0), dtype=dtype), "tracked": 127 if tables else 12,
        "triples": triples(B), "rate": 0.5, "scores": torch.zeros(B, dtype=dtype), "tile": 16,
    }  # fmt: skip


def merge_top_k_arguments(dtype: torch.dtype = torch.float32, Q: int = 3, B: int = 7, k: int = 4) -> dict[str, Any]:
    return {
        "scores": torch.randn(Q, B, dtype=dtype), "columns": torch.arange(B), "order": 0,
        "best": torch.zeros(Q, k, dtype=dtype), "best_index": torch.full((Q, k), -1),
    }  # fmt: skip


def block_samples(arguments: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """No triple, one, more than a vector of 16; both dtypes; everything tracked or little."""
    sizes = [arguments(B=B) for B in (0, 1, 17)]
    return [*sizes, arguments(torch.float64, settle=False), arguments(settle=False), arguments(tables=False)]


SAMPLES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "influence_block": lambda: [*block_samples(influence_block_arguments), influence_block_arguments(Q=0)],
    "self_influence_block": lambda: block_samples(self_influence_block_arguments),
    "merge_top_k": lambda: [
        *(merge_top_k_arguments(B=B, k=k) for B in (0, 1, 7) for k in (1, 10)),
        merge_top_k_arguments(torch.float64), merge_top_k_arguments(Q=0), merge_top_k_arguments(k=0),
    ],
}  # fmt: skip

ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "influence_block": influence_block_arguments,
    "self_influence_block": self_influence_block_arguments,
    "merge_top_k": merge_top_k_arguments,
}

# op, argument that is wrong, its value, what the message must say
WRONG: list[tuple[str, str, Any, str]] = [
    ("influence_block", "triples", torch.zeros(7, 2, dtype=torch.int64), "triples has the wrong shape"),
    ("influence_block", "triples", torch.zeros(7, 3, dtype=torch.int32), "triples has the wrong dtype"),
    ("influence_block", "triples", torch.full((7, 3), N), f"id {N} exceeds the model"),
    ("influence_block", "triples", torch.full((7, 3), -1), "id -1 exceeds the model"),
    ("influence_block", "triples", torch.zeros(3, 7, dtype=torch.int64).t(), "triples is not contiguous"),
    ("influence_block", "scores", torch.zeros(3, 8), "scores has the wrong shape"),
    ("influence_block", "scores", torch.zeros(3, 7, dtype=torch.float64), "wrong dtype"),
    ("influence_block", "model", [torch.zeros(1)], "expected 15 model"),
    ("influence_block", "tile", 0, "tile"),
    ("self_influence_block", "form", torch.zeros(S, S + 1), "form has the wrong shape"),
    ("self_influence_block", "scores", torch.zeros(8), "scores has the wrong shape"),
    ("self_influence_block", "triples", torch.full((7, 3), N), f"id {N} exceeds the model"),
    ("self_influence_block", "model", [torch.zeros(1)], "expected 15 model"),
    ("self_influence_block", "tile", -1, "tile"),
    ("merge_top_k", "order", 3, "order must be 0"),
    ("merge_top_k", "columns", torch.arange(6), "columns has the wrong shape"),
    ("merge_top_k", "best_index", torch.zeros(3, 4), "best_index has the wrong dtype"),
    ("merge_top_k", "scores", torch.randn(7, 3).t(), "scores is not contiguous"),
]


def op(name: str) -> Any:
    return getattr(torch.ops.tracin_ext, name).default


@native
def test_every_registered_op_has_a_function_samples_and_wrong_arguments() -> None:
    assert REGISTERED, "the extension is loaded but registers no op"
    assert set(SAMPLES) == set(ARGUMENTS) == {name for name, *_ in WRONG} == set(REGISTERED)
    assert [name for name in REGISTERED if not callable(getattr(ops, name, None))] == []


@pytest.mark.parametrize("name", REGISTERED)
def test_has_a_cpu_kernel(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"tracin_ext::{name}", "CPU")


@pytest.mark.parametrize("name", REGISTERED)
def test_opcheck(name: str) -> None:
    samples = SAMPLES[name]()
    assert samples
    for sample in samples:
        arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in sample.items()}
        assert set(torch.library.opcheck(op(name), (), arguments).values()) == {"SUCCESS"}


@native
@pytest.mark.parametrize(("name", "argument", "value", "message"), WRONG)
def test_wrong_arguments_are_named(name: str, argument: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        op(name)(**{**ARGUMENTS[name](), argument: value})


@native
@pytest.mark.parametrize("order", ops.ORDERS)
@pytest.mark.parametrize("k", [1, 3, 50])
def test_merge_top_k_equals_a_full_sort(order: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randint(-4, 5, (5, 37)).float()  # many ties
    key = {"absolute": scores.abs(), "proponents": scores, "opponents": -scores}[order]
    ranked = key.argsort(dim=1, descending=True, stable=True)[:, :k]
    for kernel in (tracin_ext.native, None):
        monkeypatch.setattr(tracin_ext, "native", kernel)
        best, index = torch.zeros(5, k), torch.full((5, k), -1)
        for columns in torch.randperm(37).split(10):
            ops.merge_top_k(scores[:, columns].contiguous(), columns, order, best, index)
        assert torch.equal(index[:, : ranked.shape[1]], ranked)
        assert torch.equal(best[:, : ranked.shape[1]], scores.gather(1, ranked))
        assert (index[:, ranked.shape[1] :] == -1).all()
