"""The folder of an index: a manifest, and arrays beside it that are mapped into memory once their checksums are right.

    manifest.json         what the index is of, each array's type, shape and checksums, and its own checksum
    arrays-PROCESS-RANDOM/NAME.bin  numbers of one type, little-endian, row-major

A manifest takes the place of an earlier one in one step, when all of its arrays are written: a folder holds a whole
index or none, whatever is killed, and whoever has opened the earlier one goes on with its arrays.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.digests import intact, sealed
from tracin.errors import InputError, quote
from tracin.files import LOCK, locked, remove_parts, replacing, saying_which_is_full
from tracin.machine import version

MANIFEST = "manifest.json"
FORMAT, VERSION = "tracin-index", 3
ARRAYS = re.compile(r"arrays-\d+-[0-9a-f]{16}")
NAME = re.compile(r"[a-z0-9_.]{1,100}", re.IGNORECASE)
PIECE = 32 << 20  # bytes of a file under one checksum, so that threads share a file
BUFFER = 1 << 20
DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (torch.float32, torch.float64, torch.int8, torch.int32, torch.int64, torch.uint8)
}
REMEDY = "build it again with tracin index build"


class Writer:
    """Takes the arrays of an index; made by `building`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}

    def add(self, name: str, rows: Tensor) -> None:
        """The rows of an array, or further ones of it."""
        rows = rows.detach().cpu().contiguous()
        facts = self.arrays.setdefault(
            name,
            {"dtype": str(rows.dtype).removeprefix("torch."), "shape": [0, *rows.shape[1:]], "bytes": 0, "crc32": []},
        )
        if rows.dim() == 0:
            facts["shape"] = []
        else:
            facts["shape"][0] += len(rows)
        if not rows.numel():
            return
        flat = rows.flatten()
        if len(flat) == 1:  # whose stride may be any
            flat = flat.clone(memory_format=torch.contiguous_format)
        data = memoryview(flat.view(torch.uint8).numpy().data)
        with open(self.folder / f"{name}.bin", "ab") as file:
            file.write(data)
        while len(data):
            filled = facts["bytes"] % PIECE
            some, data = data[: PIECE - filled], data[PIECE - filled :]
            if not filled:
                facts["crc32"].append(0)
            facts["crc32"][-1] = zlib.crc32(some, facts["crc32"][-1])
            facts["bytes"] += len(some)


@contextmanager
def building(directory: Path) -> Iterator[tuple[Writer, dict[str, Any]]]:
    """Gives a writer of arrays and a dictionary of facts, which become the folder's index when the work is done.

    Raises:
        InputError: if the folder has other things in it, or another process builds there.
    """
    check_place(directory)
    new = not directory.exists()
    with saying_which_is_full(directory):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{directory} cannot be made ({error.strerror}); name another folder") from None
        arrays = directory / f"arrays-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with locked(directory):
                remove_parts(directory)
                remove_arrays(directory, named_arrays(directory))
                try:
                    arrays.mkdir()
                except OSError as error:
                    raise InputError(f"{directory}: cannot write to it ({error.strerror}); name another") from None
                writer = Writer(arrays)
                facts: dict[str, Any] = {}
                yield writer, facts
                whole = {"format": FORMAT, "version": VERSION, "tracin": version(), "byte order": "little"}
                whole |= {**facts, "folder": arrays.name, "arrays": writer.arrays}
                with replacing(directory / MANIFEST) as file:
                    json.dump(sealed(whole), file, indent=1)
                remove_arrays(directory, arrays.name)
        except BaseException:
            if named_arrays(directory) != arrays.name:
                shutil.rmtree(arrays, ignore_errors=True)
            if new:
                with suppress(OSError):
                    directory.rmdir()
            raise


def check_place(directory: Path) -> None:
    """Raises InputError unless there is nothing at the path yet, or an index, or what is left of one."""
    if sys.byteorder != "little":
        raise InputError("indexes hold little-endian numbers, and this processor has others; work without an index")
    if not directory.exists():
        return
    if not directory.is_dir():
        raise InputError(f"{directory} is a file; name a folder for the index")
    own = (MANIFEST, LOCK)
    names = sorted(os.listdir(directory))
    foreign = [name for name in names if name not in own and not ARRAYS.fullmatch(name) and ".tracin-part" not in name]
    if foreign or (MANIFEST in names and read_format(directory) != FORMAT):
        raise InputError(
            f"{directory} has other files in it, such as {quote((foreign or [MANIFEST])[0])}; name a new or an empty "
            "folder, or that of an index"
        )


