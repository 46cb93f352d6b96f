"""Several ranks: the outputs of one process; ranks that fail, are killed, and go on."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import tracin
from tests.samples.jobs import files, write_job
from tests.samples.models import random_model, random_triples
from tracin.cli import main
from tracin.cli.options import FileOptions, RankingOptions
from tracin.cli.run import RunOptions, notes_on_partial, partial_files
from tracin.cli.session import own_device
from tracin.distributed import (
    RankLost,
    Ranks,
    Shards,
    launch,
    ranks_of_environment,
    sharded_top_k,
    share_out,
    working_together,
)
from tracin.distributed.shards import Whole, best_of
from tracin.machine import processes_here
from tracin.triples import lines as text_lines
from tracin.triples.read import check_parts, read_triples, read_triples_part

TRAIN, TESTS = 200, 6
MODES: dict[str, tuple[str, ...]] = {
    "top-k": ("run", "--top-k", "7", "--csv-output", "out.csv"),
    "opponents, several tiles": ("run", "--top-k", "150", "--order", "opponents", "--batch-size", "16"),
    "dense": ("run", "--csv-output", "out.csv"),
    "per triple": ("run", "--top-k", "5", "--output-per-triple", "--csv-output", "out.csv"),
    "single": ("run", "--mode", "single", "--test-indices", "0", "4"),
    "self": ("run", "--mode", "self", "--top-k", "150", "--csv-output", "out.csv"),
    "fewer lines than ranks": ("run", "--top-k", "5", "--train", "two.txt"),
    "fewer lines, self": ("run", "--mode", "self", "--train", "two.txt"),
    "unknown labels": ("run", "--top-k", "5", "--train", "unknown.txt", "--skip-unknown"),
    "batch": ("batch", "--filter-method", "pyg", "--top-k", "9"),
}

# Several commands in one start; one command whose ranks are slow or must not score, saving often.
SEVERAL = """
import json, sys
from tracin.cli import main
from tracin.distributed import working_together
with working_together():
    for arguments in json.load(open(sys.argv[1])):
        main(arguments, standalone_mode=False)
"""
OTHER_MODEL = """
import os, sys
from tracin.cli import main
main([part.replace("model.pt", "other.pt") if os.environ["RANK"] == "1" else part for part in sys.argv[1:]])
"""
SLOW = """
import os, time
import tracin.influence.resume
from tracin import TracIn
from tracin.cli import main
tracin.influence.resume.SAVE_SECONDS = 0.1
rank, block_scores = os.environ["RANK"], TracIn._block_scores

def slow(self, *arguments):
    assert os.environ.get("FINISHED") != rank, "scored again"
    if rank == "1":
        time.sleep(float(os.environ["SECONDS"]))
    return block_scores(self, *arguments)

TracIn._block_scores = slow
open(f"pid{rank}", "w").write(str(os.getpid()))
main()
"""


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more


def torchrun(folder: Path, ranks: int, *command: str, **more: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*torchrun, *command],
        cwd=folder,
        env=environment(**more),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in background
    )


def arguments(folder: Path, name: str, output: str) -> list[str]:
    """Of a case of MODES, for outputs in a folder of that name."""
    command, *options = MODES[name]
    target = folder / output / name
    target.mkdir(parents=True, exist_ok=True)
    options = [
        str((target if option == "out.csv" else folder) / option) if "." in option else option for option in options
    ]
    test, out, where = (
        ("--test-triples", "--output-dir", target)
        if command == "batch"
        else ("--test", "--output", target / "out.json")
    )
    common = ["--model-path", str(folder / "model.pt"), test, str(folder / "test.txt"), out, str(where)]
    train = [] if "--train" in options else ["--train", str(folder / "train.txt")]
    return [command, *common, *train, "--device", "cpu", "--backend", "factored", *options]


def same(found: Any, expected: Any) -> None:
    """Of JSON values: the same but for rounding of numbers that are not whole."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if "time" not in key and key not in ("files", "checksum"):  # digests of what is rounded otherwise
                same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)
    else:
        assert found == expected


def rounded(csv: str) -> list[list[str]]:
    """Cells of a CSV, its numbers to 3 digits."""
    return [
        [f"{float(cell):.3g}" if re.fullmatch(r"-?\d\S*", cell) else cell for cell in line.split(",")]
        for line in csv.splitlines()
    ]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    write_job(tmp_path, TRAIN, TESTS)
    lines = (tmp_path / "train.txt").read_text().splitlines(keepends=True)
    (tmp_path / "two.txt").write_text("".join(lines[:2]))
    (tmp_path / "unknown.txt").write_text("".join([*lines[:90], "e1\tr1\tnobody\n", *lines[90:], "who\tr1\te1\n"]))
    return tmp_path


