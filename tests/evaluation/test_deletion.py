"""Deletion: which triples are left out, and what is compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.samples.planted_effects import RECIPE, small_graph
from tracin.errors import InputError
from tracin.evaluation.deletion import CHANGES, delete, first_ranked, top_of
from tracin.evaluation.models import trained
from tracin.evaluation.outcomes import outcomes
from tracin.evaluation.retraining import Job, retrain
from tracin.evaluation.scores import Model, Score

GRAPH = small_graph()
QUERIES = GRAPH.test[:2]
TOPS = {"a": torch.tensor([[0, 1, 2], [1, 3, 4]]), "b": torch.tensor([[0, 9, 8], [5, 6, 7]])}


@pytest.mark.parametrize("together", [False, True])
def test_changes_are_those_of_models_without_the_triples(tmp_path: Path, together: bool) -> None:
    found = delete(GRAPH, RECIPE, tmp_path / "a", TOPS, QUERIES, ks=(1, 2), together=together, repeats=2, bootstrap=20)
    assert {score: list(by_k) for score, by_k in found.items()} == {"a": [1, 2], "b": [1, 2]}
    assert found["a"][2].removed == (3 if together else 2), "a triple that two predictions share counts once"
    kept = [torch.tensor([i for i in range(30) if i not in without]) for without in ((0, 1), (1, 3))]
    if together:
        kept = [torch.tensor([i for i in range(30) if i not in (0, 1, 3)])] * 2
    changes = []
    for seed in (0, 1):
        jobs = [Job(f"job_{seed}_{i}", kept[i], seed, QUERIES[i : i + 1]) for i in range(2)]
        after = retrain(GRAPH, RECIPE, jobs, tmp_path / "b")
        (before,) = retrain(GRAPH, RECIPE, [Job(f"all_{seed}", torch.arange(30), seed, QUERIES)], tmp_path / "b")
        changes += [after[i].margin[0] - before.margin[i] for i in range(2)]
    assert found["a"][2].changes["margin"].value == pytest.approx(torch.stack(changes).mean().item(), abs=1e-6)
    assert set(found["a"][1].changes) == set(CHANGES)


def test_scores_that_name_the_same_triples_share_their_models(tmp_path: Path) -> None:
    found = delete(GRAPH, RECIPE, tmp_path, TOPS, QUERIES[:1], ks=(1,), bootstrap=5)
    assert found["a"] == found["b"]
    assert len(list(tmp_path.glob("*.json"))) == 2
    more = delete(GRAPH, RECIPE, tmp_path, {"b": TOPS["b"]}, QUERIES[:1], ks=(1, 2), bootstrap=5)
    assert more["b"][1] == found["b"][1]
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize("k", [0, 30])
def test_all_or_none_cannot_be_left_out(tmp_path: Path, k: int) -> None:
    with pytest.raises(InputError, match=rf"k is \[{k}\]; expected at least 1, and below the 30"):
        delete(GRAPH, RECIPE, tmp_path, TOPS, QUERIES, ks=(k,))


def test_top_lists_are_the_largest_scores_ties_at_random(tmp_path: Path) -> None:
    model = Model(trained(GRAPH, RECIPE, tmp_path, seed=0))
    scores = Score.named("two-rules").of(GRAPH, model, GRAPH.test)
    top = top_of(GRAPH, model, Score.named("two-rules"), GRAPH.test, 30)
    assert torch.equal(scores.gather(1, top), scores.sort(dim=1, descending=True).values)
    assert torch.equal(top.sort(dim=1).values, torch.arange(30).expand(4, 30))
    other = top_of(GRAPH, Model(model.checkpoints, seed=1), Score.named("two-rules"), GRAPH.test, 30)
    assert not torch.equal(top, other)
    assert top_of(GRAPH, model, Score.named("tracin"), GRAPH.test[:1], 1).shape == (1, 1)


def test_predictions_are_ranked_first(tmp_path: Path) -> None:
    model = Model(trained(GRAPH, RECIPE, tmp_path, seed=0))
    ranks = outcomes(model.last, GRAPH.test, GRAPH.known).rank
    model.last.bias.data[GRAPH.test[2, 2]] += 100  # this tail is first now
    chosen = first_ranked(GRAPH, model, 10, seed=0)
    assert GRAPH.test[2].tolist() in chosen.tolist() and ranks.shape == (4,)
    assert (outcomes(model.last, chosen, GRAPH.known).rank == 1).all()
    assert len(first_ranked(GRAPH, model, 1, seed=0)) == 1
    model.last.bias.data[:] = -100 * torch.bincount(GRAPH.test[:, 2], minlength=9).float()
    model.last.entity.weight.data.zero_()
    with pytest.raises(InputError, match="ranks the tail of no test triple first"):
        first_ranked(GRAPH, model, 10, seed=0)
