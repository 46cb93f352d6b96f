"""Random ConvE models of every variant, and triples with every coincidence of ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tracin import ConvE

ENTITIES, RELATIONS = 12, 4

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two image planes": {"embedding_height": 4},
    "kernel 2 x 3": {"kernel_height": 2},
    "stacked in width": {"stack": "width"},
    "no batch norm": {"bn0": False, "bn1": False, "bn2": False},
    "batch norm not affine": {"batch_norm_affine": False},
    "no bn0": {"bn0": False},
    "no conv bias": {"conv_bias": False},
    "no entity bias": {"entity_bias": False},
    "no fc bias": {"fc_bias": False},
    "zero gammas": {},
    "kernel larger than an embedding": {"embedding_height": 4, "embedding_width": 8, "kernel_height": 5},
    "inverse relations at odd rows": {"relation_step": 2},
    "everything odd": {
        "embedding_height": 4,
        "kernel_height": 2,
        "kernel_width": 4,
        "stack": "width",
        "bn0": False,
        "batch_norm_affine": False,
        "output_channels": 7,
        "conv_bias": False,
    },
}

# Where something of the geometry is empty or single.
EDGES: dict[str, dict[str, Any]] = {
    "no window sees both halves": {"kernel_height": 1},
    "no window sees both halves, in width": {"stack": "width", "kernel_width": 1},
    "a window is one pixel": {"kernel_height": 1, "kernel_width": 1},
    "a window is one pixel, in width": {"stack": "width", "kernel_height": 1, "kernel_width": 1},
    "no window sees both halves, two planes": {"embedding_height": 4, "kernel_height": 1},
    "no window sees both halves, 33 channels": {"kernel_height": 1, "output_channels": 33},
    "all windows see both halves": {"embedding_height": 4, "embedding_width": 8, "kernel_height": 5},
    "all windows see both halves, in width": {"stack": "width", "kernel_width": 5},
    "one position": {"kernel_height": 16, "kernel_width": 4},
    "one position, in width": {"stack": "width", "kernel_height": 8, "kernel_width": 8},
    "one channel": {"output_channels": 1},
    "one channel, no window sees both halves": {"kernel_height": 1, "output_channels": 1},
    "one dimension": {"dim": 1, "embedding_height": 1, "embedding_width": 1, "kernel_height": 1, "kernel_width": 1},
    "one dimension, one position": {
        "dim": 1, "embedding_height": 1, "embedding_width": 1, "kernel_height": 2, "kernel_width": 1,
    },
    "one entity": {"entities": 1},
    "one relation": {"relations": 1},
    "one of everything": {
        "entities": 1, "relations": 1, "dim": 1, "embedding_height": 1, "embedding_width": 1, "kernel_height": 1,
        "kernel_width": 1, "output_channels": 1,
    },
}  # fmt: skip


def random_model(variant: str = "plain", seed: int = 0) -> ConvE:
    """A ConvE with D = 32 or as EDGES has it, whose every parameter and running statistic matters; in eval mode."""
    torch.manual_seed(seed)
    sizes = {"entities": ENTITIES, "relations": RELATIONS, "dim": 32}
    options = {"embedding_height": 8, "embedding_width": 4, "output_channels": 5} | (VARIANTS | EDGES)[variant]
    entities, relations, dim = (options.pop(name, size) for name, size in sizes.items())
    model = ConvE(entities, relations * options.get("relation_step", 1), dim, **options).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        for name, parameter in model.named_parameters():
            if name.startswith("bn"):
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.5)
            elif name.split(".")[0] in ("entity", "relation", "bias"):
                parameter.normal_(0, 0.7)
        if variant == "zero gammas":
            for norm in (model.bn0, model.bn1, model.bn2):
                norm.weight[0] = 0
    return model


def extreme(model: ConvE) -> None:
    """Changes it: gradients of very different norms, and none."""
    model.entity.weight[0] *= 1e4
    model.entity.weight[1] *= 1e-6
    model.entity.weight[2] = 0
    model.relation.weight[1] *= 100


def saturated(model: ConvE) -> None:
    """Changes it: no gradient where the tail is one of these."""
    assert model.bias is not None
    model.bias[2:8] = 500


def random_triples(size: int, seed: int = 0) -> Tensor:  # [size, 3]
    """Few ids, so that every coincidence occurs; a self-loop and a duplicate where there is room."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(high, (size,), generator=generator) for high in (ENTITIES, RELATIONS, ENTITIES)]
    triples = torch.stack(columns, 1)
    if size > 6:
        triples[5] = torch.tensor([3, 1, 3])
        triples[6] = triples[2]
    return triples


def pairs_of_triples(size: int = 60) -> tuple[Tensor, Tensor]:  # [Q, 3], [size, 3]
    """Tests that are also training triples, self-loops, repeats, and one whose head and tail swap another's."""
    train = random_triples(size)
    swapped = train[:1].flip(1)[:, [0, 1, 2]].clone()
    swapped[:, 1] = train[0, 1]
    extra = torch.tensor([[0, 0, 1], [3, 1, 3], [3, 1, 3]])
    return torch.cat([train[:4], swapped, extra]), train
