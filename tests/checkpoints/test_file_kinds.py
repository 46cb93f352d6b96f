"""Files of other kinds: read where a library or gzip reads them, else named for what they are."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.samples.foreign_weights import DETTMERS, assert_influences, random_weights, rename, write
from tracin.checkpoints.load import load_checkpoint
from tracin.errors import InputError

STATE = rename(random_weights(), DETTMERS)
ARRAYS = {key: value.numpy() for key, value in STATE.items()}


def tarred(path: Path, mode: str) -> None:
    content = pickle.dumps(ARRAYS)
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo("model.pt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def zipped(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def to_file(path: Path, save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> None:
    """NumPy appends its ending to a path, not to a file."""
    with open(path, "wb") as file:
        save(file, *arrays, **named)


def joblib_dump(path: Path, compress: int) -> None:
    pytest.importorskip("joblib").dump(ARRAYS, path, compress=compress)


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own module
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
KINDS: dict[str, tuple[Callable[[Path], object], str, str]] = {  # how to write it, what it is, the remedy
    "empty": (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)", "interrupted"),
    "lfs": (lambda path: path.write_text(LFS), "a pointer of Git LFS", "git lfs pull"),
    "page": (
        lambda path: path.write_text("\n<!DOCTYPE html><html>sign in"),
        "is a web page",
        "download the file itself",
    ),
    "json": (lambda path: path.write_text('{"a": 1}'), "is text that begins with '{", "name the checkpoint"),
    "triples": (lambda path: path.write_text("ü\tr\tt\n" * 9999), "is text that begins with 'ü", "name the checkpoint"),
    "npy": (lambda path: to_file(path, np.save, np.ones(3)), "a NumPy array", "torch.save"),
    "npz": (lambda path: to_file(path, np.savez, **ARRAYS), r"of NumPy arrays \(.npz: emb_e", "torch.save"),
    "npz, compressed": (lambda path: to_file(path, np.savez_compressed, **ARRAYS), "of NumPy arrays", "torch.save"),
    "zip": (lambda path: zipped(path, **{"a/model.pt": b"x"}), "is a zip archive of a/model.pt", "unpack it"),
    "empty zip": (lambda path: zipped(path), "is a zip archive of nothing", "unpack it"),
    "tar": (lambda path: tarred(path, "w"), "is a tar archive", "unpack it"),
    "tar.gz": (lambda path: tarred(path, "w:gz"), "is a tar archive", "unpack it"),
    "bz2": (lambda path: path.write_bytes(b"BZh91AY&SY"), "compressed with bzip2", "bunzip2"),
    "xz": (lambda path: path.write_bytes(b"\xfd7zXZ\x00\x00"), "compressed with xz", "unxz"),
    "zstd": (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd\x00"), "compressed with zstd", "unzstd"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n\0"), "an HDF5 file", "torch.save"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(ARRAYS)), "is a pickle, but not", "torch.save"),
    "joblib": (lambda path: joblib_dump(path, 0), "is a file of joblib", "torch.save"),
    "joblib, compressed": (lambda path: joblib_dump(path, 3), "zlib, as joblib.dump does", "torch.save"),
    "torchscript": (script, "is a TorchScript archive", r"state_dict\(\)"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_named(kind: str, tmp_path: Path) -> None:
    write_kind, what, remedy = KINDS[kind]
    path = tmp_path / "file.pt"
    write_kind(path)
    with pytest.raises(InputError, match=f"file.pt {what if what.startswith('is') else 'is .*' + what}.*{remedy}"):
        load_checkpoint(path)


def test_folder_of_a_hub(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    words = "without trained_model.pkl.*name the checkpoint in it: model.safetensors, pytorch_model.bin$"
    with pytest.raises(InputError, match=words):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("form", [True, False])
def test_gzip(form: bool, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "m.pt", _use_new_zipfile_serialization=form)
    packed = gzip.compress((tmp_path / "m.pt").read_bytes())
    (tmp_path / "m.pt.gz").write_bytes(packed)
    assert_influences(load_checkpoint(tmp_path / "m.pt.gz"), random_weights(), (1, 20, 10), "height")
    (tmp_path / "cut.gz").write_bytes(packed[:-100])
    with pytest.raises(InputError, match="cut.gz is a truncated or damaged gzip file"):
        load_checkpoint(tmp_path / "cut.gz")


def test_gzip_that_fills_the_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "m.pt.gz", "wb") as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
    with pytest.raises(InputError, match="unpacks to more than 67,108,864 bytes"):
        load_checkpoint(tmp_path / "m.pt.gz")


@pytest.mark.parametrize("twice", ["m/data.pkl", "m/data/0", "m/version"])
def test_two_members_of_one_name(twice: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", STATE)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # zipfile's, of just that
        archive.writestr(twice, archive.read(twice))
    with pytest.raises(InputError, match=f"several members of the name {twice}, of which only one could be read"):
        load_checkpoint(path)


# safetensors

METADATA: dict[str, dict[str, str] | None] = {
    "a number": {"format": "pt", "embedding_height": "5", "lr": "0.01", "epoch": "3"},
    "JSON": {"config": json.dumps({"embedding_height": 5, "lr": 0.01, "epoch": 3})},
}


@pytest.mark.parametrize("case", METADATA)
def test_safetensors_with_their_metadata(case: str, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    weights = random_weights(5, 40)
    save_file(rename(weights, DETTMERS), tmp_path / "m.safetensors", metadata=METADATA[case])
    checkpoint = load_checkpoint(tmp_path / "m.safetensors")
    assert_influences(checkpoint, weights, (1, 5, 40), "height")
    assert (checkpoint.learning_rate, checkpoint.epoch, checkpoint.image_reason) == (0.01, 3, "as the file says")


def test_safetensors_without_metadata(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({f"module.{key}": value for key, value in STATE.items()}, tmp_path / "any name")
    checkpoint = load_checkpoint(tmp_path / "any name")
    assert_influences(checkpoint, random_weights(), (1, 20, 10), "height")
    content = (tmp_path / "any name").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-10])
    with pytest.raises(InputError, match="cut is a damaged safetensors file"):
        load_checkpoint(tmp_path / "cut")
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match="packed is a safetensors file in gzip; unpack it"):
        load_checkpoint(tmp_path / "packed")


def test_safetensors_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b'{"__metadata__": {}}'
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    absent: Any = None
    monkeypatch.setitem(sys.modules, "safetensors", absent)
    with pytest.raises(InputError, match="m.safetensors is a safetensors file.*not installed.*pip install safetensors"):
        load_checkpoint(tmp_path / "m.safetensors")
