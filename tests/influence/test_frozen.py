"""Frozen parameters are left out: against float64 autograd over those that have a gradient."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.samples.models import pairs_of_triples, random_model
from tests.tracin_ext.test_backends import needs, worst_error
from tracin import Checkpoint, InputError, TracIn, load_checkpoint, save_checkpoint

FROZEN = [
    ("entity",),
    ("relation", "bias"),
    ("fc",),
    ("fc.bias",),
    ("bn2.weight",),
    ("bn2.bias", "conv.bias"),
    ("bn0.weight", "bn1.bias", "conv.weight"),
    ("bn0", "conv", "bn1"),
    ("bn0.bias", "bn1.weight"),
]
TEST, TRAIN = (triples[:8] for triples in pairs_of_triples())


def freeze(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name in names or name.split(".")[0] in names:
            parameter.requires_grad_(False)
    return model


@functools.cache
def trainable_influence(frozen: tuple[str, ...]) -> tuple[Tensor, Tensor]:  # [Q, B], [B] self-influences
    """As the field does it: gradients of what has requires_grad."""
    model = freeze(random_model(), frozen).double()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(triples: Tensor) -> Tensor:
        rows = []
        for triple in triples:
            found = torch.autograd.grad(functional.softplus(-model(triple[None]))[0], parameters)
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
        return torch.stack(rows)

    train = gradients(TRAIN)
    return gradients(TEST) @ train.T, train.square().sum(1)


@pytest.mark.parametrize("names", FROZEN, ids="+".join)
@pytest.mark.parametrize("backend", ["sequential", "vectorized", "factored", "native"])
def test_frozen_parameters_do_not_count(backend: str, names: tuple[str, ...]) -> None:
    needs(backend)
    expected, expected_self = trainable_influence(names)
    ti = TracIn(freeze(random_model(), names), 1.0, backend=backend, precision="float64", device="cpu")
    assert set(ti.frozen) == set(names)
    assert f"all layers without the frozen {', '.join(ti.frozen)}" in ti.description
    assert worst_error(ti.influence(TRAIN, TEST), expected) <= 1e-9
    assert worst_error(ti.self_influence(TRAIN), expected_self) <= 1e-9
    assert worst_error(trainable_influence(())[0], expected) > 1e-6


def test_the_bias_of_a_frozen_fc_takes_a_backend_that_builds_gradients() -> None:
    expected, _ = trainable_influence(("fc.weight",))
    with pytest.warns(UserWarning, match="using the vectorized backend.*fc.weight is frozen and fc.bias is not"):
        ti = TracIn(freeze(random_model(), ("fc.weight",)), 1.0, precision="float64", device="cpu")
    assert worst_error(ti.influence(TRAIN, TEST), expected) <= 1e-9
    with pytest.raises(InputError, match="backend 'factored' cannot run here: fc.weight is frozen"):
        TracIn(freeze(random_model(), ("fc.weight",)), backend="factored", device="cpu")


def test_nothing_left_is_an_error_with_a_remedy() -> None:
    with pytest.raises(InputError, match=r"every parameter of entity, .* is frozen.*requires_grad_\(True\)"):
        TracIn(random_model().requires_grad_(False), device="cpu")
    with pytest.raises(InputError, match="every parameter of entity is frozen"):
        TracIn(freeze(random_model(), ("entity",)), layers="entity", device="cpu")


def test_checkpoints_freeze_the_same() -> None:
    with pytest.raises(InputError, match="entity.weight is frozen .* in only one of checkpoints 0 and 1"):
        TracIn([Checkpoint(random_model(), 1.0), Checkpoint(freeze(random_model(), ("entity",)), 1.0)], device="cpu")


def test_files_count_every_parameter(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.pt", freeze(random_model(), ("entity", "fc")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TracIn(load_checkpoint(tmp_path / "model.pt"), device="cpu").frozen == ()


def test_a_pykeen_model_keeps_what_is_frozen() -> None:
    pytest.importorskip("pykeen")
    from tests.samples.pykeen_examples import pykeen_model

    model = pykeen_model("ConvE")
    model.entity_representations[0].requires_grad_(False)
    assert TracIn(model, device="cpu").frozen == ("entity",)
