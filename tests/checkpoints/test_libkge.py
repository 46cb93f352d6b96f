"""LibKGE's checkpoints and packages, with a pickled Config, against an independent float64 forward."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.samples.foreign_weights import N, R, assert_scores, expected_scores, ids, random_weights, write
from tracin.checkpoints.load import load_checkpoint
from tracin.checkpoints.torch_files import read_torch_file
from tracin.errors import InputError

SKIP = ("bn0", "bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias")
LAYERS = {"conv": "_scorer.convolution", "bn1": "_scorer.bn1", "fc": "_scorer.projection", "bn2": "_scorer.bn2"}
WRAPPED = {
    "model": "reciprocal_relations_model",
    "reciprocal_relations_model": {"base_model": {"type": "conve"}},
    "conve": {"2D_aspect_ratio": 2, "stride": 1, "padding": 0, "filter_size": 3},
}


def libkge_state(weights: dict[str, Tensor], table: str = "_embeddings", wrapped: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = {
        f"_entity_embedder.{table}.weight": torch.cat([weights["bias"][:, None], weights["entity"]], 1),
        f"_relation_embedder.{table}.weight": torch.cat([torch.randn(R, 1), weights["relation"]], 1),
    }
    for name, value in weights.items():
        layer, _, end = name.partition(".")
        if layer in LAYERS:
            state[f"{LAYERS[layer]}.{end}"] = value
    return state | ({f"_base_model.{key}": value for key, value in state.items()} if wrapped else {})


def libkge_file(path: Path, state: dict[str, Tensor], options: dict[str, Any] | None, **beside: Any) -> Path:
    """What LibKGE's training job saves; `options` are those of its Config."""
    kge, config = ModuleType("kge"), ModuleType("kge.config")

    class Config:
        pass

    Config.__module__, Config.__qualname__, config.Config = "kge.config", "Config", Config  # type: ignore[attr-defined]
    content: dict[str, Any] = {
        "type": "train",
        "epoch": 7,
        "valid_trace": [{"epoch": 5}],
        "model": (state, {}),
        "job_id": "x",
        "optimizer_state_dict": {"state": {}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kge", kge)
        patch.setitem(sys.modules, "kge.config", config)
        if options is not None:
            content["config"] = Config()
            content["config"].options, content["config"].folder = options, "folder"
        return write(path, content | beside)


@pytest.mark.parametrize(
    "case, options, plane, arguments",
    [
        ("wrapped", WRAPPED, (4, 8), {}),
        ("bare", {"model": "conve", "conve": {"2D_aspect_ratio": 2}}, (4, 8), {}),
        ("aspect of the model", {"model": "conve", "conve": {"2D_aspect_ratio": 0.5}}, (8, 4), {}),
        (
            "aspect of the base model",
            WRAPPED | {"reciprocal_relations_model": {"base_model": {"type": "conve", "2D_aspect_ratio": 0.5}}},
            (8, 4),
            {},
        ),
        ("old keys", WRAPPED, (4, 8), {}),
        ("no convolution bias", WRAPPED, (4, 8), {}),
        ("no config", None, (4, 8), {}),
        ("arguments win", WRAPPED, (8, 4), {"embedding_height": 8}),
    ],
)
def test_scores(case: str, options: Any, plane: tuple[int, int], arguments: dict[str, int], tmp_path: Path) -> None:
    skip = (*SKIP, "conv.bias") if case == "no convolution bias" else SKIP
    weights = random_weights(*plane, skip=skip)
    state = libkge_state(weights, "embeddings" if case == "old keys" else "_embeddings", wrapped=case != "bare")
    checkpoint = load_checkpoint(libkge_file(tmp_path / "checkpoint_best.pt", state, options), **arguments)
    assert_scores(checkpoint.model, weights, (1, *plane), "height")
    assert (checkpoint.format, checkpoint.epoch) == ("LibKGE checkpoint; the weights after epoch 7", 7)
    config = checkpoint.model.config
    assert [config[key] for key in ("bn0", "bn1", "batch_norm_affine", "entity_bias")] == [False, True, False, True]
    assert checkpoint.entity_to_id is None and "kge" not in sys.modules


def test_state_dict_alone(tmp_path: Path) -> None:
    weights = random_weights(4, 8, skip=SKIP)
    checkpoint = load_checkpoint(write(tmp_path / "state.pt", libkge_state(weights)))
    assert_scores(checkpoint.model, weights, (1, 4, 8), "height")
    assert checkpoint.format == "LibKGE state dict"


def test_relations_keep_their_rows_before_their_reciprocals(tmp_path: Path) -> None:
    weights = random_weights(4, 8, skip=SKIP)
    path = libkge_file(tmp_path / "m.pt", libkge_state(weights), WRAPPED)
    half = load_checkpoint(path, relation_to_id=ids(R // 2))
    assert half.model.relation_step == 1 and half.relation_to_id == ids(R // 2)
    assert_scores(half.model, weights, (1, 4, 8), "height")


def test_package_has_labels(tmp_path: Path) -> None:
    meta = {"entity_ids": [f"e{row}" for row in range(N)], "relation_ids": ["a", "b"]}
    dataset = {"num_entities": N, "num_relations": 2, "meta": meta}
    state = libkge_state(random_weights(4, 8, skip=SKIP))
    checkpoint = load_checkpoint(libkge_file(tmp_path / "p.pt", state, WRAPPED, type="package", dataset=dataset))
    assert checkpoint.format.startswith("LibKGE package")
    assert checkpoint.entity_to_id == {f"e{row}": row for row in range(N)}
    assert checkpoint.relation_to_id == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    "options, words",
    [
        ({"model": "conve", "conve": {"stride": 2}}, "conve.stride is 2; TracIn computes ConvE with stride 1"),
        ({"model": "conve", "conve": {"padding": 1}}, "conve.padding is 1; TracIn computes ConvE with padding 0"),
        (WRAPPED | {"reciprocal_relations_model": {"base_model": {"type": "conve", "padding": 1}}}, "padding is 1"),
        ({"model": "complex"}, "a LibKGE model 'complex', not a ConvE"),
    ],
)
def test_other_models_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = libkge_file(tmp_path / "m.pt", libkge_state(random_weights(4, 8, skip=SKIP)), options)
    with pytest.raises(InputError, match=words):
        load_checkpoint(path)


def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    state = libkge_state(random_weights(4, 8, skip=SKIP))
    state["_base_model._scorer.projection.bias"] = state["_scorer.projection.bias"] + 1
    with pytest.raises(InputError, match="two different tensors '_scorer.projection.bias'"):
        load_checkpoint(libkge_file(tmp_path / "m.pt", state, WRAPPED))


def test_file_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="LibKGE train file without a model"):
        load_checkpoint(libkge_file(tmp_path / "m.pt", {}, None, model=None))


def test_fixture(fixtures_dir: Path) -> None:
    path = fixtures_dir / "models" / "libkge_checkpoint.pt"
    checkpoint = load_checkpoint(path)
    assert checkpoint.format.startswith("LibKGE checkpoint") and checkpoint.epoch == 1
    assert checkpoint.model.plane == (1, 10, 20)
    state = read_torch_file(str(path))["model"][0]
    tables = [state[f"_base_model._{kind}_embedder._embeddings.weight"] for kind in ("entity", "relation")]
    weights = {"entity": tables[0][:, 1:], "bias": tables[0][:, 0], "relation": tables[1][:, 1:]} | {
        layer + key.removeprefix(theirs): value
        for key, value in state.items()
        for layer, theirs in LAYERS.items()
        if key.startswith(theirs)
    }
    heads, relations = torch.arange(len(tables[0])), torch.arange(len(tables[0])) % 3
    wanted = expected_scores(weights, (1, 10, 20), "height", relations, heads)
    with torch.no_grad():
        assert (checkpoint.model.score_tails(heads, relations) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_the_optimizer_holds_the_learning_rate(tmp_path: Path) -> None:
    optimizer = {"state": {}, "param_groups": [{"lr": 0.0375, "name": "default", "params": [0, 1]}]}
    state = libkge_state(random_weights(4, 8, skip=SKIP))
    path = libkge_file(tmp_path / "m.pt", state, WRAPPED, optimizer_state_dict=optimizer)
    assert load_checkpoint(path).learning_rate == 0.0375
