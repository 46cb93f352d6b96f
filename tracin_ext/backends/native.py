"""The factored form on the C++ and CUDA ops: test factors in PyTorch once, training blocks in native code."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import tracin_ext
from tracin_ext.backends.factored import features
from tracin_ext.grouping import group_triples, order_by_head_relation
from tracin_ext.halves import half_tensors
from tracin_ext.kept import keep
from tracin_ext.losses import Loss, bce
from tracin_ext.ops import (
    FactorTensors,
    FormTensors,
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
        """By `factor_block`, in the order that shares the most forward passes; what halves add, in PyTorch."""
        p, (head_half, middle, _) = self.parameters, self.parts
        triples = triples.to(self.device)
        order = order_by_head_relation(triples)
        kept = keep(self, triples[order])
        rows: list[TestRows] = []
        threads = torch.get_num_threads()
        chunk = max(LEAST_CHUNK, min(TEST_CHUNK // threads, -(-len(order) // threads)))
        for of_chunk in each_in_a_thread(lambda some: self._rows(kept, some), torch.arange(len(order)).split(chunk)):
            rows.append(of_chunk)
        back = order.argsort()
        each = joined(rows, back)
        pairs = group_triples(triples[order])
        heads, pair_head = pairs.heads.unique_consecutive(return_inverse=True)
        relations, pair_relation = pairs.relations.unique(return_inverse=True)
        head_half_v, narrow_head_half_v = self._operands(kept.head_v, head_half)
        middle_v, narrow_middle_v = self._operands(kept.middle_v, middle)
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

    def _rows(
        self,
        f: FactorTensors,
        some: Tensor,  # [n] of its rows
    ) -> TestRows:
        p, tracked, triples = self.parameters, self.parameters.tracked, f.triples[some]
        pair, w = f.pair[some], f.w[some]
        z = f.z[pair]
        e = w[:, None] * p.entity[triples[:, 2]] * (z > 0)
        linear = [e * float("bn2.bias" in tracked), e * f.un[pair] * float("bn2.weight" in tracked)]
        if p.M is not None:
            linear.append(f.S[some] @ p.M)
        scale = p.hidden_gamma * p.hidden_rstd  # delta is a multiple of e, and the training side's is of e as well
        rows = TestRows(
            delta=e * scale.square() if "fc" in tracked else None,
            linear=torch.cat(linear, 1),
            w=w if "bias" in tracked else None,
        )
        if "entity" in tracked:
            c, wz = f.c[some], w[:, None] * z
            of_head = f.head_v[f.pair_head[pair]] > 0 if len(f.head_v) else None
            of_tail = self._head_half_mask(triples[:, 2])
            rows = rows._replace(
                wz=wz,
                c=c,
                along_c=self._along(c, of_head, 0, self._head_half_W),
                along_wz=self._along(wz, of_tail, 0, self._head_half_W),
            )
        if "relation" in tracked:
            of_relation = self.relation_v[triples[:, 1]] > 0
            rows = rows._replace(along_q=self._along(f.q[some], of_relation, 1, self._relation_half_W))
        return rows

    def _head_half_mask(
        self,
        entities: Tensor,  # [n]
    ) -> Tensor | None:  # [n, C P] whether the head's half lets through, with these entities for heads
        if not len(self.parts[0].positions):
            return None
        p = self.parameters
        plane = p.entity[entities].view(-1, *p.plane) - p.image_mean[:, None, None]
        return features(p, plane * p.image_rstd[:, None, None]) > 0

    def _along(
        self,
        direction: Tensor,  # [n, D] a change of the raw pixels of one half
        mask: Tensor | None,  # [n, C P] of the half; None: the image is taken whole
        half: int,  # 0: the head's, 1: the relation's
        W: Tensor,  # [D, C P] the columns of fc that belong to the half
    ) -> Tensor:  # [n, D + X]
        """What a sample's (delta, gradient at the middle's pixels) is multiplied by to give its gradient . direction.

        Through the half, the gradient is linear in delta: u changes by W (mask * conv(direction)). The half's windows
        are all that lie within its plane, in the same order.
        """
        p, dim = self.parameters, direction.shape[1]
        pixels = self.parts[1].pixels.long() - half * dim
        within = (pixels >= 0) & (pixels < dim)
        through_middle = direction[:, pixels.clamp(0, dim - 1)] * within
        if mask is None or not mask.shape[1]:
            return torch.cat([torch.zeros_like(direction), through_middle], 1)
        plane = direction.view(-1, *p.plane) * (p.image_gamma * p.image_rstd)[:, None, None]
        response = (functional.conv2d(plane, p.conv_weight) * p.conv_scale[:, None, None]).flatten(1)
        return torch.cat([(response * mask) @ W.T, through_middle], 1)

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
    def form(self) -> FormTensors:
        p = self.parameters
        if p.M_blocks is None or p.M_rows is None:
            return FormTensors(p.conv_weight.new_empty(0), p.conv_weight.new_empty(0))
        return FormTensors(p.M_blocks, p.M_rows)

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
