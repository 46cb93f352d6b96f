"""Top-k lists by bounds are those of blocks; when they are tried, given up, and gone on with."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from bench.graphs import load_fb15k237
from tests.samples.models import EDGES, VARIANTS, extreme, random_model, random_triples, saturated
from tracin import InputError, TopK, TracIn
from tracin.influence import bounded, scorer
from tracin.influence.bounded import best_budget
from tracin.model import ConvE
from tracin_ext.kept import KeptTriples
from tracin_ext.ops import ORDERS

STATUS = tracin_ext.status()
pytestmark = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")
TESTS, TRAIN = 40, 600
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are tried whatever they cost."""
    monkeypatch.setattr(bounded, "LEAST_TESTS", 1)
    monkeypatch.setattr(bounded, "LEAST_SHARE", 0)
    monkeypatch.setattr(bounded, "best_budget", lambda *_: 1 << 40)
    monkeypatch.setattr(bounded.Search, "_budget", lambda *_: 1 << 40)


def triples_of(model: ConvE, tests: int = TESTS, train: int = TRAIN) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor([model.num_entities, model.num_relations, model.num_entities])
    return random_triples(tests, seed=1) % sizes, random_triples(train) % sizes


def check_lists(top: TopK, scores: Tensor, order: str, tolerance: float) -> None:
    """Lists of the k best of `scores` [Q, n]: the same keys; the same triples but for those that rounding swaps."""
    key = {"absolute": scores.abs(), "proponents": scores, "opponents": -scores}[order]
    ranked = key.argsort(dim=1, descending=True, stable=True)[:, : top.indices.shape[1]]
    largest = scores.abs().amax(1, keepdim=True)
    assert ((top.scores - scores.gather(1, top.indices)).abs() <= tolerance * largest).all()
    assert ((key.gather(1, top.indices) - key.gather(1, ranked)).abs() <= tolerance * largest).all()
    assert all(len(row.unique()) == len(row) for row in top.indices)
    zeros = key.gather(1, top.indices) == 0
    assert torch.equal(top.indices[zeros], ranked[zeros])


def check(ti: TracIn, tests: Tensor, train: Tensor, ks: tuple[int, ...] = (1, 10, TRAIN + 1)) -> None:
    scores = ti.influence(train, tests)
    for order in ORDERS:
        for k in ks:
            check_lists(ti.top_k(train, tests, k, order), scores, order, TOLERANCE[ti.precision])
            assert ti.search.startswith("by bounds"), ti.search
            assert ti.search.endswith(" 0 lists in blocks")


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:the list of", "ignore:all influences")
@pytest.mark.parametrize("variant", [*VARIANTS, *EDGES])
def test_lists_are_those_of_all_scores(variant: str) -> None:
    models = [random_model(variant, seed) for seed in (0, 1)]
    tests, train = triples_of(models[0])
    check(TracIn(models[0], 1.0, device="cpu"), tests, train)
    check(TracIn(models, [0.5, 0.02], precision="float64", device="cpu"), tests, train, (10,))


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:the list of", "ignore:all influences")
@pytest.mark.parametrize("layers", ["entity", "relation", ["entity", "bias"], ["relation", "fc"], ["entity", "conv"]])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_lists_of_layers(layers: Any, precision: str) -> None:
    model = random_model()
    check(TracIn(model, 1.0, layers=layers, precision=precision, device="cpu"), *triples_of(model))


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:the list of", "ignore:all influences")
@pytest.mark.parametrize("change", [extreme, saturated])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_lists_of_extreme_models(change: Callable[[ConvE], None], precision: str) -> None:
    model = random_model()
    with torch.no_grad():
        change(model)
    check(TracIn(model, 1.0, precision=precision, device="cpu"), *triples_of(model))


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:mixed precision needs")
def test_lists_in_mixed_precision_are_those_in_float32() -> None:
    model = random_model()
    tests, train = triples_of(model)
    ti, mixed = TracIn(model, 1.0, device="cpu"), TracIn(model, 1.0, precision="mixed", device="cpu")
    for order in ORDERS:
        expected, found = ti.top_k(train, tests, 10, order), mixed.top_k(train, tests, 10, order)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.scores, expected.scores)
    assert mixed.search.startswith("by bounds" + ", in float32: " * STATUS["bfloat16"])


