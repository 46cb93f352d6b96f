"""The factored form on the C++ and CUDA ops: test factors in PyTorch once, training blocks in native code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import tracin_ext
from tracin_ext.backends.factored import Factors, compute_factors, features, image, linear_image
from tracin_ext.grouping import Grouped, group_triples, order_by_head_relation
from tracin_ext.ops import (
    TRACKED,
    TestTensors,
    has_kernel,
    influence_block,
    relation_tables,
    self_influence_block,
)
from tracin_ext.packing import CHUNK, JACOBIAN_BYTES, Part, columns_of, pack, pack_chunks, pack_model, pack_narrow
from tracin_ext.parameters import parameters_of

TEST_CHUNK = 256  # test triples whose factors are computed at a time
FEATURE_COPIES = 7  # of their feature maps while they are
THREAD_BYTES = 8 << 20  # buffers of one thread
HEIGHTS = {"own": 12, "torch": 0}  # rows of a packed panel by the product kernel that TRACIN_PRODUCTS names


@dataclass(frozen=True)
class NativeTests:
    """The test side, and the numbers that come with it."""

    tensors: TestTensors
    heads: int
    statistics: bool


def covers(targets: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for these targets ("sm_90", "PTX" of the last) runs on a GPU of this compute capability."""
    built = [divmod(int(target.removeprefix("sm_")), 10) for target in targets if target != "PTX"]
    same_major = any(major == capability[0] and minor <= capability[1] for major, minor in built)
    return same_major or ("PTX" in targets and capability >= built[-1])


def reason_against(device: torch.device) -> str | None:
    """Why the native backend does not run on a device; None if it does."""
    status = tracin_ext.status()
    if status["reason"]:
        return status["reason"]
    if not has_kernel("influence_block", device.type):
        remedy = "; install tracin-ext again with nvcc on PATH" if device.type == "cuda" else ""
        return f"this build of the native extension has no kernels for {device.type}{remedy}"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    if device.type == "cuda" and not covers(status["cuda_targets"], torch.cuda.get_device_capability(device)):
        return f"this build of the native extension has kernels for {', '.join(status['cuda_targets'])}, not for " + (
            f"{torch.cuda.get_device_name(device)}; install tracin-ext again with CMAKE_ARGS="
            "-DCMAKE_CUDA_ARCHITECTURES=native"
        )
    return None


