"""read_triples: exact rows, exact line numbers in errors, and agreement with a plain reader."""

from __future__ import annotations

import gzip
import random
import re
import warnings
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.triples import lines as text_lines
from tracin.triples.dictionaries import read_dictionary, read_edge_map, read_names
from tracin.triples.read import read_triple_lines, read_triples
from tracin.triples.write import TrainingLines, write_triples

ENTITIES = {"a": 0, "b": 1, "c": 2, '"q': 3, "nœud": 4}
RELATIONS = {"treats": 0, "causes": 1}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def naive_triples(path: Path, entities: dict[str, int], relations: dict[str, int]) -> list[list[int]]:
    """The definition: line by line, unknown labels left out."""
    rows = []
    for line in path.read_bytes().decode().rstrip("\r\n").split("\n"):
        head, relation, tail = line.removesuffix("\r").split("\t")[:3]
        if head in entities and relation in relations and tail in entities:
            rows.append([entities[head], relations[relation], entities[tail]])
    return rows


def as_tensor(rows: list[list[int]]) -> Tensor:  # [n, 3]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of a few lines, so that small files cross many borders."""
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 64)
    return 64


# ---- read_triples: what it accepts


@pytest.mark.parametrize(
    "content",
    [
        "b\ttreats\ta\na\tcauses\tc\nb\ttreats\ta\n",
        "b\ttreats\ta\na\tcauses\tc\nb\ttreats\ta",
        "b\ttreats\ta\r\na\tcauses\tc\r\nb\ttreats\ta\r\n",
        "b\ttreats\ta\r\na\tcauses\tc\nb\ttreats\ta\r",
        "b\ttreats\ta\na\tcauses\tc\nb\ttreats\ta\n\n",
        "b\ttreats\ta\r\na\tcauses\tc\r\nb\ttreats\ta\r\n\r\n\r\n",
        "b\ttreats\ta\t0.5\na\tcauses\tc\nb\ttreats\ta\tx\ty\n",
        "b\ttreats\ta\na\tcauses\tc\t\nb\ttreats\ta\tx\ty\r\n",
        "\ufeffb\ttreats\ta\na\tcauses\tc\nb\ttreats\ta\n",
    ],
    ids=["lf", "no-last-lf", "crlf", "mixed", "empty-last", "empty-last-crlf", "more-first", "more-later", "bom"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("block_bytes", [1, 3, 16, 1 << 26])
def test_line_forms(
    tmp_path: Path, content: str, packed: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    raw = content.encode()
    path = write(tmp_path / "train.txt", gzip.compress(raw) if packed else raw)
    result = read_triples(path, ENTITIES, RELATIONS)
    assert result.dtype == torch.int64 and result.is_contiguous()
    assert result.tolist() == [[1, 0, 0], [0, 1, 2], [1, 0, 0]]


def test_str_path_and_gz_name(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt.gz", gzip.compress(b"a\ttreats\tb\n"))
    assert read_triples(str(path), ENTITIES, RELATIONS).tolist() == [[0, 0, 1]]


def test_nothing_is_quoted_stripped_or_a_comment(tmp_path: Path) -> None:
    labels = ['"q', '"q"', 'q"', " a", "a ", "#a", "NA", "null", "'a'", "x\x01", "x\x00", "\ufeffa", "a\rb", "a,b"]
    entities = {label: number for number, label in enumerate(labels)}
    path = write(tmp_path / "train.txt", "".join(f"{label}\t#r\t{label}\n" for label in labels))
    assert read_triples(path, entities, {"#r": 0}).tolist() == [[n, 0, n] for n in range(len(labels))]


@pytest.mark.parametrize("first", ["x\x01", "x^", "\ufeffa", "\x1f"], ids=["zlib", "zlib-fast", "bom", "gzip-half"])
def test_block_that_starts_like_another_format(tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bytes a later block begins with, they belong to the label."""
    line = f"{first}\ttreats\ta\n"
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", len(line.encode()))
    path = write(tmp_path / "train.txt", "a\ttreats\ta\n" + 4 * line)
    assert read_triples(path, {first: 7, "a": 0}, RELATIONS).tolist() == [[0, 0, 0]] + 4 * [[7, 0, 0]]


def test_empty_label_may_be_in_the_dictionary(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "\ttreats\ta\na\ttreats\t\n")
    assert read_triples(path, {"": 9, "a": 0}, RELATIONS).tolist() == [[9, 0, 0], [0, 0, 9]]


def test_ids_are_those_of_the_dictionary(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a\tr\tb\n")
    assert read_triples(path, {"b": 2**31 - 1, "a": 5, "c": 0}, {"s": 0, "r": 12}).tolist() == [[5, 12, 2**31 - 1]]


# ---- read_triples: errors


@pytest.mark.parametrize(("ending", "packed"), [("\n", False), ("\r\n", False), ("\r\n", True)])
@pytest.mark.parametrize("block_bytes", [1, 64, 1 << 26])
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("zz\ttreats\tb", "head 'zz' is not in the entity dictionary (5 entities)"),
        ("a\tzz\tb", "relation 'zz' is not in the relation dictionary (2 relations)"),
        ("a\ttreats\tzz", "tail 'zz' is not in the entity dictionary (5 entities)"),
        ("zz\tyy\txx", "head 'zz'"),
        ("a\tyy\txx", "relation 'yy'"),
        ("a\ttreats\tb ", "tail 'b '"),
        ("a\ttreats\t", "tail ''"),
        ("a\ttreats", "2 of 3 columns in 'a\\ttreats'"),
        ("a treats b", "1 of 3 columns in 'a treats b'"),
        ("", "an empty line"),
        ("  ", "an empty line"),
    ],
)
@pytest.mark.parametrize("line", [1, 17, 30])
def test_error_names_the_line(
    tmp_path: Path,
    ending: str,
    packed: bool,
    block_bytes: int,
    bad: str,
    named: str,
    line: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    lines = [f"a\ttreats\t{'b' if n % 3 else 'nœud'}" for n in range(31)]
    lines[line - 1] = bad
    raw = (ending.join(lines) + ending).encode()
    path = write(tmp_path / "train.txt", gzip.compress(raw) if packed else raw)
    with pytest.raises(InputError, match=re.escape(f"{path} line {line}: {named}")):
        read_triples(path, ENTITIES, RELATIONS)


def test_unknown_label_message_in_full(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a\ttreats\tb\na\tprevents\tb\n")
    with pytest.raises(InputError) as caught:
        read_triples(path, ENTITIES, RELATIONS)
    assert str(caught.value) == (
        f"{path} line 2: relation 'prevents' is not in the relation dictionary (2 relations); is this the dictionary "
        "the model was trained with? --skip-unknown leaves such lines out"
    )


def test_long_label_is_cut_in_the_message(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", f"{'x' * 5000}\ttreats\ta\n")
    with pytest.raises(InputError, match=r"line 1: head 'x{79}\.\.\. \(5002 characters\)") as caught:
        read_triples(path, ENTITIES, RELATIONS)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_empty_dictionary_knows_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a\ttreats\tb\n")
    with pytest.raises(InputError, match=r"line 1: head 'a' is not in the entity dictionary \(0 entities\)"):
        read_triples(path, {}, {})


# ---- read_triples: skip_unknown


def test_skip_unknown_warns_once_with_count_and_first_line(tmp_path: Path, small_blocks: int) -> None:
    lines = ["a\ttreats\tb"] * 200
    for number, bad in ((17, "a\tprevents\tb"), (18, "zz\ttreats\tb"), (151, "a\ttreats\tzz")):
        lines[number - 1] = bad
    path = write(tmp_path / "train.txt", "\r\n".join(lines))
    assert path.stat().st_size > 20 * small_blocks
    with pytest.warns(UserWarning) as caught:
        result = read_triples(path, ENTITIES, RELATIONS, skip_unknown=True)
    assert result.tolist() == 197 * [[0, 0, 1]]
    assert [str(warning.message) for warning in caught] == [
        f"{path}: 3 of 200 lines left out for unknown labels, the first: {path} line 17: relation 'prevents' is not in "
        "the relation dictionary (2 relations)"
    ]
    assert caught[0].filename == __file__


def test_skip_unknown_without_unknown_does_not_warn(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a\ttreats\tb\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_triples(path, ENTITIES, RELATIONS, skip_unknown=True).tolist() == [[0, 0, 1]]


def test_skip_unknown_with_all_unknown(tmp_path: Path, small_blocks: int) -> None:
    path = write(tmp_path / "train.txt", "a\tx\tb\n" * 50)
    with pytest.raises(InputError, match=r"each of the 50 lines has an unknown label, the first: .* line 1: .*'x'"):
        read_triples(path, ENTITIES, RELATIONS, skip_unknown=True)


@pytest.mark.parametrize(("bad", "named"), [("a\ttreats", "2 of 3 columns"), ("", "an empty line")])
def test_skip_unknown_does_not_skip_short_lines(tmp_path: Path, bad: str, named: str) -> None:
    path = write(tmp_path / "train.txt", f"zz\ttreats\tb\na\ttreats\tb\n{bad}\na\ttreats\tb\n")
    with pytest.raises(InputError, match=f"line 3: {named}"):
        read_triples(path, ENTITIES, RELATIONS, skip_unknown=True)


# ---- read_triples against the plain reader


@pytest.mark.parametrize("seed", range(12))
def test_random_files_agree_with_the_plain_reader(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    alphabet = "ab01:/._-\"'# ,;|\\é漢\x0b\x85\u2028"
    labels = sorted({"".join(rng.choices(alphabet, k=rng.randint(0, 14))) for _ in range(60)})
    known = rng.sample(labels, len(labels) - rng.choice([0, 6]))
    entities = dict(zip(known, rng.sample(range(1000), len(known)), strict=True))
    relations = {"r0": 0, "r1": 1, "#r": 2}
    lines = [
        "\t".join(
            [rng.choice(labels), rng.choice(list(relations)), rng.choice(labels)] + rng.choice([[], [], ["x", ""]])
        )
        + rng.choice(["\n", "\r\n"])
        for _ in range(rng.choice([1, 7, 400]))
    ]
    content = "".join(lines) + f"{known[0]}\tr1\t{known[1]}"
    path = write(tmp_path / "train.txt", content)
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", rng.choice([1, 40, 1000, 1 << 26]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = read_triples(path, entities, relations, skip_unknown=True)
    assert torch.equal(result, as_tensor(naive_triples(path, entities, relations)))


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_file_about_as_long_as_a_block(tmp_path: Path, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.txt", "".join(f"a\ttreats\t{'abc'[n % 3]}\r\n" for n in range(50)))
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", path.stat().st_size + offset)
    assert read_triples(path, ENTITIES, RELATIONS).tolist() == [[0, 0, n % 3] for n in range(50)]


def test_many_lines_in_the_blocks_of_production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400,000 lines in blocks of 1 MiB: polars splits each block in parallel, and the order holds."""
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 1 << 20)
    entities = {f"PUBCHEM.COMPOUND:{number}": number for number in range(50_000)}
    head = (torch.arange(400_000) * 7919) % 50_000
    tail = (torch.arange(400_000) * 104_729 + 11) % 50_000
    expected = torch.stack([head, torch.zeros_like(head), tail], dim=1)
    labels = list(entities)
    path = write(
        tmp_path / "train.txt",
        "".join(f"{labels[h]}\ttreats\t{labels[t]}\r\n" for h, t in zip(head.tolist(), tail.tolist(), strict=True)),
    )
    assert path.stat().st_size > 10 * text_lines.BLOCK_BYTES
    assert torch.equal(read_triples(path, entities, RELATIONS), expected)
    del entities[labels[int(head[399_998])]], entities[labels[int(tail[399_998])]]
    first = next(n for n in range(400_000) if labels[head[n]] not in entities or labels[tail[n]] not in entities)
    with pytest.raises(InputError, match=f"line {first + 1}: "):
        read_triples(path, entities, RELATIONS)


def test_ordinary_files_take_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> pl.DataFrame:
        raise AssertionError("an ordinary file was split line by line")

    monkeypatch.setattr(text_lines, "_split_lines", refuse)
    path = write(tmp_path / "train.txt", 'a\ttreats\tb\r\n"q\tcauses\tnœud\tmore\r\n\r\n')
    assert read_triples(path, ENTITIES, RELATIONS).tolist() == [[0, 0, 1], [3, 1, 4]]


# ---- ids instead of labels

IDS = "1\t0\t0\n0\t1\t2\n1\t0\t0\n"
HEADER = "head\trelation\ttail\n"
ROWS = [[1, 0, 0], [0, 1, 2], [1, 0, 0]]


@pytest.mark.parametrize(
    ("name", "content", "numeric"),
    [
        ("numeric_triples.tsv.gz", HEADER + IDS, None),
        ("numeric.tsv", "\ufeff" + (HEADER + IDS).replace("\n", "\r\n"), None),
        ("train.del", IDS, None),
        ("train.del.gz", IDS.replace("\n", "\r\n"), None),
        ("train.del", HEADER + IDS, None),
        ("train.txt", IDS, True),
        ("train.txt", HEADER + IDS, True),
        ("train.txt", IDS.replace("\n", "\t0.5\n"), True),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 26])
def test_ids(
    tmp_path: Path, name: str, content: str, numeric: bool | None, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    raw = content.encode()
    path = write(tmp_path / name, gzip.compress(raw) if name.endswith(".gz") else raw)
    result = read_triples(path, ENTITIES, RELATIONS, numeric=numeric)
    assert result.dtype == torch.int64 and result.tolist() == ROWS


def test_labels_that_look_like_ids_or_a_header(tmp_path: Path) -> None:
    entities, relations = {"head": 0, "tail": 1, "0": 2, "1": 3}, {"relation": 0, "0": 1}
    header = write(tmp_path / "train.txt", HEADER + "0\t0\t1\n")
    assert read_triples(header, entities, relations).tolist() == [[0, 0, 1], [2, 1, 3]]
    assert read_triples(header, entities, relations, numeric=True).tolist() == [[0, 0, 1]]
    named = write(tmp_path / "train.del", "0\t0\t1\n")
    assert read_triples(named, entities, relations).tolist() == [[0, 0, 1]]
    assert read_triples(named, entities, relations, numeric=False).tolist() == [[2, 1, 3]]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("5\t0\t0", "head '5' is not an id from 0 to 4 (the entity dictionary has 5 entities)"),
        ("0\t2\t0", "relation '2' is not an id from 0 to 1 (the relation dictionary has 2 relations)"),
        ("0\t0\t-1", "tail '-1' is not an id from 0 to 4"),
        ("0\t0\t1.0", "tail '1.0' is not an id"),
        ("a\ttreats\tb", "head 'a' is not an id"),
        ("0\t0\t99999999999999999999", "tail '99999999999999999999' is not an id"),
        ("0\t0\t4294967296", "tail '4294967296' is not an id"),
        ("0\t0\t", "tail '' is not an id"),
        ("0\t0", "2 of 3 columns in '0\\t0'"),
    ],
)
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("block_bytes", [1, 1 << 26])
def test_wrong_ids_name_the_line(
    tmp_path: Path, line: str, named: str, header: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    lines = ["0\t1\t2"] * 30
    lines[17] = line
    path = write(tmp_path / ("train.tsv" if header else "train.del"), (HEADER if header else "") + "\n".join(lines))
    with pytest.raises(InputError, match=re.escape(f"{path} line {19 if header else 18}: {named}")):
        read_triples(path, ENTITIES, RELATIONS)


def test_wrong_ids_name_the_reason(tmp_path: Path) -> None:
    header = write(tmp_path / "train.txt", HEADER + "a\t0\t1\n")
    with pytest.raises(InputError, match="line 2: head 'a' .*its header line says that it holds ids: remove that line"):
        read_triples(header, ENTITIES, RELATIONS)
    named = write(tmp_path / "train.del", "a\ttreats\tb\n")
    with pytest.raises(InputError, match=r"line 1: head 'a' .*its name, \*\.del, says that it holds ids: rename it"):
        read_triples(named, ENTITIES, RELATIONS)
    only_header = write(tmp_path / "train.tsv", HEADER)
    with pytest.raises(InputError, match="the file has no lines"):
        read_triples(only_header, ENTITIES, RELATIONS)


def test_skip_unknown_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "train.del", "0\t0\t1\n9\t0\t1\n")
    with pytest.warns(UserWarning, match="1 of 2 lines left out for unknown ids, the first: .* line 2: head '9'"):
        assert read_triples(path, ENTITIES, RELATIONS, skip_unknown=True).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("skip_unknown", [False, True])
def test_integers_read_as_labels_are_told_the_flag(tmp_path: Path, skip_unknown: bool) -> None:
    path = write(tmp_path / "train.txt", IDS)
    with pytest.raises(InputError, match=r"line 1: head '1' .*are ids, --numeric-triples \(numeric=True\) reads"):
        read_triples(path, ENTITIES, RELATIONS, skip_unknown=skip_unknown)
    known = ENTITIES | {"1": 5, "0": 6, "2": 7}
    with pytest.raises(InputError, match="relation '0' is not in the relation dictionary") as caught:
        read_triples(path, known, {"1": 0}, skip_unknown=False)
    assert "--numeric-triples" not in str(caught.value)  # some lines are known


# ---- line by line


MIXED = [b"1\t0\t0\n", b"0\t1\t2\r\n", b"\n", b"a\ttreats\tb\n", b"1\t0\t0\tmore\n", b"0\t0\n", b"1\t0\t-1\n"]


@pytest.mark.parametrize("numeric", [None, False, True])
@pytest.mark.parametrize("name", ["train.txt", "train.del", "train.txt.gz", "train.del.gz"])
@pytest.mark.parametrize("header", [[], [HEADER.encode()]])
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 26])
def test_line_by_line(
    tmp_path: Path,
    header: list[bytes],
    name: str,
    numeric: bool | None,
    block_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The right lines are the triples of read_triples, which refuses each of the others for the same reason."""
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    dictionaries = ENTITIES | {"0": 5, "1": 6, "2": 7}, RELATIONS | {"0": 2, "1": 3}

    def file(lines: list[bytes]) -> Path:
        raw = b"".join(lines)
        return write(tmp_path / name, gzip.compress(raw) if name.endswith(".gz") else raw)

    text = header + MIXED
    found = read_triple_lines(file([*text, b"\n"]), *dictionaries, numeric=numeric)
    first = len(text) - len(found)  # a header is no triple
    assert first in (0, len(header)) and [line.index for line in found] == list(range(len(found)))
    start, rows = text[:first], text[first:]
    good = [line for line in found if line.triple is not None]
    path = file(start + [rows[line.index] for line in good])
    assert read_triples(path, *dictionaries, numeric=numeric).tolist() == [list(line.ids) for line in good]
    wrong = [line for line in found if line.triple is None]
    assert len(good) >= 3 and len(wrong) >= 3
    for line in wrong:
        right = rows[good[0].index]
        path = file([*start, right, rows[line.index], right])
        with pytest.raises(InputError) as caught:
            read_triples(path, *dictionaries, numeric=numeric)
        told = line.error.replace(f"line {first + line.index + 1}:", f"line {first + 2}:")
        assert str(caught.value).split("; ")[0] == told.split("; ")[0]
    some = read_triple_lines(file([*text]), *dictionaries, 2, 3, numeric)
    assert some == found[2:5]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    entities, relations = (
        {label: row for row, label in enumerate(some)} for some in ([" a", "", '"q', "n,œ"], [" ", "r"])
    )
    triples = torch.tensor([[0, 0, 1], [2, 1, 3], [3, 0, 0], [1, 1, 2], [2, 1, 3]])
    lines = TrainingLines(triples, entities, relations)
    path = tmp_path / "some.txt"
    write_triples(path, triples, lines.entities, lines.relations)
    assert torch.equal(read_triples(path, entities, relations), triples)
    lines.write(path, torch.tensor([4, 0]))
    assert path.read_text() == '"q\tr\tn,œ\n a\t \t\n'
    assert lines.read(path).tolist() == [0, 1, 4]  # a triple that comes twice is meant twice
    path.write_text(path.read_text() + " a\tr\t a\n")
    with pytest.raises(InputError, match="some.txt line 3: this triple is not in the training file; filter again"):
        lines.read(path)


# ---- real files


def test_fixture_graph(fixtures_dir: Path) -> None:
    entities = read_dictionary(fixtures_dir / "node_dict.txt")
    relations = read_dictionary(fixtures_dir / "rel_dict.txt")
    assert sorted(entities.values()) == list(range(30)) and sorted(relations.values()) == list(range(4))
    train = read_triples(fixtures_dir / "train.txt", entities, relations)
    assert torch.equal(train, as_tensor(naive_triples(fixtures_dir / "train.txt", entities, relations)))
    assert len(train) == 123 and len(torch.unique(train, dim=0)) == 116
    assert len(read_triples(fixtures_dir / "test.txt", entities, relations)) == 5
    assert read_names(fixtures_dir / "node_name_dict.txt") == {n: f"name of {label}" for label, n in entities.items()}
    assert read_edge_map(fixtures_dir / "edge_map.json") == {f"predicate:{n}": f"biolink:p{n}" for n in range(4)}


@pytest.mark.slow
def test_fb15k237(fb15k237: Path, checkpoints_dir: Path) -> None:
    entities = read_dictionary(checkpoints_dir / "fb15k-237" / "node_dict.txt")
    relations = read_dictionary(checkpoints_dir / "fb15k-237" / "rel_dict.txt")
    assert sorted(entities.values()) == list(range(14_541)) and sorted(relations.values()) == list(range(237))
    for name, lines in (("train.txt", 272_115), ("valid.txt", 17_535), ("test.txt", 20_466)):
        result = read_triples(fb15k237 / name, entities, relations)
        assert result.shape == (lines, 3)
        assert torch.equal(result, as_tensor(naive_triples(fb15k237 / name, entities, relations)))
