"""Every op registered under torch.ops.tracin_ext: schema, kernel, fake kernel, typed function, checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import ENTITIES, RELATIONS, random_model, random_triples
from tracin_ext import ops
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend, covers, reason_against
from tracin_ext.backends.native_cuda import NativeCudaBackend
from tracin_ext.embeddings import sample_gradients
from tracin_ext.grouping import group_triples, order_by_head_relation
from tracin_ext.kept import KeptTriples, keep
from tracin_ext.ops import has_kernel
from tracin_ext.packing import pack, pack_model
from tracin_ext.parameters import LAYERS, parameters_of
from tracin_ext.sketches import sketch_basis

STATUS = tracin_ext.status()
native = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")

# Found, not listed: an op that is registered but has no samples below fails.
REGISTERED = sorted(
    name.removeprefix("tracin_ext::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("tracin_ext::")
)
NO_CUDA = reason_against(torch.device("cuda"))
cuda = pytest.mark.skipif(NO_CUDA is not None, reason=f"no CUDA kernels: {NO_CUDA}")
DEVICES = [pytest.param("cpu", marks=native), pytest.param("cuda", marks=cuda)]
EACH_OP = pytest.mark.parametrize("name", REGISTERED or [pytest.param("any", marks=native)])

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
Q, B, K = 3, 7, 4
LITTLE = ("bn2",)  # layers: no operand but `linear`, no M, no joins


def backend(
    dtype: torch.dtype = torch.float32,
    layers: tuple[str, ...] = LAYERS,
    variant: str = "plain",
    products: str = "own",
    mixed: bool = False,
    device: str = "cpu",
) -> NativeBackend:
    """A random model, packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACIN_PRODUCTS", products)
        kind = NativeCudaBackend if device == "cuda" else NativeBackend
        return kind(random_model(variant), layers, dtype, torch.device(device), mixed)


def sorted_triples(count: int) -> Tensor:  # [count, 3]
    """Equal heads adjacent, as the ops need them."""
    triples = random_triples(count)
    return triples[triples[:, 0].argsort()]


def ordered_triples(count: int) -> Tensor:  # [count, 3]
    triples = random_triples(count)
    return triples[order_by_head_relation(triples)]


