"""Files of torch.save, zip archives and the older kind, read without running anything and without trusting a size.

Not torch.load(weights_only=True): it refuses most of what frameworks write, and where the file claims a tensor larger
than its storage it enlarges the storage.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import PROTO, UnpicklingError
from typing import IO, Any, cast

import torch
from torch import Tensor

from tracin.errors import InputError, quote
from tracin.safe_pickle import Foreign, SafeUnpickler, UnsafePickle

DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}
MAX_DIMENSIONS = 16
READ_BYTES = 1 << 24
# The older kind: pickles of these two numbers, of the machine, of the object, of the storages' keys; then raw storages.
LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


class RefusedArchive(Exception):
    """A zip archive, but none that torch.save writes on this kind of machine; the message says why."""


def read_torch_file(path: str) -> Any:
    """What torch.save wrote, with tensors on the CPU and a `Foreign` in place of every other object.

    Raises:
        InputError: if there is no such file, or it is damaged, unsafe, or not one of torch.save.
    """
    if not Path(path).exists():
        raise InputError(f"{path}: there is no such file; expected a checkpoint")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _read(file, size)
    except UnsafePickle as error:
        raise InputError(f"{path} is not safe: {error}; nothing of it was run, and nothing of it is read") from error
    except RefusedArchive as error:
        raise InputError(f"{path} {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f": {error}" if isinstance(error, UnpicklingError) else ""
        raise InputError(
            f"{path} ({size:,} bytes) is truncated, damaged, or not a torch checkpoint{reason}; copy or write it again"
        ) from error


def _read(file: io.BufferedReader, size: int) -> Any:
    if file.read(2) == b"PK":
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, size)
    file.seek(0)
    return _read_legacy(file, size)


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """Members <name>/data.pkl and, per storage, <name>/data/<key>; stored as they are, not compressed."""
    members = archive.infolist()
    top = members[0].filename.partition("/")[0]
    compressed = next((m.filename for m in members if m.compress_type != zipfile.ZIP_STORED), None)
    if compressed is not None:
        raise RefusedArchive(
            f"has a compressed member, {quote(compressed)}, which torch.save never writes; "
            "expected a checkpoint as torch.save wrote it"
        )
    if sum(member.file_size for member in members) > size:
        raise RefusedArchive(f"claims more than its {size:,} bytes in its table of members; copy or write it again")
    if f"{top}/constants.pkl" in archive.NameToInfo:
        raise RefusedArchive("is a TorchScript archive; save the model's state_dict() instead")
    if f"{top}/byteorder" in archive.NameToInfo and archive.read(f"{top}/byteorder") != b"little":
        raise RefusedArchive("was written by a big-endian machine; write it again on a little-endian one")
    read: dict[str, Tensor] = {}

    def load_storage(pid: Any) -> Tensor:
        dtype, key, count = _storage_claim(pid)
        if key not in read:
            member = archive.getinfo(f"{top}/data/{key}")
            if member.file_size != count * dtype.itemsize:
                raise UnpicklingError(f"storage {quote(key)} has another size than the pickle claims")
            read[key] = torch.empty(count, dtype=dtype)
            with archive.open(member) as source:
                _fill(read[key], cast(io.BufferedIOBase, source))
        if (read[key].dtype, len(read[key])) != (dtype, count):
            raise UnpicklingError(f"storage {quote(key)} comes twice and differs")
        return read[key]

    with archive.open(f"{top}/data.pkl") as source:
        pickled = io.BytesIO(source.read())
    return _unpickle(pickled, load_storage)


def _read_legacy(file: io.BufferedReader, size: int) -> Any:
    if file.peek(1)[:1] != PROTO:
        raise UnpicklingError("no pickle")
    if _unpickle(file) != LEGACY_MAGIC:
        raise UnpicklingError("another pickle")
    if _unpickle(file) != LEGACY_VERSION or _unpickle(file)["little_endian"] is not True:
        raise UnpicklingError("another version or machine")
    storages: dict[str, Tensor] = {}
    claimed = 0

    def load_storage(pid: Any) -> Any:
        nonlocal claimed
        if pid[0] == "module":  # a class, the file of its source, its source
            return pid[1]
        dtype, key, count = _storage_claim(pid)
        if key not in storages:
            claimed += count * dtype.itemsize
            if claimed > size:
                raise UnpicklingError("the storages are larger than the file")
            storages[key] = torch.empty(count, dtype=dtype)
        if (storages[key].dtype, len(storages[key])) != (dtype, count):
            raise UnpicklingError(f"storage {quote(key)} comes twice and differs")
        return storages[key]

    content = _unpickle(file, load_storage)
    keys = _unpickle(file)
    if sorted(keys) != sorted(storages):
        raise UnpicklingError("other storages than the pickle names")
    for key in keys:
        if int.from_bytes(file.read(8), "little") != len(storages[key]):
            raise UnpicklingError(f"storage {quote(key)} has another size than the pickle claims")
        _fill(storages[key], file)
    return content


def _fill(values: Tensor, source: io.BufferedIOBase) -> None:
    place = values.view(torch.uint8).numpy().data
    while len(place):
        count = source.readinto(place[:READ_BYTES])
        if not count:
            raise UnpicklingError("the file ends within a storage")
        place = place[count:]


def _storage_claim(pid: Any) -> tuple[torch.dtype, str, int]:
    """dtype, key and number of values of a persistent id ('storage', type, key, device, number[, None])."""
    kind, storage, key, _, count, *view = pid if isinstance(pid, tuple) else ()
    if kind != "storage" or not isinstance(key, str) or type(count) is not int or count < 0 or any(view):
        raise UnpicklingError("a persistent id of another form")
    if storage.name not in DTYPES:
        raise UnpicklingError(f"values of the type {quote(storage.name)}")
    return DTYPES[storage.name], key, count


def _unpickle(file: IO[bytes], load_storage: Callable[[Any], Any] | None = None) -> Any:
    def from_type(function: Foreign, kind: Foreign, arguments: Any, state: Any) -> Any:
        return unpickler.call(function, arguments)

    tensors: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._tensor._rebuild_from_type_v2": from_type,
    }
    unpickler = SafeUnpickler(file, tensors, load_storage)
    return unpickler.load()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """A view of a storage; one with more values than the storage would grow when it is copied."""
    if not isinstance(storage, Tensor) or type(shape) is not tuple or type(strides) is not tuple:
        raise UnpicklingError("a tensor of another form")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise UnpicklingError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    numbers = (offset, *shape, *strides)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise UnpicklingError("a tensor with other sizes than whole numbers")
    count = math.prod(shape)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if count > len(storage) or (count and last >= len(storage)):
        raise UnpicklingError(f"a tensor of {count} values in a storage of {len(storage)}")
    return storage.as_strided(shape, strides, offset if count else 0)


def _parameter(data: Any, *rest: Any) -> Any:
    return data
