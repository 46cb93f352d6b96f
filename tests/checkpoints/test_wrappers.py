"""Weights under other names and within other things: influences against float64 autograd on the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.checkpoints.test_contents import DettmersModule
from tests.samples.foreign_weights import (
    CONV1,
    DETTMERS,
    C,
    N,
    R,
    assert_influences,
    ids,
    random_weights,
    rename,
    write,
)
from tracin.checkpoints.load import load_checkpoint
from tracin.errors import InputError
from tracin.model import ConvE

IMAGE = (1, 20, 10)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights()


# names


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_module.", "module._orig_mod.", "net.conve."])
def test_beginnings_that_wrappers_give_all_keys(prefix: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    state = {prefix + key: value for key, value in rename(weights, DETTMERS).items()}
    beside = {prefix + "loss.pos_weight": torch.ones(1), "criterion.pos_weight": torch.ones(1)}
    for content in (state, {"state_dict": state | beside}):
        checkpoint = load_checkpoint(write(tmp_path / "m.pt", content))
        assert_influences(checkpoint, weights, IMAGE, "height")
        assert checkpoint.format == f"Dettmers' ConvE state dict; keys without their beginning '{prefix}'"


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model


@pytest.mark.parametrize(
    "wrap, note",
    [
        (nn.DataParallel, "without DataParallel around it"),
        (torch.compile, "without OptimizedModule around it"),
        (Wrapper, "without Wrapper around it"),
        (lambda model: nn.DataParallel(torch.compile(model)), "without DataParallel around it"),
    ],
)
@pytest.mark.slow
def test_whole_modules_in_wrappers(wrap: Any, note: str, tmp_path: Path) -> None:
    weights = random_weights(5, 40)  # as the module's emb_dim1 says, not the default
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", wrap(DettmersModule(weights))))
    assert_influences(checkpoint, weights, (1, 5, 40), "height")
    assert checkpoint.format == f"whole pickled PyTorch model; {note}"


def test_lightning(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights = random_weights(5, 40)
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{key}": value for key, value in rename(weights, DETTMERS).items()},
        "hyper_parameters": {"embedding_shape1": "5", "lr": 0.5},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.25, "params": [0]}]}],
    }
    checkpoint = load_checkpoint(write(tmp_path / "m.ckpt", content))
    assert_influences(checkpoint, weights, (1, 5, 40), "height")
    assert (checkpoint.epoch, checkpoint.learning_rate) == (3, 0.25)


OTHER = {  # names, what the weights lack, arguments, words of the format
    "before PyKEEN 1.0": (
        {"entity": "entity_embeddings.weight", "relation": "relation_embeddings.weight", "bias": "b"},
        (),
        {"embedding_height": 20},
        "state dict of PyKEEN before 1.0",
    ),
    "bias_term": (
        {"entity": "entity_embeddings.weight", "relation": "relation_embeddings.weight", "bias": "bias_term"},
        (),
        {"embedding_height": 20},
        "names entity_embeddings.weight, relation_embeddings.weight",
    ),
    "ent_embs": (
        {"entity": "ent_embs.weight", "relation": "rel_embs.weight", "bias": "bias"},
        ("conv.bias",),
        {"embedding_height": 20},
        "names ent_embs.weight, rel_embs.weight",
    ),
    "bare tables": (
        {"entity": "entity_embedding", "relation": "relation_embedding"},
        ("bias",),
        {"embedding_height": 20},
        "names entity_embedding, relation_embedding",
    ),
    "NeuralKG": (
        {"entity": "emb_ent.weight", "relation": "emb_rel.weight", "bias": "b"},
        ("conv.bias", "fc.bias"),
        {},
        "NeuralKG",
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_names_of_the_same(case: str, tmp_path: Path) -> None:
    names, skip, arguments, words = OTHER[case]
    weights = random_weights(skip=skip)
    path = write(tmp_path / "m.pt", rename(weights, names | CONV1))
    checkpoint = load_checkpoint(path, **arguments)
    assert_influences(checkpoint, weights, IMAGE, "height")
    assert words in checkpoint.format and checkpoint.model.config["fc_bias"] == ("fc.bias" not in skip)


def test_other_names_tell_no_image(weights: dict[str, Tensor], tmp_path: Path) -> None:
    names = {"entity": "ent_embs.weight", "relation": "rel_embs.weight", "bias": "b", **CONV1}
    path = write(tmp_path / "m.pt", rename(weights, names))
    with pytest.raises(InputError, match="stacked in height: 5 x 40, 20 x 10; stacked in width: 10 x 20, 40 x 5"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state | {"emb_h.weight": state["emb_e.weight"]}, "unexpected emb_h.weight"),
        (lambda state: state | {"chequer_perm": torch.arange(3)}, "unexpected chequer_perm"),
        (
            lambda state: {key: value for key, value in state.items() if not key.startswith("bn2.running")},
            "missing .*bn2.running_mean, bn2.running_var",
        ),
        (lambda state: state | {"fc2.weight": torch.ones(2, 2)}, "unexpected fc2.weight"),
    ],
    ids=["two tables", "interleaved", "layer norm", "another layer"],
)
def test_what_renaming_alone_would_read_wrongly(
    change: Any, words: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    for names in (DETTMERS, DETTMERS | {"relation": "rel_embs.weight"}):
        with pytest.raises(InputError, match=f"{words}|is not a ConvE"):
            load_checkpoint(write(tmp_path / "m.pt", change(rename(weights, names))), embedding_height=20)


@pytest.mark.parametrize(
    "lost, words",
    [
        (["bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"], "bn1 has a weight but no running_mean"),
        (["bn1.weight"], "lacks bn1.weight"),
        (["bn0.bias"], "lacks bn0.bias"),
        (["bn2.running_var"], "lacks bn2.running_var"),
    ],
)
def test_a_batch_norm_that_lacks_something(lost: list[str], words: str, tmp_path: Path) -> None:
    state = ConvE(N, R, 200, output_channels=C).state_dict()
    for key in lost:
        del state[key]
    with pytest.raises(InputError, match=words):
        load_checkpoint(write(tmp_path / "m.pt", state))


# wrappers


def test_models_within_other_things(weights: dict[str, Tensor], tmp_path: Path) -> None:
    state, module = rename(weights, DETTMERS), DettmersModule(random_weights(5, 40))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02).state_dict()
    read = "Dettmers' ConvE state dict; the "
    for content, words, rate in (
        ({"model": state, "optimizer": optimizer}, read + "weights under 'model'", 0.02),
        ({"anything": state, "step": 3}, read + "weights under 'anything'", None),
        ({"model": state, "ema": state}, read + "weights under 'model'; those under 'ema' are not read", None),
        ((state, optimizer), read + "model in a tuple of 2 parts", 0.02),
        ([7, state, {"lr": 0.5}], read + "model in a list of 3 parts", 0.5),
        (
            {"model_state_dict": state, "best": state},
            "Dettmers' ConvE state dict; those under 'best' are not read",
            None,
        ),
    ):
        checkpoint = load_checkpoint(write(tmp_path / "m.pt", content))
        assert (checkpoint.format, checkpoint.learning_rate) == (words, rate)
        assert_influences(checkpoint, weights, IMAGE, "height")
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", {"net": module, "epoch": 2, "lr": 0.1}))
    assert (checkpoint.model.plane, checkpoint.epoch, checkpoint.learning_rate) == ((1, 5, 40), 2, 0.1)
    assert checkpoint.format == "whole pickled PyTorch model; the weights under 'net'"


@pytest.mark.parametrize(
    "content, words",
    [
        (lambda state: {"generator": state, "student": state}, "holds several models, 'generator', 'student'"),
        (lambda state: (state, state), "holds a tuple of 2 parts with 2 models"),
        (lambda state: [1, 2], "holds a list of 2 parts with no model"),
        (lambda state: {"a": {"x": 1}}, "holds a; expected a state dict of tensors"),
    ],
)
def test_models_that_are_not_told_apart(content: Any, words: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_checkpoint(write(tmp_path / "m.pt", content(rename(weights, DETTMERS))))


def test_best_weights_within_a_training_loop_are_not_read(weights: dict[str, Tensor], tmp_path: Path) -> None:
    best = {"model_state_dict": rename(random_weights(skip=["conv.bias"]), DETTMERS)}
    content = {
        "model_state_dict": rename(weights, DETTMERS),
        "optimizer_state_dict": {"param_groups": [{"lr": 0.05}]},
        "best_epoch_model_checkpoint": best,
        "relation_to_id_dict": ids(R),
    }
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", content))
    assert checkpoint.format == "PyKEEN training-loop checkpoint; the weights of its last epoch, not those of the best"
    assert checkpoint.learning_rate == 0.05
    assert_influences(checkpoint, weights, IMAGE, "height")


# entries that are no weights


def test_settings_among_the_tensors(weights: dict[str, Tensor], tmp_path: Path) -> None:
    beside = {"epoch": 3, "lr": 0.01, "metrics": [1, 2], "history": np.arange(3), "best_mrr": np.float64(0.3)}
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", rename(weights, DETTMERS) | beside))
    assert (checkpoint.epoch, checkpoint.learning_rate) == (3, 0.01)
    assert_influences(checkpoint, weights, IMAGE, "height")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's about quantized tensors
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "convert, words",
    [
        (lambda value: value.numpy(), "fc.weight is a NumPy array"),
        (lambda value: value.to(torch.float8_e4m3fn), "fc.weight is a tensor of torch.float8_e4m3fn"),
        (lambda value: value.to_sparse(), "fc.weight is a sparse tensor"),
        (lambda value: value.tolist(), "fc.weight is a list"),
        (lambda value: value.to(torch.complex64), "fc.weight has dtype torch.complex64"),
        (lambda value: value.int(), "fc.weight has dtype torch.int32"),
    ],
    ids=["numpy", "float8", "sparse", "list", "complex", "integers"],
)
def test_foreign_entries_are_named(
    convert: Any, words: str, zipped: bool, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    state = rename(weights, DETTMERS)
    torch.save(
        state | {"fc.weight": convert(state["fc.weight"])}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(InputError, match=words):
        load_checkpoint(tmp_path / "m.pt")


def test_arrays_alone(weights: dict[str, Tensor], tmp_path: Path) -> None:
    arrays = {key: value.numpy() for key, value in rename(weights, DETTMERS).items()}
    with pytest.raises(InputError, match="holds no tensors: emb_e.weight is a NumPy array"):
        load_checkpoint(write(tmp_path / "m.pt", arrays))


@pytest.mark.parametrize("name", ["emb_e", "emb_rel"])
def test_rows_whose_gradient_the_module_leaves_out(name: str, tmp_path: Path) -> None:
    model = DettmersModule(random_weights(5, 40))
    getattr(model, name).padding_idx = 0
    with pytest.raises(InputError, match=f"{name} has padding_idx = 0: .* its gradient is zero"):
        load_checkpoint(write(tmp_path / "m.pt", model))


def test_activations_of_another_kind(tmp_path: Path) -> None:
    model = DettmersModule(random_weights(5, 40))
    model.activation = nn.ReLU()
    assert load_checkpoint(write(tmp_path / "m.pt", model)).model.plane == (1, 5, 40)
    model.activation = nn.LeakyReLU()
    with pytest.raises(InputError, match="activation is a LeakyReLU where TracIn computes with ReLU"):
        load_checkpoint(write(tmp_path / "m.pt", model))


def test_labels_that_cannot_be_written(weights: dict[str, Tensor], tmp_path: Path) -> None:
    labels = {f"\ud800{row}": row for row in range(N)}
    path = write(tmp_path / "m.pt", {"state_dict": rename(weights, DETTMERS), "entity_to_id_dict": labels})
    with pytest.raises(InputError, match="the stored entity labels are damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["\ud800", ("a", 1), 7, None])
def test_odd_keys(key: Any, weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unexpected "):
        load_checkpoint(write(tmp_path / "m.pt", rename(weights, DETTMERS) | {key: torch.ones(1)}))
