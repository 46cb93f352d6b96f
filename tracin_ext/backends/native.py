"""The factored form on the C++ ops: test factors in PyTorch once, training blocks in native code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import tracin_ext
from tracin_ext.backends.factored import compute_factors
from tracin_ext.grouping import group_triples
from tracin_ext.ops import TRACKED, ModelTensors, TestTensors, influence_block, self_influence_block
from tracin_ext.parameters import ConvEParameters, parameters_of

TILE = 512  # training triples that one thread works on at a time
TEST_CHUNK = 512  # test triples whose factors are computed at a time


def taps_of(p: ConvEParameters) -> Tensor:  # [P, J] int32
    """Pixel (head's first, then relation's) under each tap of the filter at each position."""
    planes, rows, columns = p.plane
    pixels = torch.arange(2 * planes * rows * columns, dtype=torch.float64).view(2, planes, rows, columns)
    image = torch.cat([pixels[0], pixels[1]], dim=1 if p.stack == "height" else 2)
    return functional.unfold(image[None], p.conv_weight.shape[2:])[0].T.to(torch.int32).contiguous()


def pack_model(
    p: ConvEParameters,
    wide: ConvEParameters,  # the same in float64, tables excepted
) -> ModelTensors:
    """Folds the batch norms into the convolution and the hidden layer, in float64, then rounds to p's type."""
    planes, rows, columns = p.plane
    channels, taps = p.conv_weight.shape[0], p.conv_weight[0].numel()
    per_tap = taps // planes

    def by_pixel(x: Tensor) -> Tensor:  # [I] -> [X]
        return x.repeat_interleave(rows * columns).repeat(2)

    filters = wide.conv_weight.reshape(channels, taps) * wide.conv_scale[:, None]
    kernel = filters * wide.image_gamma.repeat_interleave(per_tap)
    shift = filters @ wide.image_beta.repeat_interleave(per_tap) + wide.conv_shift
    pixel = torch.stack([by_pixel(wide.image_mean), by_pixel(wide.image_rstd)])
    scale = wide.hidden_gamma * wide.hidden_rstd
    norm_offset = (wide.fc_bias - wide.hidden_mean) * wide.hidden_rstd
    offset = norm_offset * wide.hidden_gamma + wide.hidden_beta
    hidden = torch.stack([scale, offset, wide.hidden_rstd, norm_offset, scale])
    nothing = torch.empty(0)
    settled = (pixel, kernel, shift, hidden[:2]) if p.dtype == torch.float32 else (nothing,) * 4
    return ModelTensors(
        p.entity.contiguous(), p.relation.contiguous(), nothing if p.bias is None else p.bias, taps_of(p),
        pixel.to(p.dtype), kernel.to(p.dtype), shift.to(p.dtype),
        (kernel * wide.image_rstd.repeat_interleave(per_tap)).to(p.dtype), p.fc_weight.contiguous(),
        p.fc_weight.T.contiguous(), hidden.to(p.dtype), *(x.contiguous() for x in settled),
    )  # fmt: skip


class NativeBackend:
    """C++ on the CPU, in the instruction set that `tracin_ext.status()` names."""

    name = "native"
    devices = ("cpu",)

    def __init__(self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device) -> None:
        status = tracin_ext.status()
        if not status["available"]:
            raise RuntimeError(status["reason"])
        if device.type not in self.devices:
            raise RuntimeError(f"this build has no native kernels for {device.type}")
        self.label = f"native extension ({status['isa']})"
        p = self.parameters = parameters_of(model, layers, dtype, device)
        wide = parameters_of(model, layers, torch.float64, device, tables=dtype)
        self.exact = wide if dtype == torch.float32 else None
        self.model = pack_model(p, wide)
        size = p.conv_weight.element_size()
        statistics = p.conv_weight.shape[0] * (p.conv_weight[0].numel() + 1)
        self.test_bytes = (p.features + 6 * p.entity.shape[1] + statistics) * size
        self.triple_bytes = 0  # tiles are held by threads, not by triples

    def test_factors(self, triples: Tensor) -> TestTensors:  # [Q, 3]
        """Computed in PyTorch, a chunk of tests at a time, in the order that shares the most forward passes."""
        p, tracked = self.parameters, self.parameters.tracked
        grouped = group_triples(triples)
        nothing = p.conv_weight.new_empty(0)
        parts = []
        for chunk in triples.split(TEST_CHUNK):
            f = compute_factors(p, group_triples(chunk), self.exact)
            linear = [f.error * float("bn2.bias" in tracked), f.normalised * float("bn2.weight" in tracked)]
            if p.form is not None:
                linear.append(f.statistics @ p.form)
            fc, entity, relation = ("fc" in tracked), ("entity" in tracked), ("relation" in tracked)
            parts.append((
                f.features[f.group] if fc else nothing,
                f.delta * (p.hidden_gamma * p.hidden_rstd) if fc else nothing,
                torch.cat(linear, 1),
                f.residual if "bias" in tracked else nothing,
                f.residual[:, None] * f.hidden if entity else nothing,
                f.head if entity else nothing,
                f.relation if relation else nothing,
            ))  # fmt: skip
        features, *rest = (torch.cat(columns).contiguous() for columns in zip(*parts, strict=True))
        if len(features):
            first = torch.ones_like(grouped.group, dtype=torch.bool)
            first[1:] = grouped.group[1:] != grouped.group[:-1]
            features = features[first]
        else:
            features = features.new_empty(0, p.features)
        return TestTensors(triples.contiguous(), grouped.group, features, *rest)

    def scores(self, test: TestTensors, triples: Tensor) -> Tensor:  # [B, 3] -> [Q, B]
        p = self.parameters
        scores = p.conv_weight.new_zeros(len(test.triples), len(triples))
        fc_bias = "fc.bias" in p.tracked
        influence_block(self.model, p.relation_step, test, fc_bias, triples.contiguous(), 1.0, scores, TILE)
        return scores

    def self_influence(self, triples: Tensor) -> Tensor:  # [B, 3] -> [B]
        p = self.parameters
        scores = p.conv_weight.new_zeros(len(triples))
        tracked = sum(1 << bit for bit, name in enumerate(TRACKED) if name in p.tracked)
        form = p.conv_weight.new_empty(0) if p.form is None else p.form
        self_influence_block(self.model, p.relation_step, form, tracked, triples.contiguous(), 1.0, scores, TILE)
        return scores
