"""What people have is taken: paths, PyKEEN's factories and pipeline results, for models, triples and dictionaries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tracin
from tests.samples.models import ENTITIES, RELATIONS, random_model
from tests.samples.pykeen_examples import factory, pykeen_model
from tests.samples.small_graph import Graph
from tracin import InputError, TracIn


@pytest.fixture(scope="module")
def result() -> Any:
    """What a PyKEEN pipeline returns, as far as it is asked."""
    return SimpleNamespace(model=pykeen_model("ConvE"), training=factory(labels=True))


def test_a_path_is_a_model(graph: Graph) -> None:
    expected = TracIn(graph.checkpoint, device="cpu").top_k(graph.train, graph.test, 3)
    for path in (graph.folder / "model.pt", str(graph.folder / "model.pt"), [graph.folder / "model.pt"]):
        ti = TracIn(path, device="cpu")
        found = ti.top_k(graph.folder / "train.txt", str(graph.folder / "test.txt"), 3)
        assert torch.equal(found.scores, expected.scores) and ti.learning_rates == [0.01]
        frame = found.to_frame(graph.folder / "train.txt", graph.folder / "test.txt", graph.checkpoint)
        assert frame.equals(expected.to_frame(graph.train, graph.test, graph.checkpoint))
    with pytest.raises(InputError, match="missing.pt"):
        TracIn(graph.folder / "missing.pt", device="cpu")


def test_a_pipeline_result_is_a_model_and_its_labels(result: Any) -> None:
    ti = TracIn(result, device="cpu")
    top = ti.top_k(result.training, result.training.mapped_triples[:2], 3)
    frame = top.to_frame(result.training, result.training.triples[:2], result)
    assert frame.equals(top.to_frame(result.training, result.training.mapped_triples[:2], result.training))
    assert frame["test_head_label"][0].startswith("e ")
    own = ti.self_influence(result.training)
    shown = tracin.self_influence_frame(own, result.training, result)
    assert shown.equals(tracin.self_influence_frame(own, result.training.mapped_triples, result.training))
    assert tracin.audit(result, k=3).to_frame()["head_label"][0].startswith("e ")


@pytest.mark.parametrize("form", ["factory", "result", "path", "mapping", "checkpoint"])
def test_dictionaries_in_every_form(graph: Graph, form: str) -> None:
    entities, relations = graph.checkpoint.entity_to_id, graph.checkpoint.relation_to_id
    both = SimpleNamespace(entity_to_id=entities, relation_to_id=relations)
    given: tuple[Any, Any] = {
        "factory": (both, both),
        "result": (SimpleNamespace(training=both),) * 2,
        "path": (graph.folder / "entities.txt", str(graph.folder / "relations.txt")),
        "mapping": (entities, relations),
        "checkpoint": (graph.checkpoint, graph.checkpoint),
    }[form]
    tracin.save_checkpoint(graph.folder / "bare.pt", graph.checkpoint.model)
    loaded = tracin.load_checkpoint(graph.folder / "bare.pt", entity_to_id=given[0], relation_to_id=given[1])
    assert (loaded.entity_to_id, loaded.relation_to_id) == (entities, relations)
    asked: dict[str, Any] = {"entity_to_id": given[0], "relation_to_id": given[1]}
    for model in (graph.folder / "bare.pt", graph.checkpoint.model):
        why = tracin.explain(model, "entity 1", "relation:0", "entity 2", train=graph.folder / "train.txt", **asked)
        assert why.to_frame()["test_tail_label"][0] == "entity 2"
        assert tracin.audit(model, graph.folder / "train.txt", k=1, **asked).labels.entity(3) == "entity 3"


@pytest.mark.parametrize("given", [3, ["a", "b"], SimpleNamespace(training=None)])
def test_what_is_no_dictionary_is_refused(graph: Graph, given: Any) -> None:
    with pytest.raises(InputError, match="entity_to_id is .*; expected label -> id, the path of a dictionary, or"):
        tracin.load_checkpoint(graph.folder / "model.pt", entity_to_id=given)


def test_a_factory_is_trained_on() -> None:
    made = factory(labels=True)
    options: dict[str, Any] = dict(epochs=1, embedding_dim=8, embedding_height=4, embedding_width=2, kernel_width=2)
    found = tracin.train(made, valid=made.mapped_triples[:3], known=made.triples[:4], device="cpu", **options)
    assert found.entity_to_id == made.entity_to_id and found.relation_to_id == made.relation_to_id
    sizes = {"num_entities": ENTITIES, "num_relations": RELATIONS}
    valid = made.mapped_triples[:3]
    known = made.mapped_triples[:4]
    same = tracin.train(made.mapped_triples, valid=valid, known=known, device="cpu", **sizes, **options)
    assert same.losses == found.losses and same.ranking == found.ranking and same.entity_to_id is None
    plain = tracin.train(factory(), device="cpu", **options)  # without labels
    assert plain.model.num_entities == ENTITIES and plain.entity_to_id is None
    inverse = tracin.train(factory(inverse=True, labels=True), device="cpu", **options)
    assert len(inverse.relation_to_id or {}) == RELATIONS


def test_files_are_trained_on_with_their_dictionaries(graph: Graph) -> None:
    options: dict[str, Any] = dict(epochs=1, embedding_dim=8, embedding_height=4, embedding_width=2, kernel_width=2)
    dictionaries: dict[str, Any] = {
        "entity_to_id": graph.folder / "entities.txt",
        "relation_to_id": graph.folder / "relations.txt",
    }
    found = tracin.train(graph.folder / "train.txt", device="cpu", **dictionaries, **options)
    assert found.entity_to_id == graph.checkpoint.entity_to_id
    same = tracin.train(graph.train, device="cpu", num_entities=12, num_relations=3, **options)
    assert same.losses == found.losses
    with pytest.raises(InputError, match="num_entities is missing; give it, or a dictionary of labels, or a PyKEEN"):
        tracin.train(graph.train, **options)
    with pytest.raises(InputError, match="triples is the file .*, but nothing gives the ids"):
        tracin.train(graph.folder / "train.txt", num_entities=12, num_relations=3, **options)


def test_a_factory_of_other_ids_is_refused_everywhere(result: Any) -> None:
    from pykeen.triples import TriplesFactory

    other = TriplesFactory.from_labeled_triples(result.training.triples[::-1].copy())
    if len(other.entity_to_id) == ENTITIES and other.entity_to_id == result.training.entity_to_id:
        pytest.skip("the same ids by chance")
    message = "has other dictionaries than|triples factory"
    for call in (
        lambda: TracIn(result, device="cpu").influence(other, result.training),
        lambda: tracin.audit(result, other),
        lambda: tracin.audit(result, test=other),
        lambda: tracin.explain(result, 0, 0, 1, train=other),
        lambda: tracin.explain(result, 0, 0, 1, known=[other]),
        lambda: tracin.train(result.training, valid=other, epochs=1),
        lambda: tracin.self_influence_frame(torch.zeros(60), other, result),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_model_alone_has_no_labels() -> None:
    with pytest.raises(InputError, match="train is labels, but nothing gives the ids"):
        TracIn(random_model(), device="cpu").influence([("a", "b", "c")], [(0, 0, 1)])
