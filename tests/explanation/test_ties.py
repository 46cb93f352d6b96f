"""How triples relate to a question, and the ways from head to tail, against a search that tries all."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from tracin.explanation.presence import presence
from tracin.explanation.ties import Surroundings, in_words

#  0 -a-> 1 -a-> 2 -b-> 3      4 -b-> 3      5 -a-> 6 (apart)
TRAIN = torch.tensor([[0, 0, 1], [1, 0, 2], [2, 1, 3], [4, 1, 3], [5, 0, 6], [3, 1, 0], [0, 1, 3]])
ASKED = (0, 0, 3)


@pytest.mark.parametrize(
    ("triple", "words"),
    [
        ((0, 0, 3), "the question itself"),
        ((0, 1, 3), "same head and tail"),
        ((3, 0, 0), "same relation, head and tail swapped"),
        ((0, 0, 1), "same relation, same head, on a path of 3"),
        ((2, 1, 3), "same tail, on a path of 3"),
        ((1, 0, 2), "same relation, 1 hop away, on a path of 3"),
        ((4, 1, 3), "same tail"),
        ((3, 0, 4), "same relation, starts at the tail"),
        ((4, 1, 0), "ends at the head, on a path of 2"),
        ((5, 0, 6), "same relation, not near"),
        ((1, 1, 1), "1 hop away"),
    ],
)
def test_in_words(triple: tuple[int, int, int], words: str) -> None:
    assert in_words(Surroundings(TRAIN, 7, ASKED).tie(triple)) == words


def all_paths(train: Tensor, asked: tuple[int, int, int], scores: Tensor) -> dict[tuple[int, ...], float]:
    """Weakest score of every way of at most three triples through distinct entities, by its entities."""
    head, _, tail = asked
    best: dict[frozenset[int], float] = {}
    for row, (start, relation, end) in enumerate(train.tolist()):
        if (start, relation, end) != asked and start != end:
            pair = frozenset((start, end))
            best[pair] = max(best.get(pair, -1.0), float(scores[row]))
    inner = set(train[:, [0, 2]].flatten().tolist()) - {head, tail}
    found = {}
    for size in range(3):
        for middle in permutations(sorted(inner), size):
            way = (head, *middle, tail)
            values = [best.get(frozenset(step), -1.0) for step in zip(way, way[1:], strict=False)]
            if min(values) > 0:
                found[way] = min(values)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_paths_are_the_best_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 4 + seed % 5
    bounds = (size, 2, size)
    train = torch.stack([torch.randint(bound, (3 + seed,), generator=generator) for bound in bounds], 1)
    scores = torch.randn(len(train), generator=generator)
    asked = (0, 0, 1)
    found = Surroundings(train, size, asked).paths(scores, 100)
    expected = all_paths(train, asked, scores)
    assert {path.entities: path.weakest for path in found} == pytest.approx(expected)
    assert [path.weakest for path in found] == sorted((path.weakest for path in found), reverse=True)
    for path in found:
        assert path.total == pytest.approx(float(scores[list(path.rows)].sum()))
        for row, ends in zip(path.rows, zip(path.entities, path.entities[1:], strict=False), strict=True):
            assert set(train[row, [0, 2]].tolist()) == set(ends)
    assert Surroundings(train, size, asked).paths(scores, 2) == found[:2]


def test_no_way_leads_from_an_entity_to_itself() -> None:
    around = Surroundings(TRAIN, 7, (0, 0, 0))
    assert around.paths(torch.ones(len(TRAIN)), 5) == []
    assert around.tie((0, 1, 3)).path is None


def test_presence_as_such_turned_and_in_other_words() -> None:
    train = torch.tensor([[0, 0, 1], [1, 1, 0], [0, 0, 1], [2, 0, 3], [3, 1, 2], [0, 2, 1]])
    found = presence(train, (0, 0, 1))
    assert found.rows == (0, 2)
    assert [(twin.row, twin.relation, twin.turned, twin.share) for twin in found.twins] == [
        (1, 1, True, 1.0),
        (5, 2, False, 0.5),
    ]
    assert presence(train, (4, 0, 5)).twins == ()
    loop = presence(torch.tensor([[0, 0, 0], [0, 1, 0]]), (0, 0, 0))
    assert [(twin.row, twin.turned) for twin in loop.twins] == [(1, False)]