@pytest.mark.usefixtures("always")
def test_ties_go_to_the_lower_index() -> None:
    model = random_model()
    tests, train = triples_of(model)
    train = torch.cat([train, train.flip(0), train])
    scores = TracIn(model, 1.0, device="cpu").influence(train, tests)
    top = TracIn(model, 1.0, device="cpu").top_k(train, tests, 30)
    for row, found in zip(train[top.indices], top.indices, strict=True):
        for i in range(29):
            if torch.equal(row[i], row[i + 1]):
                assert found[i] < found[i + 1]
    check_lists(top, scores, "absolute", 1e-5)


def few_against(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> str:
    """Why a call goes in blocks, where nothing else is against bounds."""
    monkeypatch.setattr(bounded, "LEAST_TESTS", 1)
    model = random_model()
    tests, train = triples_of(model, train=2 * bounded.LEAST_SHARE)
    k = arguments.pop("k", 1)
    ti = TracIn(model, 1.0, **arguments)
    top = ti.top_k(train, tests, k)
    check_lists(top, ti.influence(train, tests), "absolute", 2e-2)
    assert ti.search.startswith("in blocks: ")
    assert ti.description.endswith(f", top k {ti.search}")
    return ti.search


def test_when_lists_are_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tell little" in few_against(monkeypatch, layers="fc")
    assert "longer than" in few_against(monkeypatch, k=3)
    assert "no single pairs" in few_against(monkeypatch, backend="factored")
    monkeypatch.setattr(bounded, "TEST_BYTES", 1 << 20)
    assert "MiB of memory" in few_against(monkeypatch)
    ti = TracIn(random_model(), 1.0, device="cpu")
    monkeypatch.setattr(bounded, "LEAST_TESTS", 512)
    ti.top_k(*reversed(triples_of(random_model())), 1)
    assert ti.search == "in blocks: fewer than 512 test triples"


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("share", [0, 0.2, 0.7])
def test_lists_that_cost_too_much_are_found_in_blocks(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SAMPLE", 7)
    monkeypatch.setattr(bounded, "TESTS", 16)
    monkeypatch.setattr(bounded, "best_budget", lambda numbers, *_: int(numbers.quantile(share)) if share else 0)
    model = random_model()
    tests, train = triples_of(model, train=1280)
    ti = TracIn(model, 1.0, device="cpu")
    scores = ti.influence(train, tests)
    for order in ORDERS:
        check_lists(ti.top_k(train, tests, 5, order), scores, order, 1e-5)
        blocks = int(ti.search.rpartition(" lists in blocks")[0].rpartition(" ")[2])
        assert 0 < blocks < TESTS if share else blocks == TESTS, ti.search


def test_the_budget_that_costs_least() -> None:
    easy, hard = torch.full((90,), 10.0), torch.full((10,), torch.inf)
    assert best_budget(torch.cat([easy, hard]).double(), 1000.0, 5.0) == int(10 * bounded.MARGIN)
    assert best_budget(hard.double(), 1000.0, 5.0) == 0
    assert best_budget(torch.tensor([900.0, 10, 2000], dtype=torch.float64), 1000.0, 5.0) == int(2000 * bounded.MARGIN)
    assert best_budget(torch.tensor([10.0, 1e9], dtype=torch.float64), 1000.0, 0.0) == int(10 * bounded.MARGIN)


@pytest.mark.usefixtures("always")
def test_a_score_that_is_no_number_is_told() -> None:
    model = random_model()
    with torch.no_grad():
        model.fc.weight *= 1e25
        model.entity.weight *= 1e15
    tests, train = triples_of(model)
    with pytest.raises(InputError, match="not a finite number"):
        TracIn(model, 1.0, device="cpu").top_k(train, tests, 5)


@pytest.mark.usefixtures("always")
def test_work_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SAMPLE", 7)
    monkeypatch.setattr(bounded, "TESTS", 10)
    model, file = random_model(), tmp_path / "partial"
    tests, train = triples_of(model)
    expected = TracIn(model, 1.0, device="cpu").top_k(train, tests, 5)
    calls = []
    find = KeptTriples.top_k

    def stopping(kept: KeptTriples, some: Tensor, *arguments: Any) -> Any:
        calls.append(len(some))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return find(kept, some, *arguments)

    monkeypatch.setattr(KeptTriples, "top_k", stopping)
    with pytest.raises(KeyboardInterrupt):
        TracIn(model, 1.0, device="cpu").top_k(train, tests, 5, partial=file)
    assert file.exists()
    calls.clear()
    calls += [0] * 3
    top = TracIn(model, 1.0, device="cpu").top_k(train, tests, 5, partial=file)
    assert torch.equal(top.indices, expected.indices) and torch.equal(top.scores, expected.scores)
    assert sum(calls[3:]) == TESTS - 10  # the sample is looked at once more, the chunk that was saved is not
    calls.clear()
    again = TracIn(model, 1.0, device="cpu").top_k(train, tests, 5, partial=file)
    assert torch.equal(again.indices, expected.indices) and not calls


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many training triples had their factors computed, at each time."""
    sizes: list[int] = []
    make = scorer.keep_factors

    def counted(backends: Any, rates: Any, train: Tensor) -> KeptTriples:
        sizes.append(len(train))
        return make(backends, rates, train)

    monkeypatch.setattr(scorer, "keep_factors", counted)
    return sizes


@pytest.mark.usefixtures("always")
def test_a_second_question_finds_the_factors_there(made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "LEAST_TESTS", 512)  # not for so few tests, if it were not for those that follow
    model = random_model()
    tests, train = triples_of(model)
    warm, cold = TracIn(model, 1.0, memory_cleanup=False, device="cpu"), TracIn(model, 1.0, device="cpu")
    for some in (tests[:1], tests[3:5], tests[:1]):
        found, expected = (ti.top_k(train.clone(), some, 5) for ti in (warm, cold))
        assert torch.equal(found.indices, expected.indices)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    assert made == [TRAIN] and cold.search.startswith("in blocks") and warm.search.startswith("by bounds")
    fewer = train[:-1]
    assert torch.equal(warm.top_k(fewer, tests, 5).indices, cold.top_k(fewer, tests, 5).indices)
    assert made == [TRAIN, TRAIN - 1]
    other = pickle.loads(pickle.dumps(warm))
    assert other._kept is None and warm._kept is not None
    assert torch.equal(other.top_k(fewer, tests, 5).indices, warm.top_k(fewer, tests, 5).indices)
    warm.memory_cleanup = True
    warm.top_k(fewer, tests, 5)
    assert warm._kept is None


@pytest.mark.usefixtures("always")
def test_out_of_memory_goes_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    model = random_model()
    tests, train = triples_of(model)
    ti = TracIn(model, 1.0, device="cpu")
    expected = ti.top_k(train, tests, 5)
    monkeypatch.setattr(scorer, "keep_factors", fail)
    top = ti.top_k(train, tests, 5)
    assert torch.equal(top.indices, expected.indices)
    assert ti.search == "in blocks: out of memory with factors of the training triples"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*image is taken to be")
@pytest.mark.parametrize("order", ORDERS)
def test_fb15k237(order: str, data_dir: Path, checkpoints_dir: Path, tmp_path: Path) -> None:
    """512 test triples; all 20,466 take a minute in blocks for each order."""
    graph, _ = load_fb15k237(data_dir, checkpoints_dir, tmp_path)
    tests = graph.test[torch.randperm(len(graph.test), generator=torch.Generator().manual_seed(0))[:512]]
    ti = TracIn(graph.model, 1e-3, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded, "LEAST_TESTS", 1 << 30)
        dense = ti.top_k(graph.train, tests, 100, order)
        assert ti.search.startswith("in blocks")
    for k in (1, 10, 100):
        top = ti.top_k(graph.train, tests, k, order)
        assert ti.search.startswith("by bounds")
        close = 1e-5 * dense.scores[:, :1].abs().amax()
        torch.testing.assert_close(top.scores.abs(), dense.scores[:, :k].abs(), rtol=1e-5, atol=float(close))
        assert (top.indices == dense.indices[:, :k]).double().mean() >= 0.999
