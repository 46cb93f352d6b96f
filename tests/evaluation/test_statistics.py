"""Statistics against scipy and against their definitions, ties included."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from tracin.evaluation.statistics import (
    Estimate,
    Ranked,
    area,
    auc,
    correlation,
    counts,
    draws,
    precision_at,
    spearman,
)


def with_ties(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 4, (rows, columns), generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("columns", [3, 7, 40])
def test_spearman_is_scipys_with_ties(columns: int) -> None:
    x, y = with_ties(6, columns, 1), with_ties(6, columns, 2)
    x[0] = torch.arange(columns)
    y[0] = torch.arange(columns).flip(0)
    expected = [stats.spearmanr(a, b).statistic if a.std() and b.std() else 0.0 for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(spearman(x, y), torch.tensor(expected, dtype=torch.float64))
    assert spearman(x, y)[0] == -1


def test_a_constant_row_correlates_with_nothing() -> None:
    varied = torch.tensor([[1.0, 2.0, 3.0]])
    for x, y in ((torch.ones(1, 3), varied), (varied, torch.ones(1, 3)), (torch.ones(1, 3), torch.ones(1, 3))):
        assert spearman(x, y).tolist() == [0.0]
    assert spearman(torch.ones(2, 1), torch.ones(2, 1)).tolist() == [0.0, 0.0]


def test_two_columns_correlate_wholly_or_not_at_all() -> None:
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])
    assert spearman(x, torch.tensor([[0.0, 5.0]]).expand(3, 2)).tolist() == [1.0, -1.0, 0.0]


def test_weights_are_repeated_columns() -> None:
    x, y, weights = with_ties(5, 9, 3), with_ties(5, 9, 4), torch.tensor([2, 0, 1, 1, 3, 0, 0, 1, 1])
    weighted = correlation(Ranked.of(x).centred(weights.double()), Ranked.of(y).centred(weights.double()), weights)
    repeated = [rows.repeat_interleave(weights, dim=1) for rows in (x, y)]
    torch.testing.assert_close(weighted, spearman(*repeated))


def test_auc_is_the_share_of_pairs() -> None:
    scores, positive = with_ties(1, 50, 5)[0], with_ties(1, 50, 6)[0] > 2
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(float(torch.stack(pairs).mean()))
    statistic = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert auc(scores, positive) == pytest.approx(statistic / len(pairs))
    assert auc(positive.double(), positive) == 1
    assert auc(torch.zeros(50), positive) == 0.5


def test_weighted_area_is_that_of_repeated_rows() -> None:
    scores, positive = with_ties(1, 20, 7)[0], with_ties(1, 20, 8)[0] > 1
    weights = with_ties(1, 20, 9)[0].long()
    expected = auc(scores.repeat_interleave(weights), positive.repeat_interleave(weights))
    assert area(Ranked.of(scores[None]), positive, weights.double()) == pytest.approx(expected)


def test_precision_is_the_mean_over_orders_of_equal_scores() -> None:
    scores, positive = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False, True])
    expected = {1: 1.0, 2: (1 + 1 / 3) / 2, 3: (1 + 2 / 3) / 3, 4: 0.5, 5: 0.6, 9: 0.6}
    assert {k: precision_at(scores, positive, k) for k in expected} == pytest.approx(expected)


def test_draws_are_the_same_for_the_same_seed() -> None:
    first, again, other = (list(draws((4, 6), 5, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert any(not torch.equal(one[1], two[1]) for one, two in zip(first, other, strict=True))
    assert all(drawn.sum() == size for some in first for drawn, size in zip(some, (4, 6), strict=True))
    assert counts(1, torch.Generator()).tolist() == [1.0]


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    drawn = torch.stack([weights @ values / 200 for (weights,) in draws((200,), 2000, 0)])
    estimate = Estimate.of(float(values.mean()), drawn)
    interval = stats.bootstrap((values.numpy(),), lambda x, axis: x.mean(axis), method="percentile", rng=1)
    assert estimate.low == pytest.approx(interval.confidence_interval.low, abs=0.02)
    assert estimate.high == pytest.approx(interval.confidence_interval.high, abs=0.02)
    assert estimate.low < estimate.value < estimate.high
