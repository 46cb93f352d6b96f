"""An index answers as `TracIn.top_k` does."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin
import tracin_ext
from tests.influence.test_bounded import check_lists, triples_of
from tests.samples.models import EDGES, VARIANTS, extreme, random_model, saturated
from tracin import InputError
from tracin.index import builder
from tracin.influence import bounded
from tracin_ext import kept
from tracin_ext.ops import ORDERS

STATUS = tracin_ext.status()
pytestmark = [
    pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}"),
    pytest.mark.filterwarnings("ignore:the list of", "ignore:all influences"),
]
STORES = ("compact", "norms")


@pytest.fixture
def by_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are found by bounds however short the training triples are; factors come in several blocks."""
    monkeypatch.setattr(bounded, "LEAST_SHARE", 0)
    monkeypatch.setattr(bounded, "best_budget", lambda *_: 1 << 40)
    monkeypatch.setattr(bounded.Search, "_budget", lambda *_: 1 << 40)
    monkeypatch.setattr(kept, "BLOCK", 41)


def built(folder: Path, models: Any, train: Any, rates: Any = 1.0, **options: Any) -> tracin.Index:
    tracin.index.build(models, train, folder / "index", learning_rates=rates, **options)
    return tracin.Index(folder / "index")


def check(index: tracin.Index, ti: tracin.TracIn, tests: Tensor, train: Tensor, ks: tuple[int, ...]) -> None:
    scores = ti.influence(train, tests)
    assert torch.equal(index.train, train)
    for order in ORDERS:
        for k in ks:
            check_lists(index.top_k(tests, k, order), scores, order, {"float32": 1e-5, "float64": 1e-9}[ti.precision])


@pytest.mark.usefixtures("by_bounds")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("variant", [*VARIANTS, *EDGES])
@pytest.mark.slow
def test_lists_are_those_of_tracin(variant: str, store: str, tmp_path: Path) -> None:
    model = random_model(variant)
    tests, train = triples_of(model, 20, 300)
    index = built(tmp_path, model, train, store=store)
    check(index, tracin.TracIn(model, 1.0, device="cpu"), tests, train, (1, 10, 301))
    assert index.tracin.search.startswith("by bounds")
    assert index.tracin.search.endswith(" 0 lists in blocks")
    index.verify()


@pytest.mark.usefixtures("by_bounds")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.slow
def test_lists_of_several_checkpoints_layers_and_precisions(store: str, tmp_path: Path) -> None:
    models = [random_model(seed=seed) for seed in (0, 1)]
    tests, train = triples_of(models[0], 10, 200)
    for arguments in (
        {"precision": "float64"},
        {"layers": ["entity", "bias"]},
        {"layers": ["relation", "fc"]},
        {"layers": ["conv", "entity", "bn2"]},
    ):
        index = built(tmp_path, models, train, [0.5, 0.02], store=store, **arguments)
        check(index, tracin.TracIn(models, [0.5, 0.02], **arguments), tests, train, (1, 10))


