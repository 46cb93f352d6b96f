"""Partial results on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tracin.digests import intact, is_digest, sealed
from tracin.errors import InputError
from tracin.files import check_writable, locked, remove_parts, replacing_bytes
from tracin.influence.blocks import Work

FORMAT, VERSION = "tracin partial results", 2
SAVE_SECONDS = 10.0
TERMINATED = 128 + signal.SIGTERM  # exit code, as shells count


class Partial:
    """The file of one call: results so far, where the work stands, and what they belong to.

    Args:
        path: the file; None keeps nothing.
        inputs: what the results depend on, name -> digest or value; called when the file is first read or written.
        work: where the work stands; changed by `restore`.
        results: name -> tensor, changed by `restore`.
        asked: batch size and memory limit as asked for: only with the same ones the sizes of blocks are restored.
        keep_finished: whether what is finished is saved however short the work was: for others, which may yet fail.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        inputs: Callable[[], dict[str, str]],
        work: Work,
        results: Mapping[str, Tensor],
        asked: str,
        keep_finished: bool = False,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.inputs = inputs
        self.work = work
        self.results = results
        self.asked = asked
        self.keep_finished = keep_finished
        self._known: dict[str, str] | None = None
        self._whole = True  # False while results and work disagree
        self._warned = False
        self._saved = 0  # finished pairs in the file
        self._time = time.monotonic()
        self._stop: Callable[[], None] = lambda: None
        if self.path is not None:
            check_writable(self.path)

    @property
    def known_inputs(self) -> dict[str, str]:
        self._known = self._known or self.inputs()
        return self._known

    def restore(self) -> None:
        """Takes over the file if there is one.

        Raises:
            InputError: if it is damaged, or belongs to other inputs.
        """
        if self.path is None or not self.path.exists():
            return
        content = self._read(self.path)
        changed = [change(name, content["inputs"].get(name), value) for name, value in self.known_inputs.items()]
        told = "; ".join(text for text in changed if text)
        if told:
            raise InputError(
                f"{self.path} holds partial results of another run: {told}; run with the same inputs, or remove the "
                "file to start anew"
            )
        expected = {"done": self.work.done, **self.results}
        for name, tensor in expected.items():
            stored = content.get(name)
            if not isinstance(stored, Tensor) or stored.shape != tensor.shape or stored.dtype != tensor.dtype:
                raise damaged(self.path)
        done = content["done"]
        if not all(type(content.get(name)) is int and content[name] > 0 for name in ("tile", "block")):
            raise damaged(self.path)
        index = content.get("indices", done[:0])  # of training triples; -1: not found yet
        total = self.work.total
        if (done < 0).any() or (done > total).any() or (index < -1).any() or (index >= total).any():
            raise damaged(self.path)
        for name, tensor in expected.items():
            tensor.copy_(content[name])
        if content.get("asked") == self.asked:
            self.work.tile, self.work.block = content["tile"], content["block"]
        self._saved = self.work.finished

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
        except MemoryError:
            raise
        except Exception as error:  # whatever the bytes of a damaged file make torch.load raise
            raise damaged(path) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise damaged(path)
        if content.get("version") != VERSION or not isinstance(content.get("inputs"), dict):
            raise InputError(f"{path} was written by another release of tracin; remove the file to start anew")
        if not intact(content):
            raise damaged(path)
        return content

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Saves what is finished when the work in it ends in any way but being killed.

        Meanwhile SIGINT and SIGTERM wait for `tick`; they raise KeyboardInterrupt and SystemExit there.

        Raises:
            InputError: if another run is saving its results in the same file.
        """
        if self.path is None:
            yield
            return
        remove_parts(self.path)
        with locked(self.path), held_signals() as self._stop:
            try:
                yield
                self._stop()
            except BaseException:
                self.save()
                raise
            if self._saved or self.keep_finished or time.monotonic() - self._time > SAVE_SECONDS:
                self.save()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around what makes results and work disagree for a moment."""
        self._whole = False
        yield
        self._whole = True

    def tick(self) -> None:
        """To be called after each block: stops if a signal came, saves if it is time."""
        if self.path is None:
            return
        self._stop()
        if time.monotonic() - self._time > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Writes the file if there is something new; a file that cannot be written is one warning, not an end."""
        finished = self.work.finished
        if self.path is None or not self._whole or finished <= self._saved:
            return
        work = self.work
        content = {
            "format": FORMAT,
            "version": VERSION,
            "inputs": self.known_inputs,
            "asked": self.asked,
            "tile": work.tile,
            "block": work.block,
            "done": work.done,
            **{name: tensor.cpu() for name, tensor in self.results.items()},
        }
        try:
            with replacing_bytes(self.path) as file:
                torch.save(sealed(content), file)
            self._saved = finished
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            if not self._warned:
                warnings.warn(f"partial results cannot be saved in {self.path}: {error}", stacklevel=2)
            self._warned = True
        finally:
            self._time = time.monotonic()


def change(name: str, then: object, now: str) -> str:
    """How an input differs, in words; empty if it does not."""
    if then == now:
        return ""
    if is_digest(now) or not isinstance(then, str) or is_digest(then):
        return f"the {name} differ"
    return f"{name} was {then} and is {now}"


def damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged or holds no partial results of tracin; remove the file to start anew")


@contextmanager
def held_signals() -> Iterator[Callable[[], None]]:
    """Holds SIGINT and SIGTERM back until the function that it yields is called; a second SIGINT acts at once."""
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    def act() -> None:
        if came:
            raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield act
        return
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):  # ignored: it stays so; None: not Python's
            before[number] = signal.signal(number, hold)
    try:
        yield act
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
