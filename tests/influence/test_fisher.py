"""Scores from gradients at the embeddings, and their correction, against dense gradients of their plain definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import EDGES, VARIANTS, pairs_of_triples, random_model
from tracin import InputError, TracIn
from tracin.influence.directions import by_row, samples_of
from tracin.model import ConvE

BACKENDS = ["factored", *(["native"] if tracin_ext.status()["available"] else [])]
EMBEDDINGS = ("entity", "relation", "bias")
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
OVER_TAILS = ("ce", "bce-1n", "kvsall", "margin", "score")


def gradient(model: ConvE, loss: Tensor, layers: tuple[str, ...]) -> Tensor:  # [parameters]
    own = [p for name, p in model.named_parameters() if name.split(".")[0] in layers]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, own)])


def loss_of(model: ConvE, sample: Tensor, query: str, known: Tensor) -> Tensor:
    """Of one sample (h, row, t), by the plain definition; `known` [m, 3] of rows."""
    head, row, tail = sample.tolist()
    scores = model.score_tails(sample[None, 0], sample[None, 1])[0]
    softplus = torch.nn.functional.softplus
    true = {tail} | {int(t) for h, r, t in known.tolist() if h == head and r == row}
    others = [entity for entity in range(model.num_entities) if entity not in true]
    if query in ("bce-1n", "kvsall"):
        ones = {tail} if query == "bce-1n" else true
        labels = [0.8 if entity in ones else 0.2 / (len(scores) - 1) for entity in range(len(scores))]
        return sum(y * softplus(-s) + (1 - y) * softplus(s) for y, s in zip(labels, scores, strict=True))
    if query == "margin":
        return (0.5 + scores[others] - scores[tail]).clamp(min=0).sum() / max(1, len(others))
    if query == "bce":
        return torch.nn.functional.softplus(-scores[tail])
    if query == "score":
        return -scores[tail]
    if query.startswith("against:"):
        return scores[int(query.partition(":")[2])] - scores[tail]
    return scores[sorted({tail, *others})].logsumexp(0) - scores[tail]


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
    loss: str = "bce",
    also_true: Tensor | None = None,
) -> Tensor:  # [Q, n] float64
    wide = by_row(model.double())
    every = train if also_true is None else torch.cat([train, also_true])
    known = samples_of(model, every, "forward" if query_direction == "forward" else "both").flatten(0, 1)
    trained = samples_of(model, train, direction).flatten(0, 1)

    def total(triples: Tensor, asked: str, which: str, known: Tensor) -> Tensor:  # [n, parameters]
        samples = samples_of(model, triples, which)
        return torch.stack(
            [
                sum(gradient(wide, loss_of(wide, samples[s, i], asked, known), layers) for s in range(len(samples)))
                for i in range(len(triples))
            ]
        )

    a, b = total(train, loss, direction, trained), total(test, query, query_direction, known)
    scores = b @ a.T
    if drawn:
        samples = samples_of(model, train, direction).flatten(0, 1)
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:drawn]
        s = torch.stack([gradient(wide, loss_of(wide, x, loss, trained), layers) for x in samples[chosen]])
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


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", OVER_TAILS)
@pytest.mark.parametrize(
    ("method", "query", "direction", "query_direction", "normalize"),
    [
        ("accurate", "ce", "both", "forward", "train"),
        ("accurate", "bce", "both", "both", "cosine"),
        ("accurate", "against:3", "forward", "inverse", "none"),
        ("tracin", None, "both", "both", "train"),
    ],
)
def test_losses_over_all_tails_are_those_of_dense_gradients(
    method: str,
    query: str | None,
    direction: str,
    query_direction: str,
    normalize: str,
    loss: str,
    backend: str,
    precision: str,
) -> None:
    model, train, test = setting("plain")
    also_true = test.flip(0) % torch.tensor([model.num_entities, 1, model.num_entities])
    ti = TracIn(
        model,
        1.0,
        loss,
        backend=backend,
        precision=precision,
        method=method,
        query=query,
        direction=direction,
        query_direction=query_direction,
        normalize=normalize,
        samples=17,
        ridge=0.3,
        known=also_true,
        label_smoothing="pykeen:0.2",
        margin=0.5,
    )
    found = ti.influence(train, test)
    options = {"drawn": 17 if method == "accurate" else 0, "ridge": 0.3, "loss": loss, "also_true": also_true}
    expected = dense_scores(model, train, test, query or loss, direction, query_direction, normalize, **options)
    assert worst(found, expected) <= TOLERANCE[precision] * (
        10 if method == "accurate" and precision == "float32" else 1
    )
    terms = ti.breakdown(train, test, torch.arange(len(train)).expand(len(test), -1))
    assert worst(sum(terms.values()), expected) <= TOLERANCE[precision] * 10
    asked = {"query": loss, "direction": direction, "query_direction": direction, "loss": loss}
    squares = dense_scores(model, train, train, **asked).diagonal()
    assert worst(ti.self_influence(train)[None], squares[None]) <= TOLERANCE[precision]


@pytest.mark.parametrize("variant", [*VARIANTS, *EDGES])
def test_every_model(variant: str) -> None:
    model, train, test = setting(variant, reciprocal=False)
    layers = tuple(layer for layer in EMBEDDINGS if getattr(model, layer) is not None)
    ti = TracIn(model, precision="float64", method="accurate", direction="forward", samples=11)
    expected = dense_scores(model, train, test, "ce", "forward", "forward", "train", 11, layers=layers)
    found = ti.influence(train, test)
    scale = expected.norm(dim=1, keepdim=True).clamp(min=1e-12)  # of one entity nothing is asked: 0
    assert ((found - expected) / scale).abs().max() <= 1e-9


@pytest.mark.parametrize("layers", [("entity",), ("relation",), ("bias",), ("entity", "bias"), ("relation", "bias")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_layers(backend: str, layers: tuple[str, ...]) -> None:
    model, train, test = setting("plain")
    asked: dict[str, Any] = {"query": "ce", "direction": "both", "query_direction": "both", "normalize": "train"}
    ti = TracIn(model, layers=layers, precision="float64", method="accurate", backend=backend, samples=11, **asked)
    expected = dense_scores(model, train, test, **asked, drawn=11, layers=layers)
    assert worst(ti.influence(train, test), expected) <= 1e-9


def test_self_loops_duplicates_and_norms() -> None:
    """A triple's two samples meet in the rows of its entities: twice over where it is a loop."""
    model, _, test = setting("plain")
    train = torch.tensor([[1, 0, 1], [1, 0, 1], [1, 1, 2], [2, 1, 1], [1, 0, 2], [5, 1, 5]])
    asked: dict[str, Any] = {"query": "ce", "direction": "both", "query_direction": "forward", "normalize": "cosine"}
    ti = TracIn(model, precision="float64", method="accurate", samples=100, **asked)
    expected = dense_scores(model, train, test, **asked, drawn=12)
    assert worst(ti.influence(train, test), expected) <= 1e-9


