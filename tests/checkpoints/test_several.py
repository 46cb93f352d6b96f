"""The checkpoints of a training run: found, ordered, told apart, added up by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.samples.models import random_model
from tracin import InputError, TracIn, load_checkpoints, save_checkpoint
from tracin.cli import main

ENTITIES, RELATIONS = {f"e{i}": i for i in range(12)}, {f"r{i}": i for i in range(4)}
TRAIN = [("e0", "r0", "e1"), ("e1", "r1", "e2"), ("e3", "r0", "e1"), ("e0", "r2", "e5")]


def saved(folder: Path, epochs: dict[str, tuple[int | None, float | None]]) -> None:
    folder.mkdir(exist_ok=True)
    for seed, (name, (epoch, rate)) in enumerate(epochs.items()):
        model = random_model(seed=seed)
        save_checkpoint(
            folder / name, model, epoch=epoch, learning_rate=rate, entity_to_id=ENTITIES, relation_to_id=RELATIONS
        )


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    saved(tmp_path / "run", {"b.pt": (2, 0.5), "a.pt": (10, 0.1), "c.pt": (1, 0.7)})
    (tmp_path / "run" / "losses.txt").write_text("0.1")
    (tmp_path / "train.txt").write_text("".join("\t".join(triple) + "\n" for triple in TRAIN))
    return tmp_path


def test_a_folder_is_ordered_by_epoch(folder: Path) -> None:
    assert [checkpoint.epoch for checkpoint in load_checkpoints(folder / "run")] == [1, 2, 10]


def test_files_stay_as_they_are_named(folder: Path) -> None:
    files = [folder / "run" / name for name in ("a.pt", "c.pt")]
    assert [checkpoint.epoch for checkpoint in load_checkpoints(files)] == [10, 1]
    assert [checkpoint.epoch for checkpoint in load_checkpoints(files[0])] == [10]


def test_without_epochs_numbers_in_names_order(tmp_path: Path) -> None:
    saved(tmp_path / "run", {"m10.pt": (None, 0.5), "m9.pt": (None, 0.5)})
    assert [Path(checkpoint.path).name for checkpoint in load_checkpoints(tmp_path / "run")] == ["m9.pt", "m10.pt"]


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="has no file that ends in one of .pt"):
        load_checkpoints(tmp_path)
    with pytest.raises(InputError, match="no checkpoint is named"):
        load_checkpoints([])


def test_the_same_weights_twice(folder: Path) -> None:
    (folder / "run" / "copy.pt").write_bytes((folder / "run" / "a.pt").read_bytes())
    with pytest.raises(InputError, match="has the same weights as .*a.pt.*leave one out"):
        load_checkpoints([folder / "run" / "a.pt", folder / "run" / "copy.pt"])


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        main,
        ["run", "--train", str(folder / "train.txt"), "--triple", "e0", "r0", "e1", "--device", "cpu"]
        + ["-o", str(folder / "out.json"), *arguments],
    )
    return result.exit_code, result.output


@pytest.mark.parametrize("several", [["run"], ["run/c.pt", "run/b.pt", "run/a.pt"]])
def test_the_command_adds_them_up(folder: Path, several: list[str]) -> None:
    code, told = run(folder, "--precision", "float64", "--checkpoints", *(str(folder / path) for path in several))
    assert code == 0, told
    assert "a.pt and 2 earlier" in told and "weighted by their learning rates 0.7, 0.5, 0.1" in told
    out = json.loads((folder / "out.json").read_text())[0]
    train = torch.tensor([[int(part[1:]) for part in triple] for triple in TRAIN])
    checkpoints = load_checkpoints(folder / "run")
    expected = TracIn(checkpoints, [0.7, 0.5, 0.1], precision="float64", device="cpu").influence(train, [[0, 0, 1]])[0]
    found = {row["index"]: row["influence"] for row in out["influences"]}
    assert [found[i] for i in range(4)] == pytest.approx(expected.tolist(), rel=1e-9)
    assert out["run"]["learning_rate"] == [0.7, 0.5, 0.1]


def test_a_given_rate_is_that_of_all(folder: Path) -> None:
    code, told = run(folder, "--checkpoints", str(folder / "run"), "--learning-rate", "0.25")
    assert code == 0 and "weighted" not in told
    assert json.loads((folder / "out.json").read_text())[0]["run"]["learning_rate"] == [0.25] * 3


def test_a_missing_rate_is_asked_for(folder: Path) -> None:
    saved(folder / "run", {"b.pt": (2, None)})
    code, told = run(folder, "--checkpoints", str(folder / "run"))
    assert code == 1 and "b.pt" in told and "--learning-rate" in told


def test_one_way_to_say_which_model(folder: Path) -> None:
    code, told = run(folder, "--checkpoints", str(folder / "run"), "--model-path", str(folder / "run/a.pt"))
    assert code == 2 and "--checkpoints and --model-path both say which model" in told
    code, told = run(folder)
    assert code == 2 and "Missing option '--model-path'" in told
