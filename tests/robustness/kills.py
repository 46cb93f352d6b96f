"""`tracin run`, `batch` and `train` stopped at random moments and started again: the files of an undisturbed run.

    python -m tests.robustness.kills --each 30

Besides, deterministically: killed at the very moment when a file is to take its place (nothing may be left lying), and
interrupted while Python imports (one line, no traceback).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from tests.robustness import known
from tests.robustness.jobs import JOBS, SIGNALS, Ended, Job, finish, outputs_of, start, write_inputs

ACCEPTED = {  # exit codes of a run that a signal stopped; 0: it had ended
    signal.SIGINT: (0, 130),
    signal.SIGTERM: (0, 143, -signal.SIGTERM),
    signal.SIGKILL: (0, -signal.SIGKILL),
}


class Kills:
    """Faults by key, and how many runs a signal did stop."""

    def __init__(self, folder: Path, train: int = 4000, tests: int = 12) -> None:
        self.folder = folder
        self.log = folder / "stderr"
        self.faults: dict[str, str] = {}
        self.stopped: Counter[str] = Counter()
        self.wholes: dict[str, tuple[dict[str, bytes], float]] = {}
        self.inputs = folder / "inputs"
        self.inputs.mkdir()
        write_inputs(self.inputs, train, tests)

    def fault(self, key: str, what: str) -> None:
        self.faults.setdefault(key, what)

    def fresh(self, name: str) -> Path:
        outputs = self.folder / name
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir()
        return outputs

    def whole(self, job: Job) -> tuple[dict[str, bytes], float]:
        """What an undisturbed run writes, and how long it takes."""
        if job.name in self.wholes:
            return self.wholes[job.name]
        outputs = self.fresh(f"whole {job.name}")
        ended = finish(start(job.command(self.inputs, outputs), self.log), self.log)
        assert ended.code == 0, ended.stderr
        self.wholes[job.name] = outputs_of(outputs), ended.seconds
        return self.wholes[job.name]

    def at_random(self, job: Job, rounds: int, seed: int) -> None:
        expected, seconds = self.whole(job)
        rng = random.Random(f"{seed} {job.name}")
        for number in range(rounds):
            outputs = self.fresh("outputs")
            command, kill = job.command(self.inputs, outputs), SIGNALS[number % len(SIGNALS)]
            ended = finish(start(command, self.log), self.log, kill, rng.uniform(0, seconds))
            label = f"{job.name}, {kill.name}"
            self.stopped[label] += ended.code != 0
            self.judge_stop(label, ended, kill, outputs, expected)
            again = finish(start(command + job.again(outputs), self.log), self.log)
            if again.code != 0:
                self.fault(f"{label}: cannot be started again", again.stderr[-300:])
                continue
            found = outputs_of(outputs)
            visible = {name for name in found if not Path(name).name.startswith(".")}
            if visible != set(expected) or any(found[name] != expected[name] for name in visible):
                self.fault(f"{label}: other files than of an undisturbed run", f"round {number}: {sorted(visible)}")

    def judge_stop(
        self, label: str, ended: Ended, kill: signal.Signals, outputs: Path, expected: dict[str, bytes]
    ) -> None:
        if ended.code not in ACCEPTED[kill]:
            self.fault(f"{label}: exit code {ended.code}", ended.stderr[-300:])
        if "Traceback" in ended.stderr:
            self.fault(f"{label}: traceback", ended.stderr[-300:])
        for name, content in outputs_of(outputs).items():
            complete = content == expected.get(name) or name.endswith(("summary.json", ".partial"))
            if not complete and not Path(name).name.startswith("."):
                self.fault(f"{label}: an incomplete file", name)

    def while_writing(self, job: Job) -> None:
        """SIGKILL when a file is to take its place; the next complete run leaves only its own files."""
        expected, _ = self.whole(job)
        for number in (2, 1):  # of the file: the first one where a job has no second
            outputs = self.fresh("outputs")
            command = job.command(self.inputs, outputs)
            ended = finish(start(command, self.log, lambda number=number: killed_on_replacing(number)), self.log)
            if ended.code == -signal.SIGKILL:
                break
        else:
            raise AssertionError(f"{job.name} put no file in place by os.replace: {ended}")
        again = finish(start(command + job.again(outputs), self.log), self.log)
        found = outputs_of(outputs)
        if again.code != 0:
            self.fault(f"{job.name}, killed while writing: cannot be started again", again.stderr[-300:])
        elif {name: found.get(name) for name in expected} != expected:
            self.fault(f"{job.name}, killed while writing: other files than of an undisturbed run", str(sorted(found)))
        elif debris := sorted(set(found) - set(expected)):
            self.fault(f"{job.name}, killed while writing: something is left lying", ", ".join(debris))

    def while_importing(self, after: float) -> None:
        command = [sys.executable, "-m", "tracin", "info"]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
        if "Traceback" in stderr:
            self.fault("import, SIGINT: traceback", f"after {after:.2f} s: {stderr.splitlines()[-1]}")


def killed_on_replacing(number: int) -> None:
    """From the file of this number on, putting one in its place kills the process; partial results do not count."""
    original, calls = os.replace, []  # type: ignore[var-annotated]

    def replace(*arguments: object, **more: object) -> None:
        if not str(arguments[1]).endswith(".partial"):
            calls.append(arguments)
        if len(calls) >= number:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments, **more)  # type: ignore[arg-type]

    os.replace = replace  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=30, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", nargs="*", default=[job.name for job in JOBS])
    parser.add_argument("--imports", type=int, default=4, help="interrupts while Python imports")
    parser.add_argument("--json", type=Path, help="file for the faults: key -> what happens")
    given = parser.parse_args()
    torch.set_num_threads(1)  # before anything starts a thread: runs are forked
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = Kills(Path(folder))
        for job in [job for job in JOBS if job.name in given.jobs]:
            kills.at_random(job, given.each, given.seed)
            kills.while_writing(job)
        for i in range(given.imports):
            kills.while_importing(0.6 + 0.3 * i)
    for label, count in kills.stopped.items():
        print(f"{label:24} {count:3} stopped")
    rounds = given.each * len(given.jobs)
    print(f"{rounds} runs, {sum(kills.stopped.values())} stopped, in {time.monotonic() - begin:.0f} s")
    print(f"{len(kills.faults)} faults")
    for key, what in kills.faults.items():
        print(f"  {key}: {what}")
    print(known.report("kills", kills.faults))
    if given.json:
        told = {"inputs": sum(kills.stopped.values()), "faults": kills.faults}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
