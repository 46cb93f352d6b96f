"""Checkpoints of every layout against an independent float64 forward; image shapes; dictionaries; bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.samples.foreign_weights import (
    BN,
    DETTMERS,
    NORM,
    PYKEEN,
    C,
    N,
    R,
    assert_scores,
    ids,
    random_weights,
    rename,
    write,
)
from tracin.checkpoints.load import load_checkpoint, load_model
from tracin.checkpoints.save import read_training_state, save_checkpoint
from tracin.errors import InputError
from tracin.model import ConvE


@pytest.mark.parametrize("stack", ["height", "width"])
@pytest.mark.parametrize(
    "skip", [(), BN, ("bias", "conv.bias"), ("bn0",), tuple(f"{norm}.{end}" for norm in BN for end in NORM[:2])]
)
def test_own_format_keeps_the_model(skip: tuple[str, ...], stack: str, tmp_path: Path) -> None:
    weights = random_weights(4, 6, stack, planes=2, kernel=(2, 3), skip=skip)
    model = ConvE(
        N,
        R,
        48,
        embedding_height=4,
        embedding_width=6,
        output_channels=C,
        kernel_height=2,
        kernel_width=3,
        stack=stack,
        bn0="bn0" not in skip,
        bn1="bn1" not in skip,
        bn2="bn2" not in skip,
        conv_bias="conv.bias" not in skip,
        entity_bias="bias" not in skip,
        batch_norm_affine="bn0.weight" not in skip,
        relation_step=2,
        input_dropout=0.05,
    )
    state = {name + ".weight" if name in ("entity", "relation") else name: value for name, value in weights.items()}
    model.load_state_dict(state)
    training = {"optimizer": torch.optim.Adam(model.parameters()).state_dict(), "step": 4, "order": torch.arange(3)}
    save_checkpoint(
        tmp_path / "own.pt",
        model,
        epoch=3,
        learning_rate=0.002,
        entity_to_id=ids(N),
        relation_to_id={"b": 1, "a": 0},
        training=training,
    )
    loaded = load_checkpoint(tmp_path / "own.pt")
    assert loaded.model.config == model.config
    assert_scores(loaded.model, weights, (2, 4, 6), stack, step=2)
    assert (loaded.epoch, loaded.learning_rate, loaded.format) == (3, 0.002, "tracin checkpoint")
    assert (loaded.entity_to_id, loaded.relation_to_id) == (ids(N), {"a": 0, "b": 1})
    state = read_training_state(tmp_path / "own.pt")
    assert state is not None and state["step"] == 4 and state["optimizer"] == training["optimizer"]
    assert state["order"].tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["own.pt"]


def test_training_state_of_other_files_is_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "own.pt", ConvE(N, R, 32, embedding_height=8, embedding_width=4))
    assert read_training_state(tmp_path / "own.pt") is None
    assert read_training_state(write(tmp_path / "other.pt", {"state_dict": {}, "training": {"step": 1}})) is None


@pytest.mark.parametrize("seed_before", [1, 2])
def test_loading_draws_no_random_numbers(seed_before: int, tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt", rename(random_weights(), DETTMERS))
    torch.manual_seed(seed_before)
    expected = torch.rand(3)
    torch.manual_seed(seed_before)
    load_model(path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "stored, learning_rate, epoch",
    [
        ({"lr": 0.01, "epoch": 4}, 0.01, 4),
        ({"learning_rate": torch.tensor(0.5), "epoch": torch.tensor([2])}, 0.5, 2),
        ({"lr": "0.25", "epoch": 3.0}, 0.25, 3),
        ({"args": {"lr": 0.125, "epoch": 7}, "epoch": 8}, 0.125, 8),
        ({"lr": None, "learning_rate": 0.75, "epoch": None}, 0.75, None),
        ({"lr": [0.1, 0.2], "epoch": "last"}, None, None),
        ({"epoch": float("inf")}, None, None),
        ({"lr": torch.ones(2), "epoch": True}, None, None),
    ],
)
def test_learning_rate_and_epoch(
    stored: dict[str, Any], learning_rate: float | None, epoch: int | None, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(write(tmp_path / "m.pt", {"state_dict": rename(random_weights(), DETTMERS), **stored}))
    assert (checkpoint.learning_rate, checkpoint.epoch) == (learning_rate, epoch)
    assert checkpoint.epoch is None or type(checkpoint.epoch) is int


# bad files


def bad_states() -> dict[str, tuple[dict[str, Any], list[str]]]:
    def with_values(key: str, *values: float) -> dict[str, Tensor]:
        state = rename(random_weights(), DETTMERS)
        state[key].view(-1)[: len(values)] = torch.tensor(values)
        return state

    whole = rename(random_weights(), DETTMERS)
    pykeen = rename(random_weights(10, 20), PYKEEN)
    own = ConvE(N, R, 32, embedding_height=8, embedding_width=4).state_dict()
    broken = {key.replace("hr1d.2", "hr1d.1"): value for key, value in pykeen.items()}
    nan, inf = float("nan"), float("inf")
    return {
        "missing conv": ({k: v for k, v in whole.items() if k != "conv1.weight"}, ["missing conv1.weight"]),
        "missing pykeen bias": ({k: v for k, v in pykeen.items() if "hr2d.2.bias" not in k}, ["missing interaction.h"]),
        "own without a variance": (
            {"state_dict": {k: v for k, v in own.items() if k != "bn1.running_var"}, "embedding_height": 8},
            ["lacks bn1.running_var"],
        ),
        "unexpected": (whole | {"gate.weight": torch.ones(1)}, ["unexpected gate.weight"]),
        "converted wrongly": (broken, ["names wrongly", "interaction.hr1d.1", "was converted from"]),
        "distmult": ({k: v for k, v in whole.items() if "emb" in k}, ["not a ConvE", "emb_e.weight, emb_rel.weight"]),
        "transe": ({k: v for k, v in pykeen.items() if "ations.0" in k}, ["not a ConvE", "relation_representations.0"]),
        "empty": ({}, ["not a ConvE", "keys are none"]),
        "libkge distmult": ({"_entity_embedder._embeddings.weight": torch.ones(3, 3)}, ["not a ConvE", "[:, 1:]"]),
        "nan": (with_values("fc.weight", nan, nan, inf), ["fc.weight has 2 NaN and 1 infinite of 121,600 values"]),
        "infinite mean": (with_values("bn2.running_mean", -inf), ["bn2.running_mean has 0 NaN and 1 infinite"]),
        "negative variance": (with_values("bn1.running_var", -1.0), ["bn1.running_var has negative values"]),
        "integers": (whole | {"fc.bias": torch.ones(200, dtype=torch.int64)}, ["fc.bias has dtype torch.int64"]),
        "no tensor": ({"state_dict": whole | {"b": [1.0] * N}}, ["b is a list; expected a dense tensor"]),
        "bias of others": (whole | {"b": torch.ones(N + 1)}, ["b is (8,) where (7,) is expected"]),
        "norm of others": (whole | {"bn1.weight": torch.ones(5)}, ["bn1.weight is (5,) where (2,)"]),
        "relations of others": (whole | {"emb_rel.weight": torch.ones(R, 100)}, ["emb_rel.weight is (4, 100)"]),
        "flat convolution": (whole | {"conv1.weight": torch.ones(2, 9)}, ["conv1.weight has shape (2, 9)"]),
        "no entities": (whole | {"emb_e.weight": torch.ones(0, 200)}, ["emb_e.weight has shape (0, 200)"]),
        "something else": ({"weights": [1, 2], "note": "?"}, ["holds weights, note", "expected a state dict"]),
        "newer version": ({"format": "tracin", "version": 9, "state_dict": own}, ["version 9", "upgrade"]),
    }


@pytest.mark.parametrize("case", bad_states())
def test_bad_state_dicts(case: str, tmp_path: Path) -> None:
    content, words = bad_states()[case]
    path = write(tmp_path / "bad.pt", content)
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    assert all(word in str(error.value) for word in [str(path), *words]), error.value


def test_missing_folder_and_other_objects(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "no.pt", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=words):
            load_checkpoint(path)
    with pytest.raises(InputError, match="holds a list"):
        load_checkpoint(write(tmp_path / "list.pt", [1, 2]))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
def test_truncated_files(part: float, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(rename(random_weights(), DETTMERS), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match="truncated, damaged, or not a torch checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"h\tr\tt\n" * 50,
        b"PK\x03\x04",
        b"cos\nsystem\n.",
        bytes(range(128, 256)),
    ],
)
def test_files_that_are_not_torch(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(InputError, match="not a torch checkpoint"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "which, dictionary, words",
    [
        ("entity", ids(N + 1), ["has 7 entities", "entity dictionary has 8", "is it the dictionary the model"]),
        ("entity", ids(N - 1), ["has 7 entities", "entity dictionary has 6"]),
        ("relation", ids(3), ["has 4 relations (or 2 and their inverses)", "relation dictionary has 3"]),
        ("entity", {"a": 0, "b": 1, "c": 3, "d": 5}, ["entity dictionary has 4 entries", "up to 5", "has the id 2"]),
        ("entity", {f"e{row}": row + 1 for row in range(N)}, ["none has the id 0"]),
        ("relation", {"a": 0, "b": 1, "c": 1}, ["'b' and 'c' the same id 1"]),
        ("relation", {"a": -1}, ["'a' the id -1"]),
        ("relation", {"a": "0"}, ["'a' the id '0'"]),
        ("entity", {}, ["entity dictionary is empty"]),
    ],
)
def test_bad_dictionaries(which: str, dictionary: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", rename(random_weights(), DETTMERS))
    model = load_model(path)
    arguments: dict[str, Any] = {f"{which}_to_id": dictionary}
    for action in (lambda: load_checkpoint(path, **arguments), lambda: save_checkpoint(path, model, **arguments)):
        with pytest.raises(InputError) as error:
            action()
        assert all(word in str(error.value) for word in words), error.value


def test_own_format_checks_the_stored_and_the_given_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    model = ConvE(N, R, 32, embedding_height=8, embedding_width=4, relation_step=2)
    save_checkpoint(path, model, entity_to_id=ids(N), relation_to_id=ids(R // 2))
    other = {f"other {row}": N - 1 - row for row in range(N)}
    given = load_checkpoint(path, entity_to_id=other).entity_to_id
    assert given == other and given is not None and list(given.values()) == list(range(N))
    with pytest.raises(InputError, match="has 2 relations, but the relation dictionary has 4"):
        load_checkpoint(path, relation_to_id=ids(R))
    content = torch.load(path, weights_only=True)
    for stored, words in ((["a"] * N, "labels are damaged"), ([1], "labels are damaged"), (["a"], "dictionary has 1 ")):
        with pytest.raises(InputError, match=words):
            load_checkpoint(write(tmp_path / "bad.pt", content | {"version": 1, "checksum": None, "entities": stored}))


def test_own_format_is_refused_when_a_value_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    save_checkpoint(path, ConvE(N, R, 32, embedding_height=8, embedding_width=4), learning_rate=0.5, training={"a": 1})
    content = torch.load(path, weights_only=True)
    changed = [
        content | {"learning_rate": 0.25},
        content | {"version": 1},
        {key: value for key, value in content.items() if key != "checksum"},
        content | {"state_dict": content["state_dict"] | {"fc.bias": content["state_dict"]["fc.bias"] + 1e-6}},
    ]
    for other in changed:
        bad = write(tmp_path / "bad.pt", other)
        for read in (load_checkpoint, read_training_state):
            with pytest.raises(InputError, match="bad.pt is damaged: its content does not match its checksum"):
                read(bad)
    old = {key: value for key, value in content.items() if key != "checksum"} | {"version": 1}
    assert load_checkpoint(write(tmp_path / "old.pt", old)).learning_rate == 0.5
    assert read_training_state(tmp_path / "old.pt") == {"a": 1}


# writing


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("unexpected pos")])
def test_failed_save_keeps_the_old_file(failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.pt"
    model = ConvE(N, R, 32, embedding_height=8, embedding_width=4)
    save_checkpoint(path, model, epoch=1)

    def half_a_file(content: Any, file: Any) -> None:
        file.write(b"PK")
        raise failure

    monkeypatch.setattr("torch.save", half_a_file)
    with pytest.raises(InputError, match="cannot be written: (No space left|torch could not write all)"):
        save_checkpoint(path, model, epoch=2)
    monkeypatch.undo()
    assert load_checkpoint(path).epoch == 1
    assert list(tmp_path.iterdir()) == [path]


def test_save_into_nothing(tmp_path: Path) -> None:
    model = ConvE(N, R, 32, embedding_height=8, embedding_width=4)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for folder in ("none", "file"):
        with pytest.raises(InputError, match="there is no folder"):
            save_checkpoint(tmp_path / folder / "m.pt", model)
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(tmp_path / "folder", model)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def unused(norm: str) -> dict[str, Tensor]:
    """Weights of a model whose training counted batches, but none in this norm, as where its code skips it."""
    weights = random_weights()
    for other in BN:
        weights[f"{other}.num_batches_tracked"] = torch.tensor(0 if other == norm else 9)
    for end, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        weights[f"{norm}.{end}"].fill_(value)
    return weights


@pytest.mark.parametrize("norm", BN)
def test_a_norm_that_is_stored_but_not_used(norm: str, tmp_path: Path) -> None:
    weights = unused(norm)
    path = write(tmp_path / "m.pt", rename(weights, DETTMERS))
    with pytest.raises(InputError, match=f"{norm} saw none of the 9 batches of the training.* remove the tensors of"):
        load_checkpoint(path)
    without = {name: value for name, value in weights.items() if not name.startswith(norm)}
    write(path, rename(without, DETTMERS))
    assert_scores(load_model(path, embedding_height=20), without, (1, 20, 10), "height")
    uncounted = {name: value for name, value in weights.items() if name != f"{norm}.num_batches_tracked"}
    assert_scores(load_model(write(path, rename(uncounted, DETTMERS))), weights, (1, 20, 10), "height")


def test_norms_that_are_used(tmp_path: Path) -> None:
    learned = unused("bn1") | {"bn1.weight": torch.full((C,), 1.5)}  # its statistics are frozen, its weights are not
    untrained = unused("bn1") | {f"{norm}.num_batches_tracked": torch.tensor(0) for norm in BN}
    for weights in (learned, untrained):
        path = write(tmp_path / "m.pt", rename(weights, DETTMERS))
        assert_scores(load_model(path), weights, (1, 20, 10), "height")
