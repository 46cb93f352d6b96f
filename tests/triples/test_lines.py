"""What tracin.triples.lines does for every reader: files that cannot be read, are damaged, empty, or no UTF-8."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tracin.errors import InputError
from tracin.triples import lines as text_lines
from tracin.triples.dictionaries import read_dictionary, read_edge_map, read_names
from tracin.triples.read import read_triples

ENTITIES = {"a": 0, "b": 1, "c": 2, '"q': 3, "nœud": 4}
RELATIONS = {"treats": 0, "causes": 1}

READERS: dict[str, Callable[[Path], object]] = {
    "read_triples": lambda path: read_triples(path, ENTITIES, RELATIONS),
    "read_dictionary": read_dictionary,
    "read_names": read_names,
    "read_edge_map": read_edge_map,
}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_missing_file(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'none.txt'}: there is no such file")):
        reader(tmp_path / "none.txt")


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_folder(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}: this is a folder")):
        reader(tmp_path)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_unreadable_file(tmp_path: Path, reader: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """The administrator may read everything, so the refusal is made here."""

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "train.txt", "a\ttreats\tb\n")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=re.escape(f"{path}: cannot be read (Permission denied)")):
        reader(path)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_damaged_gzip(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    packed = gzip.compress("".join(f"a{n}\ttreats\tb{n}\n" for n in range(1000)).encode())
    for content in (packed[: len(packed) // 2], packed[:100] + b"\x00" * 50 + packed[150:], packed[:-8] + b"\x00" * 8):
        path = write(tmp_path / "train.txt.gz", content)
        with pytest.raises(InputError, match=re.escape(f"{path}: the gzip file is damaged")):
            reader(path)


@pytest.mark.parametrize("content", ["", "\n", "\r\n\r\n"], ids=["empty", "lf", "crlf"])
@pytest.mark.parametrize("reader", ["read_triples", "read_dictionary", "read_names"])
def test_file_without_lines(tmp_path: Path, reader: str, content: str) -> None:
    path = write(tmp_path / "train.txt", content)
    with pytest.raises(InputError, match=re.escape(f"{path}: the file has no lines; expected lines ")):
        READERS[reader](path)


@pytest.mark.parametrize("reader", ["read_triples", "read_dictionary", "read_names"])
@pytest.mark.parametrize("block_bytes", [1, 64, 1 << 26])
def test_bytes_that_are_not_utf8(
    tmp_path: Path, reader: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    lines = [b"a\ttreats\tb" if reader == "read_triples" else b"label %d\t%d" % (n, n) for n in range(40)]
    lines[32] = "nœud\t0\t1".encode("cp1252")
    path = write(tmp_path / "train.txt", b"\r\n".join(lines))
    with pytest.raises(InputError, match=re.escape(f"{path} line 33: byte 0x9c is not UTF-8")):
        READERS[reader](path)
