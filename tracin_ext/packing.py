"""A checkpoint in the form that the native ops read: folded batch norms, three parts of the image, packed operands.

Sizes: D embedding, C channels, J taps of a filter, P positions of a part of the image, X its pixels, R relations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tracin_ext.ops import ModelSizes, ModelTensors, SegmentTensors
from tracin_ext.parameters import ConvEParameters, kink_of

CHUNK = 160  # features of a chunk of products: their panel of 32 lanes fits the first-level cache
JACOBIAN_BYTES = 256 << 20  # tables of all relations may take this much


class Part(NamedTuple):
    """Windows of one part of the image."""

    positions: Tensor  # [P] among all positions of a filter
    pixels: Tensor  # [X] int32, of the image: the head's D first
    taps: Tensor  # [P, J] int32, among those pixels
    step: int  # channels in a chunk of products


def taps_of(p: ConvEParameters) -> Tensor:  # [positions, J] int64
    """Pixel (head's first, then relation's) under each tap of the filter at each position."""
    planes, rows, columns = p.plane
    pixels = torch.arange(2 * planes * rows * columns, dtype=torch.float64).view(2, planes, rows, columns)
    image = torch.cat([pixels[0], pixels[1]], dim=1 if p.stack == "height" else 2)
    return functional.unfold(image[None], p.conv_weight.shape[2:])[0].T.long().contiguous()


def parts_of(p: ConvEParameters, halves: bool, chunk: int) -> tuple[Part, Part, Part]:
    """Head's half, middle, relation's half; all in the middle without `halves`, or if the image has none.

    `chunk`: features of a chunk of products.
    """
    taps = taps_of(p)
    dim, channels = p.entity.shape[1], p.conv_weight.shape[0]
    head_half, relation_half = (taps < dim).all(1), (taps >= dim).all(1)
    if not halves or not head_half.any() or not relation_half.any():
        head_half, relation_half = torch.zeros_like(head_half), torch.zeros_like(relation_half)

    def part(chosen: Tensor) -> Part:
        positions = chosen.nonzero()[:, 0]
        pixels, index = taps[positions].unique(return_inverse=True)
        chunks = -(-channels // max(1, min(channels, chunk // max(1, len(positions)))))
        step = -(-channels // chunks)
        return Part(positions, pixels.int(), index.reshape(len(positions), taps.shape[1]).int().contiguous(), step)

    return part(head_half), part(~(head_half | relation_half)), part(relation_half)


def pack(matrix: Tensor, height: int) -> Tensor:  # [rows, k] -> flat
    """Panels [k][height] of `height` rows, the last one filled up with zeros; height 0: one panel of all rows."""
    rows, k = matrix.shape
    if not height:
        return matrix.T.contiguous().flatten()
    padded = functional.pad(matrix, (0, 0, 0, -rows % height))
    return padded.view(len(padded) // height, height, k).transpose(1, 2).contiguous().flatten()


def pack_narrow(matrix: Tensor, height: int) -> Tensor:  # [rows, k] -> flat bfloat16
    """The same in bfloat16; with a height, neighbours in k in pairs: panels [k / 2][height][2], k filled up to even."""
    if not height:
        return pack(matrix.bfloat16(), height)
    rows, k = matrix.shape
    padded = functional.pad(matrix.bfloat16(), (0, k % 2, 0, -rows % height))
    return padded.view(len(padded) // height, height, padded.shape[1] // 2, 2).transpose(1, 2).contiguous().flatten()


def columns_of(matrix: Tensor, part: Part, channels: int) -> Tensor:  # [rows, all features] -> [rows, C * P]
    by_channel: Tensor = matrix.unflatten(1, (channels, -1))
    return by_channel[:, :, part.positions].flatten(1)


def pack_chunks(
    matrix: Tensor,  # [rows, C * P]
    part: Part,
    height: int,
    transposed: bool = False,
    packed: Callable[[Tensor, int], Tensor] = pack,
) -> Tensor:  # flat
    """The columns of each chunk of channels, or their transpose, packed one after the other."""
    if not matrix.numel():
        return packed(matrix.new_empty(0, 0), height or 1)
    chunks = matrix.split(part.step * len(part.positions), 1)
    return torch.cat([packed(chunk.T if transposed else chunk, height) for chunk in chunks])


def pack_model(
    p: ConvEParameters,
    wide: ConvEParameters,  # the same in float64, tables excepted
    height: int,
    halves: bool,
    mixed: bool = False,
    chunk: int = CHUNK,
    apart: bool = False,
) -> tuple[ModelTensors, ModelSizes, tuple[Part, Part, Part]]:
    """Folds the batch norms into the convolution and the hidden layer, in float64, then rounds to p's type.

    The tables of the relations' half are empty; `tracin_ext.ops.relation_tables` fills them. `apart`: the positions of
    an image that is taken whole are told apart, and the parts returned are those that they would make.
    """
    planes, rows, columns = p.plane
    channels, taps = p.conv_weight.shape[0], p.conv_weight[0].numel()
    per_tap = taps // planes

    def by_pixel(x: Tensor) -> Tensor:  # [I] -> [2 D]
        return x.repeat_interleave(rows * columns).repeat(2)

    filters = wide.conv_weight.reshape(channels, taps) * wide.conv_scale[:, None]
    kernel = filters * wide.image_gamma.repeat_interleave(per_tap)
    pixel_kernel = kernel * wide.image_rstd.repeat_interleave(per_tap)
    shift = filters @ wide.image_beta.repeat_interleave(per_tap) + wide.conv_shift
    pixel = torch.stack([by_pixel(wide.image_mean), by_pixel(wide.image_rstd)])
    scale = wide.hidden_gamma * wide.hidden_rstd
    norm_offset = (wide.fc_bias - wide.hidden_mean) * wide.hidden_rstd
    offset = norm_offset * wide.hidden_gamma + wide.hidden_beta
    hidden = torch.stack([scale, offset, wide.hidden_rstd, norm_offset, scale])
    nothing, device = p.conv_weight.new_empty(0), p.entity.device
    settles = p.dtype == torch.float32

    def exact(x: Tensor) -> Tensor:
        return x.contiguous() if settles else nothing

    def segment(part: Part) -> SegmentTensors:
        fc = columns_of(p.fc_weight, part, channels)
        return SegmentTensors(
            pixels=part.pixels.to(device),
            taps=part.taps.to(device),
            forward=pack_chunks(fc, part, height),
            backward=pack_chunks(fc, part, height, True),
            narrow_backward=pack_chunks(fc, part, height, True, pack_narrow) if mixed else nothing.bfloat16(),
        )

    def told(part: Part) -> Tensor:
        return (part.positions if apart and len(head_half_apart.positions) else part.positions[:0]).int().to(device)

    head_half, middle, relation_half = parts = parts_of(p, halves, chunk)
    head_half_apart, middle_apart, _ = parts_apart = parts_of(p, True, chunk) if apart else parts
    model = ModelTensors(
        entity=p.entity.contiguous(),
        relation=p.relation.contiguous(),
        bias=nothing if p.bias is None else p.bias,
        pixel=pixel.to(p.dtype),
        kernel=kernel.to(p.dtype),
        shift=shift.to(p.dtype),
        pixel_kernel=pixel_kernel.to(p.dtype),
        hidden=hidden.to(p.dtype),
        head_half=segment(head_half),
        middle=segment(middle),
        relation_half=segment(relation_half),
        relation_u=nothing,
        jacobians=nothing,
        head_positions=told(head_half_apart),
        both_positions=told(middle_apart),
        taps=taps_of(p).int().to(device),
        fc=p.fc_weight.contiguous(),
        exact_pixel=exact(pixel),
        exact_kernel=exact(kernel),
        exact_shift=exact(shift),
        exact_hidden=exact(hidden[:2]),
        exact_kink=exact(kink_of(wide)),
    )
    sizes = ModelSizes(
        relation_step=p.relation_step,
        relations=len(p.relation) // p.relation_step,
        head_half_step=head_half.step,
        middle_step=middle.step,
        relation_half_step=relation_half.step,
        height=height,
    )
    return model, sizes, parts_apart
