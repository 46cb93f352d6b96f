"""Files of torch.save, zip archives and the older kind, read without running anything and without trusting a size.

Not torch.load(weights_only=True): it refuses most of what frameworks write, and where the file claims a tensor larger
than its storage it enlarges the storage.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from pickle import PROTO, UnpicklingError
from typing import IO, Any, cast

import torch
from torch import Tensor

from tracin.checkpoints.file_kinds import GZIP, HEAD, ZIP, is_safetensors, kind_of, kind_of_archive, kind_of_pickle
from tracin.checkpoints.layouts import listing
from tracin.errors import InputError, quote
from tracin.safe_pickle import Foreign, OversizedPickle, SafeUnpickler, UnsafePickle

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
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
MAX_DIMENSIONS = 16
READ_BYTES = 1 << 24
# Weights shrink by a tenth in gzip; up to these no file is taken for one that is made to fill the memory.
GZIP_FREE, GZIP_RATIO = 64 << 20, 20
# The older kind: pickles of these two numbers, of the machine, of the object, of the storages' keys; then raw storages.
LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


class OtherPickle(UnpicklingError):
    """A pickle that begins otherwise than those of torch.save."""


class NoCheckpoint(Exception):
    """A file of another kind; the message ends a sentence that begins with the file's name."""


def read_torch_file(path: str) -> Any:
    """What torch.save wrote, with tensors on the CPU and a `Foreign` in place of every other object.

    A file that gzip packed is unpacked in memory.

    Raises:
        InputError: if there is no such file, or it is damaged, unsafe, or not one of torch.save.
    """
    if not Path(path).exists():
        raise InputError(f"{path}: there is no such file; expected a checkpoint")
    size = 0
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _read_any(file, size)
    except UnsafePickle as error:
        raise InputError(f"{path} is not safe: {error}; nothing of it was run, and nothing of it is read") from error
    except OversizedPickle as error:
        raise InputError(
            f"{path} is not read: {error}, more than any model; save the model's state_dict() alone"
        ) from error
    except NoCheckpoint as error:
        raise InputError(f"{path} {error}") from error
    except MemoryError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f": {error}" if isinstance(error, UnpicklingError) else ""
        raise InputError(
            f"{path} ({size:,} bytes) is truncated, damaged, or not a torch checkpoint{reason}; copy or write it again"
        ) from error


def head_of(path: str) -> bytes:
    """The first bytes of a file; none of what is no file."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _read_any(file: IO[bytes], size: int) -> Any:
    head = file.read(HEAD)
    file.seek(0)
    if head.startswith(GZIP):
        unpacked = _gunzip(file, size)
        return _read(io.BytesIO(unpacked), len(unpacked), unpacked[:HEAD])
    return _read(file, size, head)


def _gunzip(file: IO[bytes], size: int) -> bytes:
    limit = max(GZIP_FREE, GZIP_RATIO * size)
    try:
        with gzip.open(file) as source:
            content = source.read(limit + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NoCheckpoint(f"is a truncated or damaged gzip file ({error}); copy or write it again") from error
    if len(content) > limit:
        raise NoCheckpoint(
            f"unpacks to more than {limit:,} bytes, from {size:,}, as no checkpoint does; if it is right, unpack it "
            "with `gunzip` first"
        )
    return content


def _read(file: IO[bytes], size: int, head: bytes) -> Any:
    if head.startswith(ZIP):
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, size)
    if is_safetensors(head):
        raise NoCheckpoint("is a safetensors file in gzip; unpack it with `gunzip` first")
    if (kind := kind_of(head)) is not None:
        raise NoCheckpoint(kind)
    if head[:1] != PROTO:
        raise UnpicklingError("no pickle")
    try:
        return _read_legacy(file, size)
    except (UnsafePickle, OversizedPickle):
        raise
    except Exception as error:
        if isinstance(error, OtherPickle) or b"joblib" in head:
            raise NoCheckpoint(kind_of_pickle(head)) from error
        raise


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """Members <name>/data.pkl and, per storage, <name>/data/<key>; stored as they are, not compressed."""
    members = archive.infolist()
    top = members[0].filename.partition("/")[0] if members else ""
    names = Counter(member.filename for member in members)
    if not any(f"{top}/{part}" in names for part in ("data.pkl", "constants.pkl", "version", "byteorder", "data/0")):
        raise NoCheckpoint(kind_of_archive(members))
    if twice := [name for name, count in names.items() if count > 1]:
        raise NoCheckpoint(
            f"has several members of the name {listing(twice, 1)}, of which only one could be read; write it again "
            "with torch.save"
        )
    if f"{top}/constants.pkl" in names:
        raise NoCheckpoint("is a TorchScript archive, not a torch checkpoint; save the model's state_dict() instead")
    compressed = next((m.filename for m in members if m.compress_type != zipfile.ZIP_STORED), None)
    if compressed is not None:
        raise NoCheckpoint(
            f"has a compressed member, {quote(compressed)}, which torch.save never writes; "
            "expected a checkpoint as torch.save wrote it"
        )
    if sum(member.file_size for member in members) > size:
        raise NoCheckpoint(f"claims more than its {size:,} bytes in its table of members; copy or write it again")
    if f"{top}/byteorder" in archive.NameToInfo and archive.read(f"{top}/byteorder") != b"little":
        raise NoCheckpoint("was written by a big-endian machine; write it again on a little-endian one")
    read: dict[str, Tensor] = {}

    def load_storage(pid: Any) -> Any:
        kind, dtype, key, count = _storage_claim(pid)
        if dtype is None:
            return Foreign(kind)
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


def _read_legacy(file: IO[bytes], size: int) -> Any:
    if _unpickle(file) != LEGACY_MAGIC:
        raise OtherPickle("another pickle")
    if _unpickle(file) != LEGACY_VERSION or _unpickle(file)["little_endian"] is not True:
        raise UnpicklingError("another version or machine")
    storages: dict[str, Tensor] = {}
    claimed = 0

    def load_storage(pid: Any) -> Any:
        nonlocal claimed
        if pid[0] == "module":  # a class, the file of its source, its source
            return pid[1]
        kind, dtype, key, count = _storage_claim(pid)
        if dtype is None:
            raise UnpicklingError(f"values of the type {quote(kind)}")
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
        _fill(storages[key], cast(io.BufferedIOBase, file))
    return content


def _fill(values: Tensor, source: io.BufferedIOBase) -> None:
    place = values.view(torch.uint8).numpy().data
    while len(place):
        count = source.readinto(place[:READ_BYTES])
        if not count:
            raise UnpicklingError("the file ends within a storage")
        place = place[count:]


def _storage_claim(pid: Any) -> tuple[str, torch.dtype | None, str, int]:
    """Type, dtype, key and number of values of a persistent id ('storage', type, key, device, number[, None]).

    The dtype is None for types that hold no weights.
    """
    kind, storage, key, _, count, *view = pid if isinstance(pid, tuple) else ()
    if kind != "storage" or not isinstance(key, str) or type(count) is not int or count < 0 or any(view):
        raise UnpicklingError("a persistent id of another form")
    return storage.name, DTYPES.get(storage.name), key, count


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


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    """A view of a storage; one with more values than the storage would grow when it is copied."""
    if isinstance(storage, Foreign):
        return Foreign("torch.Tensor", (storage,))
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
