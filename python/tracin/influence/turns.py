"""Threads that share an object take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Self = TypeVar("Self", bound="OneAtATime")


class OneAtATime:
    """Has methods `in_turn`: each call runs alone, whatever thread it comes from; one thread's may call each other.

    Buffers, the clock and the model's parameters, which autograd replaces meanwhile, belong to the object. A copy, or
    one that was pickled, takes turns of its own.
    """

    def __init__(self) -> None:
        self._turn = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _turn=threading.RLock())


def in_turn(
    method: Callable[Concatenate[Self, Arguments], Result],
) -> Callable[Concatenate[Self, Arguments], Result]:
    """A method of a `OneAtATime` that no other thread's call disturbs."""

    @wraps(method)
    def alone(self: Self, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        with self._turn:
            return method(self, *arguments, **named)

    return alone
