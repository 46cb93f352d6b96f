"""Where the time went, of a command or of a TracIn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


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

    def split(self, rest: str) -> str:
        """Such as "12.5 s: reading 4.1 s, scoring 8.4 s"; what no stage took goes to `rest`."""
        total = time.perf_counter() - self.start
        stages = self.seconds | {rest: total - sum(self.seconds.values())}
        return f"{total:.2f} s: " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items())