def read_format(directory: Path) -> Any:
    """What a manifest says that it is; the format of an index where it can no longer be read."""
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
        return content.get("format")
    except (OSError, ValueError, RecursionError, AttributeError):
        return FORMAT


def named_arrays(directory: Path) -> str | None:
    """The folder of arrays that the manifest names."""
    try:
        name = json.loads((directory / MANIFEST).read_bytes())["folder"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None
    return name if isinstance(name, str) else None


def remove_arrays(directory: Path, but: str | None) -> None:
    for name in os.listdir(directory):
        if ARRAYS.fullmatch(name) and name != but:
            shutil.rmtree(directory / name, ignore_errors=True)


def read_manifest(directory: Path) -> dict[str, Any]:
    """What the index is of.

    Raises:
        InputError: if there is no whole manifest, or one of another version.
    """
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if not directory.exists():
            raise InputError(f"{directory} does not exist; name the folder that tracin index build wrote") from None
        if directory.is_dir() and any(map(ARRAYS.fullmatch, os.listdir(directory))):
            raise InputError(f"{directory} holds an index that was not finished; {REMEDY}") from None
        raise InputError(f"{directory} is no index, it has no {MANIFEST}; name the folder of one") from None
    except NotADirectoryError:
        raise InputError(f"{directory} is a file; name the folder that tracin index build wrote") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is damaged; {REMEDY}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not the manifest of an index; name the folder that tracin index build wrote")
    if content.get("version") != VERSION:
        raise InputError(
            f"{directory} is an index of version {quote(content.get('version'))}, this program reads {VERSION}; "
            f"{REMEDY}"
        )
    if not intact(content):
        raise InputError(f"{path} is not as it was written; {REMEDY}")
    return content


def open_arrays(directory: Path, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arrays of an index, mapped into memory; changes to them stay in this process.

    Raises:
        InputError: if one is missing or not as it was written.
    """
    folder = directory / manifest["folder"]
    arrays: Mapping[str, Any] = manifest["arrays"]
    if not ARRAYS.fullmatch(manifest["folder"]) or not all(map(NAME.fullmatch, arrays)):
        raise InputError(f"{directory / MANIFEST} names files elsewhere; {REMEDY}")
    check_files(folder, arrays)
    return {name: _mapped(folder / f"{name}.bin", facts) for name, facts in arrays.items()}


def check_files(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Raises InputError for a file that is missing or differs from its checksums. All of them are read."""
    pieces = []
    for name, facts in arrays.items():
        path = folder / f"{name}.bin"
        if not facts["bytes"]:
            continue
        size = path.stat().st_size if path.is_file() else None
        if size != facts["bytes"]:
            what = "is missing" if size is None else f"has {size:,} bytes instead of {facts['bytes']:,}"
            raise InputError(f"{path} {what}: the index is damaged; {REMEDY}")
        pieces += [(path, i * PIECE, checksum) for i, checksum in enumerate(facts["crc32"])]
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        for (path, *_), whole in zip(pieces, pool.map(_is_whole, pieces), strict=True):
            if not whole:
                raise InputError(f"{path} is not as it was written: the index is damaged; {REMEDY}")


def _is_whole(piece: tuple[Path, int, int]) -> bool:
    path, start, expected = piece
    found, left, buffer = 0, PIECE, bytearray(BUFFER)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(memoryview(buffer)[: min(left, BUFFER)])):
            found = zlib.crc32(memoryview(buffer)[:count], found)
            left -= count
    return found == expected


def _mapped(path: Path, facts: Mapping[str, Any]) -> Tensor:
    shape, dtype = facts["shape"], DTYPES[facts["dtype"]]
    if not facts["bytes"]:
        return torch.empty(shape, dtype=dtype)
    count = facts["bytes"] // dtype.itemsize
    return torch.from_file(str(path), shared=False, size=count, dtype=dtype).view(shape)
