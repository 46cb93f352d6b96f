"""The files of influences against the samples the original scripts wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tracin.errors import InputError
from tracin.results.seal import read_seal, write_sealed
from tracin.results.self_influence import write_self
from tracin.results.writers import (
    Form,
    Influences,
    Labels,
    encode,
    numbered,
    write_influences,
    write_per_triple,
    write_single,
    write_test,
)

TRAIN = torch.tensor([[12, 0, 14], [10, 2, 20]])
SCORES = torch.tensor([0.001374316237441235, 0.005236657117115101], dtype=torch.float64)
RESULTS = (
    Influences(0, (1, 1, 14), 0.0018539954221851076, TRAIN[:1], SCORES[:1]),
    Influences(1, (10, 0, 20), 0.007443557020742446, TRAIN[1:], SCORES[1:]),
)


def labels(fixtures: Path, names: bool = False) -> Labels:
    def inverted(name: str) -> dict[int, str]:
        rows = (line.split("\t") for line in (fixtures / name).read_text().splitlines())
        return {int(index): label for label, index in rows}

    edge_map = json.loads((fixtures / "edge_map.json").read_text())
    return Labels(
        inverted("node_dict.txt"),
        inverted("rel_dict.txt"),
        inverted("node_name_dict.txt") if names else None,
        {label: json.loads(name)["predicate"] for name, label in edge_map.items()} if names else None,
    )


def test_mode_test_writes_the_sample(fixtures_dir: Path, tmp_path: Path) -> None:
    write_test(
        tmp_path / "test.json",
        None,
        RESULTS,
        labels(fixtures_dir),
        num_test=2,
        num_train=116,
        top_k=1,
        learning_rate=0.001,
    )
    assert (tmp_path / "test.json").read_bytes() == (fixtures_dir / "expected/test.json").read_bytes()


def test_mode_test_writes_one_csv_of_all_test_triples(fixtures_dir: Path, tmp_path: Path) -> None:
    write_test(
        tmp_path / "test.json",
        tmp_path / "c.csv",
        RESULTS,
        labels(fixtures_dir),
        num_test=2,
        num_train=116,
        top_k=1,
        learning_rate=0.001,
    )
    first, second = ((fixtures_dir / f"expected/per_triple/c_test_{i}.csv").read_bytes() for i in (0, 1))
    assert (tmp_path / "c.csv").read_bytes() == first + second.split(b"\r\n", 1)[1]


def test_a_file_per_triple_writes_the_samples(fixtures_dir: Path, tmp_path: Path) -> None:
    write_per_triple(tmp_path, tmp_path / "c.csv", RESULTS, labels(fixtures_dir), top_k=1, learning_rate=0.001)
    samples = sorted((fixtures_dir / "expected/per_triple").iterdir())
    assert [path.name for path in sorted(tmp_path.iterdir())] == [path.name for path in samples]
    for sample in samples:
        assert (tmp_path / sample.name).read_bytes() == sample.read_bytes()


def test_mode_single_writes_the_sample(fixtures_dir: Path, tmp_path: Path) -> None:
    sample = json.loads((fixtures_dir / "expected/single_top3.json").read_text())[0]
    items = sample["influences"]
    result = Influences(
        1,
        tuple(sample["test_triple"]),
        sample["self_influence"],
        torch.tensor([[item["train_head"], item["train_relation"], item["train_tail"]] for item in items]),
        torch.tensor([item["influence"] for item in items], dtype=torch.float64),
    )
    names = labels(fixtures_dir, names=True)
    write_single(tmp_path / "s.json", lambda index: numbered(tmp_path / "s.csv", index), [result], names)
    assert (tmp_path / "s.json").read_bytes() == (fixtures_dir / "expected/single_top3.json").read_bytes()
    assert (tmp_path / "s_test_1.csv").read_bytes() == (fixtures_dir / "expected/single_top3.csv").read_bytes()


def test_mode_self_orders_by_score_and_ties_by_row(tmp_path: Path) -> None:
    train = torch.tensor([[0, 0, 1], [1, 0, 2], [2, 1, 0], [3, 1, 0]])
    scores, names = torch.tensor([0.5, 2.0, 0.5, 1.0]), Labels({1: "=b"}, {0: "r"}, {2: "c,d"}, {"r": "treats"})
    json_path, csv_path, run = tmp_path / "self.json", tmp_path / "self.csv", {"layers": ["fc", "entity"], "n": 1.5}
    write_self(json_path, train, scores, names, Form(run), csv_path)
    text = json_path.read_text()
    rows = json.loads(text)
    assert [row["head"] for row in rows] == [1, 3, 0, 2]
    assert text == json.dumps(rows, indent=2)
    expected = {"head": 1, "relation": 0, "tail": 2, "self_influence": 2.0, "index": 1}
    expected |= {"head_label": "=b", "relation_label": "r", "tail_label": "UNKNOWN_2"}
    assert rows[0] == expected | {"head_name": "=b", "tail_name": "c,d", "relation_name": "treats", "run": run}
    assert "run" not in rows[1] and rows[1]["relation_label"] == "UNKNOWN_1"
    lines = csv_path.read_bytes().decode().split("\r\n")
    assert lines[:2] == [
        "TrainHead,TrainHead_label,TrainRel,TrainRel_label,TrainTail,TrainTail_label,SelfInfluence,TrainIndex",
        '=b,=b,r,treats,UNKNOWN_2,"c,d",2.0,1',
    ]
    assert len(lines) == 6 and lines[-1] == ""
    write_self(json_path, train, scores, names, Form(run, csv_safe=True), csv_path, top_k=2)
    assert json.loads(json_path.read_text()) == rows[:2]
    assert csv_path.read_bytes().decode().split("\r\n")[1].startswith("'=b,'=b,r,")
    assert csv_path.read_bytes().count(b"\r\n") == 3
    write_self(json_path, train[:0], scores[:0], names, Form(run), csv_path)
    assert json_path.read_text() == "[]" and csv_path.read_bytes().count(b"\r\n") == 1


def test_unknown_ids_and_missing_names() -> None:
    names = Labels({0: "a"}, {0: "r"}, {1: "name of b"}, {"r": "biolink:r"})
    assert (names.entity(5), names.relation(7)) == ("UNKNOWN_5", "UNKNOWN_7")
    assert (names.entity_name(0), names.entity_name(1), names.relation_name(0)) == ("a", "name of b", "biolink:r")
    assert names.relation_name(7) == "UNKNOWN_7"
    assert Labels({0: "a"}, {0: "r"}).entity_name(0) == "a"


def test_a_relation_that_is_json_text_is_named_by_its_predicate(tmp_path: Path) -> None:
    text = json.dumps({"object_aspect_qualifier": "", "predicate": "biolink:affects"})
    names = Labels({0: "a"}, {0: text, 1: "{no json", 2: "{}"}, None, {text: "given"})
    assert [names.relation_name(i) for i in (0, 1, 2)] == ["given", "{no json", "{}"]
    result = Influences(0, (0, 0, 0), 1.0, torch.tensor([[0, 0, 0]]), torch.tensor([1.0]))
    plain = Labels({0: "a"}, {0: text})
    write_test(tmp_path / "j", tmp_path / "c", [result], plain, num_test=1, num_train=1, top_k=1, learning_rate=1.0)
    with open(tmp_path / "c", encoding="utf-8", newline="") as file:
        _, row = csv.reader(file)
    assert row[2:4] == row[8:10] == [text, "biolink:affects"]


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": []},
        {"a": {}},
        [[]],
        [{}],
        None,
        1.5,
        'é\u2028\n"',
        {"a": 1, "b": [1, 2.5e-17], "c": {"d": None, "e\n": True}, "f": [{"g": "ü,\n", "h": [{"i": 1}]}]},
    ],
)
def test_encode_equals_json(value: Any) -> None:
    assert "".join(encode(value)) == json.dumps(value, indent=2)


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, [[-float("inf")]]])
def test_json_holds_numbers_only(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        list(encode(value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error_that_names_the_triple(tmp_path: Path, bad: float) -> None:
    names = Labels({}, {})
    result = Influences(3, (0, 0, 0), 1.0, TRAIN, torch.tensor([1.0, bad]))
    for name, write in {
        "single": lambda path: write_single(path, None, [result], names),
        "sealed": lambda path: write_sealed(path, result, names, Form({})),
        "test": lambda path: write_test(
            path, None, [result], names, num_test=1, num_train=2, top_k=None, learning_rate=1.0
        ),
    }.items():
        told = rf"influence of training triple \[10, 2, 20\] on test triple 3 \[0, 0, 0\] \(ids\) is {bad}"
        with pytest.raises(InputError, match=told):
            write(tmp_path / name)
    with pytest.raises(InputError, match=r"self-influence of training triple \[12, 0, 14\]"):
        write_self(tmp_path / "self", TRAIN, torch.tensor([bad, 1.0]), names)
    with pytest.raises(InputError, match="self-influence of test triple 3"):
        write_single(tmp_path / "own", None, [Influences(3, (0, 0, 0), bad, TRAIN, SCORES)], names)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sealed_file_is_told_from_a_changed_one(tmp_path: Path) -> None:
    """Every bit of it counts; but for `run` it is what mode single writes."""
    names, path = Labels({10: '"run": {', 1: "ü"}, {}), tmp_path / "sealed.json"
    write_sealed(path, RESULTS[1], names, Form({"made": "by a test"}))
    assert read_seal(path) == {"made": "by a test"}
    write_single(tmp_path / "single.json", None, RESULTS[1:], names)
    (ours,), (plain,) = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("sealed", "single"))
    assert set(ours.pop("run")) == {"made", "checksum"} and ours == plain
    undamaged = path.read_bytes()
    for place in range(8 * len(undamaged)):
        damaged = bytearray(undamaged)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert read_seal(path) is None, place
    for size in range(len(undamaged)):
        path.write_bytes(undamaged[:size])
        assert read_seal(path) is None
    path.write_bytes(undamaged + b"\n")
    assert read_seal(path) is None


def test_cells_that_spreadsheets_would_compute(tmp_path: Path) -> None:
    names = Labels({0: "=1+2", 1: "@x", 2: "a=b"}, {0: "-r"})
    result = Influences(0, (0, 0, 1), 1.0, torch.tensor([[2, 0, 1]]), torch.tensor([-0.5]))
    for safe, mark in ((False, ""), (True, "'")):
        write_influences(tmp_path / "c.csv", [result], names, Form(csv_safe=safe))
        with open(tmp_path / "c.csv", encoding="utf-8", newline="") as file:
            _, row = csv.reader(file)
        cells = [f"{mark}=1+2", f"{mark}-r", f"{mark}@x", "a=b", f"{mark}-r", f"{mark}@x"]
        assert row == [cell for cell in cells for _ in range(2)] + ["-0.5", "1.0"]


def test_encode_consumes_iterators_as_it_goes() -> None:
    seen: list[int] = []

    def items() -> Iterator[dict[str, int]]:
        for number in range(3):
            seen.append(number)
            yield {"n": number}

    text = encode({"items": items()})
    pieces = []
    while not seen:
        pieces.append(next(text))
    assert seen == [0]
    assert "".join([*pieces, *text]) == json.dumps({"items": [{"n": n} for n in range(3)]}, indent=2)


def test_labels_with_commas_quotes_and_umlauts_survive_csv(tmp_path: Path) -> None:
    names = Labels({0: 'a,"b"', 1: "ü"}, {0: "r"})
    result = Influences(0, (0, 0, 1), 1e-30, torch.tensor([[1, 0, 0]]), torch.tensor([-0.1]))
    write_test(tmp_path / "j", tmp_path / "c", [result], names, num_test=1, num_train=1, top_k=1, learning_rate=1.0)
    with open(tmp_path / "c", encoding="utf-8", newline="") as file:
        _, row = csv.reader(file)
    assert row[:2] == ['a,"b"', 'a,"b"'] and row[4] == "ü"
    assert row[12:] == [repr(torch.tensor(-0.1).item()), "1e-30"]


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("earlier")

    def results() -> Iterator[Influences]:
        yield RESULTS[0]
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_test(
            path,
            tmp_path / "out.csv",
            results(),
            Labels({}, {}),
            num_test=2,
            num_train=1,
            top_k=None,
            learning_rate=1.0,
        )
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]
