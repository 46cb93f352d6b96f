"""The factored form on CUDA: the kernels of csrc/cuda around torch's products, test factors by the kernels as well.

The image is taken whole: products are cheap there, and one kernel for all windows is simpler. Only v . v', the largest
product by far, is taken in parts: the head's half for distinct heads, the middle for distinct (head, relation), the
relation's half from a table.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from tracin_ext.backends.factored import features, image
from tracin_ext.backends.native import NativeBackend, NativeTests
from tracin_ext.grouping import Grouped, group_triples, order_by_head_relation
from tracin_ext.ops import HalfTensors, TestSizes, TestTensors, sample_factors
from tracin_ext.packing import columns_of, pack_model

TEST_CHUNK = 1024  # test triples whose factors are computed at a time
RELATION_CHUNK = 1024  # relations, likewise


class NativeCudaBackend(NativeBackend):
    """On one GPU."""

    keeps_factors = False

    def _choose_products(self, mixed: bool) -> None:
        self.height, self.mixed = 0, mixed
        self.label = f"native extension (CUDA on {torch.cuda.get_device_name(self.device)})"

    def _pack(self) -> None:
        p = self.parameters
        self.model, self.sizes, self.parts = pack_model(
            p, self.wide, 0, False, self.mixed, chunk=p.features, apart=True
        )
        size, channels = p.conv_weight.element_size(), p.conv_weight.shape[0]
        by_tap = p.features // channels * p.conv_weight[0].numel()
        # v and y of whole blocks, v of parts once more, and y gathered by tap, lie in memory.
        self.triple_bytes += (3 * p.features + by_tap + 4 * p.entity.shape[1]) * size
        self.fixed_bytes = TEST_CHUNK * self.triple_bytes

    @property
    def halves(self) -> HalfTensors:
        return HalfTensors(*[self.parameters.conv_weight.new_empty(0)] * len(HalfTensors._fields))

    @cached_property
    def _relation_half_v(self) -> Tensor:  # [R, C P]
        """v of the relation's half of the image, of every relation."""
        p, channels = self.parameters, self.parameters.conv_weight.shape[0]
        parts = []
        for relations in torch.arange(self.sizes.relations, device=self.device).split(RELATION_CHUNK):
            nothing = torch.zeros_like(relations)
            v = features(p, image(p, Grouped(nothing, relations, nothing, nothing)))
            parts.append(columns_of(v, self.parts[2], channels))
        return torch.cat(parts)

    def test_factors(self, triples: Tensor) -> NativeTests:  # [Q, 3]
        """By the kernels, a chunk of tests at a time, in the order that shares the most forward passes."""
        p, device = self.parameters, self.device
        triples = triples.cpu()
        order = order_by_head_relation(triples)
        ordered = triples[order].contiguous()
        pairs = group_triples(ordered)
        heads, pair_head = pairs.heads.unique_consecutive(return_inverse=True)
        relations, pair_relation = pairs.relations.unique(return_inverse=True)
        pair_of_test = pairs.group[order.argsort()]
        by_relation = (pair_relation * len(pair_relation))[pair_of_test].add(pair_of_test).argsort(stable=True)
        through_image = bool({"entity", "relation"} & p.tracked)
        (head_half, middle, _), channels = self.parts, p.conv_weight.shape[0]
        dim, with_fc, apart = p.entity.shape[1], "fc" in p.tracked, len(self.parts[0].positions) > 0
        new = p.conv_weight.new_empty
        v_of_heads = new(len(heads), channels * len(head_half.positions)) if with_fc and apart else new(0)
        v_of_pairs = new(len(pairs.heads), channels * len(middle.positions)) if with_fc else new(0)
        z = new(len(ordered), dim)
        w, delta = new(len(ordered)), new(len(ordered), dim)
        linear = new(len(ordered), 2 * dim + (self.size_S if p.M is not None else 0))
        cq = new(len(ordered) if through_image else 0, 2 * dim)
        group, row_of_head = pairs.group.to(device), pair_head.to(device)
        for start in range(0, len(ordered), TEST_CHUNK):
            rows = slice(start, min(start + TEST_CHUNK, len(ordered)))
            first, last = int(pairs.group[start]), int(pairs.group[rows.stop - 1])
            v, pair_z = new(last + 1 - first, p.features), new(last + 1 - first, dim)
            sample_factors(
                self.model, self.sizes, ordered[rows], v, pair_z, w[rows], linear[rows], delta[rows], cq[rows]
            )
            z[rows] = pair_z[group[rows] - first]
            if with_fc:
                v_of_pairs[first : last + 1] = columns_of(v, middle, channels) if apart else v
            if with_fc and apart:  # rows of one head are equal
                v_of_heads[row_of_head[first : last + 1]] = columns_of(v, head_half, channels)
        linear[:, :dim] *= float("bn2.bias" in p.tracked)
        linear[:, dim : 2 * dim] *= float("bn2.weight" in p.tracked)
        if p.M is not None:
            linear[:, 2 * dim :] = linear[:, 2 * dim :] @ p.M
        back = order.argsort()
        to_file = back.to(device)

        def operands(rows: Tensor) -> tuple[Tensor, Tensor]:
            return rows.flatten(), rows.flatten().bfloat16() if self.mixed else new(0).bfloat16()

        linear, narrow_linear = operands(linear[to_file])
        delta, narrow_delta = operands((delta * self.model.hidden[4])[to_file] if with_fc else new(0))
        middle_v, narrow_middle_v = operands(v_of_pairs)
        head_half_v, narrow_head_half_v = operands(v_of_heads)
        nothing, through_entity = new(0), "entity" in p.tracked
        along_q = new(0)
        if "relation" in p.tracked:
            along_q = torch.cat([cq.new_zeros(len(cq), 2 * dim), cq[:, dim:]], 1)[to_file]
        gram = with_fc and apart
        tensors = TestTensors(
            triples=triples.to(device).contiguous(),
            pair=group[to_file],
            pair_head=row_of_head,
            pair_relation=pair_relation.to(device),
            by_relation=by_relation.to(device),
            head_half_v=head_half_v,
            narrow_head_half_v=narrow_head_half_v,
            middle_v=middle_v,
            narrow_middle_v=narrow_middle_v,
            relation_gram=self._relation_half_v[relations.to(device)] @ self._relation_half_v.T if gram else nothing,
            delta=delta,
            narrow_delta=narrow_delta,
            linear=linear,
            narrow_linear=narrow_linear,
            w=w[to_file] if "bias" in p.tracked else nothing,
            wz=(w[:, None] * z)[to_file] if through_entity else nothing,
            c=cq[to_file, :dim] if through_entity else nothing,
            along_c=nothing,
            along_wz=nothing,
            along_q=along_q,
        )
        return NativeTests(tensors, TestSizes(len(heads), p.M is not None, "fc.bias" in p.tracked))
