"""Necessary sets of many predictions, removed together, and the model trained again: what a score's sets are worth.

Source: Rossi et al., Explaining Link Prediction Systems based on Kelpie, SIGMOD 2022, section 5.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.digests import digest_of, sealed
from tracin.evaluation.deletion import Change, delete
from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.retraining import read_sealed
from tracin.evaluation.scores import QUERIES_AT_A_TIME, Model, Score
from tracin.files import replacing
from tracin.progress import progress_stages
from tracin.sets.facts import Fact, Facts
from tracin.sets.post_training import PostTraining, check_loss
from tracin.sets.search import Search, Set, Verdict, search
from tracin.sets.smallest import SetOptions
from tracin.sets.verification import PostTrained

FIRST, SMALLEST = "first", "smallest"
TIES = 1e-6  # of the largest score: what sets equal scores apart, at random


@dataclass(frozen=True)
class Chosen:
    """The sets that one way of choosing gives for all predictions.

    Args:
        sets: the rows of each, with all copies.
        size: of a set, mean, copies not counted.
        found: for how many predictions post-training says that the set does it; None where it was not asked.
    """

    sets: Sequence[tuple[int, ...]]
    size: float
    found: int | None


@dataclass(frozen=True)
class Necessary:
    """What removing the sets of one way of choosing does."""

    size: float
    found: int | None
    removed: float
    changes: dict[str, Any]


@dataclass(frozen=True)
class Chooser:
    """Chooses the sets of predictions among the facts of their heads.

    Args:
        graph, recipe, model: what is explained, and how it was trained.
        options: of the search.
        folder: where the sets that were searched are kept, so that a run that was stopped goes on.
    """

    graph: Graph
    recipe: Recipe
    model: Model
    options: SetOptions
    folder: Path
    progress: bool | None = None

    def choose(
        self,
        name: str,
        score: Score,
        queries: Tensor,  # [q, 3]
        ks: Sequence[int],
        searched: bool,
    ) -> dict[tuple[str, int], Chosen]:
        """By FIRST, the k facts of greatest score, and where it is `searched` by SMALLEST, up to k; for each k."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as models are trained: small products wait longer for threads than they take
        try:
            return self._choose(name, self._scores(score, queries), queries, ks, searched)
        finally:
            torch.set_num_threads(threads)

    def _choose(
        self, name: str, scores: Tensor, queries: Tensor, ks: Sequence[int], searched: bool
    ) -> dict[tuple[str, int], Chosen]:
        training = self.recipe.seeded(0)
        facts = Facts(self.model.last, self.graph.train, self.graph.known, training.inverse)
        sets: dict[tuple[str, int], list[Set]] = {}
        found: dict[tuple[str, int], int] = {}
        verifier = None
        with progress_stages(self.progress) as stage:
            advance = stage(f"choosing by {name}", len(queries), "predictions")
            for query, own in zip(queries, scores, strict=True):
                asked = facts.asked(tuple(query.tolist()))
                candidates = facts.touching(asked.entity, own)
                for k in ks:
                    sets.setdefault((FIRST, k), []).append(tuple(candidates[:k]))
                if searched:
                    if verifier is None:
                        check_loss(training.loss)
                        samples = facts.samples(self.graph.train)
                        copies = PostTraining(facts.model, samples, training.label_smoothing, self.options.seed)
                        verifier = PostTrained(facts, copies, self.options.copies)
                    for k, (some, does_it) in self._searched(name, verifier, asked, candidates, ks).items():
                        sets.setdefault((SMALLEST, k), []).append(some)
                        found[SMALLEST, k] = found.get((SMALLEST, k), 0) + does_it
                advance(1)
        return {way: _chosen(some, found.get(way)) for way, some in sets.items()}

    def _scores(self, score: Score, queries: Tensor) -> Tensor:  # [q, n]
        """With equal ones apart, at random."""
        parts = [score.of(self.graph, self.model, some) for some in queries.split(QUERIES_AT_A_TIME)]
        values = torch.cat(parts).double()
        generator = torch.Generator().manual_seed(self.model.seed)
        noise = torch.rand(values.shape, generator=generator, dtype=torch.float64)
        return values + TIES * values.abs().amax(1, keepdim=True) * noise

    def _searched(
        self, name: str, verifier: PostTrained, asked: Any, candidates: list[Fact], ks: Sequence[int]
    ) -> dict[int, tuple[Set, bool]]:
        """For each k the smallest set of up to k facts by post-training, else the nearest; as kept, if it was."""
        by_triple = {fact.triple: fact for fact in candidates}
        some = candidates[: self.options.candidates]
        inputs = digest_of(
            [self.graph.digest, self.recipe.epochs, asdict(self.recipe.seeded(self.model.seed)),
             str(asdict(self.options)), list(ks), list(asked.triple), [list(fact.triple) for fact in some]]
        )  # fmt: skip
        path = self.folder / f"set_{inputs.rpartition(':')[2][:24]}.json"
        kept = read_sealed(path, "that set is searched again")
        if kept is not None:
            return {
                k: (tuple(by_triple[tuple(triple)] for triple in kept["sets"][str(k)]), kept["found"][str(k)])
                for k in ks
            }
        seen: dict[Set, Verdict] = {}
        results = {k: self._search(verifier, asked, some, k, seen) for k in sorted(ks)}
        chosen = {k: (one.chosen or (), one.found) for k, one in results.items()}
        content: dict[str, Any] = {
            "score": name,
            "sets": {str(k): [list(fact.triple) for fact in one] for k, (one, _) in chosen.items()},
            "found": {str(k): does_it for k, (_, does_it) in chosen.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            json.dump(sealed(content), file)
        return chosen

    def _search(
        self, verifier: PostTrained, asked: Any, candidates: list[Fact], k: int, seen: dict[Set, Verdict]
    ) -> Search:
        def judge(sets: Sequence[Set]) -> list[Verdict]:
            new = [one for one in sets if one not in seen]
            if new:
                seen.update(zip(new, verifier.without(asked, new), strict=True))
            return [seen[one] for one in sets]

        return search(
            candidates,
            judge,
            lambda verdict: not verdict.mostly_first,
            lambda verdict: -verdict.margin,
            most=k,
            tries=self.options.tries,
            at_a_time=verifier.at_a_time,
        )


def _chosen(sets: Sequence[Set], found: int | None) -> Chosen:
    rows = [tuple(row for fact in some for row in fact.rows) for some in sets]
    return Chosen(rows, sum(map(len, sets)) / max(1, len(sets)), found)


def padded(
    sets: Sequence[tuple[int, ...]],
    spare: int,
) -> Tensor:  # [q, longest] int64
    """Rows of equal length, each set filled up with its own first member; an empty one with `spare`."""
    longest = max(1, *(len(some) for some in sets))
    filled = [(*some, *[some[0] if some else spare] * (longest - len(some))) for some in sets]
    return torch.tensor(filled, dtype=torch.int64)


def remove(
    graph: Graph,
    recipe: Recipe,
    folder: Path,
    chosen: Mapping[str, Mapping[tuple[str, int], Chosen]],
    queries: Tensor,  # [q, 3]
    **arguments: Any,
) -> dict[str, dict[str, dict[int, Necessary]]]:
    """The sets of all predictions left out at once, a model trained without: what changes, by score, way and k.

    Args:
        arguments: of `delete`: repeats, seed, bootstrap, processes, progress.
    """
    found: dict[str, dict[str, dict[int, Necessary]]] = {}
    for name, ways in chosen.items():
        for (way, k), one in ways.items():
            some = [members for members in one.sets if members]
            if not some:
                continue
            tops = {name: padded(one.sets, some[0][0])}
            width = tops[name].shape[1]
            change: Change = delete(graph, recipe, folder, tops, queries, ks=(width,), together=True, **arguments)[
                name
            ][width]
            result = Necessary(one.size, one.found, change.removed, change.changes)
            found.setdefault(name, {}).setdefault(way, {})[k] = result
    return found
