"""Files as they come: pipes, packed files, Parquet, and what is too long to be lines."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from tracin.errors import InputError
from tracin.triples import dictionaries
from tracin.triples import source as sources
from tracin.triples.dictionaries import read_dictionary, read_edge_map, read_names
from tracin.triples.read import make_dictionaries, read_triple_lines, read_triples, read_triples_part

ENTITIES = {f"e{number:05d}": number for number in range(60)}
RELATIONS = {"p": 0, "q": 1, "s": 2}
ROWS = [[number % 60, number % 3, (number * 7) % 60] for number in range(3000)]
LABELS = "".join(f"e{h:05d}\t{'pqs'[r]}\te{t:05d}\n" for h, r, t in ROWS).encode()
IDS = "".join(f"{h}\t{r}\t{t}\n" for h, r, t in ROWS).encode()


@contextmanager
def piped(content: bytes) -> Iterator[str]:
    """A path that can be read once, as the shell's <(...) makes."""
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb") as file:
            try:
                file.write(content)
            except BrokenPipeError:
                pass

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield f"/dev/fd/{read}"
    finally:
        os.close(read)
        feeder.join()


@pytest.mark.parametrize("content", [LABELS, gzip.compress(LABELS)], ids=["plain", "gzip"])
def test_triples_of_a_pipe(content: bytes) -> None:
    with piped(content) as path:
        assert read_triples(path, ENTITIES, RELATIONS).tolist() == ROWS
    with piped(content) as path:
        assert [list(line.ids) for line in read_triple_lines(path, ENTITIES, RELATIONS)] == ROWS
    with piped(content) as path:
        assert make_dictionaries([path]) == (ENTITIES, RELATIONS)
    with piped(content) as path, pytest.raises(InputError, match="a pipe can be read once, and 2 ranks"):
        read_triples_part(path, ENTITIES, RELATIONS, 0, 2)


def test_ids_of_a_pipe() -> None:
    for skip in range(0, 200, 7):
        with piped(b"".join(IDS.splitlines(True)[skip:])) as path:
            assert read_triples(path, ENTITIES, RELATIONS, numeric=True).tolist() == ROWS[skip:]


def test_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    feeder = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(LABELS))
    feeder.start()
    assert read_triples(tmp_path / "pipe", ENTITIES, RELATIONS).tolist() == ROWS
    feeder.join()


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        (read_dictionary, "".join(f"{label}\t{number}\n" for label, number in ENTITIES.items()) * 1),
        (read_dictionary, "{" + ", ".join(f'"{label}": {number}' for label, number in ENTITIES.items()) + "}"),
        (read_names, "aspirin\t0\nibuprofen\t1\n"),
        (read_edge_map, '{"{\\"predicate\\": \\"treats\\"}": "predicate:0"}'),
    ],
)
def test_other_readers_of_a_pipe(tmp_path: Path, reader: Callable[[str], object], content: str) -> None:
    path = tmp_path / "plain"
    path.write_text(content)
    with piped(content.encode()) as pipe:
        assert reader(pipe) == reader(str(path))


def test_endless_device() -> None:
    with pytest.raises(InputError, match="/dev/zero: this is a device"):
        read_triples("/dev/zero", ENTITIES, RELATIONS)
    with pytest.raises(InputError, match="has no lines"):
        read_triples(os.devnull, ENTITIES, RELATIONS)


def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as file:
        file.writestr("train.txt", content)
    return archive.getvalue()


@pytest.mark.parametrize(
    ("pack", "named"),
    [
        (bz2.compress, "packed by bzip2.*bzip2 -d"),
        (lzma.compress, "packed by xz.*xz -d"),
        (zipped, "a zip archive.*unzip"),
    ],
)
def test_foreign_packing_is_named(tmp_path: Path, pack: Callable[[bytes], bytes], named: str) -> None:
    (tmp_path / "train.txt").write_bytes(pack(LABELS))
    for reader in (lambda path: read_triples(path, ENTITIES, RELATIONS), read_dictionary):
        with pytest.raises(InputError, match=f"train.txt: this is {named}"):
            reader(tmp_path / "train.txt")


def test_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.compress(LABELS)
    (tmp_path / "train.txt.zst").write_bytes(packed)
    assert read_triples(tmp_path / "train.txt.zst", ENTITIES, RELATIONS).tolist() == ROWS
    with piped(packed) as pipe:
        assert read_triples(pipe, ENTITIES, RELATIONS).tolist() == ROWS
    (tmp_path / "cut.zst").write_bytes(packed[:3] + b"\xfd" + b"\xff" * 60)
    with pytest.raises(InputError, match="the zstd file is damaged"):
        read_triples(tmp_path / "cut.zst", ENTITIES, RELATIONS)
    (tmp_path / "bomb.zst").write_bytes(zstandard.compress(b"\t" * (1 << 26)))
    with pytest.raises(InputError, match="a line longer than"):
        read_triples(tmp_path / "bomb.zst", ENTITIES, RELATIONS)


