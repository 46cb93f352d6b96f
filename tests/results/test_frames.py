"""Data frames and Parquet files against JSON and CSV, by whom they are read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from click.testing import CliRunner

import tracin
from tests.samples.models import ENTITIES, RELATIONS, random_model, random_triples
from tracin import TopK
from tracin.cli import main
from tracin.errors import InputError
from tracin.results import frames
from tracin.results import writers as results
from tracin.results.frames import parquet_file, self_influence_frame, triple_columns
from tracin.results.writers import Influences, write_test
from tracin.triples.labels import Labels

PYKEEN = ["head_id", "head_label", "relation_id", "relation_label", "tail_id", "tail_label"]
DICTIONARIES = SimpleNamespace(
    entity_to_id={f"e{i}": i for i in range(ENTITIES)}, relation_to_id={f"r{i}": i for i in range(RELATIONS)}
)
LABELS = Labels(*({i: f"{letter}{i}" for i in range(n)} for letter, n in (("e", ENTITIES), ("r", RELATIONS))))
TRAIN, TEST = random_triples(20, seed=1), random_triples(3, seed=2)


def influences(k: int = 4, tests: int = 3) -> list[Influences]:
    torch.manual_seed(0)
    found = []
    for index in range(tests):
        rows = torch.randperm(len(TRAIN))[:k]
        triple = tuple(TEST[index].tolist())
        found.append(Influences(index, triple, 0.5 + index, TRAIN[rows], torch.randn(k), rows))
    return found


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    tracin.save_checkpoint(
        tmp_path / "model.pt",
        random_model(),
        entity_to_id=DICTIONARIES.entity_to_id,
        relation_to_id=DICTIONARIES.relation_to_id,
    )
    for name, triples in (("train", TRAIN), ("test", TEST)):
        (tmp_path / f"{name}.txt").write_text("".join(f"e{h}\tr{r}\te{t}\n" for h, r, t in triples.tolist()))
    (tmp_path / "names.txt").write_text("".join(f"name of e{i}\t{i}\n" for i in range(ENTITIES)))
    edge_map = {json.dumps({"predicate": f"biolink:p{i}"}): f"r{i}" for i in range(RELATIONS)}
    (tmp_path / "edges.json").write_text(json.dumps(edge_map))
    return tmp_path


def run(folder: Path, *arguments: str, output: str) -> str:
    files = ["--model-path", "model.pt", "--train", "train.txt", "--test", "test.txt", "--output", output]
    paths = [str(folder / part) if "." in part else part for part in (*files, *arguments)]
    result = CliRunner().invoke(main, ["run", "--quiet", "--backend", "factored", *paths])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("flag", ["--output", "--csv-output"])
def test_parquet_json_and_csv_hold_the_same(graph: Path, flag: str) -> None:
    names = ("--node-name-dict", "names.txt", "--edge-map", "edges.json", "--top-k", "5")
    single = ("--mode", "single", "--test-indices", "0", "1", "2")
    run(graph, *names, *single, output="s.json")
    run(graph, *names, "--csv-output", "all.csv", output="t.json")
    if flag == "--output":
        run(graph, *names, output="x.parquet")
    else:
        run(graph, *names, "--csv-output", "x.parquet", output="other.json")
        assert (graph / "other.json").read_bytes() == (graph / "t.json").read_bytes()
    frame = pl.read_parquet(graph / "x.parquet")
    expected: list[dict[str, Any]] = []
    for record in json.loads((graph / "s.json").read_text()):
        test = {f"test_{place}_{column}": record[f"test_{place}{end}"] for place, column, end in fields()}
        for item in record["influences"]:
            train = {f"{place}_{column}": item[f"train_{place}{end}"] for place, column, end in fields()}
            expected.append(
                {"test_index": record["test_triple_index"], **test, "test_self_influence": record["self_influence"]}
                | train
                | {"score": item["influence"]}
            )
    assert frame.drop("train_index").to_dicts() == expected
    assert frame.columns == [
        *(name for name in expected[0] if name.startswith("test_")),
        "train_index",
        *(name for name in expected[0] if not name.startswith("test_")),
    ]
    assert TRAIN[frame["train_index"].to_list()].tolist() == [
        list(row) for row in frame["head_id", "relation_id", "tail_id"].rows()
    ]
    with open(graph / "all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["TracInScore"]) for row in rows] == frame["score"].to_list()
    for ours, theirs in (
        ("TrainRel", "relation_label"),
        ("TrainRel_label", "relation_name"),
        ("TestTail_label", "test_tail_name"),
        ("TrainHead", "head_label"),
    ):
        assert [row[ours] for row in rows] == frame[theirs].to_list()


def fields() -> list[tuple[str, str, str]]:
    """Place in the triple, column, and the end of the JSON key."""
    ends = (("id", ""), ("label", "_label"), ("name", "_name"))
    return [(place, column, end) for place in ("head", "relation", "tail") for column, end in ends]


def test_mode_single_and_files_per_triple_in_parquet(graph: Path) -> None:
    run(graph, "--top-k", "2", "--mode", "single", "--test-indices", "2", "0", output="single.parquet")
    assert pl.read_parquet(graph / "single.parquet")["test_index"].to_list() == [2, 2, 0, 0]
    run(graph, "--top-k", "2", "--output-per-triple", "--csv-output", "p.parquet", output="any.json")
    for index in range(3):
        record = json.loads((graph / f"tracin_test_{index}.json").read_text())
        frame = pl.read_parquet(graph / f"p_test_{index}.parquet")
        assert frame["score"].to_list() == [item["influence"] for item in record["top_influences"]]


@pytest.mark.parametrize("rows", [3, 1 << 17])
@pytest.mark.parametrize(
    "names",
    [
        ("--top-k", "4"),
        ("--top-k", "4", "--mode", "single", "--test-indices", "1", "2"),
        ("--mode", "self"),
    ],
    ids=["test", "single", "self"],
)
def test_parquet_says_what_made_it(
    graph: Path, names: tuple[str, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracin.results.frames.ROWS", rows)
    monkeypatch.setattr("tracin.results.writers.ROWS", rows)
    run(graph, *names, output="x.json")
    run(graph, *names, output="x.parquet")
    said = json.loads((graph / "x.json").read_text())
    made = said["run"] if isinstance(said, dict) else said[0]["run"]
    assert made["tracin"] and json.loads(pl.read_parquet_metadata(graph / "x.parquet")["run"]) == made
    if "self" not in names and "single" not in names:
        run(graph, *names, "--csv-output", "y.parquet", output="x.json")
        assert json.loads(pl.read_parquet_metadata(graph / "y.parquet")["run"]) == made


def test_mode_self_in_parquet(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROWS", 7)
    run(graph, "--mode", "self", output="self.json")
    run(graph, "--mode", "self", "--node-name-dict", "names.txt", output="self.parquet")
    frame, records = pl.read_parquet(graph / "self.parquet"), json.loads((graph / "self.json").read_text())
    assert frame.columns == [
        "train_index",
        "head_id",
        "head_label",
        "head_name",
        "relation_id",
        "relation_label",
        "tail_id",
        "tail_label",
        "tail_name",
        "self_influence",
    ]
    names = {"head": "head_id", "relation": "relation_id", "tail": "tail_id", "index": "train_index"}
    names |= {name: name for name in ("self_influence", "head_label", "relation_label", "tail_label")}
    assert records[0].pop("run")["mode"] == "self"
    assert frame.select(**names).to_dicts() == records
    run(graph, "--mode", "self", "--top-k", "3", "--csv-output", "own.parquet", output="few.json")
    assert pl.read_parquet(graph / "own.parquet").equals(frame.drop("head_name", "tail_name").head(3))
    assert [record["index"] for record in json.loads((graph / "few.json").read_text())] == frame["train_index"][
        :3
    ].to_list()
    assert frame["head_name"].to_list() == [f"name of e{record['head']}" for record in records]
    by_hand = self_influence_frame(
        torch.tensor([record["self_influence"] for record in records]),
        TRAIN[frame["train_index"].to_list()],
        DICTIONARIES,
    )
    assert by_hand.drop("train_index").equals(frame.drop("train_index", "head_name", "tail_name"))


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 100])
def test_parquet_in_any_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(results, "ROWS", rows)
    monkeypatch.setattr(frames, "ROWS", rows)
    some = influences()
    write_test(tmp_path / "x.parquet", None, some, LABELS, num_test=3, num_train=20, top_k=4, learning_rate=1.0)
    frame = pl.read_parquet(tmp_path / "x.parquet")
    indices = [item.indices for item in some if item.indices is not None]
    assert frame["train_index"].to_list() == torch.cat(indices).tolist()
    assert frame["score"].to_list() == torch.cat([item.scores for item in some]).tolist()
    assert frame["test_self_influence"].to_list() == [0.5] * 4 + [1.5] * 4 + [2.5] * 4
    assert frame["tail_label"].to_list() == [f"e{i}" for i in frame["tail_id"].to_list()]
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_an_interrupted_parquet_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("earlier")
    with pytest.raises(RuntimeError, match="lost"), parquet_file(path) as write:
        write(pl.DataFrame({"a": [1]}))
        raise RuntimeError("lost")
    with pytest.raises(InputError, match="no rows"), parquet_file(path):
        pass
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_wrong_places_for_parquet(graph: Path) -> None:
    arguments = [
        "run",
        "--model-path",
        str(graph / "model.pt"),
        "--train",
        str(graph / "train.txt"),
        "--test",
        str(graph / "test.txt"),
        "--output",
    ]
    per_triple = CliRunner().invoke(main, [*arguments, str(graph / "x.parquet"), "--output-per-triple"])
    assert per_triple.exit_code == 2 and "--output-per-triple writes JSON" in per_triple.stderr
    device = CliRunner().invoke(main, [*arguments, "/dev/x.parquet"])
    assert device.exit_code == 1 and "is no plain file, which Parquet needs" in device.stderr


def test_top_k_to_frame_is_pykeens_frame() -> None:
    top = tracin.TracIn(random_model(), backend="factored", device="cpu").top_k(TRAIN, TEST, k=6)
    frame = top.to_frame(TRAIN, TEST, DICTIONARIES)
    tests = [f"test_{name}" for name in PYKEEN]
    assert frame.columns == ["test_index", *tests, "train_index", *PYKEEN, "score"]
    assert frame["score"].to_list() == top.scores.flatten().tolist()
    for row, (index, train_index) in zip(frame.to_dicts(), frame["test_index", "train_index"].rows(), strict=True):
        for prefix, triple in (("test_", TEST[index].tolist()), ("", TRAIN[train_index].tolist())):
            assert [row[f"{prefix}{name}_id"] for name in ("head", "relation", "tail")] == triple
            labels = [row[f"{prefix}{name}_label"] for name in ("head", "relation", "tail")]
            assert labels == [f"e{triple[0]}", f"r{triple[1]}", f"e{triple[2]}"]
    ids = top.to_frame(TRAIN)
    assert ids.columns == ["test_index", "train_index", "head_id", "relation_id", "tail_id", "score"]
    assert ids["score"].equals(frame["score"])


def test_to_frame_of_other_triples_is_refused() -> None:
    top = TopK(torch.tensor([[0, 9]]), torch.tensor([[1.0, 2.0]]))
    with pytest.raises(InputError, match="train has 5 triples, but row 9"):
        top.to_frame(TRAIN[:5])
    with pytest.raises(InputError, match="test has 3 triples for influences on 1"):
        top.to_frame(TRAIN, TEST)
    with pytest.raises(InputError, match="labels has no entity_to_id"):
        top.to_frame(TRAIN, None, tracin.Checkpoint(random_model()))
    with pytest.raises(InputError, match="5 triples for 2 self-influences"):
        self_influence_frame(torch.ones(2), TRAIN[:5])
    for wrong in (-1, ENTITIES):
        with pytest.raises(InputError, match=f"entity id {wrong} has no label, the {ENTITIES} labels"):
            list(triple_columns(torch.tensor([[0, 0, wrong]]), LABELS))
