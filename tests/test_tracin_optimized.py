"""The drop-in module against what the original scripts wrote, against autograd and against `tracin.TracIn`."""

from __future__ import annotations

import csv
import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tracin_optimized
from tests.samples.models import pairs_of_triples, random_model, random_triples
from tests.samples.pykeen_examples import pykeen_model
from tracin import Checkpoint, InputError, TracIn
from tracin.triples.dictionaries import read_dictionary, read_edge_map, read_names
from tracin_optimized import TracInAnalyzer, compute_tracin_influence

TOLERANCE = 1e-6  # of a list's largest value
SIGNATURES = {  # what callers rely on
    TracInAnalyzer: "model, loss_fn='bce', device=None, use_last_layers_only=False, last_layer_names=None, "
    "num_last_layers=2, use_mixed_precision=False, use_gradient_checkpointing=False, enable_memory_cleanup=True, "
    "use_vectorized_gradients=True, cache_test_gradients=True, use_torch_compile=False, enable_multi_gpu=False",
    TracInAnalyzer.compute_gradient: "self, head, relation, tail, label=1.0",
    TracInAnalyzer.compute_influence: "self, train_triple, test_triple, learning_rate=0.001",
    TracInAnalyzer.compute_batch_individual_gradients: "self, triples_batch",
    TracInAnalyzer.compute_batch_gradients_vectorized: "self, triples_batch",
    TracInAnalyzer.get_or_compute_test_gradient: "self, test_triple",
    TracInAnalyzer.precompute_test_gradients: "self, test_triples",
    TracInAnalyzer.compute_influences_for_test_triple: "self, test_triple, training_triples, learning_rate=0.001, "
    "top_k=None, batch_size=256",
    TracInAnalyzer.analyze_test_set: "self, test_triples, training_triples, learning_rate=0.001, top_k=10, "
    "max_test_triples=None, output_path=None, batch_size=256",
    TracInAnalyzer.analyze_test_set_multi_gpu: "self, test_triples, training_triples, learning_rate=0.001, top_k=10, "
    "max_test_triples=None, batch_size=256",
    TracInAnalyzer.compute_self_influence: "self, training_triples, learning_rate=0.001, output_path=None",
    TracInAnalyzer.save_influences_to_csv: "self, test_triple, influences, output_path, id_to_entity, id_to_relation, "
    "entity_labels=None, relation_labels=None, self_influence=None",
    compute_tracin_influence: "model, test_triple, training_triples, learning_rate=0.001, top_k=10, device=None, "
    "use_last_layers_only=False, last_layer_names=None, num_last_layers=2",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_names_and_defaults_are_kept(function: Any) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert ", ".join(str(p.replace(annotation=p.empty)) for p in parameters) == SIGNATURES[function]


@pytest.fixture(scope="module")
def graph(fixtures_dir: Path) -> tuple[TracInAnalyzer, Any, Any]:
    """An analyzer of the fixtures' whole pickled model, and factories of its training and test triples."""
    triples = pytest.importorskip("pykeen.triples")
    logging.getLogger("pykeen").setLevel(logging.ERROR)
    model = torch.load(fixtures_dir / "models/pykeen_trained_model.pkl", weights_only=False)
    dictionaries = [read_dictionary(fixtures_dir / name) for name in ("node_dict.txt", "rel_dict.txt")]
    labels = {"entity_to_id": dictionaries[0], "relation_to_id": dictionaries[1]}
    train, test = (
        triples.TriplesFactory.from_path(fixtures_dir / f"{name}.txt", **labels) for name in ("train", "test")
    )
    return TracInAnalyzer(model, device="cpu"), train, test


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], score: str) -> None:
    """The same fields and triples, in the same order but for ties, with the same scores."""
    bound = TOLERANCE * max(abs(item[score]) for item in theirs)
    names = [name for name in theirs[0] if name != score]
    scores = {tuple(item[name] for name in names): item[score] for item in ours}
    assert len(ours) == len(scores) == len(theirs)
    for mine, item in zip(ours, theirs, strict=True):
        assert list(mine) == [*names, score]
        assert mine[score] == pytest.approx(item[score], rel=0, abs=bound)
        assert scores[tuple(item[name] for name in names)] == pytest.approx(item[score], rel=0, abs=bound)


