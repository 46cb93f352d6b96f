"""Bounds from norms, sketches and angles: they hold, they are those of their definition, and they leave pairs out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.kept import recomputed_of
from tests.samples.models import EDGES, VARIANTS, extreme, pairs_of_triples, random_model, saturated
from tracin.influence.layers import layers_of
from tracin.model import ConvE
from tracin_ext import ops
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.kept import keep, norms_of
from tracin_ext.ops import SKETCH_PARTS, SKETCH_STEPS, WHICH
from tracin_ext.parameters import LAYERS
from tracin_ext.recomputed import RecomputedTriples, _Search
from tracin_ext.sketches import sketch_basis, sketch_of_test

STATUS = tracin_ext.status()
pytestmark = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")
CPU = torch.device("cpu")
EVER = 1 << 60
CHANGED: dict[str, Callable[[ConvE], None]] = {"extreme": extreme, "saturated": saturated}
KINDS = [*VARIANTS, *EDGES, *CHANGED]


def model_of(kind: str, seed: int = 0) -> ConvE:
    model = random_model("plain" if kind in CHANGED else kind, seed)
    if kind in CHANGED:
        with torch.no_grad():
            CHANGED[kind](model)
    return model


def triples_of(model: ConvE, count: int) -> tuple[Tensor, Tensor]:  # tests [Q, 3], train [count, 3]
    tests, train = pairs_of_triples(count)
    sizes = torch.tensor([model.num_entities, model.num_relations, model.num_entities])
    tests, train = tests % sizes, train % sizes
    train[: len(tests) // 2] = tests[: len(tests) // 2]  # what is most alike
    return tests, train


def searches(kept: RecomputedTriples, tests: Tensor) -> list[_Search]:
    ordered = tests[order_by_head_relation(tests)]
    factors = [keep(backend, ordered) for backend in kept.backends]
    of_tests = kept.sides.with_forms(factors)
    found = [_Search(kept, factors, of_tests, row, 3, "absolute", EVER) for row in range(len(ordered))]
    for search, test in zip(found, ordered, strict=True):
        search.test = test
    return found


def scores_of(kept: RecomputedTriples, models: list[ConvE], tests: Tensor) -> Tensor:  # [Q, n] by row, float64
    ordered, train = tests[order_by_head_relation(tests)], kept.lists.triples.long()
    total = torch.zeros(len(tests), len(train), dtype=torch.float64)
    for model, backend, rate in zip(models, kept.backends, kept.rates, strict=True):
        factored = FactoredBackend(model, tuple(sorted(backend.parameters.tracked)), torch.float64, CPU)
        total += factored.scores(factored.test_factors(ordered), train, rate)
    return total


def all_in_reach(
    search: _Search, which: str = "all", threshold: float = -torch.inf
) -> tuple[Tensor, Tensor]:  # [l] int32, [l]
    return search.in_reach(torch.arange(len(search.lists.triples), dtype=torch.int32), which, threshold)


def norm_bounds(search: _Search) -> Tensor:  # [n] float64, of norms alone
    head, relation, tail = search.test.tolist()
    heads, relations, tails = search.lists.triples.unbind(1)
    total = torch.zeros(len(heads), dtype=torch.float64)
    for rate, known, y in zip(search.kept.rates, search.kept.known, search.norms, strict=True):
        x, y = known.norms.double(), y.double()
        total += abs(rate) * x[:, :4] @ y[:4]
        total += abs(rate) * (relations == relation) * x[:, 4] * y[4]
        total += abs(rate) * ((heads == head) * y[5] + (heads == tail) * y[6]) * x[:, 5]
        total += abs(rate) * ((tails == tail) * y[6] + (tails == head) * y[5]) * x[:, 6]
        total += abs(rate) * (tails == tail) * x[:, 7] * y[7]
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_and_are_lower_than_those_of_norms(kind: str, dtype: torch.dtype) -> None:
    models = [model_of(kind, seed) for seed in (0, 1)]
    tests, train = triples_of(models[0], 100)
    backends = [NativeBackend(model, layers_of(model), dtype, CPU) for model in models]
    kept = recomputed_of(backends, (0.5, -0.03), train)
    scores = scores_of(kept, models, tests).abs()
    lower = 0
    for row, search in enumerate(searches(kept, tests)):
        rows, bounds = all_in_reach(search)
        whole = norm_bounds(search)
        rest = torch.ones(len(train), dtype=torch.bool).index_fill_(0, rows.long(), False)
        assert (scores[row][rest].to(dtype) == 0).all()  # left out, as norms say that they are 0
        whole = whole[rows.long()]
        assert (bounds <= whole * (1 + 1e-5)).all()
        error = 1e-5 * scores[row].norm()  # what float32 is off by
        assert (scores[row][rows.long()] <= bounds * (1 + kept.slack) + error).all()
        lower += int((bounds < 0.9 * whole).sum())
    assert lower > 0 or kind in EDGES  # where all may point one way


@pytest.mark.parametrize("kind", ["plain", "everything odd"])
def test_rows_are_chosen_by_what_they_share_and_by_the_threshold(kind: str) -> None:
    model = model_of(kind)
    tests, train = triples_of(model, 700)  # more than go from step to step together
    kept = recomputed_of([NativeBackend(model, layers_of(model), torch.float64, CPU)], (1.0,), train)
    for search in searches(kept, tests[:6]):
        rows, bounds = all_in_reach(search)
        head, relation, tail = search.test.tolist()
        heads, relations, tails = search.lists.triples[rows.long()].unbind(1)
        shared = (heads == head) | (heads == tail) | (tails == head) | (tails == tail)
        expected = {
            "all": torch.ones_like(shared),
            "of the relation": ~shared & (relations == relation),
            "of others": ~shared & (relations != relation),
        }
        for which in WHICH:
            own, own_bounds = all_in_reach(search, which)
            assert torch.equal(own, rows[expected[which]])
            torch.testing.assert_close(own_bounds, bounds[expected[which]])
            threshold = float(own_bounds.median()) if len(own) else 0.0
            above, above_bounds = all_in_reach(search, which, threshold)
            reached = own_bounds * (1 + kept.slack) >= threshold
            assert torch.equal(above, own[reached]) and torch.equal(above_bounds, own_bounds[reached])


@pytest.mark.parametrize("count", [0, 1, 16, 17, 255, 256, 257, 4096, 4097, 9000])
def test_rows_in_any_number_and_order(count: int) -> None:
    model = model_of("plain")
    tests, train = triples_of(model, 500)
    kept = recomputed_of([NativeBackend(model, LAYERS, torch.float32, CPU)], (1.0,), train)
    search = searches(kept, tests)[0]
    _, each = all_in_reach(search)
    assert len(each) == len(train)
    rows = torch.randint(len(train), (count,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    found, bounds = search.in_reach(rows, "all", -torch.inf)
    assert torch.equal(found, rows) and torch.equal(bounds, each[rows.long()])
    half = float(each.median())
    found, bounds = search.in_reach(rows, "all", half)
    reached = each[rows.long()] * (1 + torch.tensor(kept.slack)) >= half
    assert torch.equal(found, rows[reached])


@pytest.mark.parametrize("layers", [LAYERS, *((own, "entity") for own in ("bn0", "conv", "bn1", "conv.bias"))])
@pytest.mark.parametrize("kind", ["plain", "kernel larger than an embedding", "everything odd"])
def test_sketches_are_those_of_their_definition(kind: str, layers: tuple[str, ...]) -> None:
    """Parts along a basis that is orthonormal for M, as shares of the norm, and what is left."""
    model = model_of(kind)
    _, train = triples_of(model, 150)
    present = tuple(layer for layer in layers if layer.split(".")[0] in layers_of(model))
    backend = NativeBackend(model, present, torch.float64, CPU)
    M = backend.parameters.M
    if M is None:
        pytest.skip("no layer below fc is tracked")
    order = order_by_head_relation(train)
    basis = sketch_basis(backend, train, order)
    norms, _, sketches = norms_of(backend, train, order, basis)
    S = keep(backend, train[order]).S
    lengths = norms[:, 0]
    shares = (S @ basis) / lengths[:, None].clamp(min=1e-300)
    assert (shares.square().sum(1) <= 1 + 1e-9).all()
    assert shares.square().sum(1).mean() > 0.3  # which is what the basis is for
    torch.testing.assert_close(sketches[:, :-1].double(), shares * SKETCH_STEPS, rtol=0, atol=0.5001)
    left = (1 - shares.square().sum(1)).clamp(min=0).sqrt() * SKETCH_STEPS
    assert ((sketches[:, -1] >= left) & (sketches[:, -1] < left + 1.01)).all()
    products, bounds = S @ M @ S.T, []
    for row in range(len(S)):
        test = sketch_of_test(basis, S[row], lengths[row])
        shared = (sketches[:, :-1].double() @ test[:SKETCH_PARTS]).abs() + sketches[:, -1] * test[-2] + test[-1]
        bounds.append(shared * lengths * lengths[row])
    assert (products.abs() <= torch.stack(bounds) * (1 + 1e-9) + 1e-300).all()


def test_where_nothing_is_known_nothing_is_claimed() -> None:
    """Zero and damaged statistics; layers without any; fewer directions than parts."""
    backend = NativeBackend(model_of("plain"), ("fc", "entity"), torch.float32, CPU)
    _, train = triples_of(model_of("plain"), 20)
    none = sketch_basis(backend, train, torch.arange(20))
    assert none.shape == (0, SKETCH_PARTS)
    whole = [*[0.0] * (SKETCH_PARTS + 1), 1.0]
    assert sketch_of_test(none, torch.empty(0), torch.tensor(0.0)).tolist() == whole
    backend = NativeBackend(model_of("plain"), LAYERS, torch.float32, CPU)
    basis = sketch_basis(backend, train, torch.arange(20))
    for S, norm in ((0.0, 0.0), (torch.nan, 1.0), (1.0, 1e-30), (torch.inf, torch.inf)):
        assert sketch_of_test(basis, torch.full((len(basis),), S), torch.tensor(norm)).tolist() == whole
    with torch.no_grad():
        model = model_of("plain")
        model.fc.weight.mul_(1e30)
        model.bn0.weight.fill_(1e30)
    overflown = NativeBackend(model, LAYERS, torch.float32, CPU)
    assert overflown.parameters.M is not None and not overflown.parameters.M.isfinite().all()
    assert sketch_basis(overflown, train, torch.arange(20)).shape == (0, SKETCH_PARTS)
    with torch.no_grad():
        model = model_of("plain")
        model.entity.weight[train[3, 2]] = torch.nan
    damaged = NativeBackend(model, LAYERS, torch.float32, CPU)
    basis = sketch_basis(damaged, train, torch.arange(20))  # of the others
    assert basis.isfinite().all() and (basis != 0).any()
    norms, _, sketches = norms_of(damaged, train, torch.arange(20), basis)
    assert not norms[3, 0].isfinite()
    assert (sketches[3, :-1] == 0).all() and sketches[3, -1] == SKETCH_STEPS


def test_fewer_pairs_are_scored_than_with_norms_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("plain")
    tests, train = pairs_of_triples(4000)
    backend = NativeBackend(model, LAYERS, torch.float32, CPU)
    scored = []
    for basis in (sketch_basis, lambda *_: torch.empty(0, SKETCH_PARTS, dtype=torch.float64)):
        monkeypatch.setattr("tests.samples.kept.sketch_basis", basis)
        _, index, work = recomputed_of([backend], (1.0,), train).top_k(tests, 3, "absolute", EVER)
        scored.append((index, int(work[:, 1].sum())))
    assert torch.equal(scored[0][0], scored[1][0])
    assert 0 < scored[0][1] < 0.9 * scored[1][1]
    assert (work[:, 0] == ops.OUTCOMES.index("found")).all()
