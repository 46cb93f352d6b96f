"""Inputs tried in forked worker processes: a crash, a hang or memory without bounds is an outcome like any other.

The parent must not have used threads before (torch's, polars'): a fork would inherit their locks.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

SECONDS = 10.0  # an input may take
BYTES = 1 << 30  # it may take above what the worker has before its first input
ROOM = 1 << 30  # a worker whose address space has grown by more is replaced; libraries and threads take half of it
BACKSTOP = 3 << 30  # address space above that; then allocations fail, so that the machine lives on


@dataclass(frozen=True)
class Outcome:
    """What became of an input: `kind` is "right", "refused", or the name of a fault."""

    number: int
    kind: str
    label: str  # what the input is, as far as faults are told apart by it
    detail: str
    seconds: float = 0.0

    @property
    def fault(self) -> bool:
        return self.kind not in ("right", "refused", "as the file says")


Judge = Callable[[int], tuple[str, str, str]]  # number of an input -> kind, label, detail
Name = Callable[[int], str]  # number of an input -> label, without trying it


def run(
    numbers: Iterable[int], judge: Judge, name: Name, workers: int = 2, seconds: float = SECONDS
) -> Iterator[Outcome]:
    """Outcomes in the order in which they come; `name` labels the inputs that a worker did not survive."""
    waiting = iter(numbers)
    context = multiprocessing.get_context("fork")
    running: dict[Connection, _Worker] = {}
    try:
        for _ in range(workers):
            _start(context, judge, running, waiting)
        while running:
            ready = wait(list(running), timeout=0.2)
            for connection in ready:
                worker = running[connection]  # type: ignore[index]
                try:
                    kind, label, detail, last = connection.recv()  # type: ignore[union-attr]
                except (EOFError, ConnectionResetError):
                    yield _ended(worker, name, running, "crash")
                    _start(context, judge, running, waiting)
                    continue
                yield Outcome(worker.number, kind, label, detail, time.monotonic() - worker.since)
                if last:
                    worker.stop(running)
                    _start(context, judge, running, waiting)
                elif not worker.give(waiting):
                    worker.stop(running)
            for worker in [w for w in running.values() if time.monotonic() - w.since > seconds]:
                yield _ended(worker, name, running, "hang")
                _start(context, judge, running, waiting)
    finally:
        for worker in list(running.values()):
            worker.stop(running)


class _Worker:
    def __init__(self, context: Any, judge: Judge) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, judge), daemon=True)
        self.process.start()
        theirs.close()
        self.number, self.since = -1, time.monotonic()

    def give(self, waiting: Iterator[int]) -> bool:
        number = next(waiting, None)
        if number is None:
            return False
        self.number, self.since = number, time.monotonic()
        self.connection.send(number)
        return True

    def stop(self, running: dict[Connection, _Worker]) -> int | None:
        running.pop(self.connection, None)
        self.connection.close()
        self.process.join(0.5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _start(context: Any, judge: Judge, running: dict[Connection, _Worker], waiting: Iterator[int]) -> None:
    worker = _Worker(context, judge)
    if worker.give(waiting):
        running[worker.connection] = worker
    else:
        worker.stop({})


def _ended(worker: _Worker, name: Name, running: dict[Connection, _Worker], kind: str) -> Outcome:
    seconds = time.monotonic() - worker.since
    if kind == "hang":
        worker.process.kill()
    code = worker.stop(running)
    detail = f"no end after {seconds:.0f} s" if kind == "hang" else f"the process ended with {code}"
    return Outcome(worker.number, kind, name(worker.number), detail, seconds)


def _work(connection: Connection, judge: Judge) -> None:
    """Judges the numbers that come, until the parent is gone."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base = _status("VmHWM") if _reset_peak() else _status("VmRSS")
    space = _status("VmSize") + BACKSTOP
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    while True:
        try:
            number = connection.recv()
        except EOFError:
            os._exit(0)
        _reset_peak()
        kind, label, detail = judge(number)
        if _status("VmHWM") - base > BYTES:
            kind, detail = "memory", f"{(_status('VmHWM') - base) >> 20} MiB above the baseline; {kind}: {detail}"
        last = _status("VmSize") > space - BACKSTOP + ROOM  # what this input left must not weigh on the next
        connection.send((kind, label, detail, last))


def _reset_peak() -> bool:
    """The peak of resident memory counts from now on."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) << 10


def one_sentence(text: str) -> str:
    """What is wrong with a message for people; empty if nothing is."""
    if not text.strip():
        return "an empty message"
    if "\n" in text or len(text) > 1500:
        return "a message of several lines" if "\n" in text else f"a message of {len(text)} characters"
    if any(0xD800 <= ord(c) < 0xE000 for c in text):
        return "a message that cannot be printed: it holds a surrogate"
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in text):
        return "control characters in a message"
    return ""
