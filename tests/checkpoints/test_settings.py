"""Images and learning rates in every form in which programs store them."""

from __future__ import annotations

import argparse
import json
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.samples.foreign_weights import DETTMERS, assert_influences, random_weights, rename, write
from tracin.checkpoints.load import load_checkpoint
from tracin.errors import InputError

STORED: dict[str, dict[str, Any]] = {
    "args": {"args": {"embedding_shape1": 5}},
    "args as text": {"args": {"embedding_shape1": "5"}},
    "args, a Namespace": {"args": argparse.Namespace(embedding_shape1=5)},
    "hparams, a Namespace": {"hparams": argparse.Namespace(embedding_shape1=5)},
    "simple namespace": {"config": SimpleNamespace(embedding_height=5)},
    "hyper_parameters": {"hyper_parameters": {"embedding_shape1": 5}},
    "a Namespace within": {"hyper_parameters": {"args": argparse.Namespace(emb_dim1=5)}},
    "config": {"config": {"embedding_height": 5, "embedding_width": 40.0}},
    "config as JSON": {"config": json.dumps({"embedding_height": 5})},
    "ordered": {"config": OrderedDict(image_width=40)},
    "default dict": {"config": defaultdict(int, image_width=40)},
    "tensor": {"image_height": torch.tensor(5)},
    "neuralkg": {"args": argparse.Namespace(emb_shape=5)},
    "two that agree": {"args": {"embedding_shape1": 5}, "config": {"embedding_width": 40}},
    "the outer one": {"args": {"config": {"embedding_height": 20}, "embedding_height": 5}},
}


@pytest.mark.parametrize("case", STORED)
def test_stored_images(case: str, tmp_path: Path) -> None:
    weights = random_weights(5, 40)
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", {"state_dict": rename(weights, DETTMERS), **STORED[case]}))
    assert checkpoint.image_reason == "as the file says"
    assert_influences(checkpoint, weights, (1, 5, 40), "height")


def test_settings_of_classes_that_are_not_installed(tmp_path: Path) -> None:
    """Those of a dictionary with attributes, and of OmegaConf, which keeps each value in a node."""
    weights = random_weights(5, 40)
    module = ModuleType("settings_of_elsewhere")

    class AttributeDict(dict):  # type: ignore[type-arg]
        pass

    class Node:
        def __init__(self, **attributes: Any) -> None:
            self.__dict__ |= attributes

    for kind in (AttributeDict, Node):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    for number, stored in enumerate((AttributeDict(emb_dim1=5), Node(_content={"emb_dim1": Node(_val=5)}))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module.__name__, module)
            path = write(tmp_path / f"{number}.pt", {"state_dict": rename(weights, DETTMERS), "hparams": stored})
        assert load_checkpoint(path).model.plane == (1, 5, 40)


@pytest.mark.parametrize("value", ["twenty", 0, -5, 5.5, True, [5], float("nan"), torch.ones(2)])
def test_images_that_cannot_be_used(value: Any, tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.pt", {"state_dict": rename(random_weights(5, 40), DETTMERS), "args": {"embedding_shape1": value}}
    )
    with pytest.raises(InputError, match="the file says embedding_shape1 = .*expected a positive number of pixels"):
        load_checkpoint(path)
    assert load_checkpoint(path, embedding_height=5).model.plane == (1, 5, 40)


def test_images_that_contradict_each_other(tmp_path: Path) -> None:
    stored = {"args": {"embedding_shape1": 5, "embedding_height": 20}}
    path = write(tmp_path / "m.pt", {"state_dict": rename(random_weights(5, 40), DETTMERS), **stored})
    with pytest.raises(InputError, match="the file itself says an image of 20 x any and 5 x any"):
        load_checkpoint(path)


def groups(*rates: Any) -> dict[str, Any]:
    return {"state": {}, "param_groups": [{"lr": rate, "params": []} for rate in rates]}


@pytest.mark.parametrize(
    "stored, rate, note",
    [
        ({"optimizer_state_dict": groups(0.01)}, 0.01, ""),
        ({"optimizer": groups(0.01, 0.01)}, 0.01, ""),
        ({"optimizer": groups(torch.tensor(0.25))}, 0.25, ""),
        ({"optimizer_states": [groups(0.01)]}, 0.01, ""),
        ({"args": {"lr": 0.5}, "optimizer": groups(0.01)}, 0.01, ""),
        ({"lr": 0.125, "optimizer": groups(0.01)}, 0.125, ""),
        ({"args": {"lr": "0.5"}}, 0.5, ""),
        ({"optimizer": groups(0.01, 0.1)}, None, "; no learning rate: its optimizer has several, 0.01, 0.1"),
        ({"optimizer": {"state": {}}, "lr": [0.1]}, None, ""),
    ],
)
def test_learning_rates(stored: dict[str, Any], rate: float | None, note: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", {"state_dict": rename(random_weights(), DETTMERS), **stored}))
    assert checkpoint.learning_rate == rate
    assert checkpoint.format == "Dettmers' ConvE state dict" + note


@pytest.mark.parametrize("rate", [-0.1, 0.0, float("nan"), float("inf"), "nan", torch.tensor(-1.0), "1e999"])
@pytest.mark.parametrize("where", [lambda rate: {"lr": rate}, lambda rate: {"optimizer": groups(rate)}])
def test_rates_that_no_training_has(rate: Any, where: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", {"state_dict": rename(random_weights(), DETTMERS), **where(rate)})
    with pytest.raises(InputError, match="lr is .*; expected a positive number"):
        load_checkpoint(path)