def test_analyze_test_set_writes_what_the_original_wrote(
    graph: tuple[TracInAnalyzer, Any, Any], fixtures_dir: Path, tmp_path: Path
) -> None:
    analyzer, train, test = graph
    theirs = json.loads((fixtures_dir / "expected/test.json").read_text())
    count, top_k = theirs["num_test_triples"], theirs["top_k"]
    ours = analyzer.analyze_test_set(test, train, 0.001, top_k, max_test_triples=count, output_path=tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == ours
    assert list(ours) == list(theirs)
    for mine, item in zip(ours.pop("results"), theirs.pop("results"), strict=True):
        compare(mine.pop("top_influences"), item.pop("top_influences"), "influence")
        assert mine == item
    assert ours == theirs


def test_self_influence_is_what_the_original_wrote(
    graph: tuple[TracInAnalyzer, Any, Any], fixtures_dir: Path, tmp_path: Path
) -> None:
    analyzer, train, _ = graph
    ours = analyzer.compute_self_influence(train, output_path=str(tmp_path / "s.json"))
    assert json.loads((tmp_path / "s.json").read_text()) == ours
    compare(ours, json.loads((fixtures_dir / "expected/self.json").read_text()), "self_influence")


@pytest.mark.parametrize("by", ["label", "id"])
def test_csv_is_what_the_original_wrote(
    graph: tuple[TracInAnalyzer, Any, Any], fixtures_dir: Path, tmp_path: Path, by: str
) -> None:
    analyzer, train, test = graph
    names = [read_dictionary(fixtures_dir / name) for name in ("node_dict.txt", "rel_dict.txt")]
    id_to_entity, id_to_relation = ({row: label for label, row in ids.items()} for ids in names)
    entity_labels: dict[Any, str] = dict(read_names(fixtures_dir / "node_name_dict.txt"))
    as_json = {label: text for text, label in json.loads((fixtures_dir / "edge_map.json").read_text()).items()}
    assert {label: json.loads(text)["predicate"] for label, text in as_json.items()} == read_edge_map(
        fixtures_dir / "edge_map.json"
    )
    if by == "label":
        entity_labels = {id_to_entity[row]: name for row, name in entity_labels.items()}
    triple = test.mapped_triples[1]
    influences = analyzer.compute_influences_for_test_triple(triple, train, top_k=3)
    own = analyzer.compute_influence(triple, triple)
    path = tmp_path / "new" / "folder" / "s.csv"
    analyzer.save_influences_to_csv(
        tuple(triple.tolist()), influences, path, id_to_entity, id_to_relation, entity_labels, as_json, own
    )
    sample = (fixtures_dir / "expected/single_top3.csv").read_bytes()
    assert path.read_bytes().count(b"\r\n") == sample.count(b"\r\n") == 4
    ours, theirs = (list(csv.reader(text.decode().splitlines())) for text in (path.read_bytes(), sample))
    assert ours[0] == theirs[0]
    for mine, item in zip(ours[1:], theirs[1:], strict=True):
        assert mine[:12] == item[:12]
        assert [float(cell) for cell in mine[12:]] == pytest.approx([float(cell) for cell in item[12:]], rel=1e-5)


def test_csv_without_names_holds_labels_and_marks_unknown_ids(tmp_path: Path) -> None:
    influences = [{"train_head": 0, "train_relation": 1, "train_tail": 7, "influence": 0.1}]
    relations = {0: '{"predicate": "treats"}', 1: "causes"}
    TracInAnalyzer(random_model()).save_influences_to_csv(
        (1, 0, 0), influences, tmp_path / "c.csv", {0: "a", 1: "b"}, relations
    )
    row = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))[1]
    unknown = ["UNKNOWN_7"] * 2
    assert row == ["b", "b", relations[0], "treats", "a", "a", "a", "a", "causes", "causes", *unknown, "0.1", ""]