def test_plain_questions_are_those_of_the_sum() -> None:
    """Method tracin with embeddings alone: what it has always computed, and other directions beside it."""
    model, train, test = setting("plain")
    plain = TracIn(model, 0.5, layers=EMBEDDINGS, precision="float64")
    assert plain.question is None
    turned = TracIn(model, 0.5, layers=EMBEDDINGS, precision="float64", direction="forward", query="bce", known=train)
    assert turned.question is None
    both = TracIn(model, 0.5, precision="float64", direction="both")
    expected = 0.5 * dense_scores(model, train, test, "bce", "both", "both")
    assert worst(both.influence(train, test), expected) <= 1e-9
    assert both.layers == EMBEDDINGS
    own = TracIn(model, 0.5, precision="float64", direction="both").self_influence(train)
    every = 0.5 * dense_scores(model, train, train, "bce", "both", "both").diagonal()
    assert torch.allclose(own, every, rtol=1e-9)


def test_checkpoints() -> None:
    """TracIn adds them up by their rates, the accurate method by their spread."""
    models = [random_model("plain", seed) for seed in (0, 1)]
    _, train, test = setting("plain")
    asked: dict[str, Any] = {"query": "ce", "direction": "both", "query_direction": "forward"}
    each = [dense_scores(model, train, test, **asked) for model in models]
    found = TracIn(models, [0.5, 0.25], precision="float64", **asked).influence(train, test)
    assert worst(found, 0.5 * each[0] + 0.25 * each[1]) <= 1e-9
    ti = TracIn(models, precision="float64", method="accurate", normalize="none", samples=7, **asked)
    each = [dense_scores(model, train, test, **asked, drawn=7) for model in models]
    expected = sum(scores / scores.std(1, correction=0, keepdim=True) for scores in each)
    assert worst(ti.influence(train, test), expected) <= 1e-9


