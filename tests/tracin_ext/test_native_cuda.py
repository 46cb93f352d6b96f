"""The test side of CUDA's ops, built on the CPU by PyTorch's factors in the place of the kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import EDGES, VARIANTS, pairs_of_triples, random_model
from tracin_ext import ops
from tracin_ext.backends import native_cuda
from tracin_ext.backends.factored import compute_factors
from tracin_ext.backends.native import NativeBackend, NativeTests
from tracin_ext.backends.native_cuda import NativeCudaBackend
from tracin_ext.grouping import group_triples
from tracin_ext.packing import pack
from tracin_ext.parameters import LAYERS

pytestmark = pytest.mark.skipif(tracin_ext.native is None, reason="no native extension")
CPU = torch.device("cpu")
UNPACKED = ("head_half_v", "middle_v", "delta", "linear")  # which the CPU's ops take packed


def test_sides(
    monkeypatch: pytest.MonkeyPatch, variant: str, layers: tuple[str, ...], mixed: bool = False
) -> tuple[NativeTests, NativeTests]:
    """For CUDA, and for the CPU's ops around torch's products, in float64 or mixed precision."""
    dtype, model = torch.float32 if mixed else torch.float64, random_model(variant)
    tests = pairs_of_triples()[0] % torch.tensor([model.num_entities, model.num_relations, model.num_entities])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "no GPU")
    cuda = NativeCudaBackend(model, layers, dtype, CPU, mixed)

    def factors(_: object, __: object, triples: Tensor, *out: Tensor) -> None:
        p = cuda.parameters
        f = compute_factors(p, group_triples(triples))
        first = torch.cat([torch.tensor([True]), f.group[1:] != f.group[:-1]])
        S = [f.S] if p.M is not None else []
        found = f.v, f.z[first], f.w, torch.cat([f.e, f.e_un, *S], 1), f.delta, torch.cat([f.c, f.q], 1)
        for to, values in zip(out, found, strict=True):
            if to.numel():
                to.copy_(values)

    monkeypatch.setattr(native_cuda, "sample_factors", factors)
    monkeypatch.setenv("TRACIN_PRODUCTS", "torch")
    return cuda.test_factors(tests), NativeBackend(model, layers, dtype, CPU).test_factors(tests)


test_sides.__test__ = False  # type: ignore[attr-defined]


def flat(side: ops.TestTensors, name: str, rows: int) -> Tensor:
    """A tensor of CUDA's, its rows packed as the CPU's ops take them around torch's products."""
    values: Tensor = getattr(side, name)
    return pack(values.view(rows, -1), 0) if name in UNPACKED and values.numel() else values.flatten()


@pytest.mark.parametrize("chunk", [3, 1024])
@pytest.mark.parametrize("layers", [LAYERS, ("fc",), ("bn2",), ("entity", "bias"), ("relation", "conv")])
@pytest.mark.parametrize("variant", [*VARIANTS, *EDGES])
def test_the_test_side_is_the_cpus(
    monkeypatch: pytest.MonkeyPatch, variant: str, layers: tuple[str, ...], chunk: int
) -> None:
    monkeypatch.setattr(native_cuda, "TEST_CHUNK", chunk)
    (cuda, cuda_sizes), (cpu, cpu_sizes) = test_sides(monkeypatch, variant, layers)
    assert cuda_sizes == cpu_sizes
    unread = () if "fc" in layers else ("head_half_v", "middle_v")
    for name in {"triples", "pair", "pair_head", "pair_relation", "w", "wz", "c", *UNPACKED} - {*unread}:
        count = {"head_half_v": cpu_sizes.heads, "middle_v": len(cpu.pair_head)}.get(name, len(cpu.triples))
        torch.testing.assert_close(flat(cuda, name, count), getattr(cpu, name).flatten(), rtol=1e-12, atol=1e-12)
    if "fc" in layers and cpu.head_half_v.numel():
        torch.testing.assert_close(cuda.relation_gram, cpu.relation_gram, rtol=1e-12, atol=1e-12)
    assert cuda.along_c.numel() == cuda.along_wz.numel() == 0
    dim = random_model(variant).entity.weight.shape[1]
    assert cuda.along_q.shape == ((len(cpu.triples), 3 * dim) if "relation" in layers else (0,))
    assert not cuda.along_q[..., : 2 * dim].any()
    assert all(operand.is_contiguous() for operand in cuda)


def test_operands_are_there_in_bfloat16_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    (cuda, _), _ = test_sides(monkeypatch, "plain", LAYERS, mixed=True)
    for name in UNPACKED:
        assert torch.equal(getattr(cuda, f"narrow_{name}"), getattr(cuda, name).bfloat16())
