"""What becomes of a prediction when facts are left out, or added to other entities, by training anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tracin.digests import digest_of
from tracin.errors import InputError
from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.retraining import Job, retrain
from tracin.results.words import several
from tracin.sets.facts import Asked, Facts, moved, triples_of
from tracin.sets.post_training import Altered, PostTraining
from tracin.sets.search import Set, Verdict

AT_A_TIME = 8  # sets whose copies are trained together: more than are needed where an early one does it
NAMED = 24  # letters of a digest
NOTHING = torch.empty(0, 3, dtype=torch.int64)


class Verifier(Protocol):
    """Answers what becomes of predictions."""

    @property
    def at_a_time(self) -> int:
        """Sets that are best judged together."""
        ...

    def words(self, carried: bool) -> str:
        """How, for people."""
        ...

    def without(self, asked: Asked, sets: Sequence[Set]) -> list[Verdict]:
        """Without each set of facts; the empty set says what holds before."""
        ...

    def carried(self, asked: Asked, entities: Sequence[int], sets: Sequence[Set]) -> list[Verdict]:
        """Asked of other entities, to each of which each set is added; the empty set says what holds before."""
        ...


@dataclass(frozen=True)
class PostTrained:
    """By copies of one entity, trained anew on its facts while all else stays (Kelpie's post-training).

    Args:
        copies: with different first values, of an entity whose facts are left out; one of each that gets facts.
    """

    facts: Facts
    training: PostTraining
    copies: int
    at_a_time: int = AT_A_TIME

    def words(self, carried: bool) -> str:
        whose = "each other entity, a copy" if carried else f"the one entity, {several(self.copies, 'copy', 'copies')}"
        return f"post-training of {whose}"

    def without(self, asked: Asked, sets: Sequence[Set]) -> list[Verdict]:
        altered = [Altered(self.facts.samples(triples_of(some)), NOTHING) for some in sets]
        scores = self.training.scores(asked.entity, asked.relation, altered, self.copies)
        ranks, margins = self.facts.ranks(asked, scores.cpu())
        return [
            Verdict(tuple(rank.tolist()), float(margin.mean())) for rank, margin in zip(ranks, margins, strict=True)
        ]

    def carried(self, asked: Asked, entities: Sequence[int], sets: Sequence[Set]) -> list[Verdict]:
        ranks = torch.empty(len(sets), len(entities), dtype=torch.float64)
        margins = torch.empty_like(ranks)
        for i, entity in enumerate(entities):
            question = Asked(asked.triple, entity, asked.relation, asked.answer)
            added = [self.facts.samples(moved(some, asked.entity, entity)) for some in sets]
            scores = self.training.scores(entity, asked.relation, [Altered(NOTHING, some) for some in added], 1).cpu()
            for j, samples in enumerate(added):
                right = samples[(samples[:, 0] == entity) & (samples[:, 1] == asked.relation), 2]
                rank, margin = self.facts.ranks(question, scores[j, 0], right)
                ranks[j, i], margins[j, i] = rank, margin
        return [Verdict(tuple(ranks[j].tolist()), float(margins[j].mean())) for j in range(len(sets))]


@dataclass(frozen=True)
class Retrained:
    """By models that are trained again from the beginning.

    Args:
        recipe: how.
        folder: where what each model said is kept; what is there is not trained again.
        copies: models of each set, of different seeds.
        seed: of the first.
    """

    facts: Facts
    recipe: Recipe
    folder: Path
    copies: int
    seed: int = 0
    at_a_time: int = 1

    def words(self, carried: bool) -> str:
        return f"retraining the whole model, {several(self.copies, 'seed', 'seeds')}"

    def _graph(self, queries: Tensor, added: Tensor = NOTHING) -> Graph:
        facts = self.facts
        relations = facts.model.relation.num_embeddings // (2 if facts.both else 1)
        return Graph(torch.cat([facts.train, added]), queries, facts.known, facts.model.num_entities, relations)

    def _asked_of(self, graph: Graph, kept: Tensor, queries: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Ranks and margins [q] of each copy."""
        seeds = range(self.seed, self.seed + self.copies)
        name = digest_of([graph.digest, self.recipe.epochs, kept, queries]).rpartition(":")[2][:NAMED]
        jobs = [Job(f"set_{name}_seed_{seed}", kept, seed, queries) for seed in seeds]
        return [(some.rank, some.margin) for some in retrain(graph, self.recipe, jobs, self.folder, progress=False)]

    def without(self, asked: Asked, sets: Sequence[Set]) -> list[Verdict]:
        queries = _tail_query(asked)
        graph, verdicts = self._graph(queries), []
        for some in sets:
            kept = torch.ones(len(graph.train), dtype=torch.bool)
            kept[torch.tensor([row for fact in some for row in fact.rows], dtype=torch.int64)] = False
            found = self._asked_of(graph, kept.nonzero()[:, 0], queries)
            ranks, margins = (torch.cat(values) for values in zip(*found, strict=True))
            verdicts.append(Verdict(tuple(ranks.tolist()), float(margins.mean())))
        return verdicts

    def carried(self, asked: Asked, entities: Sequence[int], sets: Sequence[Set]) -> list[Verdict]:
        (query,) = _tail_query(asked)
        queries = query.repeat(len(entities), 1)
        queries[:, 0] = torch.tensor(entities)
        verdicts = []
        for some in sets:
            added = torch.cat([NOTHING, *(moved(some, asked.entity, entity) for entity in entities)])
            graph = self._graph(queries, added)
            found = self._asked_of(graph, torch.arange(len(graph.train)), queries)
            ranks, margins = (torch.stack(values).mean(0) for values in zip(*found, strict=True))
            verdicts.append(Verdict(tuple(ranks.tolist()), float(margins.mean())))
        return verdicts


def _tail_query(asked: Asked) -> Tensor:  # [1, 3]
    if asked.of_head:
        raise InputError("retraining ranks tails; ask for (head, relation, ?), or verify by post-training", "verify")
    return torch.tensor([asked.triple])
