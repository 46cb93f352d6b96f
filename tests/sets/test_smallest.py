"""Necessary and sufficient sets: what is asked of whom, what is said, and retraining as it would be done by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tests.samples.planted_effects import RECIPE, small_graph
from tracin.errors import InputError
from tracin.evaluation.graph import Graph
from tracin.evaluation.outcomes import outcomes
from tracin.evaluation.retraining import Job, retrain
from tracin.model import ConvE
from tracin.sets.facts import Asked, Facts, moved
from tracin.sets.post_training import PostTraining
from tracin.sets.search import Set, Verdict
from tracin.sets.smallest import SetOptions, necessary, sufficient, unpredicted
from tracin.sets.verification import PostTrained, Retrained

GRAPH = small_graph()
ENTITIES, RELATIONS = 9, 2


def facts_of(train: torch.Tensor = GRAPH.train, both: bool = True) -> Facts:
    torch.manual_seed(1)
    shape = dict(embedding_dim=12, embedding_height=4, embedding_width=3, output_channels=3)
    model = ConvE(ENTITIES, RELATIONS * (2 if both else 1), **shape).eval()
    return Facts(model, train, torch.cat([train, GRAPH.test]), both)


@dataclass
class Planted:
    """Says what it was told to say."""

    without_says: Callable[[Set], tuple[float, ...]] = lambda some: (1.0,)
    carried_says: Callable[[Set], tuple[float, ...]] = lambda some: (2.0, 2.0)
    at_a_time: int = 2
    entities: list[int] = field(default_factory=list)

    def words(self, carried: bool) -> str:
        return "what was planted"

    def without(self, asked: Asked, sets: Sequence[Set]) -> list[Verdict]:
        return [Verdict(self.without_says(some), -float(len(some))) for some in sets]

    def carried(self, asked: Asked, entities: Sequence[int], sets: Sequence[Set]) -> list[Verdict]:
        self.entities = list(entities)
        return [Verdict(self.carried_says(some), -1.0) for some in sets]


def test_facts_are_distinct_triples_of_the_entity_by_score() -> None:
    train = torch.tensor([[0, 0, 1], [2, 1, 0], [0, 0, 1], [3, 0, 4], [0, 1, 0]])
    found = facts_of(train).touching(0, torch.tensor([1.0, 5.0, 2.0, 9.0, -1.0]))
    assert [(fact.triple, fact.rows, fact.score) for fact in found] == [
        ((2, 1, 0), (1,), 5.0), ((0, 0, 1), (0, 2), 2.0), ((0, 1, 0), (4,), -1.0),
    ]  # fmt: skip
    assert moved(found, 0, 7).tolist() == [[2, 1, 7], [7, 0, 1], [7, 1, 7]]
    assert moved((), 0, 7).shape == (0, 3)
    assert facts_of(train).touching(8, torch.zeros(5)) == []


def test_ranks_are_those_of_the_outcomes() -> None:
    facts = facts_of()
    found = outcomes(facts.model, GRAPH.test, facts.known)
    for place, triple in enumerate(GRAPH.test.tolist()):
        asked = facts.asked(tuple(triple))
        with torch.no_grad():
            scores = facts.model.score_tails(torch.tensor([triple[0]]), torch.tensor([triple[1]]))[0]
        rank, margin = facts.ranks(asked, scores)
        assert (float(rank), float(margin)) == (
            float(found.rank[place]),
            pytest.approx(float(found.margin[place]), abs=1e-6),
        )


def test_heads_are_asked_by_the_inverse_relation() -> None:
    assert facts_of().asked((1, 0, 2), of_head=True) == Asked((1, 0, 2), 2, 0 + RELATIONS, 1, True)
    with pytest.raises(InputError, match="ask for the tail"):
        facts_of(both=False).asked((1, 0, 2), of_head=True)
    assert facts_of(both=False).asked((1, 0, 2)) == Asked((1, 0, 2), 1, 0, 2)


def test_the_smallest_necessary_set_is_told() -> None:
    facts, scores = facts_of(), torch.arange(30.0)
    asked = facts.asked((int(GRAPH.train[0, 0]), 0, 5))
    candidates = facts.touching(asked.entity, scores)
    wanted = tuple(candidates[:2])
    verifier = Planted(lambda some: (3.0, 1.0, 2.0) if some == wanted else (1.0, 1.0, 2.0))
    found = necessary(facts, verifier, asked, scores, 1, SetOptions())
    assert (found.found, found.facts, found.tried) == (True, wanted, len(candidates) + 1)
    assert found.sentence().startswith("Without these two the prediction falls: 1.33th before, 2nd after.")
    assert "by what was planted" in found.sentence()
    assert found.exhausted
    few = necessary(facts, verifier, asked, scores, 1, SetOptions(tries=1))
    assert few.found and not few.exhausted and "smaller ones may be left" in few.sentence()
    none = necessary(facts, Planted(), asked, scores, 1, SetOptions(max_size=2))
    assert not none.found and len(none.facts) == 2
    assert "No set of up to two makes it fall" in none.sentence()


def test_what_cannot_be_explained_away_is_said() -> None:
    facts, scores = facts_of(), torch.zeros(30)
    asked = facts.asked((0, 0, 5))
    for look, told in ((necessary, "nothing to explain away"), (sufficient, "nothing to carry over")):
        found = look(facts, Planted(), asked, scores, 3, SetOptions())
        assert found.sentence() == f"The model puts it 3rd, not first: there is {told}."
        assert (found.found, found.facts, found.tried, found.before) == (False, (), 0, None)
    unsure = necessary(facts, Planted(lambda some: (2.0,)), asked, scores, 1, SetOptions())
    assert "With all its facts the answer is 2nd" in unsure.sentence() and "retraining" in unsure.sentence()
    lonely = facts_of(GRAPH.train[(GRAPH.train[:, 0] != 0) & (GRAPH.train[:, 2] != 0)])
    assert "No training triple holds" in necessary(lonely, Planted(), asked, scores, 1, SetOptions()).sentence()
    assert "No other training triple" in sufficient(lonely, Planted(), asked, scores, 1, SetOptions()).sentence()


def test_one_fact_of_an_entity() -> None:
    train = torch.tensor([[0, 0, 1], [2, 0, 3], [4, 1, 5]])
    facts = facts_of(train)
    asked = facts.asked((0, 0, 1))
    found = necessary(facts, Planted(lambda some: (1.0 + len(some),)), asked, torch.zeros(3), 1, SetOptions())
    assert found.facts[0].triple == (0, 0, 1) and found.sizes[0].possible == 1
    assert "Without this training triple" in found.sentence()
    alone = sufficient(facts, Planted(), asked, torch.zeros(3), 1, SetOptions())
    assert "No other training triple" in alone.sentence()  # the prediction itself is not carried


def test_a_sufficient_set_goes_to_others_of_whom_it_is_not_said() -> None:
    facts, scores = facts_of(), torch.arange(30.0)
    head, relation, tail = GRAPH.train[0].tolist()
    asked = facts.asked((head, relation, tail))
    verifier = Planted(carried_says=lambda some: (1.0, 1.0, 3.0) if len(some) == 2 else (1.0, 3.0, 3.0))
    found = sufficient(facts, verifier, asked, scores, 1, SetOptions(entities=4))
    assert found.found and len(found.facts) == 2
    assert all(fact.triple != (head, relation, tail) for fact in found.facts)
    assert "the answer is first for 2 of 4 other entities, for 1 without" in found.sentence()
    assert found.entities == tuple(verifier.entities)
    said = {h for h, r, t in facts.known.tolist() if (r, t) == (relation, tail)}
    assert not said & set(found.entities) and head not in found.entities and tail not in found.entities
    rows = torch.tensor([[entity, relation, tail] for entity in found.entities])
    assert (outcomes(facts.model, rows, facts.known).rank > 1).all()
    assert unpredicted(facts, asked, 4, seed=0) == list(found.entities)
    with torch.no_grad():
        facts.model.bias[tail] += 1e3
    everywhere = sufficient(facts, verifier, asked, scores, 1, SetOptions())
    assert "says the same of every other entity" in everywhere.sentence()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"max_size": 0}, "max_size is 0"),
        ({"tries": True}, "tries is True"),
        ({"copies": 1.5}, "copies is 1.5"),
        ({"verify": "hope"}, "verify is 'hope'; expected one of post-train, retrain"),
    ],
)
def test_options_that_are_wrong(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        SetOptions(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("both", [False, True])
def test_post_training_answers_for_sets_and_entities(both: bool) -> None:
    facts = facts_of(both=both)
    verifier = PostTrained(facts, PostTraining(facts.model, facts.samples(facts.train), steps=5), 2)
    asked = facts.asked(tuple(GRAPH.train[0].tolist()))
    candidates = facts.touching(asked.entity, torch.zeros(30))
    one, other, again = verifier.without(asked, [(), tuple(candidates), ()])
    assert len(one.ranks) == 2 and one == again and one != other
    carried = verifier.carried(asked, [7, 8], [(), tuple(candidates[1:3])])
    assert [len(verdict.ranks) for verdict in carried] == [2, 2]
    assert carried[0] != carried[1]


def test_retraining_is_that_of_models_without_and_with_the_facts(tmp_path: Path) -> None:
    facts = facts_of()
    verifier = Retrained(facts, RECIPE, tmp_path / "a", 2, seed=3)
    triple = GRAPH.test[0]
    asked = facts.asked(tuple(triple.tolist()))
    candidates = tuple(facts.touching(asked.entity, torch.zeros(30))[:2])
    (verdict,) = verifier.without(asked, [candidates])
    graph = Graph(GRAPH.train, triple[None], facts.known, ENTITIES, RELATIONS)
    rows = {row for fact in candidates for row in fact.rows}
    kept = torch.tensor([row for row in range(30) if row not in rows])
    jobs = [Job(f"own_{seed}", kept, seed, triple[None]) for seed in (3, 4)]
    assert verdict.ranks == tuple(float(own.rank) for own in retrain(graph, RECIPE, jobs, tmp_path / "b"))
    before = sorted((tmp_path / "a").glob("*.json"))
    assert len(before) == 2
    assert verifier.without(asked, [candidates]) == [verdict]
    assert sorted((tmp_path / "a").glob("*.json")) == before, "what is known is not trained again"
    (carried,) = verifier.carried(asked, [7, 8], [candidates])
    added = torch.cat([moved(candidates, asked.entity, entity) for entity in (7, 8)])
    queries = triple.repeat(2, 1)
    queries[:, 0] = torch.tensor([7, 8])
    more = Graph(torch.cat([GRAPH.train, added]), queries, facts.known, ENTITIES, RELATIONS)
    job = [Job(f"more_{seed}", torch.arange(len(more.train)), seed, queries) for seed in (3, 4)]
    own = torch.stack([some.rank for some in retrain(more, RECIPE, job, tmp_path / "b")]).mean(0)
    assert carried.ranks == tuple(own.tolist())
    with pytest.raises(InputError, match="retraining ranks tails"):
        verifier.without(facts.asked(asked.triple, of_head=True), [()])
