"""What the accurate method needs of an index's training triples: their gradients at the embeddings, of both samples.

Sizes: n training triples of s samples each, G distinct (head, relation) of these, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tracin.index.folder import Writer
from tracin.influence.arguments import PRECISIONS
from tracin.influence.directions import by_row, has_inverses, samples_of
from tracin.influence.triple_block import TripleBlock
from tracin.model import ConvE
from tracin_ext.backends.native import NativeBackend
from tracin_ext.embeddings import CHUNK, LAYERS, Gradients, sample_gradients
from tracin_ext.full_float32 import full_float32
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.ops import SampleGradients
from tracin_ext.parameters import ConvEParameters

BEGIN = "accurate."


def gradient_bytes(p: ConvEParameters, triples: int) -> int:
    """What `write_gradients` takes, with two samples of each triple."""
    return 2 * 2 * triples * (3 * p.entity.shape[1] + 8) * p.conv_weight.element_size()


@full_float32()
def write_gradients(
    writer: Writer,
    model: ConvE,
    relation_to_id: Mapping[str, int] | None,
    triples: Tensor,  # [n, 3]
    precision: str,
    advance: Any,
) -> str:
    """Returns the direction of the samples: "both" where the model has inverse relations."""
    direction = "both" if has_inverses(model, relation_to_id) else "forward"
    layers = tuple(layer for layer in LAYERS if getattr(model, layer) is not None)
    backend = NativeBackend(by_row(model), layers, PRECISIONS[precision], torch.device("cpu"))
    samples = samples_of(model, triples, direction)
    order = order_by_head_relation(samples.flatten(0, 1))
    ordered, place = samples.flatten(0, 1)[order], order.argsort().view(len(samples), -1)
    pairs, parts = 0, []
    for chunk in ordered.split(CHUNK):
        own = sample_gradients(backend, chunk).own
        parts.append(own._replace(pair=own.pair + pairs))
        pairs += len(own.z)
        advance(len(chunk) // len(samples))
    whole = SampleGradients(*(torch.cat(same) for same in zip(*parts, strict=True)))
    whole = whole._replace(by_tail=ordered[:, 2].argsort().int())
    block = TripleBlock(Gradients(whole, None), place, backend.parameters.tracked)
    for name, array in whole._asdict().items():
        writer.add(BEGIN + name, array)
    writer.add(f"{BEGIN}place", place)
    writer.add(f"{BEGIN}norms", block.norms)
    return direction


def read_gradients(arrays: Mapping[str, Tensor], model: ConvE) -> TripleBlock:
    """As `write_gradients` wrote them."""
    own = SampleGradients(*(arrays[BEGIN + name] for name in SampleGradients._fields))
    tracked = frozenset(layer for layer in LAYERS if getattr(model, layer) is not None)
    return TripleBlock(Gradients(own, None), arrays[f"{BEGIN}place"], tracked, arrays[f"{BEGIN}norms"])
