"""The factored form on the C++ and CUDA ops: test factors in PyTorch once, training blocks in native code."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

import tracin_ext
from tracin_ext.backends.factored import Factors, compute_factors, features, image, linear_image
from tracin_ext.grouping import Grouped, group_triples, order_by_head_relation
from tracin_ext.halves import half_tensors
from tracin_ext.losses import Loss, bce
from tracin_ext.ops import (
    HalfTensors,
    ModelTensors,
    TestSizes,
    TestTensors,
    Tracked,
    constant,
    has_kernel,
    influence_block,
    relation_tables,
    self_influence_block,
)
from tracin_ext.packing import JACOBIAN_BYTES, Part, columns_of, pack, pack_chunks, pack_model, pack_narrow
from tracin_ext.parameters import parameters_of
from tracin_ext.threads import each_in_a_thread

TEST_CHUNK = 256  # test triples whose factors are computed at a time, by all threads together
LEAST_CHUNK = 16  # by one
FEW = 512  # triples whose factors are not worth tables of all relations
FEATURE_COPIES = 7  # of their feature maps while they are
THREAD_BYTES = 8 << 20  # buffers of one thread
PRODUCTS = ("own", "torch")  # product kernels that TRACIN_PRODUCTS names


class NativeTests(NamedTuple):
    """The test side, and the numbers that come with it."""

    tensors: TestTensors
    sizes: TestSizes


class TestRows(NamedTuple):
    """What each test triple adds to TestTensors, before packing; None where no layer that needs it is tracked."""

    delta: Tensor | None  # [n, D]
    linear: Tensor  # [n, 2 D + size_S] or [n, 2 D]
    w: Tensor | None  # [n]
    wz: Tensor | None = None  # [n, D]
    c: Tensor | None = None  # [n, D]
    along_c: Tensor | None = None  # [n, D + X]
    along_wz: Tensor | None = None  # [n, D + X]
    along_q: Tensor | None = None  # [n, D + X]


def joined(
    rows: list[TestRows],
    order: Tensor,  # [Q] of the rows together
) -> TestRows:
    columns: list[Any] = [None if parts[0] is None else torch.cat(parts)[order] for parts in zip(*rows, strict=True)]
    return TestRows(*columns)


def in_float32(model: ModelTensors) -> ModelTensors:
    """The model without products in bfloat16."""
    none = torch.empty(0, dtype=torch.bfloat16)
    parts = {name: getattr(model, name) for name in ("head_half", "middle", "relation_half")}
    return model._replace(**{name: part._replace(narrow_backward=none) for name, part in parts.items()})


def covers(targets: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for these targets ("sm_90", "PTX" of the last) runs on a GPU of this compute capability."""
    built = [divmod(int(target.removeprefix("sm_")), 10) for target in targets if target != "PTX"]
    same_major = any(major == capability[0] and minor <= capability[1] for major, minor in built)
    return same_major or ("PTX" in targets and capability >= built[-1])


def reason_against(device: torch.device) -> str | None:
    """Why the native backend does not run on a device; None if it does."""
    status = tracin_ext.status()
    if status["reason"]:
        return str(status["reason"])
    if not has_kernel("influence_block", device.type):
        remedy = "; install tracin-ext again with nvcc on PATH" if device.type == "cuda" else ""
        return f"this build of the native extension has no kernels for {device.type}{remedy}"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    if device.type == "cuda" and not covers(status["cuda_targets"], torch.cuda.get_device_capability(device)):
        major, minor = torch.cuda.get_device_capability(device)
        return f"this build of the native extension has kernels for {', '.join(status['cuda_targets'])}, not for " + (
            f"{torch.cuda.get_device_name(device)}; install tracin-ext again with CMAKE_ARGS="
            f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}"
        )
    return None


