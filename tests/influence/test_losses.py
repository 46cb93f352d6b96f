"""Losses of the scores of all tails, on all layers: every backend that has them against autograd, triple by triple."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import EDGES, VARIANTS, pairs_of_triples, random_model
from tracin import Checkpoint, InputError, TracIn
from tracin.losses import OVER_TAILS
from tracin_ext.tail_losses import LossOptions, Targets

BACKENDS = ["factored", "sequential", *(["native"] if tracin_ext.status()["available"] else [])]
FAST = [backend for backend in BACKENDS if backend != "sequential"]
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
OPTIONS: dict[str, Any] = {"label_smoothing": "libkge:0.1", "margin": 2.0}


def dense_gradients(
    model: torch.nn.Module, loss: str, triples: Tensor, known: Tensor, layers: tuple[str, ...] | None = None
) -> Tensor:  # [n, parameters] float64
    """By autograd, one triple at a time, of the loss by its plain definition; scores are the module's."""
    wide, parts = model.double(), []
    own = [p for name, p in wide.named_parameters() if layers is None or name.split(".")[0] in layers]
    entities = model.num_entities
    true, other = 0.9 + 1 / entities, 1 / entities
    for head, relation, tail in triples.tolist():
        every = torch.tensor([[head, relation, t] for t in range(entities)])
        s = wide(every)
        answers = {tail} | {int(t) for h, r, t in known.tolist() if (h, r) == (head, relation)}
        unknown = [t for t in range(entities) if t not in answers]
        if loss == "ce":
            value = s[sorted({tail, *unknown})].logsumexp(0) - s[tail]
        elif loss == "score":
            value = -s[tail]
        elif loss == "margin":
            value = (2.0 + s[unknown] - s[tail]).clamp(min=0).sum() / max(1, len(unknown))
        else:
            ones = {tail} if loss == "bce-1n" else answers
            y = torch.tensor([true if t in ones else other for t in range(entities)], dtype=s.dtype)
            value = -(y * s.sigmoid().log() + (1 - y) * (1 - s.sigmoid()).log()).sum()
        found = torch.autograd.grad(value, own, allow_unused=True)
        flat = [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(own, found, strict=True)]
        parts.append(torch.cat(flat))
    return torch.stack(parts)