def reference_gradient(model: Any, triple: tuple[int, int, int], label: int = 1) -> dict[str, Tensor]:
    """By autograd through PyKEEN's module or ours, in eval mode."""
    model.eval()
    scores = getattr(model, "score_hrt", model)(torch.tensor([triple]))
    loss = functional.softplus(scores if label == 0 else -scores).sum()
    names, values = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, values, allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for n, v, g in zip(names, values, found, strict=True)}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, gradient in theirs.items():
        assert ours[name].shape == gradient.shape
        assert (ours[name] - gradient).abs().max() <= 1e-5 * max(g.abs().max() for g in theirs.values())


MODELS = {
    "PyKEEN ConvE": lambda: pykeen_model("ConvE"),
    "PyKEEN DistMult": lambda: pykeen_model("DistMult"),
    "our ConvE": random_model,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:using the vectorized backend")
def test_gradients_are_those_of_the_model_given(name: str) -> None:
    model = MODELS[name]()
    analyzer = TracInAnalyzer(model)
    triple, other = (3, 1, 4), (3, 2, 0)
    expected, expected_other = reference_gradient(model, triple), reference_gradient(model, other)
    assert_close(analyzer.compute_gradient(*triple), expected)
    assert_close(analyzer.compute_gradient(*triple, label=0.0), reference_gradient(model, triple, label=0))
    product = 0.5 * sum(float((expected[name] * expected_other[name]).sum()) for name in expected)
    assert analyzer.compute_influence(other, triple, learning_rate=0.5) == pytest.approx(product, rel=1e-4)
    for batch in (analyzer.compute_batch_individual_gradients, analyzer.compute_batch_gradients_vectorized):
        first, second = batch([triple, other])
        assert_close(first, expected)
        assert_close(second, expected_other)
        assert batch([]) == []
    with pytest.raises(InputError, match=r"label is 0\.5; expected 1, or with loss_fn 'bce' 0"):
        analyzer.compute_gradient(*triple, label=0.5)


@pytest.mark.filterwarnings("ignore:using the sequential backend, not native")
def test_vectorized_gradients_where_vmap_cannot_follow_come_one_by_one() -> None:
    model = pykeen_model("ProjE")
    with pytest.warns(UserWarning, match="using the sequential backend, not vectorized"):
        analyzer = TracInAnalyzer(model)
    with pytest.warns(UserWarning, match="gradients of a batch are computed one by one: vmap cannot follow"):
        (gradient,) = analyzer.compute_batch_gradients_vectorized([(3, 1, 4)])
    assert_close(gradient, reference_gradient(model, (3, 1, 4)))


@pytest.mark.parametrize(
    ("options", "layers", "parameters"),
    [
        ({"use_last_layers_only": True, "num_last_layers": 1}, ["fc"], "interaction.hr1d.0"),
        ({"use_last_layers_only": True}, ["fc", "bn2"], "interaction.hr1d."),
        ({"last_layer_names": ["interaction.hr1d.2.weight"]}, ["bn2"], "interaction.hr1d.2"),
        ({"use_last_layers_only": True, "last_layer_names": ["entity"]}, ["entity"], "entity_representations.0"),
    ],
)
def test_last_layers(options: dict[str, Any], layers: list[str], parameters: str) -> None:
    model = pykeen_model("ConvE")
    analyzer = TracInAnalyzer(model, **options)
    test, train = pairs_of_triples(20)
    expected = (
        TracIn(model, layers=layers, device="cpu").influence(train, test[:1])[0].abs().sort(descending=True).values
    )
    found = analyzer.compute_influences_for_test_triple(test[0], train)
    assert [abs(item["influence"]) for item in found] == pytest.approx(expected.tolist(), rel=1e-5)
    every = reference_gradient(model, (3, 1, 4))
    chosen = {name: gradient for name, gradient in every.items() if name.startswith(parameters)}
    assert_close(analyzer.compute_gradient(3, 1, 4), chosen)
    assert_close(analyzer.compute_batch_gradients_vectorized([(3, 1, 4)])[0], chosen)


def test_layers_that_a_model_lacks_are_named() -> None:
    with pytest.raises(InputError, match="last_layer_names: this model has no 'fc3'; its layers are entity"):
        TracInAnalyzer(pykeen_model("ConvE"), last_layer_names=["fc3"])
    with pytest.raises(InputError, match="layers is 2; only a ConvE has last layers"):
        TracInAnalyzer(pykeen_model("DistMult"), use_last_layers_only=True)
    with pytest.raises(InputError, match="layers has 'fc'; this model has interaction, entity_representations"):
        TracInAnalyzer(pykeen_model("TuckER"), last_layer_names=["fc"])


@pytest.mark.filterwarnings("ignore:using the vectorized backend")
def test_test_gradients_are_kept_as_asked() -> None:
    analyzer = TracInAnalyzer(pykeen_model("DistMult"))
    analyzer.precompute_test_gradients([(1, 2, 3), (4, 3, 2)])
    kept = analyzer._test_gradients[1, 2, 3]
    assert len(analyzer._test_gradients) == 2
    assert analyzer.get_or_compute_test_gradient((1, 2, 3)) is kept
    assert analyzer.get_or_compute_test_gradient(torch.tensor([1, 2, 3])) is kept  # type: ignore[arg-type]
    assert_close(kept, analyzer.compute_gradient(1, 2, 3))
    forgetful = TracInAnalyzer(pykeen_model("DistMult"), cache_test_gradients=False)
    with pytest.warns(UserWarning, match="cache_test_gradients is off: no test gradient is kept"):
        forgetful.precompute_test_gradients([(1, 2, 3)])
    assert_close(forgetful.get_or_compute_test_gradient((1, 2, 3)), kept)
    assert not forgetful._test_gradients


@pytest.mark.parametrize("top_k", [None, 4, 100])
def test_influences_of_every_kind_of_triples_are_tracins(top_k: int | None) -> None:
    model = random_model()
    test, train = pairs_of_triples(30)
    top = TracIn(model, 0.5, device="cpu").top_k(train, test[:1], top_k or 30)
    expected = [
        dict(zip(("train_head", "train_relation", "train_tail", "influence"), (*triple, score), strict=True))
        for triple, score in zip(train[top.indices[0]].tolist(), top.scores[0].tolist(), strict=True)
    ]
    analyzer = TracInAnalyzer(Checkpoint(model, learning_rate=9.0))
    for triples in (train, train.tolist(), [tuple(row) for row in train.tolist()], train.numpy()):
        found = analyzer.compute_influences_for_test_triple(tuple(test[0].tolist()), triples, 0.5, top_k)
        assert [{**item, "influence": None} for item in found] == [{**item, "influence": None} for item in expected]
        assert [item["influence"] for item in found] == pytest.approx(
            [item["influence"] for item in expected], rel=1e-5
        )
    if top_k == 4:
        assert compute_tracin_influence(model, tuple(test[0].tolist()), train, 0.5, 4, device="cpu") == found


def test_batch_size_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    right = TracIn._block_scores

    def spy(self: TracIn, tests: list[Any], block: Tensor) -> Tensor:
        sizes.append(len(block))
        return right(self, tests, block)

    monkeypatch.setattr(TracIn, "_block_scores", spy)
    analyzer, train = TracInAnalyzer(random_model()), random_triples(300)
    analyzer.analyze_test_set([(1, 2, 3)], train, batch_size=70)
    analyzer.compute_influences_for_test_triple((1, 2, 3), train)
    assert sizes == [70, 70, 70, 70, 20, 256, 44]
    with pytest.raises(InputError, match="batch_size is 0"):
        analyzer.analyze_test_set([(1, 2, 3)], train, batch_size=0)


def test_flags_choose_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Spy(TracIn):
        def __init__(self, model: Any, **options: Any) -> None:
            asked.append(options)
            super().__init__(model, **options | {"backend": "factored", "precision": "float32"})

    monkeypatch.setattr(tracin_optimized, "TracIn", Spy)
    for flags, backend, precision in (
        ({}, "auto", "float32"),
        ({"use_torch_compile": True}, "compiled", "float32"),
        ({"use_vectorized_gradients": False}, "sequential", "float32"),
        ({"use_mixed_precision": True}, "auto", "mixed"),
    ):
        TracInAnalyzer(random_model(), **flags)
        assert (asked[-1]["backend"], asked[-1]["precision"]) == (backend, precision)
    with pytest.raises(InputError, match="ask for different backends; choose one"):
        TracInAnalyzer(random_model(), use_torch_compile=True, use_vectorized_gradients=False)
    with pytest.raises(InputError, match="loss is 'hinge'"):
        TracInAnalyzer(random_model(), loss_fn="hinge")


def without_scores(summary: dict[str, Any]) -> list[Any]:
    return [
        [{**item, "influence": round(item["influence"], 6)} for item in result["top_influences"]]
        for result in summary["results"]
    ]


@pytest.mark.parametrize("tests", [1, 7])
def test_test_triples_are_shared_out_over_devices(tests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three TracIns on the CPU in the place of three GPUs."""
    train, test = random_triples(40), random_triples(tests, seed=1)
    expected = TracInAnalyzer(random_model()).analyze_test_set(test, train, top_k=3)
    parts: list[int] = []

    class Spy(TracIn):
        def top_k(self, train: Tensor, test: Tensor, *rest: Any, **options: Any) -> Any:
            parts.append(len(test))
            return super().top_k(train, test, *rest, **options)

    places = [Spy(random_model(), progress=False) for _ in range(3)]
    monkeypatch.setattr(TracInAnalyzer, "_on_gpus", places)
    found = TracInAnalyzer(random_model()).analyze_test_set_multi_gpu(test, train, top_k=3)
    assert sorted(parts) == sorted(len(part) for part in test.tensor_split(3))
    assert without_scores(found) == without_scores(expected)
    parts.clear()
    assert TracInAnalyzer(random_model(), enable_multi_gpu=True).analyze_test_set(test, train, top_k=3) == found
    assert len(parts) == 3


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has several GPUs")
def test_with_fewer_than_two_gpus_it_says_so_and_goes_on() -> None:
    train, test = random_triples(40), random_triples(5, seed=1)
    analyzer = TracInAnalyzer(random_model(), device="cpu")
    with pytest.warns(UserWarning, match=r"PyTorch sees [01] GPUs, not several: using cpu"):
        found = analyzer.analyze_test_set_multi_gpu(test, train, top_k=3)
    assert found == analyzer.analyze_test_set(test, train, top_k=3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has not several GPUs")
def test_several_gpus_give_the_scores_of_one() -> None:
    train, test = random_triples(40), random_triples(5, seed=1)
    analyzer = TracInAnalyzer(random_model())
    found = analyzer.analyze_test_set_multi_gpu(test, train, top_k=3)
    assert without_scores(found) == without_scores(analyzer.analyze_test_set(test, train, top_k=3))


def test_wrong_input_is_named(tmp_path: Path) -> None:
    analyzer, train = TracInAnalyzer(random_model()), random_triples(9)
    cases: list[tuple[str, Any]] = [
        ("the triples row 0: tail id 99 is outside", lambda: analyzer.compute_gradient(0, 0, 99)),
        ("the triple is ", lambda: analyzer.compute_influence(5, (0, 0, 1))),  # type: ignore[arg-type]
        ("training_triples is a list of shape", lambda: analyzer.compute_self_influence([(0, 0, 1), (1, 2)])),
        ("training_triples is 5, a int; expected triples", lambda: analyzer.compute_self_influence(5)),
        ("training_triples row 0: head 0.5 is neither", lambda: analyzer.compute_self_influence([(0.5, 0, 1)])),
        ("max_test_triples is 0", lambda: analyzer.analyze_test_set(train, train, max_test_triples=0)),
        ("k is 0", lambda: analyzer.analyze_test_set(train, train, top_k=0)),
        ("learning_rates is -1", lambda: analyzer.analyze_test_set(train, train, learning_rate=-1)),
        ("does not exist; create", lambda: analyzer.analyze_test_set(train, train, output_path=tmp_path / "x" / "y")),
        ("does not exist; create", lambda: analyzer.compute_self_influence(train, output_path=tmp_path / "x" / "y")),
        ("expected a ConvE, a Checkpoint, a PyKEEN", lambda: TracInAnalyzer(torch.nn.Linear(2, 2))),
    ]
    for message, call in cases:
        with pytest.raises(InputError, match=message):
            call()
    assert analyzer.analyze_test_set([], train)["results"] == []
    assert analyzer.compute_influences_for_test_triple((0, 0, 1), []) == []
