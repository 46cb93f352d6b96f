"""The linear datamodelling score where the right answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import stats

from tests.samples.planted_effects import RECIPE, planted, small_graph
from tracin.errors import InputError
from tracin.evaluation.lds import correlations, subset_outcomes, sums_over_subsets
from tracin.evaluation.models import trained
from tracin.evaluation.scores import Model, Score


def test_true_effects_score_near_1_and_random_ones_near_0() -> None:
    effects, members, outcome = planted(queries=30, train=60, subsets=80, noise=0.05)
    others = torch.randn(effects.shape, generator=torch.Generator().manual_seed(9))
    sums = {name: some.double() @ members.T.double() for name, some in (("true", effects), ("random", others))}
    found = correlations(sums, outcome[None], control="random", bootstrap=200)
    assert found.scores["true"].value > 0.97
    assert abs(found.scores["random"].value) < 0.1
    assert found.scores["random"].low < 0 < found.scores["random"].high
    assert found.beyond["true"].value == pytest.approx(found.scores["true"].value - found.scores["random"].value)
    assert found.beyond["true"].low > 0.8
    assert found.agreement is None and found.ceiling is None


def test_the_value_is_the_mean_of_scipys_correlations() -> None:
    effects, members, outcome = planted(queries=5, train=20, subsets=7, noise=1.0)
    sums = (effects.double() @ members.T.double()).round()  # with ties
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(sums, outcome, strict=True)]
    found = correlations({"one": sums}, outcome[None], bootstrap=50).scores["one"]
    assert found.value == pytest.approx(sum(expected) / 5)
    assert found.low <= found.value <= found.high


def test_repeats_give_a_ceiling() -> None:
    effects, members, clean = planted(queries=40, train=60, subsets=100, noise=0.0)
    generator = torch.Generator().manual_seed(1)
    noisy = torch.stack(
        [clean + clean.std(dim=1, keepdim=True) * torch.randn(clean.shape, generator=generator) for _ in range(2)]
    )
    sums = {"true": effects.double() @ members.T.double()}
    found = correlations(sums, noisy, bootstrap=50)
    assert found.agreement == pytest.approx(0.5, abs=0.05)
    assert found.ceiling == pytest.approx((2 * 0.5 / 1.5) ** 0.5, abs=0.05)
    assert found.scores["true"].value == pytest.approx(found.ceiling, abs=0.05)
    same = correlations(sums, torch.stack([clean, clean]), bootstrap=5)
    assert same.agreement == pytest.approx(1) and same.ceiling == pytest.approx(1)


def test_one_query_two_subsets() -> None:
    found = correlations({"one": torch.tensor([[1.0, 2.0]])}, torch.tensor([[[5.0, 3.0]]]), bootstrap=20)
    assert found.scores["one"].value == -1
    assert (found.scores["one"].low, found.scores["one"].high) == (-1, 0), "a subset that is drawn twice says nothing"


def test_the_outcomes_of_two_subsets_and_their_sums(tmp_path: Path) -> None:
    graph = small_graph()
    members, outcome = subset_outcomes(graph, RECIPE, tmp_path, graph.test[:1], subsets=2, repeats=2)
    assert members.shape == (2, 30) and members.sum(1).tolist() == [15, 15]
    assert {name: some.shape for name, some in outcome.items()} == dict.fromkeys(("margin", "-ce"), (2, 1, 2))
    more, further = subset_outcomes(graph, RECIPE, tmp_path, graph.test[:1], subsets=3, repeats=2)
    assert torch.equal(more[:2], members), "more subsets are added to those that were"
    assert torch.equal(further["margin"][:, :, :2], outcome["margin"])
    model = Model(trained(graph, RECIPE, tmp_path / "models", seed=0))
    score = Score.named("two-rules")
    expected = [[score.of(graph, model, graph.test[:1])[0, row.bool()].sum().item() for row in members]]
    assert sums_over_subsets(graph, model, score, graph.test[:1], members).tolist() == expected


@pytest.mark.parametrize("arguments", [{"subsets": 1}, {"subsets": 10_000}, {"subsets": 2, "repeats": 0}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, arguments: dict[str, int]) -> None:
    graph = small_graph()
    with pytest.raises(InputError, match="subsets is"):
        subset_outcomes(graph, RECIPE, tmp_path, graph.test, **arguments)