def setting(variant: str) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Model, training triples, test triples, further true ones: of few ids, so that many coincide."""
    model = random_model(variant)
    test, train = pairs_of_triples(40)
    sizes = torch.tensor([model.num_entities, model.num_relations, model.num_entities])
    train, test = train % sizes, test[:6] % sizes
    train[0] = train[1]
    test[0] = train[2]
    return model, train, test, (test + 1) % sizes


def worst(found: Tensor, expected: Tensor) -> float:
    """Of the rows; a row that should be 0 counts as it is."""
    error, size = (found.double() - expected).norm(dim=-1), expected.norm(dim=-1)
    return float((error / size.where(size > 0, 1)).max())


CASES = [
    *(("plain", loss, backend) for loss in OVER_TAILS for backend in BACKENDS),
    *((variant, loss, backend) for variant in VARIANTS for loss in ("ce", "margin") for backend in FAST),
]


@pytest.mark.filterwarnings("ignore:all influences on")  # where no margin is violated
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("variant", "loss", "backend"), CASES)
def test_influences_are_inner_products_of_dense_gradients(
    variant: str, loss: str, backend: str, precision: str
) -> None:
    model, train, test, also_true = setting(variant)
    ti = TracIn(model, 2.0, loss, precision=precision, backend=backend, known=also_true, batch_size=17, **OPTIONS)
    found, own = ti.influence(train, test), ti.self_influence(train)
    a = dense_gradients(model, loss, train, train)
    b = dense_gradients(model, loss, test, torch.cat([train, also_true]))
    assert worst(found, 2 * b @ a.T) <= TOLERANCE[precision]
    assert worst(own[:, None], 2 * a.square().sum(1)[:, None]) <= TOLERANCE[precision]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize(
    "layers", [("entity",), ("bias",), ("relation", "bn1"), ("fc",), ("entity", "bn2"), ("conv", "bias")]
)
def test_some_layers(layers: tuple[str, ...], loss: str, backend: str) -> None:
    model, train, test, _ = setting("plain")
    ti = TracIn(model, 1.0, loss, layers=layers, precision="float64", backend=backend, **OPTIONS)
    a, b = (dense_gradients(model, loss, some, train, layers) for some in (train, test))
    assert worst(ti.influence(train, test), b @ a.T) <= 1e-9
    assert worst(ti.self_influence(train)[:, None], a.square().sum(1)[:, None]) <= 1e-9


@pytest.mark.filterwarnings("ignore:all influences on")
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("loss", ["ce", "kvsall", "margin"])
@pytest.mark.parametrize("variant", EDGES)
def test_models_at_their_edges(variant: str, loss: str, backend: str) -> None:
    """One entity, one relation, kernels and planes of extent 1: where every tail is known, ce and margin are 0."""
    model, train, test, _ = setting(variant)
    ti = TracIn(model, 1.0, loss, precision="float64", backend=backend, **OPTIONS)
    a, b = (dense_gradients(model, loss, some, train) for some in (train, test))
    found = ti.influence(train, test)
    assert found.isfinite().all()
    assert worst(found, b @ a.T) <= 1e-9


def test_top_k_and_sums_are_of_the_same_scores() -> None:
    model, train, test, also_true = setting("plain")
    ti = TracIn(model, 1.0, "ce", precision="float64", known=also_true, batch_size=7)
    scores = ti.influence(train, test)
    top = ti.top_k(train, test, k=5)
    assert torch.allclose(top.scores, scores.gather(1, top.indices), rtol=1e-9)
    assert torch.allclose(top.scores.abs(), scores.abs().sort(1, descending=True).values[:, :5], rtol=1e-9)
    assert torch.allclose(ti.influence(train, test, together=True), scores.sum(0, keepdim=True), rtol=1e-9)
    assert "loss ce" in ti.description and "in blocks" in ti.search
    assert ti.asked["loss"] == "ce"


def test_checkpoints_add_up() -> None:
    _, train, test, _ = setting("plain")
    first, second = random_model(seed=1), random_model(seed=2)
    one = [TracIn(model, 1.0, "ce", precision="float64").influence(train, test) for model in (first, second)]
    both = TracIn([Checkpoint(first, 0.5), Checkpoint(second, 0.25)], loss="ce", precision="float64")
    assert torch.allclose(both.influence(train, test), 0.5 * one[0] + 0.25 * one[1], rtol=1e-9)


def test_a_finished_part_is_of_its_loss_alone(tmp_path: Path) -> None:
    model, train, test, _ = setting("plain")
    TracIn(model, 1.0, "ce").top_k(train, test, k=3, partial=tmp_path / "part", keep_finished=True)
    for other in ({"loss": "kvsall"}, {"loss": "ce", "known": test}):
        with pytest.raises(InputError, match=r"part"):
            TracIn(model, 1.0, **other).top_k(train, test, k=3, partial=tmp_path / "part", keep_finished=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, r"expected one of bce, ce, bce-1n, kvsall, margin, score"),
        (
            {"loss": "ce", "backend": "vectorized"},
            r"no gradients of the loss 'ce'; take native or factored or sequential",
        ),
        ({"loss": "kvsall", "label_smoothing": 1.0}, r"label_smoothing is 1.0; expected a number from 0 to below 1"),
        ({"loss": "kvsall", "label_smoothing": "keras:0.1"}, r"label_smoothing is 'keras:0.1'"),
        ({"loss": "kvsall", "label_smoothing": ":0.1"}, r"label_smoothing is ':0.1'"),
        ({"loss": "kvsall", "label_smoothing": True}, r"label_smoothing is True"),
        ({"loss": "margin", "margin": -1}, r"margin is -1; expected a number from 0 on"),
        ({"loss": "margin", "margin": float("nan")}, r"margin is nan"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TracIn(random_model(), **arguments)


def test_a_model_that_is_no_conve_has_no_tails() -> None:
    class Plain(torch.nn.Module):
        num_entities, num_relations = 5, 2

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(5))

        def forward(self, triples: Tensor) -> Tensor:
            return self.weight[triples[:, 0]] * self.weight[triples[:, 2]]

    with pytest.raises(InputError, match=r"loss 'ce' needs the scores of all tails.*Plain: take loss 'bce'"):
        TracIn(Plain(), loss="ce")


def test_breakdown_of_all_layers_is_refused() -> None:
    model, train, test, _ = setting("plain")
    with pytest.raises(InputError, match="not broken down by term; take method 'accurate'"):
        TracIn(model, loss="ce").breakdown(train, test[:1], [[0]])


def test_mixed_precision_is_float32_and_says_so() -> None:
    model, train, test, _ = setting("plain")
    with pytest.warns(UserWarning, match="influences of the loss 'ce' are computed in float32"):
        ti = TracIn(model, 1.0, "ce", precision="mixed")
    assert torch.equal(ti.influence(train, test), TracIn(model, 1.0, "ce").influence(train, test))


def test_label_smoothing_as_frameworks_understand_it() -> None:
    assert Targets.smoothed(0.0, 10, "libkge") == Targets(1.0, 0.0)
    assert Targets.smoothed(0.1, 10) == Targets(0.9 + 0.01, 0.01)
    assert Targets.smoothed(0.1, 11, "pykeen") == Targets(0.9, 0.01)
    assert Targets.smoothed(0.1, 10, "libkge") == Targets(0.9 + 0.1, 0.1)
    assert Targets.smoothed(0.1, 1, "pykeen") == Targets(0.9, 0.1)


@pytest.mark.parametrize("loss", OVER_TAILS)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_derivatives_where_scores_saturate(loss: str, size: float) -> None:
    """Of very large scores too, where exponentials overflow, and where a tail is all but certain."""
    generator = torch.Generator().manual_seed(0)
    scores = (size * torch.randn(6, 9, generator=generator, dtype=torch.float64)).requires_grad_()
    tails = torch.tensor([0, 0, 3, 8, 5, 5])
    rows, known = torch.tensor([0, 0, 3, 4]), torch.tensor([1, 2, 8, 0])
    mask = torch.zeros(6, 9, dtype=torch.bool)
    mask[rows, known] = True
    mask[torch.arange(6), tails] = True
    mask[5] = True  # everything is known
    rows, known = mask.nonzero(as_tuple=True)
    of = LossOptions(0.1).loss(loss, 9)
    (expected,) = torch.autograd.grad(of.loss(scores, tails, mask).sum(), scores)
    found = of.derivative(scores.detach().clone(), tails, (rows, known))
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)
    narrow = of.derivative(scores.detach().float(), tails, (rows, known))
    assert narrow.isfinite().all()
