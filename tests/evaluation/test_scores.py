"""Scores by name: what they are, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.samples.planted_effects import RECIPE, small_graph
from tracin import TracIn
from tracin.errors import InputError
from tracin.evaluation.models import trained
from tracin.evaluation.sanity import sanity
from tracin.evaluation.scores import CONTROLS, Model, Score, z_scores
from tracin.proximity.two_rules import two_rules

GRAPH = small_graph()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(trained(GRAPH, RECIPE, tmp_path_factory.mktemp("models"), seed=0, checkpoints=2))


def scored(text: str, model: Model) -> torch.Tensor:
    return Score.named(text).of(GRAPH, model, GRAPH.test)


def test_tracin_is_that_of_the_last_checkpoint(model: Model) -> None:
    expected = TracIn(model.checkpoints[-1], device="cpu").influence(GRAPH.train, GRAPH.test)
    torch.testing.assert_close(scored("tracin", model), expected)
    layers = TracIn(model.checkpoints[-1], layers=["entity", "bias"], device="cpu").influence(GRAPH.train, GRAPH.test)
    torch.testing.assert_close(scored("tracin:layers=entity/bias", model), layers)
    single = TracIn(model.checkpoints[-1], layers=1, precision="float64", device="cpu").influence(
        GRAPH.train, GRAPH.test
    )
    torch.testing.assert_close(scored("tracin:layers=1,precision=float64", model), single)
    summed = TracIn(list(model.checkpoints), device="cpu").influence(GRAPH.train, GRAPH.test)
    torch.testing.assert_close(scored("tracin:checkpoints=2", model), summed)


def test_accurate_knows_inverses_and_what_is_true(model: Model) -> None:
    expected = TracIn(model.checkpoints[-1], method="accurate", direction="both", known=GRAPH.known, device="cpu")
    torch.testing.assert_close(scored("accurate", model), expected.influence(GRAPH.train, GRAPH.test))
    plain = TracIn(model.checkpoints[-1], method="accurate", normalize="none", query="bce", samples=8, device="cpu")
    torch.testing.assert_close(
        scored("accurate:normalize=none,query=bce,samples=8", model), plain.influence(GRAPH.train, GRAPH.test)
    )
    assert not torch.allclose(scored("accurate", model), scored("accurate:weights=random", model))


def test_random_weights_are_others_and_the_same_each_time(model: Model) -> None:
    first, again, learned = (scored(text, model) for text in ("tracin:weights=random",) * 2 + ("tracin",))
    assert torch.equal(first, again)
    assert not torch.allclose(first, learned)


def test_controls_ask_what_they_say(model: Model) -> None:
    rows = [
        F.normalize(
            torch.cat([model.last.entity(t[:, 0]), model.last.relation(t[:, 1]), model.last.entity(t[:, 2])], 1)
        )
        for t in (GRAPH.test, GRAPH.train)
    ]
    torch.testing.assert_close(scored("embedding", model), (rows[0] @ rows[1].T).detach())
    assert torch.equal(scored("two-rules", model), two_rules(GRAPH.train, GRAPH.test))
    same = GRAPH.train[None, :, 1] == GRAPH.test[:, None, 1]
    assert torch.equal(scored("same-relation", model) >= 1, same)
    for i, (head, _, tail) in enumerate(GRAPH.test.tolist()):
        near = [bool({head, tail} & {h, t}) for h, _, t in GRAPH.train.tolist()]
        assert (scored("neighbours", model)[i] >= 1).tolist() == near
    assert scored("random", model).unique().numel() == GRAPH.test.shape[0] * GRAPH.train.shape[0]
    assert {Score.named(name).asks_model for name in CONTROLS if name != "embedding"} == {False}


def test_scores_add_up_z_scored(model: Model) -> None:
    text = "tracin + two-rules"
    expected = z_scores(scored("tracin", model)) + z_scores(scored("two-rules", model))
    assert torch.equal(scored(text, model), expected)
    assert Score.named(text).asks_model
    assert z_scores(torch.tensor([[3.0, 3.0], [1.0, 3.0]])).tolist() == [[0.0, 0.0], [-1.0, 1.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no score ''; expected one of tracin, accurate, two-rules"),
        ("trcin", "there is no score 'trcin'"),
        ("tracin + ", "there is no score ''"),
        ("tracin:layers", "'layers' is no setting; expected SETTING=VALUE"),
        ("tracin:=1", "'=1' is no setting"),
        ("random:seed=1", "random has no settings"),
    ],
)
def test_what_is_no_score_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        Score.named(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tracin:depth=1", "setting 'depth' is none of TracIn's; expected one of learning_rates, loss"),
        ("tracin:known=1", "setting 'known' is none of TracIn's"),
        ("accurate:method=tracin2", "method is 'tracin2'"),
        ("tracin:layers=fcc", "fcc"),
        ("tracin:checkpoints=3", "asks for 3 checkpoints, of which there are 2"),
        ("tracin:checkpoints=0", "asks for 0 checkpoints"),
        ("tracin:weights=none", "weights is none; expected trained or random"),
    ],
)
def test_wrong_settings_are_refused(model: Model, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scored(text, model)


def test_sanity_counts_the_lists_and_asks_random_weights(model: Model) -> None:
    rules = sanity(GRAPH, model, Score.named("two-rules"), GRAPH.test)
    assert rules.random_correlation is None and rules.random_overlap is None
    assert 10 <= rules.distinct <= 30 and 1 / len(GRAPH.test) <= rules.most <= 1
    same = sanity(GRAPH, model, Score.named("tracin:weights=random"), GRAPH.test)
    assert same.random_correlation == pytest.approx(1) and same.random_overlap == 1
    learned = sanity(GRAPH, model, Score.named("tracin"), GRAPH.test)
    assert learned.random_correlation is not None and learned.random_correlation < 0.99


def test_lists_of_few_training_triples_use_all_of_them(model: Model) -> None:
    few = small_graph(train=3)
    found = sanity(few, model, Score.named("random"), few.test[:1])
    assert (found.distinct, found.most) == (3, 1.0)
