"""Corruption, and what finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tracin
from tests.samples.planted_effects import RECIPE, small_graph
from tracin import TracIn
from tracin.errors import InputError
from tracin.evaluation.audited import find_audited
from tracin.evaluation.graph import Graph
from tracin.evaluation.models import trained
from tracin.evaluation.noise import corrupt, find_noise, losses, suspicion
from tracin.evaluation.scores import Model
from tracin.training.unusual import estimated_wrong

GRAPH = small_graph()


def test_corrupted_triples_differ_in_one_end_and_are_unknown() -> None:
    made = corrupt(GRAPH, 0.2, seed=1)
    assert made.wrong.sum() == 6
    known = set(map(tuple, GRAPH.known.tolist()))
    changed = made.graph.train != GRAPH.train
    assert torch.equal(changed.sum(1), made.wrong.long())
    assert changed.sum(0).tolist() == [3, 0, 3]
    assert not any(tuple(triple) in known for triple in made.graph.train[made.wrong].tolist())
    assert len(made.graph.train.unique(dim=0)) == len(GRAPH.train)
    assert torch.equal(made.graph.test, GRAPH.test)
    again, other = corrupt(GRAPH, 0.2, seed=1), corrupt(GRAPH, 0.2, seed=2)
    assert torch.equal(again.graph.train, made.graph.train) and not torch.equal(other.wrong, made.wrong)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99, 1.0])
def test_shares_that_leave_nothing_to_tell_are_refused(share: float) -> None:
    with pytest.raises(InputError, match="expected at least 1, not all"):
        corrupt(GRAPH, share, seed=0)


def test_a_graph_that_knows_nearly_everything_is_refused() -> None:
    every = torch.tensor([[h, 0, t] for h in range(2) for t in range(2)])
    full = Graph(every, every[:1], every[:0], 2, 1)
    with pytest.raises(InputError, match="only 0 of 2 triples could be made wrong"):
        corrupt(full, 0.5, seed=0)


def test_suspicion_by_definition(tmp_path: Path) -> None:
    checkpoints = trained(GRAPH, RECIPE, tmp_path, seed=0)
    model = Model(checkpoints)
    scores = suspicion(GRAPH, model, {"fc": {"layers": ["fc"]}})
    assert list(scores) == ["loss", "loss, both", "ce", "self-influence", "fc", "two-rules", "random"]
    forward = torch.nn.functional.softplus(-model.last(GRAPH.train)).detach()
    torch.testing.assert_close(scores["loss"], forward)
    heads, relations, tails = GRAPH.train.unbind(1)
    back = torch.stack([tails, relations + GRAPH.num_relations, heads], dim=1)
    both = forward + torch.nn.functional.softplus(-model.last(back)).detach()
    torch.testing.assert_close(scores["loss, both"], both)
    torch.testing.assert_close(
        scores["fc"], TracIn(checkpoints, layers=["fc"], device="cpu").self_influence(GRAPH.train)
    )
    first = [(h == heads[0]) | (t == tails[0]) for h, t in GRAPH.train[:, [0, 2]]]
    related = torch.stack(first) & (relations == relations[0])
    ends = GRAPH.train[:, [0, 2]].sort(dim=1).values
    assert scores["two-rules"][0] == -(related.sum() + (ends == ends[0]).all(1).sum())


def test_the_result_does_not_depend_on_an_interruption(tmp_path: Path) -> None:
    found = find_noise(GRAPH, RECIPE, tmp_path, share=0.2, repeats=2, at=(1, 30), bootstrap=20)
    assert set(found["loss"].precision) == {1, 30}
    assert found["loss"].precision[30] == pytest.approx(0.2)
    assert all(one.auc.low <= one.auc.value <= one.auc.high for one in found.values())
    one, _ = sorted(tmp_path.iterdir())
    for path in one.iterdir():
        path.unlink()
    assert find_noise(GRAPH, RECIPE, tmp_path, share=0.2, repeats=2, at=(1, 30), bootstrap=20) == found


def test_an_audit_is_measured_against_what_was_made_wrong(tmp_path: Path) -> None:
    found = find_audited(GRAPH, RECIPE, tmp_path, shares=(0.2, 0, 0.2), at=(1, 6), bootstrap=20)
    assert list(found) == [0.2, 0]
    one, none = found.values()
    assert (one.wrong, none.wrong, none.scores) == (6, 0, {})
    made = corrupt(GRAPH, 0.2, seed=0)
    model = Model(trained(made.graph, RECIPE, tmp_path, seed=0))
    loss = losses(model, made.graph.train).double()
    assert one.estimated == estimated_wrong(loss)
    report = tracin.audit(model.checkpoints[-1], made.graph.train, k=6, opponents=0)
    right = sum(bool(made.wrong[each.row]) for each in report.suspects)
    assert one.scores["audit"].precision[6] == pytest.approx(right / 6)
    assert report.estimate == one.estimated
    by_loss = made.wrong[loss.argsort(descending=True)[:6]].double().mean()
    assert one.scores["loss"].precision[6] == pytest.approx(float(by_loss))
    assert 0 < none.mrr <= 1
    assert find_audited(GRAPH, RECIPE, tmp_path, shares=(0.2,), at=(1, 6), bootstrap=20) == {0.2: one}


def test_losses_do_not_depend_on_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(trained(GRAPH, RECIPE, tmp_path, seed=0))
    whole = losses(model, GRAPH.train)
    monkeypatch.setattr("tracin.evaluation.noise.PASSED_AT_A_TIME", 7)
    torch.testing.assert_close(losses(model, GRAPH.train), whole)