class NativeBackend:
    """C++ on the CPU, in the instruction set that `tracin_ext.status()` names; CUDA kernels around torch's products.

    On CUDA the image is taken whole: products are cheap there, and one kernel for all windows is simpler.
    """

    name = "native"
    block_device = torch.device("cpu")  # the ops check and group triples there

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, mixed: bool = False
    ) -> None:
        if reason := reason_against(device):
            raise RuntimeError(reason)
        status, self.device, cuda = tracin_ext.status(), device, device.type == "cuda"
        products = os.environ.get("TRACIN_PRODUCTS", "own")
        if products not in HEIGHTS:
            raise RuntimeError(f"TRACIN_PRODUCTS={products} is not one of {', '.join(HEIGHTS)}; correct or unset it")
        self.height = 0 if cuda else HEIGHTS[products]
        self.mixed = mixed and (cuda or status["bfloat16"] and products == "own")
        runs = f"CUDA on {torch.cuda.get_device_name(device)}" if cuda else status["isa"]
        self.label = f"native extension ({runs}{', torch products' if products == 'torch' and not cuda else ''})"
        p = self.parameters = parameters_of(model, layers, dtype, device)
        self.wide = parameters_of(model, layers, torch.float64, device, tables=dtype)
        self.exact = self.wide if dtype == torch.float32 else None
        self.buffer = p.conv_weight.new_empty(0)  # of a block's scores: fresh memory costs page faults
        size, dim = p.conv_weight.element_size(), p.entity.shape[1]
        self.statistics = p.conv_weight.shape[0] * (p.conv_weight[0].numel() + 1)
        self.test_bytes = (p.features + 8 * dim + self.statistics) * size
        self.fixed_bytes = TEST_CHUNK * FEATURE_COPIES * p.features * size
        self.triple_bytes = (6 * dim + 3 * self.statistics) * size
        if cuda:  # v and y of whole blocks, and y gathered by tap, lie in memory
            by_tap = p.features // p.conv_weight.shape[0] * p.conv_weight[0].numel()
            copies = 2.5 if self.mixed else 2  # v again in bfloat16
            self.triple_bytes += int(copies * p.features + by_tap + 4 * dim) * size
        else:
            self.fixed_bytes += torch.get_num_threads() * THREAD_BYTES
        model_tensors, self.sizes, self.parts = pack_model(
            p, self.wide, self.height, not cuda, self.mixed, p.features if cuda else CHUNK
        )
        self.model, self.relation_features = self._with_relation_tables(model_tensors)

    def _with_relation_tables(self, model: Any) -> tuple[Any, Tensor]:
        p, (_, _, tail) = self.parameters, self.parts
        if not len(tail.positions):
            return model, p.conv_weight.new_empty(0)
        dim, relations, channels = p.entity.shape[1], self.sizes.relations, p.conv_weight.shape[0]
        u, v = p.fc_weight.new_empty(relations, dim), p.fc_weight.new_empty(relations, channels * len(tail.positions))
        shape = (relations, -(-self.statistics // 32), dim, 32)
        fits = torch.Size(shape).numel() * p.fc_weight.element_size() <= JACOBIAN_BYTES
        jacobians = p.fc_weight.new_empty(shape if fits and p.form is not None else 0)
        relation_tables(model, self.sizes, u, v, jacobians)
        return model._replace(relation_u=u, jacobians=jacobians), v

    def test_factors(self, triples: Tensor) -> NativeTests:  # [Q, 3]
        """Computed in PyTorch, a chunk of tests at a time, in the order that shares the most forward passes."""
        p, tracked, (head, middle, _) = self.parameters, self.parameters.tracked, self.parts
        triples = triples.to(self.device)
        channels = p.conv_weight.shape[0]
        order = order_by_head_relation(triples)
        ordered = triples[order]
        pairs = group_triples(ordered)
        heads, pair_head = pairs.heads.unique_consecutive(return_inverse=True)
        relations, pair_relation = pairs.relations.unique(return_inverse=True)
        columns: list[tuple[Tensor, ...]] = []
        middle_features = p.fc_weight.new_empty(len(pairs.heads), channels * len(middle.positions))
        head_features = p.fc_weight.new_empty(len(heads), channels * len(head.positions))
        start = 0
        for chunk in ordered.split(TEST_CHUNK) if len(ordered) else ():
            f = compute_factors(p, group_triples(chunk), self.exact)
            group = pairs.group[start : start + len(chunk)]
            if "fc" in tracked:
                middle_features[group] = columns_of(f.features, middle, channels)[f.group]
                head_features[pair_head[group]] = columns_of(f.features, head, channels)[f.group]
            columns.append(self._rows(f))
            start += len(chunk)
        rows = [torch.cat(parts)[order.argsort()] if parts[0].dim() > 1 or len(parts[0]) else parts[0]
                for parts in zip(*columns, strict=True)]  # fmt: skip
        if not rows:
            rows = [p.conv_weight.new_empty(0)] * 8
        delta, linear, *joins = rows
        gram = self.relation_features.view(self.sizes.relations, -1)
        tensors = TestTensors(
            triples.contiguous(), pairs.group[order.argsort()], pair_head, pair_relation,
            pack_chunks(head_features, head, self.height), pack_chunks(middle_features, middle, self.height),
            (gram[relations] @ gram.T).contiguous(), pack(delta, self.height) if delta.numel() else delta,
            pack(linear, self.height) if linear.numel() else linear, *(x.contiguous() for x in joins),
            *self._narrow(head_features, middle_features, delta, linear),
        )  # fmt: skip
        return NativeTests(tensors, len(heads), p.form is not None)

    def _narrow(self, head_features: Tensor, middle_features: Tensor, *rows: Tensor) -> list[Tensor]:
        """The operands in bfloat16 where this backend uses it."""
        if not self.mixed or not rows[-1].numel():
            return [torch.empty(0, dtype=torch.bfloat16)] * 4
        head, middle, _ = self.parts
        return [
            pack_chunks(head_features, head, self.height, packed=pack_narrow),
            pack_chunks(middle_features, middle, self.height, packed=pack_narrow),
            *(pack_narrow(row, self.height) if row.numel() else row.bfloat16() for row in rows),
        ]

    def _rows(self, f: Factors) -> tuple[Tensor, ...]:
        """delta, linear, residual, pull, head, same_head, head_is_tail, same_relation of some tests."""
        p, tracked, (head, _, tail) = self.parameters, self.parameters.tracked, self.parts
        nothing = p.conv_weight.new_empty(0)
        linear = [f.error * float("bn2.bias" in tracked), f.normalised * float("bn2.weight" in tracked)]
        if p.form is not None:
            linear.append(f.statistics @ p.form)
        pull = f.residual[:, None] * f.hidden
        zeros = torch.zeros_like(pull)
        own, joins = f.features[f.group], [nothing] * 5
        if "entity" in tracked:
            swapped = features(p, image(p, Grouped(f.tails, f.relations, f.group, f.tails)))
            joins[:4] = [
                pull, f.head, self._response(own, torch.cat([f.head, zeros], 1), head),
                self._response(swapped, torch.cat([pull, zeros], 1), head),
            ]  # fmt: skip
        if "relation" in tracked:
            joins[4] = self._response(own, torch.cat([zeros, f.relation], 1), tail)
        return (
            f.delta * (p.hidden_gamma * p.hidden_rstd) if "fc" in tracked else nothing,
            torch.cat(linear, 1),
            f.residual if "bias" in tracked else nothing,
            *joins,
        )

    def _response(
        self,
        v: Tensor,  # [Q, F] features whose signs are the mask
        direction: Tensor,  # [Q, 2 D] a change of the raw pixels of one half
        half: Part,
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
        return torch.cat([response @ self._half_weight[half is self.parts[0]].T, through_middle], 1)

    @cached_property
    def _half_weight(self) -> dict[bool, Tensor]:
        """The columns of fc that belong to the head's half (True) and to the relation's (False)."""
        head, _, tail = self.parts
        channels = self.parameters.conv_weight.shape[0]
        return {
            of_head: columns_of(self.parameters.fc_weight, part, channels)
            for of_head, part in ((True, head), (False, tail))
        }

    def scores(self, test: NativeTests, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        p, shape = self.parameters, (len(test.tensors.triples), len(triples))
        if self.buffer.numel() < shape[0] * shape[1]:
            self.buffer = p.conv_weight.new_empty(shape[0] * shape[1])
        scores = self.buffer[: shape[0] * shape[1]].view(shape)
        influence_block(
            self.model, self.sizes, test.tensors, test.heads, test.statistics, "fc.bias" in p.tracked,
            triples.cpu().contiguous(), rate, scores,
        )  # fmt: skip
        return scores

    def free_buffers(self) -> None:
        self.buffer = self.buffer.new_empty(0)

    @cached_property
    def _whole(self) -> Any:
        """The model with the image taken whole, for self-influence."""
        if self.device.type == "cuda":
            return self.model, self.sizes
        return pack_model(self.parameters, self.wide, self.height, False, self.mixed)[:2]

    def self_influence(self, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [B]
        p = self.parameters
        scores = p.conv_weight.new_empty(len(triples))
        tracked = sum(1 << bit for bit, name in enumerate(TRACKED) if name in p.tracked)
        form = p.conv_weight.new_empty(0) if p.form is None else pack(p.form, self.height)
        model, sizes = self._whole
        self_influence_block(model, sizes, form, tracked, triples.cpu().contiguous(), rate, scores)
        return scores
