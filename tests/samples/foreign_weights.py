"""ConvE weights as other programs name and shape them, and their scores from the formula in float64."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tracin.influence.tracin import TracIn
from tracin.model import ConvE

N, R, C = 7, 4, 2
BN = ("bn0", "bn1", "bn2")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CONV1 = {"bn0": "bn0", "conv": "conv1", "bn1": "bn1", "fc": "fc", "bn2": "bn2"}
DETTMERS = {"entity": "emb_e.weight", "relation": "emb_rel.weight", "bias": "b", **CONV1}
PYKEEN = {
    "entity": "entity_representations.0._embeddings.weight",
    "bias": "entity_representations.1._embeddings.weight",
    "relation": "relation_representations.0._embeddings.weight",
    "bn0": "interaction.hr2d.0",
    "conv": "interaction.hr2d.2",
    "bn1": "interaction.hr2d.3",
    "fc": "interaction.hr1d.0",
    "bn2": "interaction.hr1d.2",
}
PYKEEN_10 = {
    "entity": "entity_embeddings.weight",
    "relation": "relation_embeddings.weight",
    "bias": "bias_term.weight",
    **CONV1,
}
PYKEEN_14 = {key: value.replace(".weight", "._embeddings.weight") for key, value in PYKEEN_10.items()}
PYKEEN_PLAIN = {key: value for key, value in PYKEEN.items() if key not in BN} | {"conv": "interaction.hr2d.1"}
COLUMNS = ("bias_term.", "entity_representations.1")  # biases stored as a table of one column
WIDTH = {"entity": "entity_embeddings.weight", "relation": "relation_embeddings.weight", **CONV1}
KELPIE = {
    "entity": "entity_embeddings",
    "relation": "relation_embeddings",
    "bn0": "batch_norm_1",
    "bn1": "batch_norm_2",
    "bn2": "batch_norm_3",
    "conv": "convolutional_layer",
    "fc": "hidden_layer",
}


def random_weights(
    height: int = 20,
    width: int = 10,
    stack: str = "height",
    planes: int = 1,
    kernel: tuple[int, int] = (3, 3),
    skip: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Random values of every tensor of a ConvE, under plain names, except those that begin with one of `skip`."""
    torch.manual_seed(5)
    dim = planes * height * width
    rows, columns = (2 * height, width) if stack == "height" else (height, 2 * width)
    features = C * (rows - kernel[0] + 1) * (columns - kernel[1] + 1)
    weights = {
        "entity": torch.randn(N, dim),
        "relation": torch.randn(R, dim),
        "bias": torch.randn(N),
        "conv.weight": torch.randn(C, planes, *kernel),
        "conv.bias": torch.randn(C),
        "fc.weight": torch.randn(dim, features) / features**0.5,
        "fc.bias": torch.randn(dim),
    }
    for name, size in (("bn0", planes), ("bn1", C), ("bn2", dim)):
        values = (torch.randn(size), torch.randn(size), torch.randn(size), torch.rand(size) + 0.5, torch.tensor(9))
        weights |= {f"{name}.{end}": value for end, value in zip(NORM, values, strict=True)}
    return {name: value for name, value in weights.items() if not name.startswith(tuple(skip) or "-")}


def expected_scores(
    weights: dict[str, Tensor], plane: tuple[int, int, int], stack: str, rows: Tensor, heads: Tensor
) -> Tensor:  # [B, N]
    """ConvE from its formula in float64; `rows` are rows of the relation table."""
    w = {name: value.double() for name, value in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        if f"{name}.running_mean" not in w:
            return x
        weight, bias, mean, variance = (
            w[f"{name}.{end}"].view(1, -1, *[1] * (x.dim() - 2)) if f"{name}.{end}" in w else default
            for end, default in zip(NORM[:4], (1.0, 0.0, None, None), strict=True)
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    images = [w["entity"][heads].view(-1, *plane), w["relation"][rows].view(-1, *plane)]
    x = norm(torch.cat(images, 2 if stack == "height" else 3), "bn0")
    x = norm(F.conv2d(x, w["conv.weight"], w.get("conv.bias")), "bn1").relu()
    z = norm(F.linear(x.flatten(1), w["fc.weight"], w.get("fc.bias")), "bn2").relu()
    return z @ w["entity"].T + w.get("bias", torch.zeros(N, dtype=torch.float64))


def expected_influences(
    weights: dict[str, Tensor],
    plane: tuple[int, int, int],
    stack: str,
    train: Tensor,  # [B, 3]
    test: Tensor,  # [Q, 3]
) -> Tensor:  # [Q, B]
    """Inner products of the gradients of softplus(-score), one triple at a time, by autograd in float64."""
    learned = [name for name in weights if not name.endswith(("running_mean", "running_var", "tracked"))]
    weights = {name: value.double().clone().requires_grad_(name in learned) for name, value in weights.items()}

    def gradient(triple: Tensor) -> Tensor:
        head, relation, tail = triple.tolist()
        score = expected_scores(weights, plane, stack, triple[1:2], triple[:1])[0, tail]
        found = torch.autograd.grad(F.softplus(-score), [weights[name] for name in learned], allow_unused=True)
        return torch.cat(
            [torch.zeros(weights[n].numel()) if g is None else g.flatten() for n, g in zip(learned, found, strict=True)]
        )

    return torch.stack([gradient(triple) for triple in test]) @ torch.stack([gradient(triple) for triple in train]).T


def assert_influences(checkpoint: Any, weights: dict[str, Tensor], plane: tuple[int, int, int], stack: str) -> None:
    """Of what was read from a file, on every layer, against autograd."""
    train = torch.stack([torch.arange(12) % N, torch.arange(12) % R, (3 * torch.arange(12) + 1) % N], 1)
    expected = expected_influences(weights, plane, stack, train, train[:5])
    result = TracIn(checkpoint, learning_rates=1.0, precision="float64", progress=False, device="cpu").influence(
        train, train[:5]
    )
    assert (result - expected).abs().max() <= 1e-8 * expected.abs().max()


def rename(weights: dict[str, Tensor], keys: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in weights.items():
        layer, dot, end = name.partition(".")
        if layer in keys:
            renamed[keys[layer] + dot + end] = value.unsqueeze(1) if keys[layer].startswith(COLUMNS) else value
    return renamed


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def ids(count: int) -> dict[str, int]:
    return {f"label {row}": row for row in range(count)}


def assert_scores(model: ConvE, weights: dict[str, Tensor], plane: tuple[int, int, int], stack: str, step: int = 1):
    heads, tails = torch.arange(N), torch.arange(N).flip(0)
    relations = torch.arange(N) % (R // step)
    expected = expected_scores(weights, plane, stack, step * relations, heads)
    scale = expected.abs().max()
    with torch.no_grad():
        every = model.score_tails(heads, relations).double()
        single = model(torch.stack([heads, relations, tails], 1)).double()
    assert (every - expected).abs().max() <= 1e-5 * scale
    assert (single - expected[heads, tails]).abs().max() <= 1e-5 * scale