@pytest.mark.usefixtures("by_bounds")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("change", [extreme, saturated])
def test_lists_of_extreme_models(change: Any, store: str, tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        change(model)
    tests, train = triples_of(model, 20, 300)
    index = built(tmp_path, model, train, store=store, precision="float64")
    check(index, tracin.TracIn(model, 1.0, precision="float64", device="cpu"), tests, train, (1, 10))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("count", [1, 2])
def test_few_training_triples(count: int, store: str, tmp_path: Path) -> None:
    model = random_model()
    tests, train = triples_of(model, 3, 300)
    index = built(tmp_path, model, train[:count], store=store)
    check(index, tracin.TracIn(model, 1.0, device="cpu"), tests, train[:count], (1, 10))
    assert index.tracin.search.startswith("in blocks: lists are longer")
    assert index.top_k(torch.empty(0, 3, dtype=torch.int64)).indices.shape == (0, count)


@pytest.mark.usefixtures("by_bounds")
@pytest.mark.parametrize("store", STORES)
def test_ties_go_to_the_lower_index(store: str, tmp_path: Path) -> None:
    model = random_model()
    tests, train = triples_of(model, 5, 100)
    train = torch.cat([train, train.flip(0), train])
    top = built(tmp_path, model, train, store=store).top_k(tests, 30)
    for row, found in zip(train[top.indices], top.indices, strict=True):
        assert all(found[i] < found[i + 1] for i in range(29) if torch.equal(row[i], row[i + 1]))


def test_frozen_parameters_stay_left_out(tmp_path: Path) -> None:
    model = random_model()
    for parameter in model.fc.parameters():
        parameter.requires_grad_(False)
    tests, train = triples_of(model, 3, 100)
    index = built(tmp_path, model, train)
    assert index.tracin.layers == tracin.TracIn(model, 1.0, device="cpu").layers
    check(index, tracin.TracIn(model, 1.0, device="cpu"), tests, train, (3,))


@pytest.mark.usefixtures("by_bounds")
def test_many_tests_are_found_from_factors_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracin.index.query.FEW", 5)
    model = random_model()
    tests, train = triples_of(model, 20, 300)
    index = built(tmp_path, model, train, store="norms")
    check(index, tracin.TracIn(model, 1.0, device="cpu"), tests[:5], train, (3,))
    assert "training factors" not in index.tracin.seconds
    check(index, tracin.TracIn(model, 1.0, device="cpu"), tests, train, (3,))
    assert "training factors" in index.tracin.seconds
    little = built(tmp_path, model, train, store="norms")
    monkeypatch.setattr(bounded, "TEST_BYTES", 1)
    check(little, tracin.TracIn(model, 1.0, device="cpu"), tests, train, (3,))
    assert little.tracin.search.startswith("by bounds")
    assert "training factors" not in little.tracin.seconds


def test_labels_ids_and_names(tmp_path: Path) -> None:
    model = random_model()
    _, train = triples_of(model, 1, 50)
    entities = {f"entity \u00e9{i}\t": i for i in range(model.num_entities)}
    relations = {f"r{i}": i for i in range(model.num_relations)}
    index = built(tmp_path, tracin.Checkpoint(model, entity_to_id=entities, relation_to_id=relations), train)
    by_label = index.top_k([("entity \u00e93\t", "r1", "entity \u00e95\t")], 2)
    assert torch.equal(by_label.indices, index.top_k((3, 1, 5), 2).indices)
    assert by_label.to_frame(index.train, [(3, 1, 5)], index.labels)["head_label"][0] in entities
    with pytest.raises(InputError, match="is not in the entity dictionary"):
        index.top_k([("nobody", "r1", "entity \u00e95\t")])
    with pytest.raises(InputError, match="test row 0: tail id 12 is outside"):
        index.top_k((3, 1, 12))
    bare = built(tmp_path, model, train)
    assert bare.labels is None and bare.entity_to_id is None
    with pytest.raises(InputError, match="nothing gives the ids"):
        bare.top_k([("a", "b", "c")])


def test_an_index_may_be_asked_by_threads(tmp_path: Path) -> None:
    model = random_model()
    tests, train = triples_of(model, 8, 600)
    index = built(tmp_path, model, train)
    found: dict[int, Tensor] = {}

    def ask(i: int) -> None:
        found[i] = index.top_k(tests[i], 2).scores

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_lists(
        tracin.TopK(index.top_k(tests, 2).indices, torch.cat([found[i] for i in range(8)])),
        tracin.TracIn(model, 1.0, device="cpu").influence(train, tests),
        "absolute",
        1e-5,
    )


def test_an_index_describes_itself(tmp_path: Path) -> None:
    model = random_model()
    index = built(tmp_path, model, triples_of(model, 1, 50)[1])
    assert repr(index).startswith(f"Index({tmp_path / 'index'}: 50 training triples, compact, native")
    assert (len(index), index.facts["layers"][0], index.facts["learning rates"]) == (50, "entity", [1.0])
    assert 0 < index.bytes < 1 << 20
    again = pickle.loads(pickle.dumps(index))
    assert torch.equal(again.top_k((3, 1, 5), 2).indices, index.top_k((3, 1, 5), 2).indices)


def test_verify_finds_what_was_put_together_of_two(tmp_path: Path) -> None:
    model = random_model()
    index = built(tmp_path, model, triples_of(model, 1, 50)[1])
    index._facts["training triples"] = "sha256:0"
    with pytest.raises(InputError, match="the training triples are not those it was built of; build it again"):
        index.verify()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"store": "bfloat16"}, "store is 'bfloat16'; expected one of compact, norms"),
        ({"precision": "mixed"}, "precision is 'mixed'; an index is of float32 or float64"),
        ({"layers": "fc"}, "layers has neither entity nor relation"),
        ({"memory_limit": "1M"}, "memory_limit is 1M; this index needs at least"),
        ({"learning_rates": -1}, "expected positive numbers"),
    ],
)
def test_builds_that_are_refused(arguments: dict[str, Any], told: str, tmp_path: Path) -> None:
    model = random_model()
    with pytest.raises(InputError, match=told):
        tracin.index.build(model, triples_of(model)[1], tmp_path / "index", **arguments)
    assert not (tmp_path / "index").exists()


def test_models_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    with pytest.raises(InputError, match="train has no triples"):
        tracin.index.build(model, torch.empty(0, 3, dtype=torch.int64), tmp_path / "index")
    with pytest.raises(InputError, match="is no finite number"), torch.no_grad():
        model.entity.weight[:] = 3e38
        model.entity.weight[:, ::2] *= -1
        tracin.index.build(model, triples_of(model)[1], tmp_path / "index")
    monkeypatch.setattr(builder, "NativeBackend", type(None))
    with pytest.raises(InputError, match="needs a ConvE and the native backend"):
        tracin.index.build(random_model(), triples_of(model)[1], tmp_path / "index")
    assert not (tmp_path / "index").exists()