@pytest.mark.parametrize("options", [{}, {"method": "accurate", "samples": 9, "direction": "both"}])
@pytest.mark.parametrize("checkpoints", [1, 2])
def test_terms_add_up(checkpoints: int, options: dict[str, Any]) -> None:
    models = [random_model("plain", seed) for seed in range(checkpoints)]
    _, train, test = setting("plain")
    ti = TracIn(models, 0.5, precision="float64", **options)
    scores = ti.influence(train, test)
    indices = torch.randint(0, len(train), (len(test), 6), generator=torch.Generator().manual_seed(0))
    indices[:, 1] = indices[:, 0]  # asked for twice
    terms = ti.breakdown(train, test, indices)
    assert len(terms) == (3 if options else 6)
    assert torch.allclose(sum(terms.values()), scores.gather(1, indices), rtol=1e-9, atol=1e-15)
    assert ti.breakdown(train, test, indices[:, :0])[next(iter(terms))].shape == (len(test), 0)


def test_terms_are_where_triples_meet() -> None:
    model, _, _ = setting("plain")
    train, test = torch.tensor([[1, 0, 2], [3, 0, 4], [5, 1, 2], [2, 1, 6], [7, 1, 8]]), torch.tensor([[1, 0, 2]])
    terms = TracIn(model, precision="float64").breakdown(train, test, torch.arange(5)[None])
    met = {name: (values[0] != 0).nonzero()[:, 0].tolist() for name, values in terms.items()}
    assert met["same relation"] == [0, 1]
    assert met["shared head"] == [0]
    assert met["shared tail"] == [0, 2]
    assert met["head as tail"] == [3]
    assert met["hidden layer"] == met["convolution"] == [0, 1, 2, 3, 4]


def test_little_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, train, test = setting("plain")
    asked: dict[str, Any] = {"method": "accurate", "direction": "both", "samples": 9, "precision": "float64"}
    whole, listed = TracIn(model, **asked).influence(train, test), TracIn(model, **asked).top_k(train, test, k=4)
    ti = TracIn(model, **asked)
    monkeypatch.setattr(ti._answers, "free", lambda: 20_000)  # some triples at a time, one question
    assert torch.allclose(ti.influence(train, test), whole, rtol=1e-12)
    top = ti.top_k(train, test, k=4)
    assert torch.equal(top.indices, listed.indices)
    assert torch.equal(top.indices, whole.abs().argsort(1, descending=True)[:, :4])


def test_a_second_question_finds_what_the_first_left() -> None:
    model, train, test = setting("plain")
    ti = TracIn(model, method="accurate", direction="both", memory_cleanup=False)
    first = ti.influence(train, test[:1])
    seconds = dict(ti.seconds)
    assert torch.equal(ti.influence(train, test[:1]), first)
    assert ti.seconds["training factors"] == seconds["training factors"]
    other = ti.influence(train[:9], test[:1])  # other training triples
    assert ti.seconds["training factors"] > seconds["training factors"]
    assert torch.equal(other, TracIn(model, method="accurate", direction="both").influence(train[:9], test[:1]))


@pytest.mark.parametrize("count", [0, 1])
def test_no_triples_and_one(count: int) -> None:
    model, train, test = setting("plain")
    ti = TracIn(model, method="accurate", direction="both")
    assert ti.influence(train[:count], test).shape == (5, count)
    assert ti.influence(train, test[:count]).shape == (count, 40)
    assert ti.top_k(train[:count], test, k=3).indices.shape == (5, count)
    assert ti.self_influence(train[:count]).shape == (count,)


def test_the_sample_is_seeded() -> None:
    model, train, test = setting("plain")

    def scores(seed: int) -> Tensor:
        return TracIn(model, method="accurate", direction="both", samples=9, seed=seed).influence(train, test)

    assert torch.equal(scores(0), scores(0))
    assert not torch.allclose(scores(0), scores(1))


