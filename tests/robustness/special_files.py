"""Files that no mutation makes: nested, long and large on purpose. Each is refused, or read as it is, within limits."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.samples.hostile_files import HOSTILE

MEBIBYTE = 1 << 20


def pickle_archive(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/data/0", bytes(4))
    return stream.getvalue()


def nested_pickle(opening: bytes, closing: bytes, depth: int) -> bytes:
    return pickle.PROTO + b"\x02" + opening * depth + pickle.EMPTY_LIST + closing * depth + pickle.STOP


def nested_state_dict(depth: int) -> bytes:
    key = pickle.BINUNICODE + struct.pack("<I", 10) + b"state_dict"
    return nested_pickle(pickle.EMPTY_DICT + key, pickle.SETITEM, depth)


def nested_module(depth: int) -> bytes:
    """A module within a module within ..."""
    modules = pickle.BINUNICODE + struct.pack("<I", 8) + b"_modules" + pickle.EMPTY_DICT
    name = pickle.BINUNICODE + struct.pack("<I", 1) + b"m"
    opening = pickle.GLOBAL + b"torch.nn.modules\nModule\n" + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    opening += pickle.EMPTY_DICT + modules + name
    return nested_pickle(opening, pickle.SETITEM * 2 + pickle.BUILD, depth)


def json_of(text: str) -> bytes:
    return ('{"a": 0, "b": ' + text + "}").encode()


def packed_times(byte: bytes, times: int) -> bytes:
    """gzip of `times` x 64 MiB of one byte, in members that follow one another."""
    return gzip.compress(byte * (64 * MEBIBYTE), 1, mtime=0) * times


def hostile(name: str) -> Callable[[], bytes]:
    def make() -> bytes:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            HOSTILE[name][0](path)
            return path.read_bytes()

    return make


# They take seconds, or may.
SLOW = frozenset(
    {
        "512 MiB of empty lines in gzip",
        "gzip within gzip within gzip",
        "line of 1 GiB in gzip",
        "line of 16,000,000 tabs in a dictionary",
        "line of 2,000,000 tabs",
        "pickle of marks",
        "pickle of 1,000,000 nested lists",
        "pickle of 1,000,000 nested state dicts",
        "pickle of 1,000,000 nested tuples",
        "vocabulary of 1,000,000 nested lists",
    }
)

# name -> who reads it ("checkpoint", "dictionary" or "triples"), how it is made
SPECIAL: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{f"hostile {name}": ("checkpoint", hostile(name)) for name in HOSTILE},
    "pickle of 1,000,000 nested lists": (
        "checkpoint", lambda: pickle_archive(nested_pickle(pickle.EMPTY_LIST, pickle.APPEND, 1_000_000)),
    ),
    "pickle of 1,000,000 nested state dicts": ("checkpoint", lambda: pickle_archive(nested_state_dict(1_000_000))),
    "pickle of 1,000,000 nested tuples": (
        "checkpoint", lambda: pickle_archive(nested_pickle(b"", pickle.TUPLE1, 1_000_000)),
    ),
    "pickle of 100,000 nested modules": ("checkpoint", lambda: pickle_archive(nested_module(100_000))),
    "pickle of marks": ("checkpoint", lambda: pickle_archive(pickle.PROTO + b"\x02" + pickle.MARK * 3_000_000)),
    "vocabulary of 1,000,000 nested lists": (
        "dictionary", lambda: nested_pickle(pickle.EMPTY_LIST, pickle.APPEND, 1_000_000),
    ),
    "JSON of 100,000 nested arrays": ("dictionary", lambda: json_of("[" * 100_000 + "]" * 100_000)),
    "JSON of 100,000 nested objects": ("dictionary", lambda: json_of('{"a":' * 100_000 + "0" + "}" * 100_000)),
    "JSON of open arrays": ("dictionary", lambda: json_of("[" * 1_000_000)),
    "JSON with a number of 5,000 digits": ("dictionary", lambda: json_of("9" * 5000)),
    "JSON with a number of 5,000 digits in an array": ("dictionary", lambda: json_of(f"[{'9' * 5000}]")),
    "JSON with 900 nested arrays": ("dictionary", lambda: json_of("[" * 900 + "]" * 900)),
    "JSON with a surrogate": ("dictionary", lambda: b'{"a": 0, "\\ud800": 1}'),
    "JSON with a surrogate twice": ("dictionary", lambda: b'{"\\ud800": 0, "\\ud800": 1}'),
    "JSON with a surrogate and no number": ("dictionary", lambda: b'{"a": 0, "\\ud800": "x"}'),
    "JSON of another kind, with a surrogate": ("dictionary", lambda: b'{"a": 0, "b": {"\\ud800": "\\udfff"}}'),
    **{
        f"edge map, {name}": ("edge map", make)
        for name, make in (
            ("100,000 nested arrays", lambda: json_of("[" * 100_000 + "]" * 100_000)),
            ("900 nested arrays", lambda: json_of("[" * 900 + "]" * 900)),
            ("a number of 5,000 digits", lambda: json_of("9" * 5000)),
            ("a key of nested arrays", lambda: b'{"' + b"[" * 100_000 + b'": "predicate:0"}'),
            ("a key with a number of 5,000 digits", lambda: b'{"[' + b"9" * 5000 + b']": "predicate:0"}'),
            ("a key that is a number", lambda: b'{"1": "predicate:0"}'),
            ("a key with a surrogate", lambda: b'{"{\\"predicate\\": \\"\\ud800\\"}": "predicate:0"}'),
            ("a name with a surrogate", lambda: b'{"\\ud800": "predicate:0"}'),
            ("a value that is an object", lambda: b'{"a": {"b": 1}}'),
            ("an array", lambda: b"[1, 2]"),
        )
    },
    "number of 5,000 digits": ("dictionary", lambda: b"a\t0\nb\t" + b"9" * 5000 + b"\n"),
    "line of 64 MiB in a dictionary": ("dictionary", lambda: b"a\t0\n" + b"x" * (64 * MEBIBYTE)),
    "line of 64 MiB in triples": ("triples", lambda: b"x" * (64 * MEBIBYTE)),
    "line of 1 GiB in gzip": ("triples", lambda: packed_times(b"x", 16)),
    "line of 2,000,000 tabs": ("triples", lambda: b"CHEBI:1\tpredicate:1\tCHEBI:2" + b"\t" * 2_000_000 + b"\n"),
    "line of 16,000,000 tabs in gzip": ("triples", lambda: gzip.compress(b"\t" * 16_000_000, mtime=0)),
    "line of 16,000,000 tabs in a dictionary": ("dictionary", lambda: gzip.compress(b"\t" * 16_000_000, mtime=0)),
    "512 MiB of empty lines in gzip": ("triples", lambda: packed_times(b"\n", 8)),
    "gzip within gzip within gzip": (
        "triples", lambda: gzip.compress(gzip.compress(gzip.compress(bytes(1 << 28), 1), 1), 1),
    ),
    "empty file as a checkpoint": ("checkpoint", lambda: b""),
    "empty file as a dictionary": ("dictionary", lambda: b""),
    "empty file as triples": ("triples", lambda: b""),
    "zeros as a checkpoint": ("checkpoint", lambda: bytes(100_000)),
    "HTML as a checkpoint": ("checkpoint", lambda: b"<!DOCTYPE html><html>not found</html>"),
}  # fmt: skip
