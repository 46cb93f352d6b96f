"""`tracin run` interrupted and resumed: the same files as an undisturbed run; how the time splits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import tracin
from tests.samples.jobs import write_job
from tracin.cli import main
from tracin.cli.options import FileOptions, RankingOptions
from tracin.cli.run import RunOptions, partial_path
from tracin.influence import memory

MODES = {
    "test": ("--top-k", "5", "--csv-output", "out.csv"),
    "test per triple": ("--top-k", "5", "--csv-output", "out.csv", "--output-per-triple"),
    "single": ("--mode", "single", "--top-k", "5", "--test-indices", "0", "4", "--csv-output", "out.csv"),
    "opponents": ("--top-k", "200", "--order", "opponents", "--use-last-layers-only"),
    "self": ("--mode", "self"),
}


def arguments(folder: Path, output: str) -> list[str]:
    files = {"--model-path": "model.pt", "--train": "train.txt", "--test": "test.txt", "--output": f"{output}/out.json"}
    (folder / output).mkdir(exist_ok=True)
    return [part for flag, name in files.items() for part in (flag, str(folder / name))]


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".manifest.json")}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_job(tmp_path, 200, 6)
    monkeypatch.setattr(memory, "TEST_BYTES", 1)  # one test triple at a time
    return tmp_path


def run(job: Path, output: str, *options: str) -> Result:
    given = [str(job / output / name) if name == "out.csv" else name for name in options]
    common = ("--backend", "factored", "--batch-size", "50")
    return CliRunner().invoke(main, ["run", *arguments(job, output), *common, *given])


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException | None = None) -> None:
    """From the block of this number on, scoring training triples fails."""
    original: Callable[..., Tensor] = tracin.TracIn._block_scores
    diagonal: Callable[..., Tensor] = tracin.TracIn._diagonal
    calls: list[int] = []

    def count(block: Tensor) -> None:
        calls.append(len(block))
        if len(calls) > after:
            raise error or KeyboardInterrupt

    def block_scores(self: Any, tests: Any, block: Tensor) -> Tensor:
        count(block)
        return original(self, tests, block)

    def self_influence(self: Any, block: Tensor) -> Tensor:
        if len(block) == 50:  # not the self-influences of test triples
            count(block)
        return diagonal(self, block)

    monkeypatch.setattr(tracin.TracIn, "_block_scores", block_scores)
    monkeypatch.setattr(tracin.TracIn, "_diagonal", self_influence)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("after", [1, 3])
def test_resumed_runs_write_the_same_files(
    job: Path, options: tuple[str, ...], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(job, "whole", *options).exit_code == 0
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        result = run(job, "part", *options)
    partial = job / "part/out.json.partial"
    assert result.exit_code == 130 and list(outputs(job / "part")) == [partial.name]
    told = f"note: what is finished is kept in {partial}; the same command with --resume goes on from there"
    assert told in result.stderr.splitlines()
    assert torch.load(partial, weights_only=True)["done"].sum() == after * 50
    result = run(job, "part", *options, "--resume")
    assert result.exit_code == 0, result.stderr
    assert "note: --resume" not in result.stderr
    assert outputs(job / "part") == outputs(job / "whole")


def test_without_resume_the_partial_file_is_overwritten(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(job, "whole", "--top-k", "5")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        run(job, "part", "--top-k", "5", "--order", "opponents")
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        result = run(job, "part", "--top-k", "5")
    partial = job / "part/out.json.partial"
    note = f"note: {partial}, what an interrupted run finished, is overwritten; --resume goes on from it instead"
    assert note in result.stderr.splitlines()
    assert torch.load(partial, weights_only=True)["done"].sum() == 50
    assert run(job, "part", "--top-k", "5").exit_code == 0
    assert outputs(job / "part") == outputs(job / "whole")


def test_a_partial_file_of_other_inputs_is_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        run(job, "part", "--top-k", "5")
    before = outputs(job / "part")
    result = run(job, "part", "--top-k", "6", "--resume")
    assert result.exit_code == 1 and outputs(job / "part") == before
    assert "out.json.partial holds partial results of another run: k was 5 and is 6; run with" in result.stderr
    with open(job / "train.txt", "a") as file:
        file.write("e0\tr0\te1\n")
    result = run(job, "part", "--top-k", "5", "--resume")
    assert result.exit_code == 1 and "another run: the training triples differ; run with the same" in result.stderr
    (job / "part/out.json.partial").write_bytes(b"PK")
    result = run(job, "part", "--top-k", "5", "--resume")
    assert result.exit_code == 1 and "out.json.partial is damaged or holds no partial results" in result.stderr


def test_what_cannot_be_written_can_be_resumed(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(job, "whole", "--top-k", "5")
    monkeypatch.setattr("tracin.influence.resume.SAVE_SECONDS", -1.0)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tracin.cli.run.write_test", full)
        result = run(job, "part", "--top-k", "5")
    assert result.exit_code == 1 and "what is finished is kept" in result.stderr
    with monkeypatch.context() as patch:
        interrupt(patch, 0)  # nothing is left to score
        assert run(job, "part", "--top-k", "5", "--resume").exit_code == 0
    assert outputs(job / "part") == outputs(job / "whole")


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (("--resume",), "note: --resume has no effect without --top-k: influences are written as they come"),
        (("--resume", "--mode", "single"), "note: --resume has no effect without --top-k"),
        (("--resume", "--top-k", "2"), "note: --resume has no effect: there is no "),
        (("--resume", "--mode", "self"), "note: --resume has no effect: there is no "),
        (
            ("--resume", "--top-k", "2", "--output", "/dev/null"),
            "note: --resume has no effect for an output that is no",
        ),
    ],
)
def test_nothing_to_resume(job: Path, options: tuple[str, ...], note: str) -> None:
    result = run(job, "part", *options)
    assert result.exit_code == 0, result.stderr
    assert sum(line.startswith(note) for line in result.stderr.splitlines()) == 1
    assert not (job / "part/out.json.partial").exists()


DRIVER = """
import tracin.influence.memory, tracin.influence.resume
tracin.influence.memory.TEST_BYTES, tracin.influence.resume.SAVE_SECONDS = 1 << 14, 0.2
from tests.samples.jobs import write_job
from tracin.cli import main
main()
"""


@pytest.mark.slow
def test_processes_killed_and_interrupted(tmp_path: Path) -> None:
    write_job(tmp_path, 60_000, 40)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    options = (
        "--top-k",
        "20",
        "--threads",
        "1",
        "--batch-size",
        "64",
        "--csv-output",
        "out.csv",
        "--backend",
        "factored",
    )

    def start(output: str, *more: str) -> subprocess.Popen[str]:
        given = [str(tmp_path / output / name) if name == "out.csv" else name for name in (*options, *more)]
        command = [sys.executable, "-c", DRIVER, "run", *arguments(tmp_path, output), *given]
        return subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in background
        )

    def stop(process: subprocess.Popen[str], number: int, before: bytes) -> bytes:
        """Sends the signal once the partial file has changed; gives what it is then."""
        deadline = time.monotonic() + 120
        while not partial.exists() or partial.read_bytes() == before:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate()
        return partial.read_bytes()

    partial = tmp_path / "part/out.json.partial"
    killed = start("part")
    state = stop(killed, signal.SIGKILL, b"")
    assert killed.returncode == -signal.SIGKILL
    interrupted = start("part", "--resume")
    state = stop(interrupted, signal.SIGINT, state)
    assert interrupted.returncode == 130
    terminated = start("part", "--resume")
    stop(terminated, signal.SIGTERM, state)
    assert terminated.returncode == 143
    rest, whole = start("part", "--resume"), start("whole")
    assert rest.communicate()[1] is not None and rest.returncode == 0
    assert whole.communicate()[1] is not None and whole.returncode == 0
    assert outputs(tmp_path / "part") == outputs(tmp_path / "whole")


# ---- memory, time and messages ----------------------------------------------------------------------------------


def test_memory_limit(job: Path) -> None:
    assert run(job, "whole", "--top-k", "5", "--memory-limit", "64G").exit_code == 0
    result = run(job, "part", "--top-k", "5", "--memory-limit", "1M")
    assert result.exit_code == 1 and not outputs(job / "part")
    named = re.search(r"error: --memory-limit is 1M; this run needs at least (\w+): ", result.stderr)
    assert named is not None
    assert run(job, "part", "--top-k", "5", "--memory-limit", named[1]).exit_code == 0
    found, expected = (json.loads((job / name / "out.json").read_text())["results"] for name in ("part", "whole"))
    for ours, theirs in zip(found, expected, strict=True):
        scores = [[item["influence"] for item in record["top_influences"]] for record in (ours, theirs)]
        torch.testing.assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        (("--top-k", "5"), ["reading", "setting up", "test factors", "scoring", "writing"]),
        ((), ["reading", "setting up", "test factors", "scoring", "writing"]),
        (("--mode", "self"), ["reading", "setting up", "scoring", "writing"]),
    ],
)
def test_how_the_time_splits(job: Path, options: tuple[str, ...], stages: list[str]) -> None:
    result = run(job, "part", *options)
    *_, written, split = result.stderr.splitlines()
    assert written == f"wrote {job / 'part/out.json'}"
    total, *parts = re.findall(r"(\d+\.\d+) s", split)
    assert re.findall(r"(\w[\w ]*?) \d", split) == stages
    assert sum(map(float, parts)) == pytest.approx(float(total), abs=0.005 * len(parts) + 0.005)


def test_the_file_of_partial_results_is_found_by_the_output() -> None:
    def path(output: str, top_k: int | None) -> Path | None:
        files = FileOptions(model_path=Path("model.pt"), train_path=Path("train.txt"))
        return partial_path(RunOptions(files=files, output=Path(output), ranking=RankingOptions(top_k=top_k)))

    assert path("a/b.json", 3) == Path("a/b.json.partial")
    assert path("a/b.json", None) is None
    assert path("/dev/stdout", 3) is None