def test_zstd_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(sources, "importlib", SimpleNamespace(import_module=refuse))
    (tmp_path / "train.txt").write_bytes(sources.ZSTD + b"\x00" * 20)
    with pytest.raises(InputError, match="packed by zstd, which needs the package zstandard; install it, or unpack"):
        read_triples(tmp_path / "train.txt", ENTITIES, RELATIONS)


# ---- Parquet


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    labels = pl.read_csv(LABELS, separator="\t", has_header=False, new_columns=["head", "relation", "tail"])
    labels.select("tail", "head", "relation").write_parquet(path)  # columns go by their names
    assert read_triples(path, ENTITIES, RELATIONS).tolist() == ROWS
    assert read_triples(path, ENTITIES, RELATIONS, columns="htr").tolist() == ROWS
    assert make_dictionaries([path]) == (ENTITIES, RELATIONS)
    pl.DataFrame(ROWS, schema=["a", "b", "c"], orient="row").write_parquet(path)  # without names, in their order
    assert read_triples(path, ENTITIES, RELATIONS).tolist() == ROWS
    digits = {str(number): 59 - number for number in range(60)}, {str(number): number for number in range(3)}
    assert read_triples(path, *digits, numeric=True).tolist() == ROWS
    pl.DataFrame({"a": ["x\ty"], "b": ["p"], "c": ["x"]}).write_parquet(path)
    with pytest.raises(InputError, match=r"row 0: a 'x\\ty'; expected a label without tabs"):
        read_triples(path, ENTITIES, RELATIONS)
    path.write_bytes(path.read_bytes()[:20] + b"\xff" * 40 + b"PAR1")
    with pytest.raises(InputError, match="the Parquet file cannot be read"):
        read_triples(path, ENTITIES, RELATIONS)


def test_parquet_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "entities.parquet"
    pl.DataFrame({"id": list(ENTITIES.values()), "label": list(ENTITIES)}).write_parquet(path)
    assert read_dictionary(path) == ENTITIES


def test_text_that_begins_like_parquet(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("PAR1\tp\tPAR1\n")
    assert read_triples(tmp_path / "train.txt", {"PAR1": 3}, RELATIONS).tolist() == [[3, 0, 3]]


# ---- too long


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("before", [b"", b"e00000\tp\te00001\n" * 70_000])
@pytest.mark.parametrize("filler", [b"\t", b"x"])
def test_longest_line(tmp_path: Path, packed: bool, before: bytes, filler: bytes) -> None:
    path = tmp_path / "train.txt"
    for end in (b"", b"\n" + before):
        content = before + filler * (sources.LONGEST_LINE + 1) + end
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        with pytest.raises(InputError, match=f"line {1 + before.count(10)}: longer than 1,048,576 bytes"):
            read_triples(path, ENTITIES, RELATIONS)
        with pytest.raises(InputError, match=f"line {1 + before.count(10)}: longer than 1,048,576 bytes"):
            read_names(path)


def test_line_of_the_longest_length_and_of_many_columns(tmp_path: Path) -> None:
    line = b"e00000\tp\te00001\t"
    content = line + b"\t" * (sources.LONGEST_LINE - len(line)) + b"\n" + line + b"\n"
    (tmp_path / "train.txt").write_bytes(content)
    assert read_triples(tmp_path / "train.txt", ENTITIES, RELATIONS).tolist() == 2 * [[0, 0, 1]]


def test_many_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(b"e00000\tp\te00001\n" + b"\n" * (1 << 24)))
    with pytest.raises(InputError, match="line 2: more than 1,048,576 bytes of empty lines"):
        read_triples(tmp_path / "train.txt.gz", ENTITIES, RELATIONS)


def test_whole_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionaries, "WHOLE_BYTES", 1 << 20)
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(b'{"a":' + b" " * (1 << 24)))
    with pytest.raises(InputError, match="more than 1 MiB of JSON or pickle; write it as lines"):
        read_dictionary(tmp_path / "d.json.gz")


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000])
def test_relations_that_are_odd_json(tmp_path: Path, value: str) -> None:
    key = '{"predicate": ' + value
    (tmp_path / "edges.json").write_text("{" + repr(key).replace('"', '\\"').replace("'", '"') + ': "r"}')
    with pytest.raises(InputError, match="has another form"):
        read_edge_map(tmp_path / "edges.json")
