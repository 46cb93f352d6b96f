"""Post-training: its loss is that part of the training loss that holds the one entity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.samples.planted_effects import ENTITIES, RELATIONS, small_graph
from tracin.errors import InputError
from tracin.influence.directions import by_row, samples_of
from tracin.model import ConvE
from tracin.sets import post_training
from tracin.sets.post_training import Altered, PostTraining, _Targets, check_loss
from tracin.training.loop import TrainingOptions, batch_loss
from tracin.triples.known_tails import KnownTails

TRAIN = torch.cat([small_graph().train, torch.tensor([[3, 0, 3], [3, 1, 3], [5, 0, 3]])])
TRAIN = torch.cat([TRAIN, TRAIN[:2]])  # loops and copies
NOTHING = torch.empty(0, 3, dtype=torch.int64)
SMOOTHING = 0.1


def model(both: bool, **options: Any) -> ConvE:
    torch.manual_seed(7)
    rows = RELATIONS * (2 if both else 1)
    shape = dict(embedding_dim=12, embedding_height=4, embedding_width=3, output_channels=3)
    made = ConvE(ENTITIES, rows, **shape, **options).double().eval()
    with torch.no_grad():
        for norm in (made.bn0, made.bn1, made.bn2):
            if norm is not None:
                norm.running_mean.normal_(std=0.1)
                norm.running_var.uniform_(0.5, 1.5)
        if made.bias is not None:
            made.bias.normal_()
    return made


def samples(net: ConvE, triples: Tensor, both: bool) -> Tensor:
    return samples_of(net, triples, "both" if both else "forward").reshape(-1, 3)


def by_autograd(net: ConvE, facts: Tensor, entity: int) -> list[Tensor]:
    """The gradient of the training loss, times the number of its terms, at one entity's embedding and bias."""
    rows = by_row(net)
    known = KnownTails.of(facts, ENTITIES, net.relation.num_embeddings)
    net.zero_grad()
    pairs = known.pairs()
    loss = TrainingOptions(label_smoothing=SMOOTHING).tail_loss(ENTITIES)
    (batch_loss(rows, known, pairs, loss) * len(pairs) * ENTITIES).backward()
    gradients = [net.entity.weight.grad[entity]]
    return gradients if net.bias is None else [*gradients, net.bias.grad[entity]]


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("entity", [0, 3, 8])
@pytest.mark.parametrize("options", [{}, {"entity_bias": False, "bn0": False, "stack": "width"}])
def test_gradients_are_those_of_the_training_loss(both: bool, entity: int, options: dict[str, Any]) -> None:
    net = model(both, **options)
    base = samples(net, TRAIN, both)
    touching = TRAIN[(TRAIN[:, 0] == entity) | (TRAIN[:, 2] == entity)]
    left_out = samples(net, touching[:2], both)
    added = samples(net, torch.tensor([[entity, 1, 2], [6, 0, entity], [entity, 0, entity]]), both)
    copies = [Altered(NOTHING, NOTHING), Altered(left_out, NOTHING), Altered(NOTHING, added), Altered(left_out, added)]
    training = PostTraining(net, base, SMOOTHING)
    targets = _Targets.of(training, entity, copies).repeated(2, SMOOTHING / ENTITIES, SMOOTHING)
    embedding = net.entity.weight.detach()[entity].repeat(8, 1).requires_grad_()
    bias = torch.zeros(8, dtype=torch.float64) if net.bias is None else net.bias.detach()[entity].repeat(8)
    training._loss(
        entity,
        targets,
        embedding,
        bias.requires_grad_(),
    ).backward()
    for i, copy in enumerate(copies):
        without = [row for row in base.tolist() if row not in copy.left_out.tolist()]
        expected = by_autograd(net, torch.tensor(without + copy.added.tolist()), entity)
        for own, wanted in zip((embedding.grad, bias.grad), expected, strict=False):
            assert torch.allclose(own[2 * i], wanted, rtol=1e-9, atol=1e-12)
            assert torch.equal(own[2 * i], own[2 * i + 1])


def test_contrasts_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model(True)
    base = samples(net, TRAIN, True)
    monkeypatch.setattr(post_training, "CONTRASTS", 9)
    targets = _Targets.of(PostTraining(net, base), 4, [Altered(NOTHING, NOTHING)])
    pairs = KnownTails.of(base, ENTITIES, 4).pairs()
    assert float(targets.weight.sum()) == pytest.approx(int((pairs[:, 0] != 4).sum()))


def test_scores_are_those_of_a_model_with_the_copy_in_place() -> None:
    net = model(True)
    training = PostTraining(net, samples(net, TRAIN, True), SMOOTHING, steps=0)
    own = training.scores(3, 1, [Altered(NOTHING, NOTHING)], 2)
    assert own.shape == (1, 2, ENTITIES)
    generator = torch.Generator().manual_seed(0)
    first = (2 / (ENTITIES + 12)) ** 0.5 * torch.randn(2, 12, generator=generator)
    with torch.no_grad():
        for copy in range(2):
            net.entity.weight[3] = first[copy].double()
            net.bias[3] = 0
            expected = by_row(net).score_tails(torch.tensor([3]), torch.tensor([1]))[0]
            assert torch.allclose(own[0, copy], expected)


def test_training_lowers_the_loss_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model(True)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    base = samples(net, TRAIN, True)
    copies = [Altered(NOTHING, NOTHING), Altered(base[:1], NOTHING), Altered(base[:2], NOTHING)]
    one = PostTraining(net, base, SMOOTHING).scores(0, 0, copies, 2)
    assert torch.equal(one, PostTraining(net, base, SMOOTHING).scores(0, 0, copies, 2))
    monkeypatch.setattr(post_training, "MOST_SCORES", 1)  # a copy at a time
    assert torch.allclose(one, PostTraining(net, base, SMOOTHING).scores(0, 0, copies, 2), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not torch.allclose(one[0], PostTraining(net, base, SMOOTHING, seed=1).scores(0, 0, copies[:1], 2)[0])


def test_an_entity_without_facts_and_facts_of_others() -> None:
    net = model(False)
    lonely = TRAIN[(TRAIN[:, 0] != 2) & (TRAIN[:, 2] != 2)]
    training = PostTraining(net, lonely)
    assert training.scores(2, 0, [Altered(NOTHING, NOTHING)], 1).isfinite().all()
    with pytest.raises(InputError, match="by the loss kvsall, and this model was trained by ce"):
        check_loss("ce")
    with pytest.raises(InputError, match="added to entity 2 does not hold it"):
        training.scores(2, 0, [Altered(NOTHING, torch.tensor([[0, 0, 1]]))], 1)
