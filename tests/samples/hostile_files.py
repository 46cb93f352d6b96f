"""Files that no honest program writes: each looks like a checkpoint as far as it can."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


class Call:
    """Pickled, it asks for function(*arguments) to be called."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class PretendedModel(torch.nn.Linear):
    """A whole pickled module that runs a command where PyKEEN's have their loss."""

    def __init__(self, command: str) -> None:
        super().__init__(2, 2)
        self.loss = Call(os.system, command)


def _tensor_claim(numel: int, size: tuple[int, ...], stride: tuple[int, ...], name: bytes = b"fc.weight") -> bytes:
    """data.pkl of {name: a tensor of this size and stride in float storage 0 of `numel` values}."""

    def integers(values: tuple[int, ...]) -> bytes:
        return pickle.MARK + b"".join(pickle.LONG1 + b"\x08" + struct.pack("<q", n) for n in values) + pickle.TUPLE

    def text(value: bytes) -> bytes:
        return pickle.BINUNICODE + struct.pack("<I", len(value)) + value

    storage = (
        pickle.MARK
        + text(b"storage")
        + pickle.GLOBAL
        + b"torch\nFloatStorage\n"
        + text(b"0")
        + text(b"cpu")
        + integers((numel,))[1:-1]
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    arguments = (
        pickle.MARK
        + storage
        + pickle.BININT1
        + b"\0"
        + integers(size)
        + integers(stride)
        + pickle.NEWFALSE
        + pickle.EMPTY_DICT
        + pickle.TUPLE
    )
    rebuild = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + arguments + pickle.REDUCE
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + text(name) + rebuild + pickle.SETITEM + pickle.STOP


def _archive(path: Path, pickled: bytes, storage: bytes = b"", compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/data/0", storage)


def _overlapping(path: Path) -> None:
    """Eight thousand entries of the table name the same megabyte."""
    megabyte = bytes(1 << 20)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", _tensor_claim(1 << 18, (1 << 18,), (1,)))
        archive.writestr("m/data/0", megabyte)
        first = archive.infolist()[1]
        for key in range(1, 8000):
            copy = zipfile.ZipInfo(f"m/data/{key}")
            for field in ("header_offset", "CRC", "compress_size", "file_size", "external_attr"):
                setattr(copy, field, getattr(first, field))
            archive.filelist.append(copy)


def _legacy_claim(path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(7)}, stream, _use_new_zipfile_serialization=False)
    seven = pickle.BININT1 + b"\x07"
    honest = stream.getvalue()
    assert honest.count(seven) == 2  # of the storage, of the tensor
    path.write_bytes(honest.replace(seven, pickle.LONG1 + b"\x08" + struct.pack("<q", 10**10)))


def _truncated(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-900])


def _flipped(path: Path) -> None:
    torch.save({"fc.weight": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 500.0))] ^= 1
    path.write_bytes(content)


def _deep(path: Path) -> None:
    nested = pickle.EMPTY_DICT + pickle.BINUNICODE + struct.pack("<I", 10) + b"state_dict"
    depth = 300_000
    _archive(path, pickle.PROTO + b"\x02" + nested * depth + pickle.EMPTY_DICT + pickle.SETITEM * depth + pickle.STOP)


COMMAND = "touch sprung"
SMALL = bytes(4)  # a storage of one value

# file name -> how to write it, words of the refusal
HOSTILE = {
    "system.pt": (lambda path: torch.save({"state_dict": {}, "x": Call(os.system, COMMAND)}, path), "'posix.system'"),
    "system5.pt": (
        lambda path: torch.save({"state_dict": {}, "x": Call(os.system, COMMAND)}, path, pickle_protocol=5),
        "'posix.system', which runs code",
    ),
    "eval.pt": (lambda path: torch.save({"x": Call(eval, "open('sprung', 'w')")}, path), "'builtins.eval'"),
    "model.pkl": (lambda path: torch.save(PretendedModel(COMMAND), path), "'posix.system'"),
    "legacy.pt": (
        lambda path: torch.save({"x": Call(os.system, COMMAND)}, path, _use_new_zipfile_serialization=False),
        "'posix.system'",
    ),
    "plain.pt": (lambda path: path.write_bytes(pickle.dumps(Call(os.system, COMMAND), 2)), "'posix.system'"),
    "through a record.pt": (
        lambda path: torch.save({"x": Call(getattr, torch.nn.Linear, "load_state_dict"), "state_dict": {}}, path),
        "not a ConvE",
    ),
    "truncated.pt": (_truncated, "truncated, damaged"),
    "flipped bit.pt": (_flipped, "truncated, damaged"),
    "bomb.pt": (
        lambda path: _archive(path, _tensor_claim(1 << 26, (1 << 26,), (1,)), bytes(1 << 28), zipfile.ZIP_DEFLATED),
        "compressed member, 'm/data.pkl'",
    ),
    "overlapping.pt": (_overlapping, "claims more than its"),
    "large storage.pt": (
        lambda path: _archive(path, _tensor_claim(10**10, (10**10,), (1,)), SMALL),
        "another size than the pickle",
    ),
    "large tensor.pt": (
        lambda path: _archive(path, _tensor_claim(1, (10**10,), (1,)), SMALL),
        "10000000000 values in a storage of 1",
    ),
    "repeated value.pt": (
        lambda path: _archive(path, _tensor_claim(1, (10**5, 10**5), (0, 0)), SMALL),
        "values in a storage of 1",
    ),
    "negative stride.pt": (lambda path: _archive(path, _tensor_claim(1, (1,), (-1,)), SMALL), "whole numbers"),
    "large legacy.pt": (_legacy_claim, "storages are larger than the file"),
    "large text.pt": (
        lambda path: path.write_bytes(
            pickle.PROTO + b"\x04" + pickle.BINUNICODE8 + struct.pack("<Q", 10**10) + b"x" + pickle.STOP
        ),
        "truncated, damaged",
    ),
    "deep.pt": (_deep, "nested deeper than 500 levels"),
}


def write_hostile(folder: Path) -> dict[str, str]:
    """Writes every file into a folder; file name -> words of the refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's about names that come twice
        for name, (write, _) in HOSTILE.items():
            write(folder / name)
    return {name: words for name, (_, words) in HOSTILE.items()}
