"""What the README and the pages say holds: links lead somewhere, flags exist, code runs, shown output is printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch

import tracin
from docs import reference
from tests.samples.pykeen_examples import factory, pykeen_model
from tests.samples.small_graph import Graph

COMMANDS = dict(reference.commands())
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
}
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The `tracin NAME ...` of a page, in code blocks and between backticks, as words."""
    blocks = re.findall(r"^ {4}((?:.*\\\n)*.+)", text, re.M) + re.findall(r"`([^`\n]+)`", text)
    words = [shlex.split(block.replace("\\\n", " "), comments=True) for block in blocks if "tracin" in block]
    found = []
    for line in words:
        for at, word in enumerate(line[:-1]):
            name = next(
                (" ".join(line[at + 1 : end]) for end in (at + 3, at + 2) if " ".join(line[at + 1 : end]) in COMMANDS),
                None,
            )
            if Path(word).name == "tracin" and name is not None:
                found.append([name, *line[at + 1 + name.count(" ") + 1 :]])
    return found


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) < 180


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGES[page]):
        assert (folder / target).exists(), f"{page} links to {target}"


def test_links_lead_from_the_readme_to_every_page() -> None:
    found, left = {"README.md"}, ["README.md"]
    while left:
        page = left.pop()
        targets = re.findall(r"\]\((?!https?:)([^)#]+\.md)", PAGES[page])
        linked = {((ROOT / page).parent / target).resolve().relative_to(ROOT).as_posix() for target in targets}
        left += sorted((linked & set(PAGES)) - found)
        found |= linked
    assert set(PAGES) <= found


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_flags_that_are_shown(page: str) -> None:
    for name, *words in commands(PAGES[page]):
        command = COMMANDS[name]
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
        for word in words:
            if word.startswith("-") and word not in ("-", "--help"):
                assert word.partition("=")[0] in known, f"{page}: tracin {name} has no {word}"


def test_the_readme_shows_the_main_commands() -> None:
    assert {"run", "check", "train", "batch", "info"} <= {
        name for name in COMMANDS if re.search(rf"\btracin {name}\b", README)
    }
    assert sum(name == "run" for name, *_ in commands(README)) >= 4
    assert all(isinstance(command, click.Command) for command in COMMANDS.values())


def test_version_is_the_same_everywhere() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"ersion {version[1]}" in PAGES["CHANGELOG.md"] or f"## [{version[1]}]" in PAGES["CHANGELOG.md"]
    assert tracin.__version__ in (version[1], "not installed")


def test_python_for_files_runs(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(graph.folder)
    for ours, shown in (("entities.txt", "node_dict.txt"), ("relations.txt", "rel_dict.txt")):
        Path(ours).rename(shown)
    (code,) = (block for block in PYTHON if "load_checkpoint" in block)
    names: dict[str, Any] = {}
    exec(code, names)
    expected = names["ti"].influence(graph.train, graph.test)
    torch.testing.assert_close(names["everything"], expected[:5])
    torch.testing.assert_close(names["top"].scores, expected.sort(descending=True, stable=True).values[:, :10])
    assert names["own"].shape == (len(graph.train),)


@pytest.mark.slow
def test_python_for_pykeen_runs(capsys: pytest.CaptureFixture[str]) -> None:
    result = SimpleNamespace(model=pykeen_model("ConvE", inverse=True), training=factory(inverse=True, labels=True))
    (code,) = (block for block in PYTHON if "from_pykeen" in block)
    names: dict[str, Any] = {"result": result}
    exec(code, names)
    assert names["top"].scores.shape == (2, 10)
    assert "test_head_label" in names["top"].to_frame(names["train"], names["test"], names["checkpoint"]).columns
    assert "shape: (20," in capsys.readouterr().out


@pytest.mark.slow
def test_the_first_screen_shows_what_is_printed(tmp_path: Path) -> None:
    """The answer, the columns and the triples; a model trained on another processor differs a little."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")]), "COLUMNS": "118"}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=240)
        assert result.returncode == 0, result.stderr
        return result.stdout

    (demo,) = re.findall(r"-m (\S+demo) ", (ROOT / "Makefile").read_text())
    python("-m", demo, "--output", str(tmp_path))
    (shown,) = re.findall(r"^```text\n(.*?)^```", README, re.M | re.S)
    arguments = " ".join(commands(README)[0]).replace("results/demo", str(tmp_path))
    printed = python("-m", "tracin", *arguments.replace("why.html", str(tmp_path / "why.html")).split())
    expected, found = ([line.split() for line in text.splitlines() if line.strip()] for text in (shown, printed))
    assert found[0] == expected[0]  # the question
    columns = ["share", "training", "triple", "score", "two", "rules", "row"]
    assert columns in expected and columns in found
    # Which of the strongest comes first differs; that these are among the first does not.
    for side in ("for", "against"):
        rows, others = (
            {line[-1] for line in lines if line[0] == side and line[2:3] == ["%"]} for lines in (expected, found)
        )
        assert len(rows) == len(others) == 3 and rows & others
    assert (tmp_path / "why.html").read_text().startswith("<!doctype html>")
