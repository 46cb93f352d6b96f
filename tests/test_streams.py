"""Standard streams as they may be found: closed, pipes that nobody reads, full disks, a terminal of no width."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.samples.small_graph import Graph
from tracin import progress, streams

ROOT = Path(__file__).resolve().parents[1]


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command line in which `tracin` is the command and `show` prints two lines and says one."""
    lines = "from tracin import streams as s; s.show('one'); s.show_text('two'); s.say('said')"
    start = "from tracin.__main__ import hold_streams; hold_streams()"
    functions = f"""
tracin() {{ '{sys.executable}' -m tracin "$@"; }}
show() {{ '{sys.executable}' -c "{start}; {lines}"; }}
"""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    environment = os.environ | {"PYTHONPATH": paths} | variables
    return subprocess.run(
        ["bash", "-c", functions + command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("show >&-", "Bad file descriptor"),
        ("(sleep 0.3; show) | true", "Broken pipe"),
        ("show > /dev/full", "No space left on device"),
    ],
)
def test_what_cannot_be_shown_is_said_once(command: str, reason: str, tmp_path: Path) -> None:
    done = shell(f"{command}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.stderr == f"note: nothing more is shown on stdout ({reason}); the work goes on\nsaid\n"
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("command", ["show 2>&-", "show 2>/dev/full", "{ show 2>&1 >&3 | true; } 3>&1"])
def test_the_work_goes_on_where_nothing_can_be_said(command: str, tmp_path: Path) -> None:
    done = shell(command, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n", "")


def test_a_closed_stream_is_no_file_s_number(tmp_path: Path) -> None:
    code = "from tracin.__main__ import hold_streams; hold_streams(); print(open('file', 'w').fileno() > 2)"
    for closed in ("2>&-", "<&-", "<&- 2>&-"):
        done = shell(f"'{sys.executable}' -c \"{code}\" {closed}", tmp_path)
        assert (done.returncode, done.stdout) == (0, "True\n"), closed


@pytest.mark.slow
def test_a_run_writes_its_outputs_whatever_becomes_of_its_streams(graph: Graph, tmp_path: Path) -> None:
    command = "tracin run --model-path model.pt --train train.txt --test test.txt --top-k 3 --show 2 --device cpu"
    written = []
    for streams_ in ("", "2>&-", ">&-", ">&- 2>&-", "<&-", "| true", "2>&1 | true"):
        done = shell(f"{command} --output out.json {streams_}; exit ${{PIPESTATUS[0]}}", graph.folder)
        assert done.returncode == 0 and "Traceback" not in done.stderr, streams_
        written.append((graph.folder / "out.json").read_bytes())
        (graph.folder / "out.json").unlink()
    assert len(set(written)) == 1
    closed = shell(f"{command} --output /dev/stdout >&-", graph.folder)
    assert closed.returncode == 1 and "error: output /dev/stdout is a folder" in closed.stderr
    closed = shell("tracin info >&-", graph.folder)
    told = "tracin: error: the output was closed before everything was written to it (Bad file descriptor)\n"
    assert (closed.returncode, closed.stderr) == (1, told)


@pytest.mark.parametrize("columns", ["0", "00"])
def test_a_width_of_nothing_is_that_of_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    streams.show("one")
    streams.say("two")
    assert capsys.readouterr() == ("one\n", "two\n")
    assert streams.console(stderr=True).width > 0


def test_labels_that_stdout_cannot_spell_are_escaped(tmp_path: Path) -> None:
    code = "from tracin import streams; streams.show('n\u0153ud')"
    for encoding, expected in (("ascii", "n\\u0153ud\n"), ("utf-8", "n\u0153ud\n")):
        done = shell(f"'{sys.executable}' -c \"{code}\"", tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_a_missing_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress.progress_bar("work", 1) as advance:
        advance(1)
