"""Filtered ranks against a plain loop, and the set of known triples that filters them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.model import ConvE
from tracin.training.ranking import Ranking, evaluate, head_ranks, tail_ranks
from tracin.triples.known_tails import KnownTails

NUM_ENTITIES, NUM_RELATIONS = 11, 3


def make_model(relation_step: int = 1, rows: int = 2 * NUM_RELATIONS) -> ConvE:
    torch.manual_seed(3)
    model = ConvE(NUM_ENTITIES, rows, 12, embedding_height=4, embedding_width=3, relation_step=relation_step)
    with torch.no_grad():
        assert model.bias is not None
        model.bias.normal_(std=0.1)
        # Large enough that the ranks hang on head and relation.
        model.entity.weight.normal_()
        model.relation.weight.normal_(std=3)
        # Entities 2, 5 and 7 always have equal scores.
        for other in (5, 7):
            model.entity.weight[other] = model.entity.weight[2]
            model.bias[other] = model.bias[2]
    return model


def make_triples(count: int, seed: int) -> Tensor:  # [count, 3]
    torch.manual_seed(seed)
    entities = torch.randint(NUM_ENTITIES, (count, 2))
    return torch.stack([entities[:, 0], torch.randint(NUM_RELATIONS, (count,)), entities[:, 1]], dim=1)


def loop_rank(scores: list[float], right: int, others: set[int]) -> float:
    """The definition: mean of the best and the worst rank, other right answers left out."""
    rivals = [score for entity, score in enumerate(scores) if entity != right and entity not in others]
    better = sum(score > scores[right] for score in rivals)
    equal = sum(score == scores[right] for score in rivals)
    return (2 * better + equal) / 2 + 1


def row_scores(model: ConvE, head: int, row: int) -> list[float]:
    """Scores of all tails for a row of the relation table, whatever relation it belongs to."""
    plain = ConvE(**{**model.config, "relation_step": 1}).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        return plain.score_tails(torch.tensor([head]), torch.tensor([row]))[0].tolist()


@pytest.mark.parametrize("batch_size", [None, 1, 7, 40])
@pytest.mark.parametrize("relation_step", [1, 2])
def test_ranks_are_those_of_a_loop(relation_step: int, batch_size: int | None) -> None:
    model = make_model(relation_step)
    triples, known = make_triples(40, 0), make_triples(120, 1)
    facts = [tuple(triple) for triple in known.tolist()]
    tails, heads = [], []
    for head, relation, tail in triples.tolist():
        others = {t for h, r, t in facts if (h, r) == (head, relation)}
        tails.append(loop_rank(row_scores(model, head, relation_step * relation), tail, others))
        others = {h for h, r, t in facts if (t, r) == (tail, relation)}
        inverse = 2 * relation + 1 if relation_step == 2 else relation + NUM_RELATIONS
        heads.append(loop_rank(row_scores(model, tail, inverse), head, others))
    assert any(rank % 1 for rank in tails), "the case needs ties"
    assert tail_ranks(model, triples, known, batch_size).tolist() == tails
    assert head_ranks(model, triples, known, batch_size).tolist() == heads
    expected = torch.tensor(tails + heads, dtype=torch.float64)
    ranking = evaluate(model, triples, known, both_directions=True, batch_size=batch_size)
    assert ranking.count == 80
    assert ranking.mrr == pytest.approx(float((1 / expected).mean()), rel=1e-12)
    assert ranking.hits == {k: pytest.approx(sum(rank <= k for rank in tails + heads) / 80) for k in (1, 3, 10)}
    assert evaluate(model, triples, known, both_directions=False) == Ranking.of(expected[:40])


def test_sliced_and_transposed_triples_rank_alike() -> None:
    model, triples, known = make_model(), make_triples(20, 0), make_triples(30, 1)
    expected = tail_ranks(model, triples[::2].clone(), known)
    assert torch.equal(tail_ranks(model, triples[::2], known.T.contiguous().T), expected)


def test_nothing_known_and_nothing_to_rank() -> None:
    model, triples = make_model(), make_triples(5, 0)
    nothing = triples[:0]
    assert tail_ranks(model, nothing, triples).shape == (0,)
    unfiltered = [loop_rank(row_scores(model, h, r), t, set()) for h, r, t in triples.tolist()]
    assert tail_ranks(model, triples, nothing).tolist() == unfiltered
    with pytest.raises(InputError, match="no triples to rank"):
        evaluate(model, nothing, triples, both_directions=False)


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_the_model_stays(training: bool) -> None:
    model = make_model().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, make_triples(5, 0), make_triples(5, 1), both_directions=True)
    assert {module.training for module in model.modules()} == {training}
    assert model.relation_step == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_wrong_input_names_itself() -> None:
    model, triples = make_model(), make_triples(4, 0)
    outside = triples.clone()
    outside[2, 2] = NUM_ENTITIES
    with pytest.raises(InputError, match=r"triples row 2: tail id 11 is outside 0\.\.10; were"):
        tail_ranks(model, outside, triples)
    outside = triples.clone()
    outside[1, 1] = NUM_RELATIONS
    with pytest.raises(InputError, match=r"triples row 1: relation id 3 is outside 0\.\.2; were"):
        evaluate(model, triples, outside, both_directions=True)
    with pytest.raises(InputError, match=r"expected \[n, 3\]"):
        tail_ranks(model, triples[:, :2], triples)
    with pytest.raises(InputError, match="torch.float32"):
        tail_ranks(model, triples.float(), triples)
    with pytest.raises(InputError, match="cannot be halved"):
        head_ranks(make_model(rows=NUM_RELATIONS), triples, triples)
    with torch.no_grad():
        model.entity.weight[0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        tail_ranks(model, triples, triples)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_known_tails_are_those_of_a_dictionary(count: int) -> None:
    triples = make_triples(count, 5).repeat(2, 1)  # duplicates count once
    known = KnownTails.of(triples, NUM_ENTITIES, NUM_RELATIONS)
    expected: dict[tuple[int, int], set[int]] = {}
    for head, relation, tail in triples.tolist():
        expected.setdefault((head, relation), set()).add(tail)
    assert [tuple(pair) for pair in known.pairs().tolist()] == sorted(expected)
    assert len(known.codes) == sum(map(len, expected.values()))
    queries = torch.cartesian_prod(torch.arange(NUM_ENTITIES), torch.arange(NUM_RELATIONS)).flip(0)
    positions, tails = known.lookup(queries[:, 0], queries[:, 1])
    found: dict[tuple[int, int], set[int]] = {}
    for position, tail in zip(positions.tolist(), tails.tolist(), strict=True):
        head, relation = queries[position].tolist()
        found.setdefault((head, relation), set()).add(tail)
    assert found == expected
