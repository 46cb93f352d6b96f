"""The tutorial and the notebook run from the first line to the last, and what they show is what comes of them."""

from __future__ import annotations

import ast
import json
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tracin.cli import main

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
COMMAND = re.compile(r"^ {4}((?:[^\n]*\\\n)*[^\n]+)$", re.M)
ALIKE = 0.7  # of the lines shown; the rest may differ on another processor, which rounds otherwise

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's: empty, with a terminal of 120 columns; PyKEEN's warnings are its own."""
    pytest.importorskip("pykeen")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield tmp_path
    torch.set_num_threads(threads)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Python, commands and the output that is shown after them, in order."""
    fenced = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
    found = [(match.start(), match[1], match[2]) for match in fenced.finditer(page)]
    outside = fenced.sub(lambda match: re.sub(r"[^\n]", " ", match[0]).replace(" ", "\x00"), page)
    for match in COMMAND.finditer(outside):
        if "\x00" not in match[0]:
            found.append((match.start(), "command", match[1].replace("\\\n", " ")))
    yield from ((kind, text) for _, kind, text in sorted(found))


def words(text: str) -> str:
    """On one line, numbers aside."""
    return re.sub(r"[+-]?\d[\d.,]*", "#", " ".join(text.split()))


def test_the_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    printed, commands = "", []
    for kind, text in blocks(TUTORIAL):
        if kind == "python":
            exec(compile(text, "tutorial.md", "exec"), names)
        elif kind == "command":
            program, *arguments = shlex.split(text)
            assert program == "tracin"
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, result.stderr
            printed = words(result.stdout)
            commands.append(arguments[0])
        else:
            assert kind == "text" and printed
            lines = [words(line) for line in text.splitlines() if line.strip()]
            found = [line for line in lines if line in printed]
            assert len(found) >= ALIKE * len(lines), set(lines) - set(found)
    assert commands == ["check", "explain", "audit", "evaluate", "replay"]
    assert "Explanation(ussr --economicaid-> " in capsys.readouterr().out
    assert {path.name for path in Path("checkpoints").iterdir()} == {f"epoch_00{n}0.pt" for n in (1, 2, 3)}
    for name in ("why.html", "why.json", "why.png", "audit.html", "trust.json"):
        assert Path(name).stat().st_size > 1000, name


def shown(code: str, names: dict[str, Any]) -> Any:
    """Runs a cell; its last expression, which a notebook shows."""
    tree = ast.parse(code)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "cell", "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(path.read_text())
    assert content["nbformat"] == 4
    names: dict[str, Any] = {}
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        value = shown("".join(cell["source"]), names)
        kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        for kind, method in (("text/html", "_repr_html_"), ("image/png", "_repr_png_")):
            if kind in kinds:
                assert getattr(value, method)(), method
        said = [words("".join(output["text"])) for output in cell["outputs"] if output["output_type"] == "stream"]
        assert words(capsys.readouterr().out) == " ".join(said)
    assert Path("why.html").read_text().startswith("<!doctype html>")


def test_notebooks_tell_no_paths_and_need_no_scripts() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        text = path.read_text()
        assert "<script" not in text and "/tmp/" not in text and "/home/" not in text and "site-packages" not in text