@pytest.mark.slow
def test_outputs_are_those_of_one_process(job: Path) -> None:
    (job / "several.py").write_text(SEVERAL)
    (job / "several.json").write_text(json.dumps([arguments(job, name, "ranks") for name in MODES]))
    process = torchrun(job, 3, "several.py", "several.json")
    for name in MODES:
        result = CliRunner().invoke(main, arguments(job, name, "one"))
        assert result.exit_code == 0, result.stderr
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert stderr.count("running: ") == stderr.count("  ranks: 3, all on this machine") == len(MODES)
    told = f"{job / 'unknown.txt'}: 2 of 202 lines left out for unknown labels, the first: .* line 91: tail 'nobody'"
    assert len(re.findall(told, stderr)) == 1
    for name in MODES:
        found, expected = files(job / "ranks" / name), files(job / "one" / name)
        assert found.keys() == expected.keys() and expected
        for path in expected:
            ours, theirs = found[path].decode(), expected[path].decode()
            if path.endswith(".json"):
                same(json.loads(ours), json.loads(theirs))
            else:
                assert rounded(ours) == rounded(theirs), (name, path)


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("tracin: error: ")]


@pytest.mark.slow
def test_bad_input_is_one_error(job: Path) -> None:
    command = arguments(job, "top-k", "ranks")

    def output(name: str) -> tuple[str, str]:  # they run at the same time
        return "--output", str(job / "ranks" / name / "out.json")

    lines = (job / "train.txt").read_text().splitlines(keepends=True)
    (job / "bad.txt").write_text("".join([*lines[:150], "e1\tr1\n", *lines[150:]]))
    second = torchrun(job, 2, "-m", "tracin", *command, "--train", str(job / "bad.txt"), *output("a"))
    every = torchrun(job, 2, "-m", "tracin", *command, "--model-path", "nowhere.pt", *output("b"))
    usage = torchrun(job, 2, "-m", "tracin", *command, "--order", "sideways", *output("c"))
    (job / "other").mkdir()
    write_job(job / "other", TRAIN, TESTS, seed=5)
    (job / "other/model.pt").rename(job / "other.pt")
    (job / "other_model.py").write_text(OTHER_MODEL)
    other = torchrun(job, 2, "other_model.py", *command, *output("d"))
    differ = "the weights on ranks . and . differ; all ranks need the same files"
    expected = {
        other: differ,
        second: rf"rank 1: {job}/bad.txt line 151: 2 of 3 columns in",
        every: "nowhere.pt",
        usage: "--order",
    }
    for process, message in expected.items():
        stderr = process.communicate()[1]
        (told,) = errors(stderr)
        assert process.returncode != 0 and re.match(f"tracin: error: .*{message}", told), stderr
    assert not files(job / "ranks")


OTHER_ARGUMENTS = """
import os, sys
from tracin.cli import main
command, more = sys.argv[1:-2], sys.argv[-2:]
main([*command, *(more if os.environ["RANK"] == "1" else [])])
"""


@pytest.mark.slow
def test_ranks_with_other_files_or_options_are_refused(job: Path) -> None:
    (job / "other_arguments.py").write_text(OTHER_ARGUMENTS)
    lines = (job / "train.txt").read_text().splitlines(keepends=True)
    (job / "turned.txt").write_text("".join(lines[::-1]))
    for more, told in {
        ("--train", str(job / "turned.txt")): "the training files on ranks . and . differ; all ranks need the same",
        ("--order", "opponents"): "--order is '.*' on rank . and '.*' on rank .; all ranks need the same options",
    }.items():
        process = torchrun(job, 2, "other_arguments.py", *arguments(job, "top-k", "ranks"), *more)
        stderr = process.communicate()[1]
        (error,) = errors(stderr)
        assert process.returncode != 0 and re.search(told, error), stderr
    assert not files(job / "ranks")


