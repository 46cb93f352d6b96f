"""`tracin evaluate`: outputs, resuming, and what is refused before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.samples.planted_effects import small_graph
from tracin.cli import main

TINY = (
    "--epochs 2 --embedding-dim 12 --embedding-height 4 --embedding-width 3 --output-channels 3 --bootstrap 10 --quiet"
).split()
COMMANDS = {
    "lds": ["--subsets", "2", "--repeats", "2"],
    "noise": ["--share", "0.2", "--self-score", "tracin:layers=fc"],
    "deletion": ["--queries", "2", "--remove", "1", "--together"],
    "necessary": "--queries 2 --max-size 1 --max-size 2 --candidates 3 --tries 2 --copies 1".split(),
    "sanity": ["--queries", "3"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, graph = tmp_path_factory.mktemp("graph"), small_graph(test=12)
    for name, triples in (("train", graph.train), ("test", graph.test), ("valid", graph.others)):
        lines = [f"ent ity {h}\trel:{r}\tent ity {t}\n" for h, r, t in triples.tolist()]
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


def run(command: str, folder: Path, output: Path, *arguments: str) -> Result:
    paths = [part for name in ("train", "test", "valid") for part in (f"--{name}", str(folder / f"{name}.txt"))]
    return CliRunner().invoke(main, ["evaluate", command, *paths, *TINY, "--output", str(output), *arguments])


def result_of(command: str, folder: Path, output: Path, *arguments: str) -> Any:
    result = run(command, folder, output, *COMMANDS[command], *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(output.read_text())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_results_are_written_drawn_and_the_same_again(command: str, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first = result_of(command, folder, tmp_path / "one.json", "--plot", str(tmp_path / "one.svg"))
    assert "<svg" in (tmp_path / "one.svg").read_text()
    assert first["command"] == f"tracin evaluate {command}"
    assert first["files"] == {name: f"{name}.txt" for name in ("train", "test", "valid")}
    assert first["triples"] == {"train": 30, "test": 12, "others": 1}
    assert first["settings"]["--epochs"] == 2 and first["settings"]["--seed"] == 0
    refused = run(command, folder, tmp_path / "one.json", *COMMANDS[command])
    assert refused.exit_code == 1 and "holds runs already; --resume goes on with them" in refused.stderr
    assert result_of(command, folder, tmp_path / "one.json", "--resume") == first
    assert result_of(command, folder, tmp_path / "two.json") == first
    other = result_of(command, folder, tmp_path / "three.json", "--seed", "5")
    assert other["results"] != first["results"]


def test_lds_says_every_score_and_its_difference(folder: Path, tmp_path: Path) -> None:
    found = result_of("lds", folder, tmp_path / "out.json")["results"]
    assert found["queries"] == 12
    for outcome in ("margin", "-ce"):
        names = ["accurate", "tracin", "two-rules", "embedding", "random"]
        assert list(found["outcomes"][outcome]["scores"]) == names
        assert list(found["outcomes"][outcome]["beyond"]) == [name for name in names if name != "two-rules"]
        assert found["outcomes"][outcome]["ceiling"] is not None


def test_the_same_models_answer_fewer_questions(folder: Path, tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path / "runs"), "--score", "two-rules", "--resume")
    every = result_of("lds", folder, tmp_path / "out.json", *runs)["results"]
    few = result_of("lds", folder, tmp_path / "out.json", *runs, "--queries", "3")["results"]
    assert (every["queries"], few["queries"]) == (12, 3)
    assert len(list((tmp_path / "runs").glob("subset_*.json"))) == 4


def test_the_folder_of_runs_can_be_named(folder: Path, tmp_path: Path) -> None:
    result_of("lds", folder, tmp_path / "out.json", "--runs", str(tmp_path / "kept"), "--score", "two-rules")
    assert len(list((tmp_path / "kept").glob("subset_*.json"))) == 4
    result = run("lds", folder, tmp_path / "out.json", "--subsets", "2", "--runs", str(tmp_path / "kept"), "--resume",
                 "--score", "two-rules", "--decay", "0.5")  # fmt: skip
    assert result.exit_code == 1 and "other triples or training options" in result.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("lds", ["--subsets", "1"], "1 is not in the range x>=2"),
        ("lds", ["--score", "nonsense"], "there is no score 'nonsense'"),
        ("lds", ["--control", "neighbours"], "--control neighbours is none of the scores"),
        ("lds", ["--score", "two-rules", "--score", "tracin:layers=fcc"], "fcc"),
        ("lds", ["--score", "two-rules", "--score", "accurate:depth=1"], "setting 'depth' is none of TracIn's"),
        ("noise", ["--share", "1"], "1.0 is not in the range"),
        ("noise", ["--self-score", "two-rules"], "--self-score two-rules: expected tracin or accurate"),
        ("noise", ["--self-score", "tracin + tracin"], "expected tracin or accurate"),
        ("deletion", ["--remove", "30"], "expected at least 1, and below the 30"),
        ("deletion", ["--remove", "0"], "0 is not in the range"),
        ("necessary", ["--searched", "embedding"], "--searched embedding is none of the scores"),
        ("necessary", ["--max-size", "0"], "0 is not in the range"),
        ("sanity", ["--queries", "0"], "0 is not in the range"),
        ("sanity", ["--checkpoints", "3"], "checkpoints is 3; expected at least 1 and at most 2"),
        ("sanity", ["--plot", "plot.doc"], "expected a name that ends in .png, .svg, .pdf"),
        ("sanity", ["--embedding-dim", "13"], "embedding_dim 13 is not a multiple"),
        ("sanity", ["--test", "missing.txt"], "missing.txt"),
    ],
)
def test_what_is_wrong_is_said(command: str, arguments: list[str], message: str, folder: Path, tmp_path: Path) -> None:
    result = run(command, folder, tmp_path / "out.json", *arguments)
    assert result.exit_code != 0 and message in result.stderr
    assert "unexpected" not in result.stderr
    assert not (tmp_path / "out.json").exists() and not list(tmp_path.glob("out.runs/subset*"))


def test_outputs_that_cannot_be_written_are_said_before_the_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output, arguments, message in (
        (folder / "train.txt", [], "is the file of --train"),
        (tmp_path / "none" / "out.json", [], "does not exist"),
        (tmp_path / "out.csv", [], "promises CSV"),
        (tmp_path / "out.json", ["--runs", str(tmp_path / "file")], "is a file; name a folder"),
    ):
        result = run("sanity", folder, output, *arguments)
        assert result.exit_code == 1 and message in result.stderr


def test_train_and_test_belong_together(folder: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "sanity", "--train", str(folder / "train.txt"), "--output", str(tmp_path / "out.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "--test is missing" in result.stderr


@pytest.mark.slow
def test_without_files_it_is_umls(tmp_path: Path) -> None:
    arguments = ["evaluate", "sanity", *TINY, "--score", "two-rules", "--output", str(tmp_path / "out.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out.json").read_text())["triples"] == {"train": 5216, "test": 661, "others": 652}
