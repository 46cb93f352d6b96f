"""Geometries at their edges, and scores that saturate the loss: every backend against float64 autograd."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.samples.models import EDGES, pairs_of_triples, random_model
from tests.tracin_ext.test_backends import TOLERANCE, needs, worst_error
from tracin import TracIn
from tracin.influence.layers import layers_of
from tracin.model import ConvE
from tracin_ext import backends
from tracin_ext.backends.factored import has_bfloat16
from tracin_ext.backends.sequential import SequentialBackend
from tracin_ext.losses import bce

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def torch_fills_memory() -> Iterator[None]:
    """What torch allocates is NaN until something is written, as TRACIN_FILL makes the extension's own buffers."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def triples_of(model: ConvE) -> tuple[Tensor, Tensor]:  # [Q, 3], [n, 3]
    """Some heads have 12 samples or more, from where a Jacobian serves them; others have fewer."""
    test, train = pairs_of_triples(90)
    train[20:40, 0] = 2
    sizes = torch.tensor([model.num_entities, model.num_relations, model.num_entities])
    return test % sizes, train % sizes


def by_autograd(model: ConvE) -> tuple[Tensor, Tensor]:  # [Q, n], [n]
    """Influences, self-influences in float64: gradients of the scores, times dloss/dscore = -1 / (1 + exp(score))."""
    test, train = triples_of(model)
    backend = SequentialBackend(model, layers_of(model), torch.float64, CPU, lambda scores: scores)
    with torch.no_grad():
        w, other_w = (-1 / (1 + backend.model(triples).exp()) for triples in (train, test))
    influence = backend.scores(backend.test_factors(test), train, 1.0) * w * other_w[:, None]
    return influence, backend.self_influence(train, 1.0) * w.square()


@functools.cache
def reference(edge: str) -> tuple[Tensor, Tensor]:
    return by_autograd(random_model(edge))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("backend", ["sequential", "vectorized", "factored", "native", "native, torch products"])
def test_agrees_with_autograd(backend: str, edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, products = backend.partition(", ")
    needs(name)
    monkeypatch.setenv("TRACIN_PRODUCTS", "torch" if products else "own")
    expected, expected_self = reference(edge)
    model = random_model(edge)
    test, train = triples_of(model)
    if name == "sequential":  # one triple at a time, which takes long and knows no blocks
        train, expected, expected_self = train[:30], expected[:, :30], expected_self[:30]
    for precision, tolerance in TOLERANCE.items():
        ti = TracIn(model, 1.0, backend=name, precision=precision, device="cpu")
        found = ti.influence(train, test)
        assert worst_error(found, expected) <= tolerance
        assert worst_error(ti.self_influence(train), expected_self) <= tolerance
        assert torch.equal(ti.influence(train, test), found)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("backend", ["factored", "native"])
def test_mixed_precision_is_close(backend: str, edge: str) -> None:
    needs(backend)
    if not has_bfloat16(CPU):
        pytest.skip("this processor has no products in bfloat16")
    model = random_model(edge)
    test, train = triples_of(model)
    ti = TracIn(model, 1.0, backend=backend, precision="mixed", device="cpu")
    assert worst_error(ti.influence(train, test), reference(edge)[0]) <= 2e-2
    assert worst_error(ti.self_influence(train), reference(edge)[1]) <= 2e-2


def saturated_model(sign: int) -> ConvE:
    """Scores of the sign, mostly beyond 20, where torch's softplus takes its derivative for 1."""
    model = random_model()
    with torch.no_grad():
        model.bias.add_(sign * 30.0)
    return model


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("backend", ["sequential", "vectorized", "factored", "native"])
def test_saturated_scores_keep_their_digits(backend: str, sign: int) -> None:
    """Residuals of confident triples are exp(-score), of hopeless ones -1 + exp(score)."""
    needs(backend)
    model = saturated_model(sign)
    test, train = triples_of(model)
    with torch.no_grad():
        scores = model(train)
    assert (sign * scores > 20).float().mean() > 0.5
    expected, expected_self = by_autograd(model)
    for precision, tolerance in TOLERANCE.items():
        # A residual exp(-score) is as wrong as the score is, whose last digit in float32 is 4e-6 at 30.
        bound = tolerance if precision == "float64" or sign < 0 else 2e-5
        ti = TracIn(model, 1.0, backend=backend, precision=precision, device="cpu")
        assert worst_error(ti.influence(train, test), expected) <= bound
        assert worst_error(ti.self_influence(train), expected_self) <= bound


@pytest.mark.parametrize("table", ["entity", "relation"])
@pytest.mark.parametrize("backend", ["sequential", "vectorized", "factored", "native"])
def test_nan_stays_nan(backend: str, table: str) -> None:
    """A comparison with zero, as ReLU's, makes no number of it; and no other triple gets it."""
    needs(backend)
    model = random_model()
    test, train = triples_of(model)
    with torch.no_grad():
        getattr(model, table).weight[2] = torch.nan
    columns = [0, 2] if table == "entity" else [1]
    train_touched, test_touched = ((triples[:, columns] == 2).any(1) for triples in (train, test))
    assert 0 < train_touched.sum() < len(train) and not test_touched.all()
    found = backends.create(backend, model, layers_of(model), torch.float32, CPU, bce)
    influence, own = found.scores(found.test_factors(test), train, 1.0), found.self_influence(train, 1.0)
    assert torch.equal(influence.isnan(), train_touched | test_touched[:, None])
    assert torch.equal(own.isnan(), train_touched)
