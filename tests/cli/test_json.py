"""--json: every command has it; stdout is one JSON document then, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from docs.reference import commands
from tests.samples.small_graph import Graph
from tracin.cli import main
from tracin.cli.demo import demo

TRIPLE = ("entity 1", "relation:0", "entity 2")
RUN = ("run", "--model-path", "model.pt", "--train", "train.txt", "--top-k", "3", "-o", "out.json")
EVALUATE = ("--train", "train.txt", "--test", "test.txt", "--epochs", "1", "--bootstrap", "2", "-o", "e.json")
CALLS: dict[str, tuple[str, ...]] = {
    "info": (),
    "audit": ("model.pt", "--train", "train.txt"),
    "batch": ("--model-path", "model.pt", "--train", "train.txt", "--test", "test.txt", "-o", "batch"),
    "check": ("model.pt", "--train", "train.txt"),
    "explain": ("model.pt", *TRIPLE, "--train", "train.txt"),
    "index build": ("model.pt", "--train", "train.txt", "-o", "other_index"),
    "index info": ("my_index",),
    "query": ("my_index", *TRIPLE),
    "replay": ("my_index.manifest.json",),
    "run": (*RUN[1:], "--triple", *TRIPLE),
    "train": ("--train", "train.txt", "--valid", "test.txt", "--test", "test.txt", "--epochs", "1", "-o", "models"),
    "evaluate lds": (*EVALUATE, "--subsets", "2", "--score", "two-rules"),
    "evaluate noise": (*EVALUATE, "--share", "0.1"),
    "evaluate audit": (*EVALUATE, "--share", "0.1", "--share", "0", "--at", "3"),
    "evaluate deletion": (*EVALUATE, "--epochs", "60", "--score", "random", "--remove", "1", "--queries", "2"),
    "evaluate necessary": (*EVALUATE, "--epochs", "60", "--score", "accurate", "--max-size", "1", "--queries", "2"),
    "evaluate sanity": (*EVALUATE, "--score", "two-rules"),
}
SLOW = {"train", "evaluate audit", "evaluate lds", "evaluate noise", "evaluate deletion"}
SLOW |= {"evaluate necessary", "evaluate sanity"}


@pytest.fixture
def folder(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(graph.folder)
    return graph.folder


def printed(*arguments: str) -> Any:
    """What is printed on stdout, as JSON."""
    result = CliRunner().invoke(main, arguments)
    assert not isinstance(result.exception, AssertionError) and result.exit_code in (0, 1), result.stderr
    return json.loads(result.stdout)


def test_every_command_is_called_here() -> None:
    every = {name: command for name, command in commands() if not isinstance(command, click.Group)}
    assert set(every) - {"explore"} == set(CALLS)
    for name, command in {**every, "demo": demo}.items():
        assert any("--json" in param.opts for param in command.params), name


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CALLS])
def test_stdout_is_one_document(folder: Path, name: str) -> None:
    if any("my_index" in word for word in CALLS[name]):
        result = CliRunner().invoke(main, ["index", "build", "model.pt", "--train", "train.txt", "-o", "my_index"])
        assert result.exit_code == 0, result.stderr
    found = printed(*name.split(), *CALLS[name], "--json")
    assert isinstance(found, dict) and found
    if name.startswith("evaluate"):
        assert found == json.loads(Path("e.json").read_text())
        assert "--json" not in found["settings"]
    if name == "train":
        assert set(found) == {"epoch", "losses", "checkpoint", "validation", "test"}
    if name.startswith("index"):
        assert found["training_triples"]["count"] == 40


def test_tables_of_a_run_as_records(folder: Path) -> None:
    found = printed(*RUN, "--test", "test.txt", "--show", "2", "--json")
    assert found["outputs"] == [str(folder / "out.json")]
    written = json.loads(Path("out.json").read_text())["results"]
    assert [len(each["influences"]) for each in found["shown"]] == [2] * 5  # of six test triples
    for each, other in zip(found["shown"], written, strict=False):
        scores = [influence["influence"] for influence in other["top_influences"]]
        assert [influence["influence"] for influence in each["influences"]] == pytest.approx(scores[:2], rel=1e-6)
    found = printed(*RUN, "--mode", "self", "--show", "2", "--json", "--csv-output", "out.csv")
    assert {Path(path).name for path in found["outputs"]} == {"out.json", "out.csv"}
    scores = [each["self_influence"] for each in found["shown"]]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert printed(*RUN, "--triple", *TRIPLE, "--json")["shown"] == []


def test_questions_are_a_line_each(folder: Path) -> None:
    CliRunner().invoke(main, ["index", "build", "model.pt", "--train", "train.txt", "-o", "my_index"])
    result = CliRunner().invoke(main, ["query", "my_index", *TRIPLE, *TRIPLE, "--json"])
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == second and first["test_tail_label"] == "entity 2"


def test_verified_is_said(folder: Path) -> None:
    CliRunner().invoke(main, ["index", "build", "model.pt", "--train", "train.txt", "-o", "my_index"])
    assert printed("index", "info", "my_index", "--verify", "--json")["verified"] is True


@pytest.mark.slow
def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(demo, ["-o", str(tmp_path), "--epochs", "2", "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert all(Path(path).exists() for path in found["outputs"]) and found["test"]["count"] == 1322
    assert "training a ConvE for 2 epochs" in result.stderr


@pytest.mark.slow
def test_the_address_of_the_page(folder: Path) -> None:
    command = [sys.executable, "-m", "tracin", "explore", "model.pt", "--train", "train.txt", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert re.match(r"http://127\.0\.0\.1:\d+/", json.loads(line)["address"])