def influence_block_arguments(count: int = B, tests: int = Q, **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    side = native_backend.test_factors(random_triples(tests, seed=1))
    return {
        "model": native_backend.model,
        "model_sizes": native_backend.sizes,
        "tests": side.tensors,
        "test_sizes": side.sizes,
        "triples": sorted_triples(count),
        "rate": 0.5,
        "scores": native_backend.parameters.fc_weight.new_zeros(tests, count),
    }


def self_influence_block_arguments(count: int = B, **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    p = native_backend.parameters
    everything = p.M is not None
    return {
        "model": native_backend.model,
        "model_sizes": native_backend.sizes,
        "M": p.conv_weight.new_empty(0) if p.M is None else pack(p.M, native_backend.height),
        "tracked": ops.Tracked(everything, everything, True, True, everything, everything, everything),
        "halves": native_backend.halves,
        "triples": sorted_triples(count),
        "rate": 0.5,
        "scores": p.fc_weight.new_zeros(count),
    }


def relation_tables_arguments(jacobians: bool = True, **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    model = native_backend.model
    return {
        "model": model,
        "model_sizes": native_backend.sizes,
        "u": torch.zeros_like(model.relation_u),
        "v": torch.zeros_like(native_backend.relation_v),
        "jacobians": torch.zeros_like(model.jacobians[: None if jacobians else 0]),
    }


def relation_pixels_arguments(**of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    return {
        "model": native_backend.model,
        "model_sizes": native_backend.sizes,
        "relation_fc": native_backend.halves.relation_fc,
        "pixels": torch.zeros_like(native_backend.halves.relation_pixels),
    }


def factor_block_arguments(count: int = B, **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    return {
        "model": native_backend.model,
        "model_sizes": native_backend.sizes,
        "form": native_backend.form,
        "tracked": native_backend.tracked,
        "halves": native_backend.halves,
        "factors": keep(native_backend, ordered_triples(count)),
        "first": count // 2,
        "count": count - count // 2,
        "S_slack": 1e-6,
    }


def norm_block_arguments(count: int = B, **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    return {
        "model": native_backend.model,
        "model_sizes": native_backend.sizes,
        "form": native_backend.form,
        "tracked": native_backend.tracked,
        "halves": native_backend.halves,
        "basis": sketch_basis(native_backend, random_triples(50), torch.arange(50)),
        "triples": ordered_triples(count),
        "S_slack": 1e-6,
        "norms": native_backend.parameters.conv_weight.new_zeros(count, ops.NORM_PARTS),
        "signs": torch.zeros(count, -(-native_backend.parameters.entity.shape[1] // 32), dtype=torch.int32),
        "sketches": torch.zeros(
            0 if native_backend.parameters.M is None else count, ops.SKETCH_PARTS + 1, dtype=torch.int8
        ),
    }


def pair_scores_arguments(count: int = B, tests: int = Q, **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    kept = KeptTriples([native_backend] * 2, [0.5, 0.25], ordered_triples(count))
    pairs = torch.cartesian_prod(torch.arange(tests), torch.arange(count))
    return {
        "models": [x for model in kept.pair_tensors(random_triples(tests, seed=1)) for x in ops.flat(model)],
        "tracked": [int(flag) for _ in kept.rates for flag in native_backend.tracked],
        "rates": torch.tensor(kept.rates, dtype=torch.float64),
        "pairs": pairs,
        "scores": native_backend.parameters.fc_weight.new_zeros(len(pairs)),
    }


def bounded_top_k_arguments(
    count: int = B, tests: int = Q, k: int = K, order: int = 0, **of_backend: Any
) -> dict[str, Any]:
    arguments = pair_scores_arguments(count, tests, **of_backend)
    native_backend = backend(**of_backend)
    lists = KeptTriples([native_backend] * 2, [0.5, 0.25], ordered_triples(count)).lists
    return {name: arguments[name] for name in ("models", "tracked", "rates")} | {
        "lists": list(lists),
        "order": order,
        "slack": 1e-3,
        "budget": 1 << 40,
        "best": arguments["scores"].new_zeros(tests, min(k, count)),
        "best_index": torch.full((tests, min(k, count)), -1),
        "work": torch.zeros(tests, 4, dtype=torch.int64),
    }


def rows_in_reach_arguments(
    count: int = B, dtype: torch.dtype = torch.float32, dim: int = 37, sketched: bool = True
) -> dict[str, Any]:
    """Of `count` of 9 training triples, of two checkpoints."""
    n = 9

    def checkpoint() -> ops.RowTensors:
        return ops.RowTensors(
            norms=torch.rand(n, ops.NORM_PARTS, dtype=dtype),
            entity=torch.randn(5, dim, dtype=dtype),
            signs=torch.randint(-(2**31), 2**31, (n, -(-dim // 32)), dtype=torch.int32),
            sketches=torch.randint(-128, 128, (n if sketched else 0, ops.SKETCH_PARTS + 1)).to(torch.int8),
            test=torch.rand(ops.NORM_PARTS, dtype=dtype),
            sketch=torch.rand(ops.SKETCH_PARTS + 2, dtype=dtype) / ops.SKETCH_STEPS,
            scaled=torch.randn(2, dim, dtype=dtype),
            squares=torch.rand(2, dim, dtype=dtype),
        )

    return {
        "checkpoints": [x for _ in range(2) for x in checkpoint()],
        "triples": torch.randint(5, (n, 3), dtype=torch.int32),
        "rows": torch.randint(n, (count,), dtype=torch.int32),
        "test": torch.tensor([1, 2, 3]),
        "which": 0,
        "threshold": -torch.inf,
        "slack": 1e-3,
        "reached": torch.zeros(count, dtype=torch.int32),
        "bounds": torch.zeros(count, dtype=dtype),
        "count": torch.zeros(1, dtype=torch.int64),
    }


def table_scores_arguments(count: int = B, queries: int = Q, **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(**of_backend)
    p = native_backend.parameters
    samples = sample_gradients(native_backend, ordered_triples(count)).own
    new, dim = p.conv_weight.new_empty, p.entity.shape[1]
    return {
        "samples": samples,
        "tables": ops.Tables(
            new(len(p.entity) if "entity" in p.tracked else 0, queries, dim).normal_(),
            new(len(p.entity) if "bias" in p.tracked else 0, queries).normal_(),
            new(len(p.relation) if "relation" in p.tracked else 0, queries, dim).normal_(),
        ),
        "scores": new(count, queries).zero_(),
    }


def sample_factors_arguments(count: int = B, device: str = "cuda", **of_backend: Any) -> dict[str, Any]:
    native_backend = backend(device=device, **of_backend)
    p, triples = native_backend.parameters, sorted_triples(count)
    triples = triples[order_by_head_relation(triples)]
    pairs, dim = len(group_triples(triples).heads), p.entity.shape[1]
    new = p.conv_weight.new_zeros
    return {
        "model": native_backend.model,
        "model_sizes": native_backend.sizes,
        "triples": triples,
        "v": new(pairs, p.features),
        "z": new(pairs, dim),
        "w": new(count),
        "linear": new(count, 2 * dim + (native_backend.size_S if p.M is not None else 0)),
        "delta": new(count, dim),
        "cq": new(count if "entity" in p.tracked else 0, 2 * dim),
    }


def merge_top_k_arguments(
    dtype: torch.dtype = torch.float32, tests: int = Q, count: int = B, k: int = K, device: str = "cpu"
) -> dict[str, Any]:
    return {
        "scores": torch.randn(tests, count, dtype=dtype, device=device),
        "index": torch.arange(count, device=device),
        "order": 0,
        "best": torch.zeros(tests, k, dtype=dtype, device=device),
        "best_index": torch.full((tests, k), -1, device=device),
    }


def block_samples(arguments: Callable[..., dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """No triple, one, more than a panel of 32; both dtypes and product kernels; everything tracked or little."""
    few: list[dict[str, Any]] = [
        *({"count": count} for count in (0, 1, 33)),
        {"dtype": torch.float64},
        {"products": "torch"},
        {"layers": LITTLE},
        {"variant": "kernel larger than an embedding"},
        {"variant": "no entity bias"},
    ]
    return [arguments(device=device, **options) for options in few]


SAMPLES: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "influence_block": lambda device: [
        *block_samples(influence_block_arguments, device),
        influence_block_arguments(tests=0, device=device),
        influence_block_arguments(mixed=True, device=device),
    ],
    "self_influence_block": lambda device: block_samples(self_influence_block_arguments, device),
    "relation_tables": lambda device: [
        relation_tables_arguments(device=device),
        relation_tables_arguments(dtype=torch.float64, device=device),
        relation_tables_arguments(jacobians=False, device=device),
        relation_tables_arguments(products="torch", device=device),
        relation_tables_arguments(variant="inverse relations at odd rows", device=device),
    ],
    "relation_pixels": lambda _: [
        relation_pixels_arguments(),
        relation_pixels_arguments(dtype=torch.float64),
        relation_pixels_arguments(products="torch"),
        relation_pixels_arguments(variant="inverse relations at odd rows"),
    ],
    "factor_block": lambda device: block_samples(factor_block_arguments, device),
    "norm_block": lambda device: block_samples(norm_block_arguments, device),
    "pair_scores": lambda device: block_samples(pair_scores_arguments, device),
    "bounded_top_k": lambda device: [
        *block_samples(bounded_top_k_arguments, device),
        bounded_top_k_arguments(tests=0),
        bounded_top_k_arguments(k=0),
        bounded_top_k_arguments(k=100, order=2),
    ],
    "rows_in_reach": lambda _: [
        *(
            rows_in_reach_arguments(count, dtype, dim, sketched) | {"which": which, "threshold": 0.5}
            for dtype in (torch.float32, torch.float64)
            for count, dim, sketched, which in (
                (0, 8, True, 0),
                (1, 1, False, 1),
                (7, 32, True, 2),
                (5000, 33, True, 0),
            )
        ),
    ],
    "table_scores": lambda device: [
        *block_samples(table_scores_arguments, device),
        table_scores_arguments(queries=0),
        table_scores_arguments(queries=1),
    ],
    "sample_factors": lambda device: block_samples(sample_factors_arguments, device),
    "merge_top_k": lambda device: [
        *(merge_top_k_arguments(count=count, k=k, device=device) for count in (0, 1, 7) for k in (1, 10)),
        merge_top_k_arguments(torch.float64, device=device),
        merge_top_k_arguments(tests=0, device=device),
        merge_top_k_arguments(k=0, device=device),
    ],
}

ARGUMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "influence_block": influence_block_arguments,
    "self_influence_block": self_influence_block_arguments,
    "relation_tables": relation_tables_arguments,
    "relation_pixels": relation_pixels_arguments,
    "factor_block": factor_block_arguments,
    "norm_block": norm_block_arguments,
    "pair_scores": pair_scores_arguments,
    "bounded_top_k": bounded_top_k_arguments,
    "rows_in_reach": rows_in_reach_arguments,
    "table_scores": table_scores_arguments,
    "sample_factors": sample_factors_arguments,
    "merge_top_k": merge_top_k_arguments,
}
CPU_ONLY = {"relation_tables", "relation_pixels", "factor_block", "norm_block"}
CPU_ONLY |= {"pair_scores", "bounded_top_k", "rows_in_reach", "table_scores"}


def change(**fields: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A named tuple with some of its fields changed; those of a tuple in it by `change` once more."""
    return lambda value: value._replace(**{name: make(getattr(value, name)) for name, make in fields.items()})


def put(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def flattened(value: Any) -> Any:
    """An argument as the op takes it."""
    if not isinstance(value, tuple):
        return value
    numbers = isinstance(value, ops.ModelSizes | ops.TestSizes | ops.Tracked)
    return list(map(int, value)) if numbers else ops.flat(value)


def call(name: str, arguments: dict[str, Any]) -> None:
    op(name)(**{key: flattened(value) for key, value in arguments.items()})


def last_plus(step: int) -> Callable[[Tensor], Tensor]:
    """The same numbers but for the last, which is `step` more than the largest."""

    def make(x: Tensor) -> Tensor:
        changed = x.clone()
        changed.view(-1)[-1] = x.max() + step
        return changed

    return make


# op, argument that is wrong, what it is made of the right one by, what the message must say
WRONG: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("influence_block", "triples", put(torch.zeros(B, 2, dtype=torch.int64)), "triples has the wrong shape"),
    ("influence_block", "triples", put(torch.zeros(B, 3, dtype=torch.int32)), "triples has the wrong dtype"),
    ("influence_block", "triples", put(torch.full((B, 3), ENTITIES)), f"id {ENTITIES} exceeds the model"),
    ("influence_block", "triples", put(torch.full((B, 3), -1)), "id -1 exceeds the model"),
    ("influence_block", "triples", put(torch.zeros(3, B, dtype=torch.int64).t()), "triples is not contiguous"),
    ("influence_block", "scores", put(torch.zeros(Q, B + 1)), "scores has the wrong shape"),
    ("influence_block", "scores", put(torch.zeros(Q, B, dtype=torch.float64)), "wrong dtype"),
    ("influence_block", "model", lambda x: ops.flat(x)[:-1], r"model: wrong number of tensors \(33\)"),
    ("influence_block", "model", lambda x: [*ops.flat(x), x.fc], r"model: wrong number of tensors \(35\)"),
    ("influence_block", "model", put([]), r"model: wrong number of tensors \(0\)"),
    ("influence_block", "model", change(kernel=lambda x: x[:0]), "no dimension, no channel or no tap"),
    ("influence_block", "tests", change(by_relation=put(torch.arange(Q) + 1)), "by_relation: out of range"),
    ("influence_block", "tests", lambda x: list(x)[:-1], r"tests: wrong number of tensors \(19\)"),
    ("influence_block", "tests", lambda x: [*x, x.w], r"tests: wrong number of tensors \(21\)"),
    ("influence_block", "model_sizes", change(height=put(7)), "height must be 0 or"),
    ("influence_block", "model_sizes", change(height=put(0)), "has the wrong shape"),
    ("influence_block", "model_sizes", change(head_half_step=put(0)), "head_half_step is 0, must be at least 1"),
    ("influence_block", "model_sizes", change(relations=put(RELATIONS + 1)), "more relations than rows"),
    ("influence_block", "model_sizes", change(relation_step=put(2**62)), "relation_step is 46.*, must be at most 2147"),
    ("influence_block", "model_sizes", change(middle_step=put(6)), "middle_step is 6, must be at most the 5 channels"),
    ("influence_block", "model_sizes", change(head_half_step=put(2**59)), "head_half_step is 57.*, must be at most"),
    ("influence_block", "model_sizes", put([1]), r"model_sizes: wrong number of integers \(1\)"),
    ("influence_block", "model_sizes", lambda x: [*x, 1], r"model_sizes: wrong number of integers \(7\)"),
    ("influence_block", "test_sizes", change(heads=put(-1)), "test_sizes: heads is -1"),
    ("influence_block", "test_sizes", put([1, 1]), r"test_sizes: wrong number of integers \(2\)"),
    ("influence_block", "model", change(entity=Tensor.flatten), "entity has the wrong shape"),
    ("influence_block", "model", change(middle=change(taps=Tensor.flatten)), "middle.taps has the wrong shape"),
    ("influence_block", "model", change(taps=last_plus(1)), "taps: outside the image"),
    ("influence_block", "model", change(head_half=change(taps=last_plus(1))), "head_half.taps: outside the segment"),
    ("influence_block", "model", change(relation_half=change(pixels=last_plus(1))), "half.pixels: outside its part"),
    ("influence_block", "model", change(head_half=change(pixels=last_plus(32))), "head_half.pixels: outside its part"),
    (
        "influence_block",
        "model",
        change(relation_half=change(pixels=torch.zeros_like)),
        "half.pixels: outside its part",
    ),
    ("influence_block", "model", change(middle=change(forward=lambda x: x[1:])), "middle.forward has the wrong shape"),
    ("influence_block", "model", change(middle=change(backward=lambda x: x[1:])), "middle.backward has the wrong"),
    ("influence_block", "model", change(relation_u=lambda x: x[:0]), "relation_u is missing"),
    ("influence_block", "model", change(jacobians=lambda x: x[1:]), "jacobians has the wrong shape"),
    ("influence_block", "model", change(exact_shift=lambda x: x[:0]), "exact_kink needs exact_pixel"),
    ("influence_block", "tests", change(pair=last_plus(1)), "pair: out of range"),
    ("influence_block", "tests", change(pair_head=last_plus(1)), "pair_head: out of range"),
    ("influence_block", "tests", change(pair_relation=last_plus(1)), "pair_relation: out of range"),
    ("influence_block", "tests", change(middle_v=lambda x: x[:0]), "delta needs middle_v"),
    ("influence_block", "tests", change(relation_gram=lambda x: x[:0]), "delta needs head_half_v and relation_gram"),
    ("influence_block", "tests", change(delta=lambda x: x[1:]), "delta has the wrong shape"),
    ("influence_block", "tests", change(along_q=lambda x: x[:, 1:].contiguous()), "along_q has the wrong shape"),
    ("influence_block", "tests", change(wz=lambda x: x[:0]), "along_c needs wz, c and along_wz"),
    (
        "influence_block",
        "tests",
        change(narrow_delta=put(torch.ones(1).bfloat16())),
        "narrow_delta has the wrong shape",
    ),
    (
        "influence_block",
        "tests",
        change(narrow_linear=put(torch.zeros(12 * (2 * 32 + 5 * 10)).bfloat16())),
        "narrow_linear needs narrow_delta|no products in bfloat16",
    ),
    ("influence_block", "test_sizes", change(heads=put(100)), "heads is 100, must be at most the 3 pairs"),
    ("influence_block", "test_sizes", change(heads=put(2**60)), "heads is 11.*, must be at most 2147483647"),
    ("influence_block", "test_sizes", change(fc_bias=put(2)), "fc_bias is 2, must be at most 1"),
    ("influence_block", "tests", change(triples=last_plus(ENTITIES)), "tests: triples: id .* exceeds the model"),
    ("influence_block", "test_sizes", change(has_S=put(False)), "linear has the wrong shape"),
    ("self_influence_block", "M", lambda x: x[1:], "M has the wrong shape"),
    ("self_influence_block", "tracked", put([1] * 6), r"tracked: wrong number of integers \(6\)"),
    ("self_influence_block", "scores", put(torch.zeros(B + 1)), "scores has the wrong shape"),
    ("self_influence_block", "triples", put(torch.full((B, 3), ENTITIES)), f"id {ENTITIES} exceeds the model"),
    ("self_influence_block", "model", lambda x: ops.flat(x)[:-1], "wrong number of tensors"),
    ("self_influence_block", "model_sizes", change(relation_step=put(0)), "relation_step is 0, must be at least 1"),
    ("self_influence_block", "model", change(relation_u=lambda x: x[:0]), "relation_u is missing"),
    ("self_influence_block", "halves", change(head_fc=lambda x: x[:0]), "head_fc or relation_fc is missing"),
    ("self_influence_block", "halves", change(relation_fc=lambda x: x[1:]), "relation_fc has the wrong shape"),
    ("self_influence_block", "halves", change(relation_squares=lambda x: x[:0]), "relation_squares is missing"),
    ("self_influence_block", "halves", change(relation_pixels=lambda x: x[1:]), "relation_pixels has the wrong shape"),
    ("self_influence_block", "halves", lambda x: list(x)[:-1], r"halves: wrong number of tensors \(3\)"),
    ("relation_pixels", "relation_fc", lambda x: x[1:], "relation_fc has the wrong shape"),
    ("relation_pixels", "pixels", lambda x: x[1:], "pixels has the wrong shape"),
    ("relation_pixels", "pixels", Tensor.double, "wrong dtype"),
    ("relation_pixels", "model", lambda x: ops.flat(x)[:-1], "wrong number of tensors"),
    ("relation_tables", "u", lambda x: x[1:], "u has the wrong shape"),
    ("relation_tables", "u", Tensor.double, "wrong dtype"),
    ("relation_tables", "v", lambda x: x[:, 1:].contiguous(), "v has the wrong shape"),
    ("relation_tables", "jacobians", lambda x: x[1:], "jacobians has the wrong shape"),
    ("relation_tables", "model", lambda x: ops.flat(x)[:-1], "wrong number of tensors"),
    ("factor_block", "factors", change(pair=last_plus(1)), "factors: pair: out of range"),
    ("factor_block", "factors", change(pair_head=last_plus(1)), "factors: pair_head: out of range"),
    ("factor_block", "factors", change(S=lambda x: x[:, 1:].contiguous()), "factors: S has the wrong shape"),
    ("factor_block", "factors", change(c=lambda x: x[:0]), "factors: c or q is missing"),
    ("factor_block", "factors", change(middle_v=lambda x: x[:, 1:].contiguous()), "middle_v or head_v has the wrong"),
    ("factor_block", "factors", change(triples=last_plus(ENTITIES)), "factors: triples: an id exceeds the model"),
    ("factor_block", "factors", change(norms=lambda x: x[:, 1:].contiguous()), "norms has the wrong shape"),
    ("factor_block", "factors", lambda x: list(x)[:-1], r"factors: wrong number of tensors \(14\)"),
    ("factor_block", "form", change(blocks=lambda x: x[:, 1:].contiguous()), "blocks has the wrong shape"),
    ("factor_block", "form", change(rows=lambda x: x[:, 1:].contiguous()), "rows has the wrong shape"),
    ("factor_block", "form", change(blocks=lambda x: x[:0]), "form: rows need blocks"),
    ("factor_block", "form", lambda x: [x.blocks], r"form: wrong number of tensors \(1\)"),
    ("factor_block", "S_slack", put(-1.0), "S_slack must not be negative"),
    ("rows_in_reach", "rows", lambda x: x + 9, "rows: out of range"),
    ("rows_in_reach", "rows", lambda x: x - 9, "rows: out of range"),
    ("rows_in_reach", "rows", lambda x: x.long(), "rows has the wrong dtype"),
    ("rows_in_reach", "triples", lambda x: x.long(), "triples has the wrong dtype"),
    ("rows_in_reach", "triples", lambda x: x[1:], "norms has the wrong shape"),
    ("rows_in_reach", "test", lambda x: x[1:], "test has the wrong shape"),
    ("rows_in_reach", "checkpoints", put([]), r"checkpoints: wrong number of tensors \(0\)"),
    ("rows_in_reach", "checkpoints", lambda x: x[:-1], r"checkpoints: wrong number of tensors \(15\)"),
    ("rows_in_reach", "checkpoints", lambda x: [x[0].double(), *x[1:]], "norms has the wrong dtype"),
    ("rows_in_reach", "checkpoints", lambda x: [*x[:2], x[2][:, 1:].contiguous(), *x[3:]], "signs has the wrong shape"),
    ("rows_in_reach", "checkpoints", lambda x: [*x[:3], x[3][1:], *x[4:]], "sketches has the wrong shape"),
    ("rows_in_reach", "checkpoints", lambda x: [*x[:4], x[4][1:], *x[5:]], "test has the wrong shape"),
    ("rows_in_reach", "checkpoints", lambda x: [*x[:5], x[5][1:], *x[6:]], "sketch has the wrong shape"),
    ("rows_in_reach", "checkpoints", lambda x: [*x[:6], x[6][1:], *x[7:]], "scaled has the wrong shape"),
    ("rows_in_reach", "checkpoints", lambda x: [*x[:7], x[7][1:], *x[8:]], "squares has the wrong shape"),
    ("rows_in_reach", "checkpoints", lambda x: [*x[:9], x[9][1:], *x[10:]], "checkpoints have different sizes"),
    ("rows_in_reach", "which", put(3), "which must be 0"),
    ("rows_in_reach", "slack", put(1.0), "slack must be from 0 to 1"),
    ("rows_in_reach", "threshold", put(float("nan")), "threshold is no number"),
    ("rows_in_reach", "reached", lambda x: x[1:], "reached has the wrong shape"),
    ("rows_in_reach", "bounds", lambda x: x[1:], "bounds has the wrong shape"),
    ("rows_in_reach", "count", put(torch.zeros(2, dtype=torch.int64)), "count has the wrong shape"),
    ("norm_block", "form", change(blocks=lambda x: x[1:]), "blocks has the wrong shape"),
    ("norm_block", "form", change(blocks=lambda x: x[:0]), "form: rows need blocks"),
    ("norm_block", "form", put([]), r"form: wrong number of tensors \(0\)"),
    ("norm_block", "S_slack", put(float("nan")), "S_slack must not be negative"),
    ("norm_block", "triples", put(torch.full((B, 3), ENTITIES)), f"id {ENTITIES} exceeds the model"),
    ("norm_block", "triples", put(torch.zeros(B, 2, dtype=torch.int64)), "triples has the wrong shape"),
    ("norm_block", "norms", put(torch.zeros(B, ops.NORM_PARTS + 1)), "norms has the wrong shape"),
    ("norm_block", "norms", put(torch.zeros(B, ops.NORM_PARTS, dtype=torch.float64)), "wrong dtype"),
    ("norm_block", "signs", put(torch.zeros(B, 2, dtype=torch.int32)), "signs has the wrong shape"),
    ("norm_block", "signs", put(torch.zeros(B, 1)), "signs has the wrong dtype"),
    ("norm_block", "basis", lambda x: x[1:], "basis has the wrong shape"),
    ("norm_block", "basis", lambda x: x.float(), "basis has the wrong dtype"),
    ("norm_block", "basis", lambda x: x[:0], "sketches has the wrong shape"),
    ("norm_block", "sketches", lambda x: x[1:], "sketches has the wrong shape"),
    ("norm_block", "sketches", lambda x: x.int(), "sketches has the wrong dtype"),
    ("norm_block", "form", put([torch.zeros(0), torch.zeros(0)]), "basis: no layer below fc is tracked"),
    ("norm_block", "tracked", put([1] * 6), r"tracked: wrong number of integers \(6\)"),
    ("norm_block", "model", change(relation_u=lambda x: x[:0]), "relation_u is missing"),
    ("norm_block", "halves", change(head_fc=lambda x: x[:0]), "head_fc or relation_fc is missing"),
    ("factor_block", "first", put(-1), "rows are out of range"),
    ("factor_block", "count", put(B), "rows are out of range"),
    ("factor_block", "halves", change(head_fc=lambda x: x[:0]), "head_fc or relation_fc is missing"),
    ("pair_scores", "models", lambda x: x[:-1], r"models: wrong number of tensors \(65\)"),
    ("pair_scores", "models", lambda x: [x[0][:, 1:].contiguous(), *x[1:]], "delta_scale has the wrong shape"),
    ("pair_scores", "tracked", lambda x: x[1:], r"tracked: wrong number of integers \(13\)"),
    ("pair_scores", "rates", put(torch.ones(2)), "rates has the wrong dtype"),
    ("pair_scores", "rates", put(torch.ones(0).double()), "rates: no checkpoint"),
    ("pair_scores", "pairs", last_plus(B), "pairs: a row is out of range"),
    ("pair_scores", "scores", lambda x: x[1:], "scores has the wrong shape"),
    ("bounded_top_k", "lists", lambda x: x[1:], "numbers has the wrong dtype"),
    ("bounded_top_k", "lists", lambda x: [*x[:9], last_plus(B)(x[9]), *x[10:]], "lists: a row is out of range"),
    ("bounded_top_k", "lists", lambda x: [*x[:2], last_plus(B)(x[2]), *x[3:]], "lists: a start is out of range"),
    ("bounded_top_k", "lists", lambda x: [*x[:5], x[5][:1], *x[6:]], "relation_from has too few relations"),
    ("bounded_top_k", "order", put(3), "order must be 0"),
    ("bounded_top_k", "slack", put(-1.0), "slack must be from 0 to 1"),
    ("bounded_top_k", "best", put(torch.zeros(Q, B + 1)), "more than there are training triples"),
    ("bounded_top_k", "best_index", lambda x: x[:, 1:].contiguous(), "best_index has the wrong shape"),
    ("bounded_top_k", "work", lambda x: x[:, 1:].contiguous(), "work has the wrong shape"),
    ("table_scores", "samples", lambda x: list(x)[:-1], r"samples: wrong number of tensors \(6\)"),
    ("table_scores", "samples", change(pair=last_plus(B)), "samples: pair: out of range"),
    ("table_scores", "samples", change(by_tail=last_plus(B)), "samples: by_tail: a row is out of range"),
    ("table_scores", "samples", change(by_tail=torch.zeros_like), "samples: by_tail: a row is there twice"),
    ("table_scores", "samples", change(triples=last_plus(ENTITIES)), "samples: triples: an id exceeds the tables"),
    ("table_scores", "samples", change(c=lambda x: x[:0]), "samples: c or q is missing"),
    ("table_scores", "samples", change(z=lambda x: x.double()), "z has the wrong dtype"),
    ("table_scores", "tables", change(entity=lambda x: x[..., 1:].contiguous()), "entity has the wrong shape"),
    ("table_scores", "scores", lambda x: x[1:], "scores has the wrong shape"),
    ("merge_top_k", "order", put(3), "order must be 0"),
    ("merge_top_k", "index", put(torch.arange(B - 1)), "index has the wrong shape"),
    ("merge_top_k", "index", put(torch.arange(B) - 1), "index: a number is negative"),
    ("merge_top_k", "best_index", put(torch.zeros(Q, K)), "best_index has the wrong dtype"),
    ("merge_top_k", "scores", put(torch.randn(B, Q).t()), "scores is not contiguous"),
    ("merge_top_k", "scores", put(torch.randn(B)), "must be matrices"),
]


def fields_of(tensors: tuple[Any, ...], before: str = "") -> list[str]:
    """The names of a named tuple's tensors, those of a tuple in it after its own: in the order of `ops.flat`."""
    names: list[str] = []
    for name, value in tensors._asdict().items():  # type: ignore[attr-defined]
        names += fields_of(value, f"{before}{name}.") if isinstance(value, tuple) else [before + name]
    return names


@native
@pytest.mark.parametrize("argument", ["model", "tests"])
def test_each_field_of_a_wrong_dtype_is_named(argument: str) -> None:
    """So the order of ops.py's tuples is that of csrc/packed.h."""
    arguments = influence_block_arguments()
    right = ops.flat(arguments[argument])
    names = fields_of(arguments[argument])
    assert len(set(names)) == len(right) > 0
    for i, name in enumerate(names):
        wrong = torch.ones(right[i].shape if right[i].numel() else 1, dtype=torch.int8)
        with pytest.raises(ValueError, match=rf"^{re.escape(name)} has the wrong dtype"):
            call("influence_block", arguments | {argument: [*right[:i], wrong, *right[i + 1 :]]})


def op(name: str) -> Any:
    return getattr(torch.ops.tracin_ext, name).default


@native
def test_every_registered_op_has_a_function_samples_and_wrong_arguments() -> None:
    assert REGISTERED, "the extension is loaded but registers no op"
    assert set(SAMPLES) == set(ARGUMENTS) == {name for name, *_ in WRONG + CUDA_WRONG} == set(REGISTERED)
    assert [name for name in REGISTERED if not callable(getattr(ops, name, None))] == []


@EACH_OP
def test_has_a_cpu_kernel(name: str) -> None:
    assert has_kernel(name, "cpu") == (name != "sample_factors")


@pytest.mark.skipif(not STATUS["cuda_targets"], reason="built without nvcc")
@EACH_OP
def test_has_a_cuda_kernel_where_built_with_nvcc(name: str) -> None:
    assert has_kernel(name, "cuda") == (name not in CPU_ONLY)


@pytest.mark.parametrize("device", DEVICES)
@EACH_OP
@pytest.mark.slow
def test_opcheck(name: str, device: str) -> None:
    if not has_kernel(name, device):
        pytest.skip(f"{name} is not for {device}")
    samples = SAMPLES[name](device)
    assert samples
    for sample in samples:
        arguments = {key: flattened(value) for key, value in sample.items()}
        assert set(torch.library.opcheck(op(name), (), arguments).values()) == {"SUCCESS"}


@native
@pytest.mark.parametrize(("name", "argument", "make", "message"), WRONG)
def test_wrong_arguments_are_named(name: str, argument: str, make: Callable[[Any], Any], message: str) -> None:
    arguments = ARGUMENTS[name]()
    with pytest.raises(ValueError, match=message):
        call(name, {**arguments, argument: make(arguments[argument])})


# The same on a GPU: what only it refuses. Values of indices in its memory are not read.
CUDA_WRONG: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("influence_block", "triples", Tensor.cuda, "triples must be on the CPU"),
    ("influence_block", "triples", put(torch.full((B, 3), ENTITIES)), f"id {ENTITIES} exceeds the model"),
    ("influence_block", "model", change(shift=Tensor.cpu), "tensors lie on different devices"),
    ("influence_block", "tests", change(linear=Tensor.cpu), "tensors lie on different devices"),
    ("influence_block", "model_sizes", change(height=put(12)), "height must be 0"),
    ("influence_block", "model_sizes", change(middle_step=put(1)), "middle_step must be all channels"),
    ("influence_block", "tests", change(wz=lambda x: x[:0]), "c needs wz, and wz needs c"),
    ("influence_block", "model", change(head_positions=lambda x: x.repeat(9)), "more than all positions"),
    ("influence_block", "model", change(both_positions=lambda x: x[1:]), "middle_v has the wrong shape"),
    ("influence_block", "tests", change(head_half_v=lambda x: x[1:]), "head_half_v has the wrong shape"),
    ("self_influence_block", "M", Tensor.cpu, "tensors lie on different devices"),
    ("sample_factors", "v", lambda x: x[1:], "v has the wrong shape"),
    ("sample_factors", "z", Tensor.double, "z has the wrong dtype"),
    ("sample_factors", "linear", lambda x: x[:, 1:].contiguous(), "linear has the wrong shape"),
    ("sample_factors", "cq", Tensor.cpu, "tensors lie on different devices"),
    ("merge_top_k", "index", Tensor.cpu, "tensors lie on different devices"),
]


@pytest.mark.parametrize("variant", ["plain", "everything odd"])
def test_packing_for_cuda_is_what_its_kernels_read(variant: str) -> None:
    """Matrices as they are, the whole image in the middle, pixels in order (csrc/cuda/device.h)."""
    model = random_model(variant)
    p, wide = (parameters_of(model, LAYERS, dtype, tables=torch.float32) for dtype in (torch.float32, torch.float64))
    packed, sizes, parts = pack_model(p, wide, 0, halves=False, mixed=True, chunk=p.features, apart=True)
    dim = p.entity.shape[1]
    assert (sizes.height, sizes.middle_step) == (0, p.conv_weight.shape[0])
    assert torch.equal(packed.middle.forward.view(-1, dim), p.fc_weight.T)
    assert torch.equal(packed.middle.backward.view(dim, -1), p.fc_weight)
    assert torch.equal(packed.middle.narrow_backward.view(dim, -1), p.fc_weight.bfloat16())
    assert packed.middle.pixels.tolist() == list(range(2 * dim))
    assert torch.equal(packed.middle.taps, packed.taps)
    assert packed.head_half.taps.numel() == packed.relation_half.taps.numel() == 0
    sees_head = (packed.taps < dim).any(1)
    sees_relation = (packed.taps >= dim).any(1)
    assert packed.head_positions.tolist() == (sees_head & ~sees_relation).nonzero()[:, 0].tolist() != []
    assert packed.both_positions.tolist() == (sees_head & sees_relation).nonzero()[:, 0].tolist() != []
    assert [len(part.positions) for part in parts[:2]] == [len(packed.head_positions), len(packed.both_positions)]


@cuda
@pytest.mark.parametrize(("name", "argument", "make", "message"), CUDA_WRONG)
def test_wrong_arguments_are_named_on_cuda(name: str, argument: str, make: Callable[[Any], Any], message: str) -> None:
    arguments = ARGUMENTS[name](device="cuda")
    with pytest.raises(ValueError, match=message):
        call(name, {**arguments, argument: make(arguments[argument])})


@cuda
def test_halves_and_large_k_are_refused_on_cuda() -> None:
    halves = backend()
    model = [x.cuda() for x in ops.flat(halves.model)]
    arguments = self_influence_block_arguments(device="cuda")
    with pytest.raises(ValueError, match="height must be 0|has the wrong shape|taken whole"):
        call("self_influence_block", {**arguments, "model": model, "model_sizes": halves.sizes})
    most = ops.constant("most_kept")
    with pytest.raises(ValueError, match=f"k must be at most {most}"):
        op("merge_top_k")(**merge_top_k_arguments(k=most + 1, device="cuda"))


@pytest.mark.parametrize(
    ("targets", "capability", "expected"),
    [
        (["sm_80", "sm_90"], (8, 0), True),
        (["sm_80", "sm_90"], (8, 9), True),
        (["sm_80", "sm_90"], (7, 5), False),
        (["sm_80", "sm_90"], (10, 0), False),
        (["sm_80", "sm_90", "PTX"], (10, 0), True),
        ([], (9, 0), False),
        (["sm_90", "PTX"], (8, 6), False),
        (["sm_86"], (8, 0), False),
        (["sm_80", "sm_100", "PTX"], (12, 0), True),
    ],
)
def test_targets_cover_gpus(targets: list[str], capability: tuple[int, int], expected: bool) -> None:
    assert covers(targets, capability) is expected


@native
@pytest.mark.parametrize(
    ("other", "needs"),
    [({"products": "torch"}, "the extension's own products"), ({"dtype": torch.float64}, "float32")],
)
def test_bfloat16_needs_float32_and_own_products(other: dict[str, Any], needs: str) -> None:
    arguments = influence_block_arguments(**other)
    narrow = arguments["model"].middle.backward.bfloat16()  # D is even: no column is filled up
    wrong = change(middle=change(narrow_backward=put(narrow)))
    with pytest.raises(ValueError, match=f"middle.narrow_backward: bfloat16 needs {needs}"):
        call("influence_block", arguments | {"model": wrong(arguments["model"])})


@native
@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
def test_the_text_of_a_failed_call_of_torch_arrives() -> None:
    """From torch 2.13 on; before, its C interface does not tell it."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory, says a test")

    arguments = influence_block_arguments(products="torch")
    told = "out of memory, says a test" if VERSION >= (2, 13) else "a matrix product of torch failed"
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("mm.out", fail, "CPU")
        with pytest.raises(RuntimeError, match=told):
            call("influence_block", arguments)
    call("influence_block", arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("products", ["own", "torch"])
@pytest.mark.parametrize("variant", ["plain", "kernel larger than an embedding"])
def test_both_product_kernels_give_the_factored_scores(products: str, variant: str, device: str) -> None:
    native_backend = backend(torch.float64, variant=variant, products=products, device=device)
    factored = FactoredBackend(random_model(variant), LAYERS, torch.float64, torch.device("cpu"))
    tests, train = random_triples(20, seed=1), sorted_triples(300)  # above 12 a head, and more than a tile
    expected = factored.scores(factored.test_factors(tests), train, 0.5)
    scores = native_backend.scores(native_backend.test_factors(tests), train, 0.5)
    torch.testing.assert_close(scores.cpu(), expected)
    own = native_backend.self_influence(train, 0.5)
    torch.testing.assert_close(own.cpu(), factored.self_influence(train, 0.5))


@native
@pytest.mark.parametrize("layers", [LAYERS, ("entity",), ("relation", "fc")])
@pytest.mark.parametrize("tables", [True, False])
def test_self_influence_by_halves(layers: tuple[str, ...], tables: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tables of the relations, and where they would take too much memory."""
    if not tables:
        monkeypatch.setattr("tracin_ext.backends.native.JACOBIAN_BYTES", 0)
        monkeypatch.setattr("tracin_ext.halves.JACOBIAN_BYTES", 0)
    native_backend = backend(torch.float64, layers)
    assert (native_backend.halves.relation_pixels.numel() > 0) == tables
    factored = FactoredBackend(random_model("plain"), layers, torch.float64, torch.device("cpu"))
    train = sorted_triples(300)
    torch.testing.assert_close(native_backend.self_influence(train, 0.5), factored.self_influence(train, 0.5))


@pytest.mark.parametrize("kernel", [*DEVICES, "torch"])
@pytest.mark.parametrize("order", ops.ORDERS)
@pytest.mark.parametrize("k", [1, 3, 50])
def test_merge_top_k_equals_a_full_sort(kernel: str, order: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "torch":
        monkeypatch.setattr(tracin_ext, "native", None)
    device = "cpu" if kernel == "torch" else kernel
    scores = torch.randint(-4, 5, (5, 37), device=device).float()  # many ties
    scores[scores == 2] = torch.nan  # NaN ranks last
    key = {"absolute": scores.abs(), "proponents": scores, "opponents": -scores}[order].nan_to_num(-torch.inf)
    ranked = key.argsort(dim=1, descending=True, stable=True)[:, :k]
    best, index = torch.zeros(5, k, device=device), torch.full((5, k), -1, device=device)
    for block in torch.randperm(37).split(10):
        ops.merge_top_k(scores[:, block].contiguous(), block, order, best, index)
    filled = ranked.shape[1]
    assert torch.equal(index[:, :filled], ranked)
    torch.testing.assert_close(best[:, :filled], scores.gather(1, ranked), rtol=0, atol=0, equal_nan=True)
    assert (index[:, filled:] == -1).all()
