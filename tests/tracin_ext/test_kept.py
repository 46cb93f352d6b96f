"""Factors kept in memory: norms, scores of single pairs, and exact lists by bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.kept import recomputed_of
from tests.samples.models import EDGES, VARIANTS, extreme, pairs_of_triples, random_model, random_triples, saturated
from tracin.influence.layers import layers_of
from tracin.model import ConvE
from tracin_ext import kept as kept_module
from tracin_ext import ops
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend
from tracin_ext.backends.sequential import SequentialBackend
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.kept import KeptTriples, keep, kept_blocks, kept_bytes, norms_of
from tracin_ext.losses import bce
from tracin_ext.parameters import LAYERS, parameters_of
from tracin_ext.sketches import sketch_basis

STATUS = tracin_ext.status()
pytestmark = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")
CPU = torch.device("cpu")
EVER = 1 << 60  # a budget that is never spent
RATES = (0.5, 0.03)
SUBSETS = [LAYERS, ("fc",), ("entity",), ("bias",), ("relation", "bn2"), ("bn0", "conv", "bn1"), ("entity", "fc")]


def kept_of(
    models: list[ConvE], layers: tuple[str, ...], dtype: torch.dtype, train: Tensor, rates: tuple[float, ...] = RATES
) -> KeptTriples:
    present = [tuple(layer for layer in layers if layer in layers_of(model)) for model in models]
    backends = [NativeBackend(model, own, dtype, CPU) for model, own in zip(models, present, strict=True)]
    return KeptTriples(backends, rates[: len(models)], train)


def all_scores(
    kept: KeptTriples,
    tests: Tensor,  # [Q, 3]
) -> Tensor:  # [Q, n] of the triples as they were given
    order, n = order_by_head_relation(tests), len(kept.lists.numbers)
    pairs = torch.cartesian_prod(torch.arange(len(tests)), torch.arange(n))
    scores = kept.factors[0].w.new_empty(len(pairs))
    tracked = [backend.tracked for backend in kept.backends]
    rates = torch.tensor(kept.rates, dtype=torch.float64)
    ops.pair_scores(kept.pair_tensors(tests[order]), tracked, rates, pairs, scores)
    result = scores.new_empty(len(tests), n)
    result[order[:, None], kept.lists.numbers] = scores.view(len(tests), n)
    return result


def check_lists(kept: KeptTriples, tests: Tensor, ks: tuple[int, ...]) -> None:
    """Those by bounds are those of all pairs' scores, to the last bit."""
    scores = all_scores(kept, tests)
    for order in ops.ORDERS:
        for k in ks:
            best, index = scores.new_zeros(len(tests), k), torch.full((len(tests), k), -1)
            ops.merge_top_k(scores, torch.arange(scores.shape[1]), order, best, index)
            found, found_index, work = kept.top_k(tests, k, order, EVER)
            assert (work[:, 0] == 0).all()
            assert torch.equal(found_index, index), (order, k)
            assert torch.equal(found, best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", [*VARIANTS, *EDGES])
def test_pair_scores_are_those_of_the_factored_form(variant: str, dtype: torch.dtype) -> None:
    models = [random_model(variant, seed) for seed in (0, 1)]
    tests, train = pairs_of_triples(90)
    train[20:40, 0] = 2  # 12 or more of a head
    sizes = torch.tensor([models[0].num_entities, models[0].num_relations, models[0].num_entities])
    tests, train = tests % sizes, train % sizes
    kept = kept_of(models, LAYERS, dtype, train)
    expected = torch.zeros(len(tests), len(train), dtype=torch.float64)
    for model, rate in zip(models, RATES, strict=True):
        factored = FactoredBackend(model, tuple(layers_of(model)), torch.float64, CPU)
        expected += factored.scores(factored.test_factors(tests), train, rate)
    error = (all_scores(kept, tests) - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() <= (1e-5 if dtype == torch.float32 else 1e-9)
    check_lists(kept, tests, (1, 10, len(train)))


@pytest.mark.parametrize("layers", SUBSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_of_layers(layers: tuple[str, ...], dtype: torch.dtype) -> None:
    tests, train = pairs_of_triples(300)
    check_lists(kept_of([random_model()], layers, dtype, train), tests, (1, 10, 50, 300))


def alike(model: ConvE) -> None:
    """Many exact ties."""
    model.entity.weight[:] = model.entity.weight[0].clone()
    model.relation.weight[:] = model.relation.weight[0].clone()


@pytest.mark.parametrize("change", [extreme, saturated, alike])
@pytest.mark.parametrize("layers", [LAYERS, ("entity",), ("relation", "fc", "bias")])
def test_lists_of_extreme_models(change: Callable[[ConvE], None], layers: tuple[str, ...]) -> None:
    models = [random_model(seed=seed) for seed in (0, 1)]
    with torch.no_grad():
        for model in models:
            change(model)
    tests, train = pairs_of_triples(300)
    for count in (1, 2):
        for dtype in (torch.float32, torch.float64):
            check_lists(kept_of(models[:count], layers, dtype, train), tests, (1, 10, 300))


def test_a_rate_may_be_negative() -> None:
    tests, train = pairs_of_triples(300)
    check_lists(
        kept_of([random_model(), random_model(seed=1)], LAYERS, torch.float32, train, (1.0, -0.7)), tests, (10,)
    )


def test_a_bound_within_the_slack_of_the_threshold_is_looked_at() -> None:
    """Copies of a test triple: their bound is their score, the threshold; the one of the lowest index must win."""
    train = random_triples(400)
    factored = FactoredBackend(random_model(), LAYERS, torch.float64, CPU)
    tests = train[factored.self_influence(train, 1.0).argmax()][None]  # none is as influential on it as itself
    train = train[(train != tests).any(1)]
    train[[250, 17, 290]] = tests
    kept = kept_of([random_model()], LAYERS, torch.float32, train)
    copy = int((kept.lists.numbers == 17).nonzero())
    bound = kept.factors[0].norms[copy].double().square().sum() * RATES[0]
    score = all_scores(kept, tests)[0, 17].double()
    assert 0 <= bound - score <= kept.slack * bound
    assert 17 == kept.top_k(tests, 1, "absolute", EVER)[1].item()
    for each in kept.factors:
        each.norms.mul_(1 - kept.slack / 4)  # what rounding might do, and more
    assert kept.top_k(tests, 1, "absolute", EVER)[1].item() == 17
    assert kept.top_k(tests, 3, "proponents", EVER)[1].tolist() == [[17, 250, 290]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_norms_alone_are_those_of_kept_factors_and_of_autograd(variant: str) -> None:
    model = random_model(variant)
    _, train = pairs_of_triples(40)  # more than a panel
    train = train[train[:, 0] != train[:, 2]]  # a head that is its tail has one gradient, of two parts
    train = train[order_by_head_relation(train)]
    for layers in ({name.split(".")[0] for name, _ in model.named_parameters()}, {"bn0", "entity"}, {"conv", "bias"}):
        chosen = tuple(layers & set(layers_of(model)))
        exact = SequentialBackend(model, chosen, torch.float64, CPU, bce).self_influence(train, 1.0)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
            backend = NativeBackend(model, chosen, dtype, CPU)
            no_basis = torch.empty(0, ops.SKETCH_PARTS, dtype=torch.float64)
            norms, signs, sketches = norms_of(backend, train, torch.arange(len(train)), no_basis)
            assert sketches.shape == (0, ops.SKETCH_PARTS + 1)
            kept = keep(backend, train)
            torch.testing.assert_close(norms, kept.norms, rtol=0, atol=0)
            assert torch.equal(signs, kept.signs[kept.pair])
            squares = norms.double().square().sum(1)
            slack = backend.S_slack * kept.S.double().square().sum(1)  # bounds: what rounding may take is added
            assert (squares >= exact * (1 - tolerance)).all()
            assert (squares <= (exact + slack) * (1 + tolerance) + slack).all()


def test_norms_of_no_triple() -> None:
    backend = NativeBackend(random_model(), LAYERS, torch.float32, CPU)
    none = torch.empty(0, 3, dtype=torch.int64)
    basis = sketch_basis(backend, none, none[:, 0])
    assert basis.shape == (0, ops.SKETCH_PARTS)
    assert norms_of(backend, none, none[:, 0], basis).norms.shape == (0, ops.NORM_PARTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_and_rows_make_the_form_of_the_statistics(variant: str) -> None:
    for layers in (LAYERS, ("bn0",), ("conv",), ("bn1", "conv.bias")):
        p = parameters_of(random_model(variant), layers, torch.float64)
        if p.M is None:
            assert p.M_blocks is None and p.M_rows is None
            continue
        assert p.M_blocks is not None and p.M_rows is not None
        torch.testing.assert_close(torch.block_diag(*p.M_blocks) + p.M_rows.T @ p.M_rows, p.M)


@pytest.mark.parametrize("variant", ["plain", "kernel larger than an embedding", "no fc bias"])
def test_norms_bound_every_pair(variant: str) -> None:
    """Each part's norm is that of its gradient, and what the parts add up to bounds the scores of pairs."""
    model = random_model(variant)
    _, train = pairs_of_triples(120)
    train = train[order_by_head_relation(train)]
    backend = NativeBackend(model, LAYERS, torch.float64, CPU)
    norms = keep(backend, train).norms
    for column, layers in {0: ("bn0", "conv", "bn1"), 1: ("fc",), 4: ("relation",), 7: ("bias",)}.items():
        factored = FactoredBackend(model, layers, torch.float64, CPU)
        torch.testing.assert_close(norms[:, column].square(), factored.self_influence(train, 1.0))
    factored = FactoredBackend(model, ("bn2",), torch.float64, CPU)
    torch.testing.assert_close(norms[:, 2:4].square().sum(1), factored.self_influence(train, 1.0))
    loops = train[:, 0] == train[:, 2]
    factored = FactoredBackend(model, ("entity",), torch.float64, CPU)
    torch.testing.assert_close(norms[~loops, 5:7].square().sum(1), factored.self_influence(train, 1.0)[~loops])


def test_bounds_leave_most_pairs_out() -> None:
    tests, train = random_triples(20, seed=1), random_triples(5000)
    work = kept_of([random_model()], LAYERS, torch.float32, train).top_k(tests, 1, "absolute", EVER)[2]
    assert 0 < work[:, 1].double().mean() < 0.5 * len(train)
    assert (work[:, 1] <= work[:, 2]).all()


def test_a_list_that_costs_too_much_is_given_up() -> None:
    tests, train = pairs_of_triples(500)
    kept = kept_of([random_model()], ("fc",), torch.float32, train)
    assert (kept.top_k(tests, 400, "absolute", 1000)[2][:, 0] == ops.OUTCOMES.index("too many")).all()


def test_scores_that_are_no_numbers_are_told() -> None:
    model = random_model()
    with torch.no_grad():
        model.fc.weight *= 1e25
        model.entity.weight *= 1e15
    tests, train = pairs_of_triples(50)
    kept = kept_of([model], LAYERS, torch.float32, train)
    work = kept.top_k(tests, 5, "absolute", EVER)[2]
    assert not kept.finite or (work[:, 0] == ops.OUTCOMES.index("not finite")).any()


def test_the_estimate_of_memory_is_what_is_kept() -> None:
    train = random_triples(3000)
    for layers in (LAYERS, ("fc",)):
        backend = NativeBackend(random_model(), layers, torch.float32, CPU)
        kept = keep(backend, train[order_by_head_relation(train)])
        taken = sum(x.numel() * x.element_size() for x in kept)
        assert 0.95 * taken <= kept_bytes(backend, train) <= 1.1 * taken


def test_no_triples() -> None:
    kept = kept_of([random_model()], LAYERS, torch.float32, random_triples(0))
    scores, indices, work = kept.top_k(random_triples(3), 0, "absolute", EVER)
    assert scores.shape == indices.shape == (3, 0) and (work == 0).all()
    kept = kept_of([random_model()], LAYERS, torch.float32, random_triples(30))
    assert kept.top_k(random_triples(0), 5, "absolute", EVER)[1].shape == (0, 5)


@pytest.mark.parametrize("variant", [*VARIANTS, *EDGES])
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_factors_of_blocks_are_those_of_all(variant: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(variant)
    _, train = pairs_of_triples(90)
    train = train % torch.tensor([model.num_entities, model.num_relations, model.num_entities])
    backend = NativeBackend(model, layers_of(model), torch.float64, CPU)
    ordered = train[order_by_head_relation(train)]
    whole = keep(backend, ordered)
    monkeypatch.setattr(kept_module, "BLOCK", block)
    blocks = list(kept_blocks(backend, ordered))
    for name, expected in whole._asdict().items():
        torch.testing.assert_close(torch.cat([getattr(each, name) for each in blocks]), expected, msg=name)


@pytest.mark.parametrize("order", ops.ORDERS)
def test_lists_from_norms_are_those_from_factors(order: str) -> None:
    tests, train = pairs_of_triples(300)
    kept = kept_of([random_model(seed=0), random_model(seed=1)], LAYERS, torch.float64, train)
    recomputed = recomputed_of(kept.backends, kept.rates, train)
    assert (len(recomputed), recomputed.serves(4), recomputed.serves(5)) == (300, True, False)
    for k in (1, 10, 300):
        scores, index, work = recomputed.top_k(tests, k, order, EVER)
        expected, _, _ = kept.top_k(tests, k, order, EVER)
        assert (work[:, 0] == 0).all()
        assert (work[:, 1] <= 300).all()
        torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(all_scores(kept, tests).gather(1, index), scores, rtol=1e-9, atol=1e-12)
        assert all(len(row.unique()) == k for row in index)
    _, _, work = recomputed.top_k(tests, 10, order, 1)
    assert (work[:, 0] == ops.OUTCOMES.index("too many")).all()
