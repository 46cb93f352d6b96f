"""The readers of tracin.dictionaries: every form, exact line numbers in errors."""

from __future__ import annotations

import gzip
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tracin.errors import InputError
from tracin.triples import lines as text_lines
from tracin.triples.dictionaries import read_dictionaries, read_dictionary, read_edge_map, read_names


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


def test_header_line_of_another_order_is_told_the_expected_form(tmp_path: Path) -> None:
    path = write(tmp_path / "entity_to_id.tsv", "label\tid\n0\t0\n")
    with pytest.raises(InputError, match=r"line 1: id .*expected are lines label<TAB>id, without a header line"):
        read_dictionary(path)


# ---- other forms of dictionaries


THREE = {"a": 2, "b": 0, "c": 1}
PYKEEN = "id\tlabel\n2\ta\n0\tb\n1\tc\n"
FORMS: dict[str, tuple[str, str | bytes]] = {  # file name, content, all of THREE
    "pykeen": ("entity_to_id.tsv", PYKEEN),
    "pykeen, packed": ("entity_to_id.tsv.gz", gzip.compress(PYKEEN.encode())),
    "pykeen, windows": ("ids.txt", "\ufeff" + PYKEEN.replace("\n", "\r\n")),
    "libkge": ("entity_ids.del", "2\ta\n0\tb\n1\tc\n"),
    "libkge under another name": ("ids.txt", "2\ta\n0\tb\n1\tc\n"),
    "ours under libkge's name": ("ids.del", "a\t2\nb\t0\nc\t1\n"),
    "json": ("entities_dict.json", json.dumps(THREE)),
    "json of many lines, under another name": ("ids.txt", "\n" + json.dumps(THREE, indent="\t")),
    "json, packed": ("entities.json.gz", gzip.compress(json.dumps(THREE).encode())),
    "openke": ("entity2id.txt", "3\na\t2\nb\t0\nc\t1\n"),
    "json, ids as text": ("d.json", '{"a": "2", "b": "0", "c": "1"}'),
    "json, ids first": ("d.json", '{"2": "a", "0": "b", "1": "c"}'),
    "json list": ("d.json", '["b", "c", "a"]'),
    "pickled dict": ("d.pkl", pickle.dumps(THREE)),
    "pickled dict, ids first": ("d.pkl", pickle.dumps({2: "a", 0: "b", 1: "c"})),
    "pickled list": ("d.pkl", pickle.dumps(["b", "c", "a"])),
    "spodernet, ids first": ("vocab_e1", pickle.dumps([{2: "a", 0: "b", 1: "c"}, THREE])),
    "spodernet": ("vocab_e1", pickle.dumps([THREE, {2: "a", 0: "b", 1: "c"}, {}, {}], 2)),
    "spodernet, newer": ("vocab_e1", pickle.dumps([THREE, {2: "a", 0: "b", 1: "c"}, None, None], 5)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block_bytes", [5, 1 << 26])
def test_forms(form: str, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    name, content = FORMS[form]
    assert read_dictionary(write(tmp_path / name, content)) == THREE


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("d.txt", "00017\t0\n00023\t1\n", {"00017": 0, "00023": 1}),  # numbers as labels, one column without gaps
        ("d.txt", "0\t17\n1\t23\n", {"17": 0, "23": 1}),
        ("d.del", "00017\t0\n00023\t1\n", {"00017": 0, "00023": 1}),
        ("d.txt", "0\t0\n1\t1\n", {"0": 0, "1": 1}),
        ("d.del", "0\t1\n1\t2\n2\t0\n", {"1": 0, "2": 1, "0": 2}),  # both without gaps: the name decides
        ("d.del.gz", "0\t1\n1\t0\n", {"1": 0, "0": 1}),
        ("d.txt", "5\t7\n6\t9\n", {"5": 7, "6": 9}),  # both with gaps, which the model will not take
        ("d.del", "5\t7\n6\t9\n", {"7": 5, "9": 6}),
        ("d.txt", "5\ta\n6\tb\n", {"a": 5, "b": 6}),
        ("d.txt", "{a}\t0\n{\t1\n", {"{a}": 0, "{": 1}),
        ("d.txt", "id\tlabel\n0\tlabel\n1\tid\n", {"label": 0, "id": 1}),
        ("d.tsv", 'id\tlabel\n0\t"say ""x"""\n1\tit\'s "y\n2\t"\n', {'say "x"': 0, "it's \"y": 1, '"': 2}),
    ],
)
def test_which_column_holds_the_ids(name: str, content: str, expected: dict[str, int], tmp_path: Path) -> None:
    packed = gzip.compress(content.encode()) if name.endswith(".gz") else content
    assert read_dictionary(write(tmp_path / name, packed)) == expected


@pytest.mark.parametrize(
    "name, content, named",
    [
        ("d.txt", "0\t1\n1\t0\n", ": both columns hold the ids 0 to 1 in different orders; write it as a JSON object"),
        ("d.tsv", "id\tlabel\n0\ta\nx\tb\n", " line 3: id 'x' is not an integer from 0"),
        ("d.tsv", "id\tlabel\n0\ta\n0\tb\n", " line 3: id 0 (of label 'b') was already on line 2 (of label 'a')"),
        ("d.tsv", "id\tlabel\n0\ta\n1\ta\n", " line 3: label 'a' (of id 1) was already on line 2 (of id 0)"),
        ("d.tsv", "id\tlabel\n", ": the file has no lines; expected lines id<TAB>label"),
        ("d.del", "0\ta\nx\tb\n", " line 2: id 'x' is not an integer"),
        ("d.json", '{"a": 0,\n"b"}', " line 2: not JSON"),
        ("d.json", '{"a": 0, "a": 1}', ": 'a' comes twice, in ('a', 0) and ('a', 1)"),
        ("d.json", '{"a": 0, "b": 0}', ": 0 comes twice, in ('a', 0) and ('b', 0)"),
        ("d.json", '{"a": "b"}', ": the entry 'a': 'b' is not a label with an integer"),
        ("d.json", '{"0": "1", "1": "0"}', ": both sides of the entries hold the ids 0 to 1, as text"),
        ("d.json", '["a", 1]', ": a list of int, str; expected"),
        ("d.json", '["a", "b", "a"]', ": 'a' comes twice"),
        ("d.txt", "3\na\t0\nb\t1\n", " line 1: 3 entries, but 2 lines follow; is the file complete?"),
        ("d.json", '{"a": true}', ": the entry 'a': True is not a label with an integer"),
        ("d.json", '{"a": -1}', ": the entry 'a': -1 is not"),
        ("d.json", '{"a": 1.0}', ": the entry 'a': 1.0 is not"),
        ("d.json", '{"a": {"b": 0}}', ": the entry 'a': [('b', 0)] is not"),
        ("d.json", "{}", ": the dictionary is empty"),
        ("d.json", '{"a": ' + "[" * 100_000, ": nested too deep"),
        ("d.json", '{"a": ' + "9" * 5000 + "}", ": nested too deep or with too large a number"),
        ("vocab", pickle.dumps(7), ": a int; expected"),
        ("vocab", pickle.dumps([0, 1]), ": a list of int; expected"),
        ("vocab", pickle.dumps([{"OOV": -1, "": 0}]), ": the entry 'OOV': -1 is not"),
        ("vocab", pickle.dumps([THREE, {}])[:-9], ": the pickle is damaged or is no dictionary"),
        ("vocab", b"\x80\x02cos\nsystem\n.", " is not safe: it names 'os.system'"),
    ],
)
def test_form_errors(name: str, content: str | bytes, named: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=re.escape(f"{path}{named}")):
        read_dictionary(path)


def test_fixture_of_pykeen(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "models" / "pykeen_directory" / "training_triples"
    entities = read_dictionary(folder / "entity_to_id.tsv.gz")
    assert entities["brazil"] == 0 and sorted(entities.values()) == list(range(14))
    relations = read_dictionary(folder / "relation_to_id.tsv.gz")
    assert relations["accusation"] == 0 and sorted(relations.values()) == list(range(55))


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


def test_both_dictionaries_or_one_or_none(tmp_path: Path) -> None:
    entities, relations = write(tmp_path / "e.txt", "a\t0\nb\t1\n"), write(tmp_path / "r.txt", "treats\t0\n")
    assert read_dictionaries(entities, relations) == ({"a": 0, "b": 1}, {"treats": 0})
    assert read_dictionaries(None, relations) == (None, {"treats": 0})
    assert read_dictionaries(None, None) == (None, None)
    wrong = write(tmp_path / "w.txt", "a\tx\n")
    for kind, paths in (("entity", (wrong, relations)), ("relation", (entities, wrong))):
        with pytest.raises(InputError, match=re.escape(f"the {kind} dictionary {wrong} line 1: id 'x' is not an")):
            read_dictionaries(*paths)
