"""What the start of a command takes, and a library that is loaded when it is first used."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

seconds: dict[str, float] = {}  # by stage
_loading = RLock()


@contextmanager
def timed(stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = time.perf_counter() - start


class _Later(ModuleType):
    """In place of a module until an attribute of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        with _loading:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def load_later(name: str) -> None:
    """`import name` is done at once from now on, and the module is executed when an attribute of it is asked for."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None:
        later = _Later(name)
        later.__spec__, later.__file__ = spec, spec.origin  # which are asked for without a wish for the module
        sys.modules[name] = later
