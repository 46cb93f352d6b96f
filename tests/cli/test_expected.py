"""`tracin run` against what the original scripts wrote.

They sort and de-duplicate triples, so rows are matched by triple.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.samples.original import TOLERANCE, compare, expected, triple
from tracin.cli import main

TEST_LINES = {0: 1, 1: 3}  # index in the original's sorted test set -> line of test.txt


@pytest.fixture(params=["auto", "factored", "sequential"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def run(fixtures: Path, output: Path, backend: str, *arguments: object) -> Any:
    files = {
        "--model-path": "models/pykeen_model_state_dict.pt",
        "--train": "train.txt",
        "--test": "test.txt",
        "--entity-to-id": "node_dict.txt",
        "--relation-to-id": "rel_dict.txt",
    }
    paths = [part for flag, name in files.items() for part in (flag, str(fixtures / name))]
    shape = ["--embedding-height", "8", "--embedding-width", "4"]
    command = ["run", *paths, *shape, "--backend", backend, "--output", str(output), *map(str, arguments)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr
    return json.loads(output.read_text()) if output.exists() else None


def test_single(fixtures_dir: Path, tmp_path: Path, backend: str) -> None:
    names = ("--node-name-dict", fixtures_dir / "node_name_dict.txt", "--edge-map", fixtures_dir / "edge_map.json")
    csv_path = tmp_path / "s.csv"
    chosen = ("--mode", "single", "--test-indices", TEST_LINES[1])
    (ours,) = run(fixtures_dir, tmp_path / "s.json", backend, *chosen, *names, "--csv-output", csv_path)
    (theirs,) = expected(fixtures_dir, "single_top3.json")
    compare(ours.pop("influences"), theirs.pop("influences"), "train_", "influence")
    own = ours.pop("self_influence")
    assert own == pytest.approx(theirs.pop("self_influence"), rel=TOLERANCE)
    assert ours.pop("run")["mode"] == "single"
    assert ours | {"test_triple_index": 1} == theirs

    sample = (fixtures_dir / "expected/single_top3.csv").read_text().splitlines()
    with open(csv_path, newline="") as file:
        header, *rows = csv.reader(file)
    assert header == sample[0].split(",")
    labelled = {tuple(row[:12]): row[12:] for row in rows}
    for line in sample[1:]:
        cells = line.split(",")
        found = labelled[tuple(cells[:12])]
        assert [float(cell) for cell in found] == pytest.approx([float(cell) for cell in cells[12:]], rel=TOLERANCE)
        assert found[1] == repr(own)


def test_test(fixtures_dir: Path, tmp_path: Path, backend: str) -> None:
    ours, theirs = run(fixtures_dir, tmp_path / "t.json", backend), expected(fixtures_dir, "test.json")
    assert list(ours) == [*theirs, "run"] and ours["num_training_triples"] == 123
    for index, line in TEST_LINES.items():
        mine, item = ours["results"][line], theirs["results"][index]
        assert list(mine) == list(item) and triple(mine, "test_") == triple(item, "test_")
        compare(mine["top_influences"], item["top_influences"], "train_", "influence")


def test_self(fixtures_dir: Path, tmp_path: Path, backend: str) -> None:
    ours = run(fixtures_dir, tmp_path / "s.json", backend, "--mode", "self")
    theirs = expected(fixtures_dir, "self.json")
    assert (len(ours), len(theirs)) == (123, 116)
    compare(ours, theirs, "", "self_influence")


def test_per_triple(fixtures_dir: Path, tmp_path: Path, backend: str) -> None:
    arguments = ("--output-per-triple", "--top-k", 1, "--csv-output", tmp_path / "c.csv")
    run(fixtures_dir, tmp_path / "unused.json", backend, *arguments)
    for index, line in TEST_LINES.items():
        ours = json.loads((tmp_path / f"tracin_test_{line}.json").read_text())
        theirs = expected(fixtures_dir, f"per_triple/tracin_test_{index}.json")
        assert list(ours) == [*theirs, "run"] and ours.pop("run")["training_triples"] == 123
        compare(ours.pop("top_influences"), theirs.pop("top_influences"), "train_", "influence")
        assert ours.pop("self_influence") == pytest.approx(theirs.pop("self_influence"), rel=TOLERANCE)
        assert ours | {"test_index": index} == theirs
        rows, sample = (
            path.read_bytes().split(b"\r\n")
            for path in (tmp_path / f"c_test_{line}.csv", fixtures_dir / f"expected/per_triple/c_test_{index}.csv")
        )
        assert rows[0] == sample[0] and rows[1].split(b",")[:12] == sample[1].split(b",")[:12]


@pytest.mark.parametrize(("index", "name"), [(1, "001_CHEBI_1_CHEBI_21"), (2, "002_CHEBI_8_CHEBI_11")])
def test_influences_of_the_batch_samples(
    fixtures_dir: Path, tmp_path: Path, backend: str, index: int, name: str
) -> None:
    """Their training triples are a subset, so scores are compared by triple and not by rank."""
    (ours,) = run(fixtures_dir, tmp_path / "b.json", backend, "--mode", "single", "--test-indices", index)
    (theirs,) = expected(fixtures_dir, f"batch/triple_{name}_tracin.json")
    scores = {triple(item, "train_"): item["influence"] for item in ours["influences"]}
    bound = TOLERANCE * max(abs(item["influence"]) for item in theirs["influences"])
    assert triple(ours, "test_") == triple(theirs, "test_")
    for item in theirs["influences"]:
        assert scores[triple(item, "train_")] == pytest.approx(item["influence"], rel=0, abs=bound)
