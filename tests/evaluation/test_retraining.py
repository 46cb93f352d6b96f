"""Retraining: what is kept, and that a run that was stopped ends as one that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.samples.planted_effects import RECIPE, SMALL, small_graph
from tracin.errors import InputError
from tracin.evaluation import retraining
from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.models import trained
from tracin.evaluation.outcomes import Outcomes, outcomes
from tracin.evaluation.retraining import Job, half_subsets, retrain
from tracin.model import ConvE
from tracin.training.loop import train
from tracin.training.ranking import tail_ranks

GRAPH = small_graph()


def jobs(number: int = 3) -> list[Job]:
    subsets = half_subsets(len(GRAPH.train), number, seed=0)
    return [Job(f"subset_{i}", subsets[i], i, GRAPH.test) for i in range(number)]


def assert_same(one: list[Outcomes], other: list[Outcomes]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        for name in ("margin", "ce", "rank"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_outcomes_are_those_of_a_model_trained_on_the_subset(tmp_path: Path) -> None:
    (job,) = jobs(1)
    (found,) = retrain(GRAPH, RECIPE, [job], tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    own = train(GRAPH.train[job.kept], num_entities=9, num_relations=2, epochs=2, seed=0, device="cpu", **SMALL)
    torch.set_num_threads(threads)
    assert_same([found], [outcomes(own.model, GRAPH.test, GRAPH.known)])


def test_outcomes_are_those_of_a_loop_over_tails() -> None:
    torch.manual_seed(0)
    model = ConvE(9, 4, 12, embedding_height=4, embedding_width=3).double()
    found = outcomes(model, GRAPH.test, GRAPH.known)
    assert model.training
    model.eval()
    facts = set(map(tuple, GRAPH.known.tolist()))
    for i, (head, relation, tail) in enumerate(GRAPH.test.tolist()):
        others = [other for other in range(9) if (head, relation, other) not in facts]
        scores = model(torch.tensor([[head, relation, other] for other in (tail, *others)])).detach()
        assert found.margin[i].item() == pytest.approx((scores[0] - scores[1:].max()).item())
        assert found.ce[i].item() == pytest.approx((scores.logsumexp(0) - scores[0]).item())
    assert torch.equal(found.rank, tail_ranks(model, GRAPH.test, GRAPH.known))
    assert torch.equal(found.named("-ce"), -found.ce) and torch.equal(found.named("margin"), found.margin)


def test_equal_scores_share_the_ranks() -> None:
    model = ConvE(9, 4, 12, embedding_height=4, embedding_width=3)
    torch.nn.init.zeros_(model.entity.weight)
    found = outcomes(model, GRAPH.test, GRAPH.known)
    assert torch.equal(found.rank, tail_ranks(model, GRAPH.test, GRAPH.known))
    assert found.margin.tolist() == [0.0] * len(GRAPH.test)


def test_where_all_other_tails_are_known_there_is_nothing_to_rank() -> None:
    every = torch.tensor([[0, 0, tail] for tail in range(3)])
    found = outcomes(ConvE(3, 1, 12, embedding_height=4, embedding_width=3), every[:1], every)
    assert (found.margin.item(), found.ce.item(), found.rank.item()) == (float("inf"), 0, 1)
    with pytest.raises(InputError, match="there is nothing to rank"):
        Graph(every[:2], every[2:], every[:0], 3, 1).questions()
    graph = Graph(every[:2], torch.tensor([[0, 0, 2], [1, 0, 2]]), every[:0], 3, 1)
    assert graph.questions().tolist() == [[1, 0, 2]]


def test_stopped_and_resumed_is_as_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = retrain(GRAPH, RECIPE, jobs(), tmp_path / "whole")
    real, called = retraining._outcomes_of, []

    def stops(graph: Graph, recipe: Recipe, job: Job) -> Outcomes:
        called.append(job.name)
        if len(called) == 2:
            raise KeyboardInterrupt
        return real(graph, recipe, job)

    monkeypatch.setattr(retraining, "_outcomes_of", stops)
    with pytest.raises(KeyboardInterrupt):
        retrain(GRAPH, RECIPE, jobs(), tmp_path / "stopped")
    assert [path.name for path in sorted((tmp_path / "stopped").glob("*.json"))] == ["subset_0.json"]
    assert_same(retrain(GRAPH, RECIPE, jobs(), tmp_path / "stopped"), whole)
    assert called == ["subset_0", "subset_1", "subset_1", "subset_2"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", "null", "changed"])
def test_a_damaged_result_is_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    whole = retrain(GRAPH, RECIPE, jobs(2), tmp_path)
    path = tmp_path / "subset_1.json"
    content = json.loads(path.read_text())
    content["margin"][0] += 1
    path.write_text(json.dumps(content) if damage == "changed" else damage)
    assert_same(retrain(GRAPH, RECIPE, jobs(2), tmp_path), whole)
    assert f"{path} is damaged" in capsys.readouterr().err


def test_results_of_other_triples_or_options_are_refused(tmp_path: Path) -> None:
    retrain(GRAPH, RECIPE, jobs(1), tmp_path)
    for graph, recipe in (
        (small_graph(seed=1), RECIPE),
        (GRAPH, Recipe(3, SMALL)),
        (GRAPH, Recipe(2, {**SMALL, "decay": 0.5})),
    ):
        with pytest.raises(InputError, match="other triples or training options"):
            retrain(graph, recipe, jobs(1), tmp_path)
    assert len(retrain(GRAPH, RECIPE, jobs(2), tmp_path)) == 2, "further subsets are no other options"


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    alone = retrain(GRAPH, RECIPE, jobs(), tmp_path / "alone")
    assert_same(retrain(GRAPH, RECIPE, jobs(), tmp_path / "several", processes=2), alone)


@pytest.mark.slow
def test_an_error_in_a_process_ends_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start again with a lower learning rate"):
        retrain(GRAPH, Recipe(2, {**SMALL, "learning_rate": 1e30}), jobs(), tmp_path, processes=2)
    assert list(tmp_path.glob("*.json")) == []


def test_no_job_is_no_work(tmp_path: Path) -> None:
    assert retrain(GRAPH, RECIPE, [], tmp_path) == []


def test_a_subset_is_the_same_whatever_their_number() -> None:
    few, many = half_subsets(10, 2, seed=3), half_subsets(10, 5, seed=3)
    assert torch.equal(few, many[:2])
    assert many.shape == (5, 5) and torch.equal(many, many.sort(dim=1).values)
    assert half_subsets(1, 2, seed=0).tolist() == [[0], [0]]
    assert half_subsets(10, 1, seed=0, share=0.9).shape == (1, 9)
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="expected a number between 0 and 1"):
            half_subsets(10, 1, seed=0, share=share)


def test_a_trained_model_is_taken_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = trained(GRAPH, RECIPE, tmp_path, seed=0, checkpoints=2)
    assert [one.epoch for one in checkpoints] == [1, 2]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    own = train(GRAPH.train, num_entities=9, num_relations=2, epochs=2, seed=0, device="cpu", **SMALL)
    torch.set_num_threads(threads)
    monkeypatch.setattr("tracin.evaluation.models.train", None)
    again = trained(GRAPH, RECIPE, tmp_path, seed=0, checkpoints=2)
    for model in (again[-1].model, own.model):
        for name, value in checkpoints[-1].model.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name


def test_a_stopped_training_goes_on_at_its_checkpoint(tmp_path: Path) -> None:
    whole = trained(GRAPH, RECIPE, tmp_path, seed=0, checkpoints=2)[-1].model.state_dict()
    (folder,) = tmp_path.iterdir()
    (folder / "epoch_002.pt").unlink()
    again = trained(GRAPH, RECIPE, tmp_path, seed=0, checkpoints=2)[-1].model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.parametrize("checkpoints", [0, 3])
def test_more_checkpoints_than_epochs_are_refused(tmp_path: Path, checkpoints: int) -> None:
    with pytest.raises(InputError, match=f"checkpoints is {checkpoints}; expected at least 1 and at most 2"):
        trained(GRAPH, RECIPE, tmp_path, seed=0, checkpoints=checkpoints)


def test_a_graph_without_triples_is_refused() -> None:
    for name, empty in (("train", (0, 4)), ("test", (30, 0))):
        with pytest.raises(InputError, match=f"there are no {name} triples"):
            small_graph(*empty)
    with pytest.raises(InputError, match="epochs is 0"):
        Recipe(0)
    with pytest.raises(InputError, match="decay is 2"):
        Recipe(1, {"decay": 2})
