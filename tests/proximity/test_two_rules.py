"""The two rules, case by case."""

import pytest
import torch

from tracin.proximity.two_rules import two_rules


@pytest.mark.parametrize(
    ("triple", "expected"),
    [
        ((1, 0, 2), 2),  # the question itself: both
        ((1, 0, 3), 1),  # relation and head
        ((3, 0, 2), 1),  # relation and tail
        ((2, 0, 3), 0),  # the question's tail as head
        ((1, 5, 2), 1),  # pair
        ((2, 5, 1), 1),  # pair turned round
        ((2, 0, 1), 1),  # pair turned round, ends in other places
        ((1, 5, 3), 0),
        ((3, 0, 4), 0),
    ],
)
def test_each_rule(triple, expected):
    scores = two_rules(torch.tensor([triple, (7, 7, 7)]), torch.tensor([(1, 0, 2), (8, 8, 9)]))
    assert scores.tolist() == [[expected, 0], [0, 0]]


def test_self_loops():
    assert two_rules(torch.tensor([[1, 0, 1], [1, 2, 1]]), torch.tensor([[1, 0, 1]])).tolist() == [[2, 1]]


def test_nothing():
    assert two_rules(torch.empty(0, 3, dtype=torch.int64), torch.tensor([[1, 0, 1]])).shape == (1, 0)
