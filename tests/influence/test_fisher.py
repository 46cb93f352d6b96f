"""Scores from gradients at the embeddings, and their correction, against dense gradients of their plain definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import pairs_of_triples, random_model
from tracin import TracIn
from tracin.influence.directions import by_row, samples_of
from tracin.model import ConvE

BACKENDS = ["factored", *(["native"] if tracin_ext.status()["available"] else [])]
EMBEDDINGS = ("entity", "relation", "bias")
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}


def gradient(model: ConvE, loss: Tensor, layers: tuple[str, ...]) -> Tensor:  # [parameters]
    own = [p for name, p in model.named_parameters() if name.split(".")[0] in layers]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, own)])


def loss_of(model: ConvE, sample: Tensor, query: str, known: Tensor) -> Tensor:
    """Of one sample (h, row, t), by the plain definition; `known` [m, 3] of rows."""
    head, row, tail = sample.tolist()
    scores = model.score_tails(sample[None, 0], sample[None, 1])[0]
    if query == "bce":
        return torch.nn.functional.softplus(-scores[tail])
    if query == "score":
        return -scores[tail]
    if query.startswith("against:"):
        return scores[int(query.partition(":")[2])] - scores[tail]
    answers = {int(t) for h, r, t in known.tolist() if h == head and r == row and t != tail}
    left = [entity for entity in range(model.num_entities) if entity not in answers]
    return scores[left].logsumexp(0) - scores[tail]


def dense_scores(
    model: ConvE,
    train: Tensor,
    test: Tensor,
    query: str,
    direction: str,
    query_direction: str,
    normalize: str = "none",
    drawn: int = 0,
    ridge: float = 1.0,
    seed: int = 0,
    layers: tuple[str, ...] = EMBEDDINGS,
) -> Tensor:  # [Q, n] float64
    wide = by_row(model.double())
    every = "both" if model.relation.num_embeddings % 2 == 0 else "forward"
    known = samples_of(model, train, every).flatten(0, 1)

    def total(triples: Tensor, asked: str, which: str) -> Tensor:  # [n, parameters]
        samples = samples_of(model, triples, which)
        return torch.stack(
            [
                sum(gradient(wide, loss_of(wide, samples[s, i], asked, known), layers) for s in range(len(samples)))
                for i in range(len(triples))
            ]
        )

    a, b = total(train, "bce", direction), total(test, query, query_direction)
    scores = b @ a.T
    if drawn:
        samples = samples_of(model, train, direction).flatten(0, 1)
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:drawn]
        s = torch.stack([gradient(wide, loss_of(wide, x, "bce", known), layers) for x in samples[chosen]])
        inner = s @ s.T
        damped = inner + ridge * inner.diagonal().mean() * torch.eye(len(s), dtype=s.dtype)
        scores -= b @ s.T @ torch.linalg.inv(damped) @ s @ a.T
    if normalize != "none":
        scores = scores / a.norm(dim=1)
    if normalize == "cosine":
        scores = scores / b.norm(dim=1, keepdim=True)
    return scores


def setting(variant: str, reciprocal: bool = True) -> tuple[ConvE, Tensor, Tensor]:
    model = random_model(variant)
    test, train = pairs_of_triples(40)
    relations = model.relation.num_embeddings // 2 if reciprocal else model.num_relations
    sizes = torch.tensor([model.num_entities, max(1, relations), model.num_entities])
    return model, train % sizes, test[:5] % sizes


def worst(found: Tensor, expected: Tensor) -> float:
    """Of the test triples."""
    return float(((found.double() - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-300)).max())


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("query", "direction", "query_direction", "normalize"),
    [
        ("ce", "both", "forward", "train"),
        ("ce", "forward", "forward", "none"),
        ("bce", "both", "both", "cosine"),
        ("score", "inverse", "inverse", "train"),
        ("against:3", "both", "forward", "none"),
        ("ce", "inverse", "both", "cosine"),
    ],
)
@pytest.mark.parametrize("drawn", [0, 17])
def test_scores_are_those_of_dense_gradients(
    drawn: int, query: str, direction: str, query_direction: str, normalize: str, backend: str, precision: str
) -> None:
    model, train, test = setting("plain")
    asked: dict[str, Any] = {"query": query, "direction": direction, "query_direction": query_direction}
    ti = TracIn(
        model,
        backend=backend,
        precision=precision,
        method="accurate",
        normalize=normalize,
        samples=drawn,
        ridge=0.3,
        seed=5,
        **asked,
    )
    found = ti.influence(train, test)
    expected = dense_scores(model, train, test, query, direction, query_direction, normalize, drawn, ridge=0.3, seed=5)
    assert worst(found, expected) <= TOLERANCE[precision] * (10 if drawn and precision == "float32" else 1)
