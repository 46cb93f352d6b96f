"""Whole pickled modules, folders and wrappers: what is taken from them, and what they may not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.samples.foreign_weights import DETTMERS, C, N, R, assert_scores, ids, random_weights, rename, write
from tracin.checkpoints.contents import read_contents, unpack
from tracin.checkpoints.load import load_checkpoint
from tracin.errors import InputError
from tracin.safe_pickle import Foreign


class DettmersModule(nn.Module):
    """The attributes of the authors' ConvE for 5 x 40, with what a state dict leaves out."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        dim = weights["entity"].shape[1]
        self.emb_dim1, self.emb_dim2 = 5, dim // 5
        self.emb_e, self.emb_rel = nn.Embedding(N, dim), nn.Embedding(R, dim)
        self.bn0, self.bn1, self.bn2 = nn.BatchNorm2d(1), nn.BatchNorm2d(C), nn.BatchNorm1d(dim)
        self.conv1 = nn.Conv2d(1, C, 3)
        self.fc = nn.Linear(weights["fc.weight"].shape[1], dim)
        self.b = nn.Parameter(torch.zeros(N))
        self.absent = None
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        self.load_state_dict(rename(weights, DETTMERS))


def module(state: Any) -> Foreign:
    record = Foreign("x.Module")
    record.state = state
    return record


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_module_with_its_own_image(zipped: bool, tmp_path: Path) -> None:
    weights = random_weights(5, 40)
    torch.save(DettmersModule(weights), tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(tmp_path / "whole.pt")
    assert_scores(checkpoint.model, weights, (1, 5, 40), "height")
    assert checkpoint.format == "whole pickled PyTorch model"


def with_eps(model: DettmersModule) -> None:
    model.bn1.eps = 1e-3


def with_limit(model: DettmersModule) -> None:
    model.emb_e.max_norm = 1.0


def with_padding(model: DettmersModule) -> None:
    model.conv1.padding = (1, 1)


@pytest.mark.parametrize(
    "change, words",
    [
        (with_eps, r"bn1 has eps = 0.001 where TracIn computes with 1e-05"),
        (with_limit, r"emb_e has max_norm = 1.0 where TracIn computes with None"),
        (with_padding, r"conv1 has padding = \(1, 1\) where TracIn computes with 0"),
    ],
)
def test_modules_that_compute_otherwise(change: Any, words: str, tmp_path: Path) -> None:
    model = DettmersModule(random_weights(5, 40))
    change(model)
    with pytest.raises(InputError, match=words):
        load_checkpoint(write(tmp_path / "whole.pt", model))


def test_other_module(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a ConvE: its keys are bias, weight"):
        load_checkpoint(write(tmp_path / "linear.pt", nn.Linear(2, 2)))
    with pytest.raises(InputError, match="holds a torch.Size; expected a state dict or a model"):
        load_checkpoint(write(tmp_path / "size.pt", torch.Size([1])))


def test_module_within_itself_ends() -> None:
    cyclic = module({"_modules": {}})
    cyclic.attributes["_modules"]["x"] = cyclic
    inner = module({"_modules": {}})
    for _ in range(60):  # twice as many at each level
        inner = module({"_modules": {"a": inner, "b": inner}})
    wide = {str(number): None for number in range(9000)}
    shared = module({"_modules": {"a": module({"_parameters": wide}), "b": module({"_parameters": wide})}})
    long_name = module({"_modules": {"x" * 2000: module({"_parameters": {}})}})
    for endless in (cyclic, inner, shared, long_name):
        with pytest.raises(InputError, match="more than 10,000 parts"):
            unpack("m.pt", endless)


@pytest.mark.parametrize(
    "state",
    [
        {"_modules": [1]},
        {"_modules": {}, "_parameters": torch.ones(2)},
        {"_modules": {"a": 3}, "_buffers": Foreign("x")},
        {"_modules": {}, "_non_persistent_buffers_set": [[]], "_buffers": {"a": 1}},
    ],
)
def test_modules_of_nonsense_hold_nothing(state: Any) -> None:
    assert unpack("m.pt", module(state)).state == {}


@pytest.mark.parametrize("name, value", [("eps", torch.ones(2)), ("stride", [[]]), ("groups", True), ("eps", "1e-5")])
def test_nonsense_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"the model has {name} = "):
        unpack("m.pt", module({"_modules": {}, name: value}))


def test_stored_dictionaries_of_a_training_loop(tmp_path: Path) -> None:
    state = rename(random_weights(), DETTMERS)
    content = {"model_state_dict": state, "entity_to_id_dict": ids(N), "relation_to_id_dict": {"b": 1, "a": 0}}
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", content))
    assert (checkpoint.entity_to_id, checkpoint.relation_to_id) == (ids(N), {"a": 0, "b": 1})
    assert load_checkpoint(tmp_path / "m.pt", relation_to_id=ids(R)).relation_to_id == ids(R)
    without = {"entity_to_id_dict": None, "relation_to_id_dict": None}
    assert load_checkpoint(write(tmp_path / "n.pt", content | without)).entity_to_id is None
    for damaged in ({1: 0}, {"a": "0"}, {"a": True}, "ab", {"a": [[]]}):
        path = write(tmp_path / "d.pt", content | {"entity_to_id_dict": damaged})
        with pytest.raises(InputError, match="stored entity labels are damaged; give the entity dictionary as a file"):
            load_checkpoint(path)
        assert load_checkpoint(path, entity_to_id=ids(N)).entity_to_id == ids(N)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder without trained_model.pkl"):
        read_contents(str(tmp_path))


@pytest.mark.parametrize(
    "max_norm, longest, refused",
    [
        (True, 1.5, True),
        (True, 1.0, False),
        (2.0, 1.5, False),
        (False, 1.5, False),
        (None, 1.5, False),
    ],
)
def test_norms_limited_at_look_up(max_norm: Any, longest: float, refused: bool, tmp_path: Path) -> None:
    weights = random_weights()
    weights["entity"] = nn.functional.normalize(weights["entity"], dim=1)
    weights["entity"][2] *= longest
    stored = {"state_dict": rename(weights, DETTMERS), "args": {"stack_width": 20, "max_norm": max_norm}}
    path = write(tmp_path / "m.pt", stored)
    if refused:
        with pytest.raises(InputError, match="norm 1.5, but the model limits norms to 1 as it looks embeddings up"):
            load_checkpoint(path)
    else:
        assert_scores(load_checkpoint(path).model, weights, (1, 20, 10), "height")


@pytest.mark.parametrize(
    "beside",
    [
        {"stack": [], "lr": [10**400], "epoch": [[]]},
        {"model_config": [1], "args": 3, "config": None},
    ],
)
def test_settings_of_other_types_are_passed_over(beside: dict[str, Any], tmp_path: Path) -> None:
    weights = random_weights()
    path = write(tmp_path / "m.pt", {"state_dict": rename(weights, DETTMERS), **beside})
    checkpoint = load_checkpoint(path)
    assert_scores(checkpoint.model, weights, (1, 20, 10), "height")
    assert (checkpoint.learning_rate, checkpoint.epoch) == (None, None)
