"""Progress bars on stderr for long work; quiet when not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RateColumn(TextColumn):
    """Triples per second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task):  # type: ignore[no-untyped-def]
        from rich.text import Text

        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def progress_bar(description: str, total: int, shown: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yields advance(n). `shown` None: only if stderr is a terminal."""
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda n: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda n: progress.advance(task, n)
