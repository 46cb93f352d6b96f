"""Small jobs of `tracin run`, `batch` and `train`, and processes of them that can be stopped at any moment."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

import tracin
from tracin.cli import main

ENTITIES, RELATIONS, EPOCHS = 40, 3, 5
SAVE_EVERY = {"SAVE_SECONDS": 0.02, "SUMMARY_SECONDS": 0.0}  # so that short runs save, as long ones do
INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def write_inputs(folder: Path, train: int, tests: int) -> None:
    """A random model with its dictionaries, and random triples."""
    torch.manual_seed(4)
    model = tracin.ConvE(
        ENTITIES, RELATIONS, 8, embedding_height=4, embedding_width=2, output_channels=3, kernel_width=2
    ).eval()
    entities, relations = ({f"{kind}{i}": i for i in range(n)} for kind, n in (("e", ENTITIES), ("r", RELATIONS)))
    tracin.save_checkpoint(
        folder / "model.pt", model, learning_rate=0.01, entity_to_id=entities, relation_to_id=relations
    )
    for name, count in (("train.txt", train), ("test.txt", tests)):
        columns = [torch.randint(high, (count,)).tolist() for high in (ENTITIES, RELATIONS, ENTITIES)]
        (folder / name).write_text("".join(f"e{h}\tr{r}\te{t}\n" for h, r, t in zip(*columns, strict=True)))


@dataclass(frozen=True)
class Job:
    """A command whose outputs lie in one folder."""

    name: str
    command: Callable[[Path, Path], list[str]]  # inputs, outputs -> arguments
    again: Callable[[Path], list[str]]  # outputs -> what to add after an interruption


def arguments(inputs: Path, command: str, *more: str) -> list[str]:
    files = ["--model-path", str(inputs / "model.pt"), "--train", str(inputs / "train.txt")]
    return [command, *files, "--device", "cpu", "--threads", "1", "--quiet", *more]


def run_job(name: str, *more: str, csv: str | None = "out.csv", json: str = "out.json") -> Job:
    def command(inputs: Path, outputs: Path) -> list[str]:
        written = ["--output", str(outputs / json)] + (["--csv-output", str(outputs / csv)] if csv else [])
        tests = [] if "self" in more else ["--test", str(inputs / "test.txt")]
        return arguments(inputs, "run", *tests, *written, "--batch-size", "64", *more)

    return Job(name, command, lambda outputs: ["--resume"])


def batch_job() -> Job:
    def command(inputs: Path, outputs: Path) -> list[str]:
        tests = ("--test-triples", str(inputs / "test.txt"), "--output-dir", str(outputs))
        return arguments(inputs, "batch", *tests)

    return Job("batch", command, lambda outputs: ["--skip-existing"])


def train_job() -> Job:
    def command(inputs: Path, outputs: Path) -> list[str]:
        sizes = "--embedding-dim 16 --embedding-height 4 --embedding-width 4 --output-channels 4 --every 1"
        files = ["--train", str(inputs / "train.txt"), "--output", str(outputs)]
        return [
            "train",
            *files,
            "--device",
            "cpu",
            "--threads",
            "1",
            "--quiet",
            "--epochs",
            str(EPOCHS),
            *sizes.split(),
        ]

    def again(outputs: Path) -> list[str]:
        saved = sorted(outputs.glob("epoch_*.pt"))[: EPOCHS - 1]  # a run that has ended has nothing to go on with
        return ["--resume", str(saved[-1])] if saved else []

    return Job("train", command, again)


JOBS = (run_job("run", "--top-k", "5"), run_job("run self", "--mode", "self", csv=None), batch_job(), train_job())


@dataclass(frozen=True)
class Ended:
    code: int  # negative: the signal
    stderr: str
    seconds: float


def start(command: list[str], log: Path, prepare: Callable[[], None] | None = None) -> int:
    """`tracin ...` in a forked process, which need not import anything; its pid."""
    log.unlink(missing_ok=True)
    stopping = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # until the command begins
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)
        return pid
    code = 1
    try:
        quiet, err = os.open(os.devnull, os.O_WRONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(quiet, 1)
        os.dup2(err, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        for module in [module for name, module in sys.modules.items() if name.startswith("tracin.")]:
            for name, value in SAVE_EVERY.items():
                if hasattr(module, name):
                    setattr(module, name, value)
        if prepare is not None:
            prepare()
        with suppressed_interrupt():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)
        main.main(args=command, prog_name="tracin")
    except SystemExit as end:
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


@contextmanager
def suppressed_interrupt() -> Iterator[None]:
    """An interrupt that waited for the command to begin ends it as one that comes a moment later does."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def finish(pid: int, log: Path, kill: signal.Signals | None = None, after: float = 0.0) -> Ended:
    """Waits for the end; before that, sends the signal if the process still runs after so many seconds."""
    begin = time.monotonic()
    while not log.exists():  # the process has not begun
        time.sleep(0.001)
    if kill is not None:
        while time.monotonic() - begin < after:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return Ended(os.waitstatus_to_exitcode(status), log.read_text(), time.monotonic() - begin)
            time.sleep(0.001)
        os.kill(pid, kill)
    _, status = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(), time.monotonic() - begin)


def outputs_of(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too; of the batch's summary what does not tell of times or of what was skipped.

    Manifests tell of times, too.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".manifest.json")]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    for name in found:
        if name.endswith("summary.json") and found[name].startswith(b"{"):
            content = json.loads(found[name])
            kept = [[entry["index"], entry["base_name"], entry["tracin_success"]] for entry in content["results"]]
            found[name] = json.dumps([content["total_triples"], kept]).encode()
    return found