def wait_for(path: Path, process: subprocess.Popen[str], finished: int) -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and int(torch.load(path, weights_only=True)["done"].sum()) >= finished):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_rank_and_resume(job: Path) -> None:
    (job / "slow.py").write_text(SLOW)
    command = ["slow.py", *arguments(job, "top-k", "ranks"), "--batch-size", "10"]
    target = job / "ranks/top-k"
    parts = [target / f"out.json.partial.rank{rank}of2" for rank in (0, 1)]
    process = torchrun(job, 2, *command, SECONDS="0.5")
    wait_for(parts[1], process, 10 * TESTS)
    saved = [path for path in parts if path.exists()]
    assert saved == parts  # rank 0 has long been done
    os.kill(int((job / "pid1").read_text()), signal.SIGKILL)
    stderr = process.communicate()[1]
    left = [path for path in sorted(target.iterdir()) if not path.name.endswith(".tracin-lock")]  # of the killed rank
    assert process.returncode != 0 and left == parts
    assert errors(stderr) == [
        "tracin: error: rank 1 has ended or does not answer; its own message, or that of torchrun, says why"
    ]
    told = f"note: what is finished is kept in {target}/out.json.partial.rank*of2; the same command with --resume goes"
    assert stderr.count(told) == 1
    assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9", stderr)  # by torchrun

    before = [path.read_bytes() for path in parts]
    result = CliRunner().invoke(main, [*arguments(job, "top-k", "ranks"), "--resume"])
    assert result.exit_code == 1 and [path.read_bytes() for path in parts] == before
    assert "rank*of2 was left by a run of 2 ranks, this one has 1; --resume on 2 ranks, or remove" in result.stderr

    process = torchrun(job, 2, *command, "--resume", SECONDS="0", FINISHED="0")
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert "note: the parts of these ranks were finished before, nothing was scored: 0\n" in stderr
    assert sorted(files(target)) == ["out.csv", "out.json"]
    assert CliRunner().invoke(main, arguments(job, "top-k", "one")).exit_code == 0
    same(*(json.loads((job / name / "top-k/out.json").read_text()) for name in ("ranks", "one")))


@pytest.mark.slow
def test_launch_starts_the_ranks(job: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    assert launch.launch(arguments(job, "self", "ranks"), 2) == (0, "")
    assert "  ranks: 2, all on this machine" in capfd.readouterr().err
    assert CliRunner().invoke(main, arguments(job, "self", "one")).exit_code == 0
    same(*(json.loads((job / name / "self/out.json").read_text()) for name in ("ranks", "one")))


def test_all_gpus_are_taken(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Sequence[str], int]] = []

    def launched(given: Sequence[str], ranks: int) -> tuple[int, str]:
        calls.append((given, ranks))
        return 137, "rank 1 was ended by the signal SIGKILL"

    monkeypatch.setattr("tracin.cli.session.launch", launched)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    command = [option for option in arguments(job, "top-k", "ranks") if option not in ("--device", "cpu")]
    result = CliRunner().invoke(main, [*command, "--enable-multi-gpu"])
    assert calls == [([*command, "--enable-multi-gpu", "--device", "cuda"], 4)]
    assert (result.exit_code, result.stderr) == (137, "tracin: error: rank 1 was ended by the signal SIGKILL\n")
    result = CliRunner().invoke(main, [*command, "--enable-multi-gpu", "--device", "cpu"])
    assert result.exit_code == 0 and len(calls) == 1
    assert "note: --enable-multi-gpu: --device cpu was asked for; going on on one device" in result.stderr


# ---- without other processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["absolute", "proponents", "opponents"])
def test_the_best_of_parts_are_the_best(order: str) -> None:
    generator = torch.Generator().manual_seed(1)
    train = random_triples(90)
    scores = torch.randint(-6, 6, (4, 90), generator=generator).float()  # many ties
    shuffled = torch.stack([torch.randperm(90, generator=generator) for _ in range(4)])
    best = best_of(shuffled, scores.gather(1, shuffled), train[shuffled], 25, order)
    key = {"absolute": -scores.abs(), "proponents": -scores, "opponents": scores}[order]
    expected = key.argsort(stable=True)[:, :25]
    assert torch.equal(best.indices, expected) and torch.equal(best.scores, scores.gather(1, expected))
    assert torch.equal(best.triples, train[expected])
    assert best_of(shuffled, scores, train[shuffled], 1000, order).indices.shape == (4, 90)


@pytest.mark.slow
def test_one_process_is_the_only_rank() -> None:
    ti = tracin.TracIn(random_model(), backend="factored", device="cpu")
    train, test = random_triples(50), random_triples(3, seed=1)
    expected = ti.top_k(train, test, 5)
    top = sharded_top_k(ti, train, torch.arange(50), test, 5)
    assert top is not None and torch.equal(top.indices, expected.indices) and torch.equal(top.scores, expected.scores)
    assert torch.equal(top.triples, train[expected.indices])
    for shards in (share_out(ti, train, Ranks()), Shards(ti, train)):
        assert len(shards) == 50 and torch.equal(shards.triples(), train)
        assert torch.equal(shards.influence(test), ti.influence(train, test))
        assert torch.equal(shards.self_influence(), ti.self_influence(train))
        top = shards.top_k(test, 5, "absolute")
        assert torch.equal(top.indices, expected.indices) and torch.equal(top.triples, train[expected.indices])
        shards.release()


