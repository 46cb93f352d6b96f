"""The triples of an evaluation, and how its models are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tracin.digests import digest_of
from tracin.errors import InputError
from tracin.training.loop import DEFAULT_EPOCHS, TrainingOptions
from tracin.triples.ids import check_ids
from tracin.triples.known_tails import KnownTails


@dataclass(frozen=True)
class Graph:
    """Training triples, and the test triples whose predictions are explained.

    Args:
        train: [n, 3] head, relation, tail.
        test: [q, 3].
        others: [m, 3] further true triples, for the filter of rankings; usually those of validation.
        num_entities, num_relations: N and R, without inverse relations.

    Raises:
        InputError: on ids outside of that, or if there are no training or no test triples.
    """

    train: Tensor
    test: Tensor
    others: Tensor
    num_entities: int
    num_relations: int

    def __post_init__(self) -> None:
        for name in ("train", "test", "others"):
            check_ids(getattr(self, name), self.num_entities, self.num_relations)
        for name in ("train", "test"):
            if len(getattr(self, name)) == 0:
                raise InputError(f"there are no {name} triples; expected at least one", name)

    @cached_property
    def known(self) -> Tensor:  # [n + q + m, 3]
        """All that is true."""
        return torch.cat([self.train, self.test, self.others])

    def questions(self) -> Tensor:  # [at most q, 3]
        """The test triples, without those of (head, relation) for which every tail is known: there is nothing to rank.

        Raises:
            InputError: if none is left.
        """
        known = KnownTails.of(self.known, self.num_entities, self.num_relations)
        position, _ = known.lookup(self.test[:, 0], self.test[:, 1])
        open_ = position.bincount(minlength=len(self.test)) < self.num_entities
        if not open_.any():
            raise InputError("every tail is known for every test triple's head and relation: there is nothing to rank")
        return self.test[open_]

    @property
    def relation_to_id(self) -> dict[str, int]:
        """Numbers as labels: what tells a model's relations from their inverses."""
        return {str(number): number for number in range(self.num_relations)}

    @cached_property
    def digest(self) -> str:
        return digest_of([self.train, self.test, self.others, self.num_entities, self.num_relations])


@dataclass(frozen=True)
class Recipe:
    """How each model is trained.

    Args:
        epochs: of `tracin.training.train`.
        options: fields of `tracin.training.TrainingOptions`, without the seed.

    Raises:
        InputError: if they are wrong.
    """

    epochs: int = DEFAULT_EPOCHS
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs is {self.epochs}; expected at least 1")
        TrainingOptions(**self.options)

    def seeded(self, seed: int) -> TrainingOptions:
        """All options, those that are not named with their defaults."""
        return TrainingOptions(**self.options | {"seed": seed})


def drawn(
    count: int,
    number: int | None,
    seed: int,
) -> Tensor:  # [min(count, number)] int64
    """Some of `count` things at random, by index, ascending; None: all."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:number].sort().values
