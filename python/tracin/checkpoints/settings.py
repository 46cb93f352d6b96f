"""What a checkpoint stores beside its weights: settings in whatever form, and the learning rate of its optimizer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tracin.errors import InputError, plain, quote
from tracin.safe_pickle import Foreign

# Under these names programs keep settings, the later ones over the earlier.
PARTS = (
    "optimizer_kwargs",
    "model_kwargs",
    "configuration",
    "args",
    "options",
    "hparams",
    "hyper_parameters",
    "params",
    "kwargs",
    "cfg",
    "config",
    "model_config",
)
MAX_DEPTH = 4  # of settings within settings
MAX_TEXT = 100_000  # characters of settings that are text
OPTIMIZERS = ("optimizer_state_dict", "optimizer", "optimizer_state", "optimizer_states", "optim_state_dict", "optim")


def entries_of(value: Any) -> Mapping[Any, Any]:
    """What a value holds under names: a dictionary, an object's attributes and entries, JSON text; none of others."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Foreign):
        return {**value.attributes, **(value.entries or {})}
    if isinstance(value, str) and value.lstrip().startswith("{") and len(value) <= MAX_TEXT:
        try:
            held: Mapping[Any, Any] = json.loads(value)
            return held
        except (ValueError, RecursionError):
            return {}
    return {}


def _held(item: Any) -> Any:
    """OmegaConf keeps a value in an object of its own."""
    return item.attributes["_val"] if isinstance(item, Foreign) and "_val" in item.attributes else item


def settings_of(content: Any, depth: int = 0) -> dict[Any, Any]:
    """All settings of a checkpoint or of a part of one, flat; outer ones over inner ones."""
    found: dict[Any, Any] = {}
    entries = entries_of(content)
    if depth < MAX_DEPTH:
        for name in (*PARTS, "_content"):  # the last is OmegaConf's
            if name in entries:
                found |= settings_of(entries[name], depth + 1)
    return found | {name: _held(item) for name, item in entries.items()}


def number(value: Any) -> float | None:
    """A finite number, also one stored as text or as a tensor of one element; None for anything else."""
    found = _any_number(value)
    return found if found is not None and math.isfinite(found) else None


def _any_number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def learning_rate_of(path: str, content: Any, settings: Mapping[Any, Any]) -> tuple[float | None, str]:
    """The rate that training had reached, and a note where there are several.

    In this order: as stored by itself, that of the optimizer, that of the arguments.

    Raises:
        InputError: for a rate that no training has.
    """
    entries = entries_of(content)
    for name in ("learning_rate", "lr"):
        if (rate := _rate(path, name, entries.get(name))) is not None:
            return rate, ""
    rates = {rate for name, value in _optimizer_rates(entries) if (rate := _rate(path, name, value)) is not None}
    if len(rates) > 1:
        several = ", ".join(f"{rate:g}" for rate in sorted(rates))
        return None, f"no learning rate: its optimizer has several, {several}"
    if rates:
        return rates.pop(), ""
    for name in ("learning_rate", "lr"):
        if (rate := _rate(path, name, settings.get(name))) is not None:
            return rate, ""
    return None, ""


def _optimizer_rates(entries: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Names and rates of all groups of parameters of all optimizers."""
    for key in OPTIMIZERS:
        stored = entries.get(key)
        for optimizer in stored if isinstance(stored, (list, tuple)) else [stored]:
            groups = entries_of(optimizer).get("param_groups")
            for group in groups if isinstance(groups, (list, tuple)) else ():
                yield f"{key}'s lr", entries_of(group).get("lr")


def _rate(path: str, name: str, value: Any) -> float | None:
    rate = _any_number(value)
    if rate is not None and not 0 < rate < math.inf:
        raise InputError(
            f"{path}: {plain(name)} is {quote(rate)}; expected a positive number: save the checkpoint without it and "
            "give the learning rate as an argument"
        )
    return rate
