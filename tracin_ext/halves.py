"""What gradients at whole embeddings need of an image that has halves: the native ops' HalfTensors.

Sizes: D embedding, C channels, P positions and X pixels of a half, R relations.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tracin_ext.ops import HalfTensors, ModelSizes, ModelTensors, constant, relation_pixels
from tracin_ext.packing import JACOBIAN_BYTES, Part, columns_of
from tracin_ext.parameters import ConvEParameters

WIDTH = 16  # rows of fc by position are filled up to a multiple of it


def by_position(p: ConvEParameters, part: Part) -> Tensor:  # flat [P, C, D rounded up]
    """The columns of fc of a part of the image, by position and channel."""
    channels = p.conv_weight.shape[0]
    columns = columns_of(p.fc_weight, part, channels).view(-1, channels, len(part.positions)).permute(2, 1, 0)
    return functional.pad(columns, (0, -columns.shape[2] % WIDTH)).flatten()


def half_tensors(
    p: ConvEParameters,
    model: ModelTensors,
    sizes: ModelSizes,
    parts: tuple[Part, Part, Part],
    relation_v: Tensor,  # [R, C P] of the relations' half
) -> HalfTensors:
    """All empty where the image is taken whole."""
    nothing = p.conv_weight.new_empty(0)
    if not len(parts[2].positions):
        return HalfTensors(nothing, nothing, nothing, nothing)
    head_fc, relation_fc = by_position(p, parts[0]), by_position(p, parts[2])
    lanes, dim = constant("lanes"), p.entity.shape[1]
    shape = (sizes.relations, -(-len(parts[2].pixels) // lanes), dim, lanes)
    pixels = nothing
    if model.jacobians.numel() or p.M is None:  # else passes of their own give both
        size = nothing.element_size()
        for length in shape:
            size *= length
        if size <= JACOBIAN_BYTES:
            pixels = nothing.new_empty(shape)
            relation_pixels(model, sizes, relation_fc, pixels)
    return HalfTensors(head_fc, relation_fc, relation_v.square().sum(1), pixels)