class NativeBackend:
    """C++ on the CPU, in the instruction set that `tracin_ext.status()` names; `native_cuda` has the one of CUDA."""

    name = "native"
    losses: tuple[Loss, ...] | None = (bce,)
    block_device = torch.device("cpu")  # the ops check and group triples there
    keeps_factors = True  # whether there are ops for single pairs

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, mixed: bool = False
    ) -> None:
        if reason := reason_against(device):
            raise RuntimeError(reason)
        self.device = device
        self._choose_products(mixed)
        p = self.parameters = parameters_of(model, layers, dtype, device)
        self.wide = parameters_of(model, layers, torch.float64, device, tables=dtype)
        self.exact = self.wide if dtype == torch.float32 else None
        self.buffer = p.conv_weight.new_empty(0)  # of a block's scores: fresh memory costs page faults
        size, dim = p.conv_weight.element_size(), p.entity.shape[1]
        self.size_S = p.conv_weight.shape[0] * (p.conv_weight[0].numel() + 1)
        self.test_bytes = (p.features + 8 * dim + self.size_S) * size
        threads = torch.get_num_threads()
        tests = max(TEST_CHUNK, LEAST_CHUNK * threads)
        self.fixed_bytes = tests * FEATURE_COPIES * p.features * size + threads * THREAD_BYTES
        self.triple_bytes = (6 * dim + 3 * self.size_S) * size
        self._pack()

    def _choose_products(self, mixed: bool) -> None:
        """Sets how operands are packed, whether some are in bfloat16, and what all of it is called."""
        status, products = tracin_ext.status(), os.environ.get("TRACIN_PRODUCTS", "own")
        if products not in PRODUCTS:
            raise RuntimeError(f"TRACIN_PRODUCTS={products} is not one of {', '.join(PRODUCTS)}; correct or unset it")
        self.height = 0 if products == "torch" else constant("operand_height")
        self.mixed = mixed and status["bfloat16"] and products == "own"
        self.label = f"native extension ({status['isa']}{', torch products' if products == 'torch' else ''})"

    def _pack(self) -> None:
        """Sets the model as the ops take it, its sizes, the parts of its image, and v of the relations' half."""
        p = self.parameters
        self.triple_bytes += 4 * p.entity.shape[1] * p.conv_weight.element_size()  # gradients at both embeddings
        model, self.sizes, self.parts = pack_model(p, self.wide, self.height, True, self.mixed)
        self.lean_model, self.relation_v = self._with_relation_tables(model, False)

    @cached_property
    def model(self) -> ModelTensors:
        """With the relations' jacobians where they fit in memory: worth their time for many triples."""
        return self._with_relation_tables(self.lean_model, True)[0]

    def _with_relation_tables(self, model: ModelTensors, with_jacobians: bool) -> tuple[ModelTensors, Tensor]:
        """And v of the relations' half [R, C P]."""
        p, (_, _, half) = self.parameters, self.parts
        relations = self.sizes.relations
        if not len(half.positions):
            return model, p.conv_weight.new_empty(relations, 0)
        dim, channels, lanes = p.entity.shape[1], p.conv_weight.shape[0], constant("lanes")
        u, v = p.fc_weight.new_empty(relations, dim), p.fc_weight.new_empty(relations, channels * len(half.positions))
        shape = (relations, -(-self.size_S // lanes), dim, lanes)
        fits = torch.Size(shape).numel() * p.fc_weight.element_size() <= JACOBIAN_BYTES
        jacobians = p.fc_weight.new_empty(shape if with_jacobians and fits and p.M is not None else 0)
        relation_tables(model, self.sizes, u, v, jacobians)
        return model._replace(relation_u=u, jacobians=jacobians), v

    def test_factors(self, triples: Tensor) -> NativeTests:  # [Q, 3]
        """Computed in PyTorch, a chunk of tests at a time, in the order that shares the most forward passes."""
        p, (head_half, middle, _) = self.parameters, self.parts
        triples = triples.to(self.device)
        channels = p.conv_weight.shape[0]
        order = order_by_head_relation(triples)
        ordered = triples[order]
        pairs = group_triples(ordered)
        heads, pair_head = pairs.heads.unique_consecutive(return_inverse=True)
        relations, pair_relation = pairs.relations.unique(return_inverse=True)
        v_of_heads = p.fc_weight.new_empty(len(heads), channels * len(head_half.positions))
        v_of_pairs = p.fc_weight.new_empty(len(pairs.heads), channels * len(middle.positions))
        rows: list[TestRows] = []
        start, threads = 0, torch.get_num_threads()
        chunk = max(LEAST_CHUNK, min(TEST_CHUNK // threads, -(-len(ordered) // threads)))
        for of_chunk, v_of_head, v_of_middle in each_in_a_thread(self._test_chunk, ordered.split(chunk)):
            group = pairs.group[start : start + len(of_chunk.linear)]
            if v_of_head is not None and v_of_middle is not None:
                v_of_pairs[group], v_of_heads[pair_head[group]] = v_of_middle, v_of_head
            rows.append(of_chunk)
            start += len(group)
        back = order.argsort()
        each = joined(rows, back)
        head_half_v, narrow_head_half_v = self._operands(v_of_heads, head_half)
        middle_v, narrow_middle_v = self._operands(v_of_pairs, middle)
        delta, narrow_delta = self._operands(each.delta)
        linear, narrow_linear = self._operands(each.linear)
        tensors = TestTensors(
            triples=triples.contiguous(),
            pair=pairs.group[back],
            pair_head=pair_head,
            pair_relation=pair_relation,
            head_half_v=head_half_v,
            narrow_head_half_v=narrow_head_half_v,
            middle_v=middle_v,
            narrow_middle_v=narrow_middle_v,
            relation_gram=(self.relation_v[relations] @ self.relation_v.T).contiguous(),
            delta=delta,
            narrow_delta=narrow_delta,
            linear=linear,
            narrow_linear=narrow_linear,
            w=self._or_empty(each.w),
            wz=self._or_empty(each.wz),
            c=self._or_empty(each.c),
            along_c=self._or_empty(each.along_c),
            along_wz=self._or_empty(each.along_wz),
            along_q=self._or_empty(each.along_q),
        )
        return NativeTests(tensors, TestSizes(len(heads), p.M is not None, "fc.bias" in p.tracked))

    def _test_chunk(self, triples: Tensor) -> tuple[TestRows, Tensor | None, Tensor | None]:
        """Of some tests [n, 3]: their rows, and v [n, C P] of the head's half and of the middle, None without fc."""
        p, (head_half, middle, _), channels = self.parameters, self.parts, self.parameters.conv_weight.shape[0]
        f = compute_factors(p, group_triples(triples), self.exact)
        if "fc" not in p.tracked:
            return self._rows(f), None, None
        of_head, of_middle = (columns_of(f.v, part, channels)[f.group] for part in (head_half, middle))
        return self._rows(f), of_head, of_middle

    def _or_empty(self, x: Tensor | None) -> Tensor:
        return self.parameters.conv_weight.new_empty(0) if x is None else x.contiguous()

    def _operands(
        self,
        matrix: Tensor | None,  # [rows, k]
        part: Part | None = None,  # whose chunks of channels are packed one by one
    ) -> tuple[Tensor, Tensor]:
        """A matrix packed, and once more in bfloat16; empty without a matrix, or where this backend has no bfloat16."""
        nothing = self._or_empty(None)
        if matrix is None:
            return nothing, nothing.bfloat16()

        def packed(by: Callable[[Tensor, int], Tensor]) -> Tensor:
            return by(matrix, self.height) if part is None else pack_chunks(matrix, part, self.height, packed=by)

        return packed(pack), packed(pack_narrow) if self.mixed else nothing.bfloat16()

    def _rows(self, f: Factors) -> TestRows:
        p, tracked, (head_half, _, relation_half) = self.parameters, self.parameters.tracked, self.parts
        linear = [f.e * float("bn2.bias" in tracked), f.e_un * float("bn2.weight" in tracked)]
        if p.M is not None:
            linear.append(f.S @ p.M)
        rows = TestRows(
            delta=f.delta * (p.hidden_gamma * p.hidden_rstd) if "fc" in tracked else None,
            linear=torch.cat(linear, 1),
            w=f.w if "bias" in tracked else None,
        )
        wz, v = f.w[:, None] * f.z, f.v[f.group]
        zeros = torch.zeros_like(wz)
        if "entity" in tracked:
            swapped = features(p, image(p, Grouped(f.tails, f.relations, f.group, f.tails)))
            rows = rows._replace(
                wz=wz,
                c=f.c,
                along_c=self._along(torch.cat([f.c, zeros], 1), v, head_half, self._head_half_W),
                along_wz=self._along(torch.cat([wz, zeros], 1), swapped, head_half, self._head_half_W),
            )
        if "relation" in tracked:
            q = torch.cat([zeros, f.q], 1)
            rows = rows._replace(along_q=self._along(q, v, relation_half, self._relation_half_W))
        return rows

    def _along(
        self,
        direction: Tensor,  # [Q, 2 D] a change of the raw pixels of one half
        v: Tensor,  # [Q, F] whose signs are the mask
        half: Part,
        W: Tensor,  # [D, C P] the columns of fc that belong to the half
    ) -> Tensor:  # [Q, D + X]
        """What a sample's (delta, gradient at the middle's pixels) is multiplied by to give its gradient . direction.

        Through the half, the gradient is linear in delta: u changes by W (mask * conv(direction)).
        """
        p, middle = self.parameters, self.parts[1]
        through_middle = direction[:, middle.pixels.long()]
        if not len(half.positions):
            return torch.cat([torch.zeros_like(direction[:, : p.entity.shape[1]]), through_middle], 1)
        channels = p.conv_weight.shape[0]
        response = columns_of(linear_image(p, direction).flatten(1), half, channels)
        response = response * (columns_of(v, half, channels) > 0)
        return torch.cat([response @ W.T, through_middle], 1)

    @cached_property
    def _head_half_W(self) -> Tensor:  # [D, C P]
        return columns_of(self.parameters.fc_weight, self.parts[0], self.parameters.conv_weight.shape[0])

    @cached_property
    def _relation_half_W(self) -> Tensor:  # [D, C P]
        return columns_of(self.parameters.fc_weight, self.parts[2], self.parameters.conv_weight.shape[0])

    def scores(self, test: NativeTests, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        p, shape = self.parameters, (len(test.tensors.triples), len(triples))
        if self.buffer.numel() < shape[0] * shape[1]:
            self.buffer = p.conv_weight.new_empty(shape[0] * shape[1])
        scores = self.buffer[: shape[0] * shape[1]].view(shape)
        influence_block(self.model, self.sizes, *test, triples.cpu().contiguous(), rate, scores)
        return scores

    def free_buffers(self) -> None:
        self.buffer = self.buffer.new_empty(0)

    @cached_property
    def halves(self) -> HalfTensors:
        """For the gradients at whole embeddings."""
        return half_tensors(self.parameters, self.model, self.sizes, self.parts, self.relation_v)

    @cached_property
    def _of_many(self) -> tuple[ModelTensors, HalfTensors]:
        return in_float32(self.model), self.halves

    @cached_property
    def _of_few(self) -> tuple[ModelTensors, HalfTensors]:
        lean = in_float32(self.lean_model)
        return lean, half_tensors(self.parameters, lean, self.sizes, self.parts, self.relation_v)

    def for_factors(self, triples: int) -> tuple[ModelTensors, HalfTensors]:
        """What the factors of so many triples are computed with, without products in bfloat16.

        Few triples do without what is computed once per relation, until that is there.
        """
        few = triples <= FEW and "_of_many" not in vars(self)
        return self._of_few if few else self._of_many

    @cached_property
    def tracked(self) -> Tracked:
        """Which gradients count towards norms."""
        names = self.parameters.tracked
        return Tracked(*(name.replace("_", ".") in names for name in Tracked._fields))

    @cached_property
    def S_slack(self) -> float:
        """What rounding may take from S^T M S, as a share of |S|^2."""
        p = self.parameters
        return 0.0 if p.M is None else 2 * self.size_S * torch.finfo(p.dtype).eps * float(p.M.abs().sum(1).max())

    @cached_property
    def packed_M(self) -> Tensor:  # [size_S, size_S] packed, or empty
        p = self.parameters
        return p.conv_weight.new_empty(0) if p.M is None else pack(p.M, self.height)

    def self_influence(self, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [B]
        scores = self.parameters.conv_weight.new_empty(len(triples))
        self_influence_block(
            self.model,
            self.sizes,
            self.packed_M,
            self.tracked,
            self.halves,
            triples.cpu().contiguous(),
            rate,
            scores,
        )
        return scores