def test_known_answers_are_left_out() -> None:
    model, train, test = setting("plain")
    others = torch.tensor([[int(test[0, 0]), int(test[0, 1]), tail] for tail in range(6)])
    asked: dict[str, Any] = {"method": "accurate", "direction": "forward", "precision": "float64"}
    found = TracIn(model, known=others, **asked).influence(train, test[:1])
    assert not torch.allclose(found, TracIn(model, **asked).influence(train, test[:1]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "best"}, "method is 'best'; expected one of tracin, accurate"),
        ({"query": "margin"}, "query is 'margin'; expected one of bce, ce, score, against:TAIL"),
        ({"query": "against:"}, "query is 'against:'"),
        ({"query": "against"}, "query is 'against'"),
        ({"query": "ce:3"}, "query is 'ce:3'"),
        ({"query": "against:12"}, "no entity label and no id below 12"),
        ({"direction": "back"}, "direction is 'back'; expected one of forward, inverse, both"),
        ({"normalize": "max"}, "normalize is 'max'; expected one of none, train, cosine"),
        ({"method": "accurate", "layers": "fc"}, "layers is 'fc'; .* entity, relation, bias"),
        ({"query": "ce", "layers": 2}, "layers is 2"),
        ({"method": "accurate", "samples": -1}, "samples is -1"),
        ({"method": "accurate", "samples": 1.5}, "samples is 1.5"),
        ({"method": "accurate", "ridge": 0}, "ridge is 0; expected a positive number"),
        ({"method": "accurate", "ridge": float("nan")}, "ridge is nan"),
        ({"method": "accurate", "seed": True}, "seed is True"),
        ({"method": "accurate", "backend": "sequential"}, "'sequential' on cpu has no scores"),
    ],
)
def test_wrong_questions(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        TracIn(random_model(), **options)


def test_a_model_without_inverse_relations() -> None:
    with pytest.raises(InputError, match="an even number of relation rows; this one has 1"):
        TracIn(random_model("one relation"), direction="both")
    model, train, _ = setting("plain", reciprocal=False)
    with pytest.raises(InputError, match="relation 3 has no inverse.* its 2 relations"):
        TracIn(model, direction="both").influence(train, train[:1])


def test_indices_out_of_range() -> None:
    model, train, test = setting("plain")
    for indices, told in (([[0]], "a row for each"), ([[40]] * 5, "0 to 39"), ([[0.5]] * 5, "whole numbers")):
        with pytest.raises(InputError, match=told):
            TracIn(model).breakdown(train, test, indices)


def test_mixed_precision_is_float32() -> None:
    with pytest.warns(UserWarning, match="computed in float32, not in mixed"):
        assert TracIn(random_model(), method="accurate", precision="mixed").precision == "float32"


def test_a_stopped_top_k_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, train, test = setting("plain")
    asked: dict[str, Any] = {"method": "accurate", "direction": "both", "samples": 9}
    whole = TracIn(model, **asked).top_k(train, test, k=4)
    ti, partial = TracIn(model, **asked), tmp_path / "lists.partial"
    answers = ti._answers
    assert answers is not None
    monkeypatch.setattr(answers, "free", lambda: 20_000)
    calls, scores = [], answers.scores

    def stopped(tests: Tensor) -> Tensor:
        calls.append(tests)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scores(tests)

    monkeypatch.setattr(answers, "scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        ti.top_k(train, test, k=4, partial=partial, keep_finished=True)
    again = ti.top_k(train, test, k=4, partial=partial)
    assert len(calls) == 3 + 3  # of five questions, two were finished
    assert torch.equal(again.indices, whole.indices)
    with pytest.raises(InputError, match="question was .* seed=0.* and is"):
        TracIn(model, **asked, seed=3).top_k(train, test, k=4, partial=partial)


@pytest.mark.parametrize("options", [{}, {"method": "accurate", "samples": 9, "direction": "both"}])
@pytest.mark.parametrize("checkpoints", [1, 2])
def test_all_test_triples_as_one_question(
    checkpoints: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [random_model("plain", seed) for seed in range(checkpoints)]
    _, train, test = setting("plain")
    ti = TracIn(models, 0.5, precision="float64", **options)
    together = ti.influence(train, test, together=True)
    assert together.shape == (1, 40)
    if checkpoints == 1 or not options:  # several are divided by their spread on the question
        assert torch.allclose(together[0], ti.influence(train, test).sum(0), rtol=1e-9, atol=1e-15)
    if options:
        monkeypatch.setattr(ti._answers, "free", lambda: 20_000)  # one at a time
        assert torch.allclose(ti.influence(train, test, together=True), together, rtol=1e-9, atol=1e-15)
    assert torch.equal(ti.influence(train, test[:0], together=True), torch.zeros(1, 40, dtype=torch.float64))