@pytest.mark.slow
def test_one_process_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_gather", "broadcast", "receive", "gather", "all_reduce", "all_to_all"):
        monkeypatch.setattr(Ranks, name, lambda *_: pytest.fail("ranks talk"))
    train, test = random_triples(50), random_triples(3, seed=1)
    whole = share_out(tracin.TracIn(random_model(), backend="factored", device="cpu"), train, Ranks())
    assert isinstance(whole, Whole)
    assert whole.top_k(test, 5, "opponents").triples.shape == (3, 5, 3) and len(whole.self_influence()) == 50
    assert whole.influence(test).shape == (3, len(whole)) == (3, len(whole.triples()))
    whole.serve()
    whole.release()


def test_rank_0_calls_and_the_others_serve() -> None:
    with pytest.raises(RuntimeError, match="rank 1 broadcasts; only rank 0 does, the others receive"):
        Ranks(1, 2).broadcast("a task")
    with pytest.raises(RuntimeError, match="rank 0 receives; it broadcasts"):
        Ranks(0, 2).receive()


def test_ranks_together_share_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with working_together() as ranks:
        assert (ranks, processes_here()) == (Ranks(1, 8, 1, 4), 4)
    assert processes_here() == 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Ranks()),
        ({"WORLD_SIZE": "4"}, Ranks()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Ranks()),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Ranks(5, 8, 1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Ranks(1, 2, 1, 2)),
    ],
)
def test_ranks_of_the_environment(variables: dict[str, str], expected: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks_of_environment() == expected


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RANK": "5", "WORLD_SIZE": "2"}, "RANK is 5 and WORLD_SIZE is 2; expected RANK to be less"),
        ({"RANK": "2", "WORLD_SIZE": "1"}, "RANK is 2 and WORLD_SIZE is 1; expected RANK to be less"),
        (
            {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "2"},
            "LOCAL_RANK is 3 and LOCAL_WORLD_SIZE is 2; expected LOCAL_RANK to be less",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "abc"}, "LOCAL_RANK is 'abc'; expected a number as torchrun"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "abc"},
            "MASTER_PORT is 'abc'; expected a number as torchrun sets it",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "65536"},
            "MASTER_PORT is 65536; expected a port from 1 to 65535",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": "1"},
            "RANK and WORLD_SIZE say that 2 processes work together, but MASTER_ADDR and MASTER_PORT do not say where",
        ),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'; expected a number as torchrun sets it"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected a number as torchrun sets it"),
    ],
)
def test_an_environment_of_no_ranks(
    variables: dict[str, str], told: str, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said at once: a rank that does not exist would wait for the others for ever."""
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, arguments(job, "top-k", "one"))
    assert result.exit_code == 1 and result.stderr.startswith(f"tracin: error: {told}"), result.stderr
    assert result.stderr.endswith("with torchrun, or unset RANK to run alone\n")


def test_ranks_need_a_place_to_meet(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    result = CliRunner().invoke(main, arguments(job, "top-k", "one"))
    assert result.exit_code == 1 and "but MASTER_ADDR and MASTER_PORT do not say where" in result.stderr


def test_each_rank_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device("cpu", Ranks(3, 4, 3, 4)) == torch.device("cpu")
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert own_device("auto", Ranks(5, 8, 1, 2)) == torch.device("cuda", 1) and chosen == [1]
    with pytest.raises(tracin.InputError, match="4 ranks run on this machine.*2 are visible; start 2 with --nproc-per"):
        own_device("cuda", Ranks(3, 4, 3, 4))


def test_what_other_numbers_of_ranks_left(tmp_path: Path) -> None:
    files = FileOptions(model_path=Path("model.pt"), train_path=Path("train.txt"))
    options = RunOptions(files=files, output=tmp_path / "out.json", ranking=RankingOptions(top_k=3), resume=True)
    (tmp_path / "out.json.partial.rank2of3").touch()
    (tmp_path / "other.json.partial.rank2of4").touch()
    assert partial_files(options.output) == {tmp_path / "out.json.partial.rank2of3": 3}
    assert list(notes_on_partial(options, Ranks(0, 3))) == []
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 4)):
        with pytest.raises(
            tracin.InputError, match=r"rank\*of3 was left by a run of 3 ranks, this one has \d; --resume"
        ):
            list(notes_on_partial(options, ranks))
    (note,) = notes_on_partial(dataclasses.replace(options, resume=False), Ranks(0, 2))
    assert note.startswith(f"{tmp_path}/out.json.partial.rank*of3, what an interrupted run finished, is overwritten")


def test_a_lost_rank_is_named() -> None:
    assert str(RankLost(2)).startswith("rank 2 has ended") and str(RankLost(None)).startswith("another rank has ended")


# ---- parts of a file --------------------------------------------------------------------------------------------

ENTITIES, RELATIONS = {f"e{i}": i for i in range(9)}, {"r0": 0, "r1": 1}
LINES = [f"e{i % 9}\tr{i % 2}\te{i * 5 % 7}{chr(9) + 'more' * i if i % 3 else ''}" for i in range(41)]
FILES = {
    "lf": "\n".join(LINES) + "\n",
    "no last lf": "\n".join(LINES),
    "crlf": "\r\n".join(LINES) + "\r\n",
    "empty lines at the end": "\n".join(LINES) + "\n\r\n\n" * 30,
    "fewer lines than parts": "\n".join(LINES[:4]) + "\n",
    "one line": LINES[0],
    "byte order mark": "\ufeff" + "\n".join(LINES),
    "a mark in the middle": "\n".join([*LINES[:20], "\ufeffe1\tr0\te1", *LINES[20:]]),
    "an unknown label": "\n".join([*LINES[:33], "e1\tr0\tnobody", *LINES[33:]]),
    "a short line": "\r\n".join([*LINES[:29], "e1\tr0", *LINES[29:]]) + "\r\n",
    "an empty line": "\n".join([*LINES[:30], "", *LINES[30:]]),
    "an empty line first": "\n" + "\n".join(LINES),
    "only unknown labels": "x\ty\tz\n" * 12,
    "empty": "",
    "only empty lines": "\n\n\n",
}


def outcome(read: Callable[[], Tensor]) -> tuple[list[list[int]] | str, list[str]]:
    """Rows or the error, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: list[list[int]] | str = read().tolist()
        except tracin.InputError as error:
            result = str(error)
    return result, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("skip_unknown", [False, True])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_parts_are_the_whole(
    content: str, packed: bool, skip_unknown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, path = content.encode(), tmp_path / "train.txt"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    monkeypatch.setattr(text_lines, "SHORT_BYTES", 16)
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 100)
    whole = outcome(lambda: read_triples(path, ENTITIES, RELATIONS, skip_unknown))

    def joined(parts: int) -> Tensor:
        found = [read_triples_part(path, ENTITIES, RELATIONS, part, parts, skip_unknown) for part in range(parts)]
        check_parts(path, [part.count for part in found])
        return torch.cat([part.triples for part in found])

    for parts in (1, 2, 3, 5, 9):
        assert outcome(lambda parts=parts: joined(parts)) == whole


def test_a_part_alone_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.txt"
    path.write_text("".join(f"e{i % 9}\tr0\te1\n" for i in range(10_000)))
    read: list[int] = []
    pieces = text_lines.pieces_of

    def counted(*arguments: Any) -> Iterator[bytes]:
        for piece in pieces(*arguments):
            read.append(len(piece))
            yield piece

    monkeypatch.setattr(text_lines, "pieces_of", counted)
    parts = [read_triples_part(path, ENTITIES, RELATIONS, part, 4) for part in range(4)]
    assert [part.count.lines for part in parts] == [2500] * 4
    assert sum(read) == path.stat().st_size and len(read) == 4


@pytest.mark.parametrize("name", ["numeric_triples.tsv", "train.del"])
def test_parts_of_a_file_of_ids(name: str, tmp_path: Path) -> None:
    """PyKEEN's header line belongs to one of the parts only."""
    lines = [f"{i % 7}\t{i % 2}\t{i % 5}" for i in range(40)]
    (tmp_path / name).write_text("\n".join((["head\trelation\ttail"] if "tsv" in name else []) + lines) + "\n")
    whole = read_triples(tmp_path / name, ENTITIES, RELATIONS)
    assert whole.tolist() == [list(map(int, line.split())) for line in lines]
    for parts in range(1, 6):
        found = [read_triples_part(tmp_path / name, ENTITIES, RELATIONS, part, parts) for part in range(parts)]
        assert torch.equal(torch.cat([part.triples for part in found]), whole)
