"""The readers of tracin.dictionaries: every form, exact line numbers in errors."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tracin import text_lines
from tracin.dictionaries import read_dictionary, read_edge_map, read_names
from tracin.errors import InputError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of a few lines, so that small files cross many borders."""
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 64)
    return 64


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_dictionary_and_names(tmp_path: Path, packed: bool, ending: str, small_blocks: int) -> None:
    expected = {f'"label "{number}': (number * 7) % 50 for number in range(50)}
    raw = "".join(f"{label}\t{number}{ending}" for label, number in expected.items()).encode() + ending.encode()
    path = write(tmp_path / "dict.txt", gzip.compress(raw) if packed else raw)
    result = read_dictionary(path)
    assert result == expected and list(result) == list(expected)
    assert all(type(number) is int for number in result.values())
    assert read_names(path) == {number: label for label, number in expected.items()}


def test_dictionary_leaves_gaps_to_the_model(tmp_path: Path) -> None:
    assert read_dictionary(write(tmp_path / "dict.txt", "a\t5\nb\t2147483647\n")) == {"a": 5, "b": 2147483647}


def test_names_may_repeat(tmp_path: Path) -> None:
    path = write(tmp_path / "names.txt", "aspirin\t2\naspirin\t0\n\t1\n")
    assert read_names(path) == {2: "aspirin", 0: "aspirin", 1: ""}


@pytest.mark.parametrize("reader", [read_dictionary, read_names])
@pytest.mark.parametrize("block_bytes", [1, 64, 1 << 26])
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("x\tseven", "id 'seven' is not an integer from 0 to 2147483647"),
        ("x\t7.0", "id '7.0' is not an integer"),
        ("x\t-1", "id '-1' is not an integer from 0"),
        ("x\t2147483648", "id '2147483648' is not an integer from 0 to 2147483647"),
        ("x\t99999999999999999999", "id '99999999999999999999' is not an integer"),
        ("x\t", "id '' is not an integer"),
        ("x\t3", "id 3 (of {column} 'x') was already on line 4 (of {column} 'label 3')"),
        ("x", "1 of 2 columns in 'x'; expected {column}<TAB>id"),
        ("", "an empty line; expected {column}<TAB>id"),
    ],
)
def test_numbered_line_errors(
    tmp_path: Path,
    reader: Callable[[Path], object],
    block_bytes: int,
    bad: str,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    lines = [f"label {number}\t{number}" for number in range(60)]
    lines[41] = bad
    path = write(tmp_path / "dict.txt", "\r\n".join(lines) + "\r\n")
    message = named.format(column="label" if reader is read_dictionary else "name")
    with pytest.raises(InputError, match=re.escape(f"{path} line 42: {message}")):
        reader(path)


def test_dictionary_with_a_label_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "dict.txt", "a\t0\nb\t1\nc\t2\nb\t3\na\t4\n")
    with pytest.raises(InputError, match=re.escape("line 4: label 'b' (of id 3) was already on line 2 (of id 1)")):
        read_dictionary(path)


@pytest.mark.parametrize("header", ["id\tlabel", "label\tid"])
def test_header_line_is_told_the_expected_form(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "entity_to_id.tsv", f"{header}\n0\t0\n")
    with pytest.raises(InputError, match=r"line 1: id .*expected are lines label<TAB>id, without a header line"):
        read_dictionary(path)


# ---- edge map


def edge_key(predicate: object, qualifier: str = "") -> str:
    return json.dumps({"object_aspect_qualifier": qualifier, "predicate": predicate}, sort_keys=True)


def test_edge_map(tmp_path: Path) -> None:
    edge_map = {
        edge_key("biolink:treats"): "predicate:0",
        edge_key("biolink:affects", "activity"): "predicate:1",
        edge_key("biolink:affects", "abundance"): "predicate:2",
    }
    expected = {"predicate:0": "biolink:treats", "predicate:1": "biolink:affects", "predicate:2": "biolink:affects"}
    raw = json.dumps(edge_map, indent=2).encode()
    for content in (raw, gzip.compress(raw), b"\xef\xbb\xbf" + raw):
        assert read_edge_map(write(tmp_path / "edge_map.json", content)) == expected


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{\n"a": "predicate:0",\n}', " line 3: not JSON"),
        ("", " line 1: not JSON"),
        (json.dumps(["predicate:0"]), ": a JSON list"),
        (json.dumps({"biolink:treats": "predicate:0"}), ": the entry 'biolink:treats': 'predicate:0' has another form"),
        (json.dumps({"predicate:0": edge_key("p")}), ": the entry 'predicate:0': "),
        (json.dumps({'["predicate"]': "predicate:0"}), ": the entry '[\"predicate\"]'"),
        (json.dumps({'{"object": "x"}': "predicate:0"}), ': the entry \'{"object": "x"}\''),
        (json.dumps({edge_key(3): "predicate:0"}), ": the entry '{"),
        (json.dumps({edge_key("p"): 0}), ": the entry '{"),
        (
            json.dumps({edge_key("p"): "predicate:0", edge_key("q"): "predicate:0"}),
            ": relation 'predicate:0' comes twice",
        ),
    ],
)
def test_edge_map_errors(tmp_path: Path, content: str, named: str) -> None:
    path = write(tmp_path / "edge_map.json", content)
    with pytest.raises(InputError, match=re.escape(f"{path}{named}") + ".*expected a JSON object"):
        read_edge_map(path)
