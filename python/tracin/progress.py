"""Progress on stderr while long work goes on, and where its time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tracin.streams import console


@dataclass
class Clock:
    """Seconds by stage; the rest of the time since the start is nobody's."""

    start: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def tell_apart(self, stage: str, seconds: float, within: str) -> None:
        """Counts so many seconds of a stage for another, which was a part of it and stands before it from now on."""
        whole = self.seconds.pop(within, 0.0)
        self.seconds |= {stage: seconds, within: whole - seconds}

    def split(self, rest: str) -> str:
        """Such as "12.5 s: reading 4.1 s, scoring 8.4 s"; what no stage took goes to `rest`."""
        total = time.perf_counter() - self.start
        stages = self.seconds | {rest: total - sum(self.seconds.values())}
        return f"{total:.2f} s: " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items())


Advance = Callable[[int], None]
Stage = Callable[..., Advance]
RATE_SECONDS = 300  # the rate is that of so much time; a block may take longer than rich's 30 s


class RateColumn(ProgressColumn):
    """Units of work per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{format_count(speed)} {task.fields['unit']}".rstrip() + "/s" if speed else "")


def format_count(count: float) -> str:
    """1,234 or 5,678 k or 9,012 M."""
    for size, letter in ((1e9, " M"), (1e6, " k")):
        if count >= size:
            return f"{count / (size / 1e3):,.0f}{letter}"
    return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def on_a_terminal() -> bool:
    """Whether stderr is one; there may be no stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress_stages(shown: bool | None = None) -> Iterator[Stage]:
    """Yields stage(description, total, unit="", done=0) -> advance(n): a bar for each stage of the work.

    `shown` None: only if stderr is a terminal. advance(0) says that work begins: the rate counts from there.
    """
    if not (on_a_terminal() if shown is None else shown):
        yield lambda *_, **__: lambda n: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console(stderr=True), transient=True, speed_estimate_period=RATE_SECONDS
    ) as progress:

        def stage(description: str, total: int, unit: str = "", done: int = 0) -> Advance:
            task = progress.add_task(description, total=total, completed=done, unit=unit)
            return lambda n: progress.advance(task, n)

        yield stage


@contextmanager
def progress_bar(description: str, total: int, shown: bool | None = None, unit: str = "") -> Iterator[Advance]:
    """One stage alone."""
    with progress_stages(shown) as stage:
        yield stage(description, total, unit)
