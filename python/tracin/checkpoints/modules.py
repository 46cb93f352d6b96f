"""Whole pickled modules: the state dict and the settings of one, from the attributes that every module has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tracin.checkpoints.layouts import IGNORED
from tracin.errors import InputError, plain, quote
from tracin.safe_pickle import Foreign

MAX_PARTS = 10_000  # of a pickled model; a file may name the same module within itself
MAX_KEY = 1_000  # characters of a state dict's key
COMPILED = "torch._dynamo.eval_frame.OptimizedModule"
# What a pickled module says of its own computation, and the only values that ConvE computes with.
MODULE_SETTINGS = {
    "eps": (1e-5,),
    "track_running_stats": (True,),
    "stride": (1, (1, 1)),
    "padding": (0, (0, 0)),
    "dilation": (1, (1, 1)),
    "groups": (1,),
    "normalizer": (None,),
    "max_norm": (None,),
}
ACTIVATIONS = "torch.nn.modules.activation."
OURS = ("ReLU", "Sigmoid")  # the latter at the end, where it changes no order


def is_module(value: Any) -> bool:
    """Whether it is a record of a torch.nn.Module."""
    return isinstance(value, Foreign) and ("_modules" in value.attributes or value.name == COMPILED)


def uncompiled(module: Foreign) -> Foreign:
    """The module that torch.compile was given."""
    arguments = module.arguments
    if module.name == COMPILED and isinstance(arguments, tuple) and arguments and isinstance(arguments[0], Foreign):
        return arguments[0]
    return module


def state_of(path: str, module: Foreign) -> tuple[dict[str, Any], dict[str, Foreign]]:
    """The state dict that the module's own code would give, and every module by the beginning of its keys.

    Raises:
        InputError: if there are too many modules, or one computes otherwise than ConvE does.
    """
    state: dict[str, Any] = {}
    found: dict[str, Foreign] = {}
    waiting = [("", module)]
    parts = 0
    while waiting:
        prefix, part = waiting.pop()
        part = uncompiled(part)
        found[prefix] = part
        attributes = part.attributes
        if not any(ignored in prefix for ignored in IGNORED):
            _check_module(path, prefix, part)
        transient = attributes.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers", "_modules"):
            owned = attributes.get(kind)
            owned = owned if isinstance(owned, dict) else {}
            parts += 1 + len(owned)
            if parts > MAX_PARTS or len(prefix) > MAX_KEY:
                raise InputError(f"{path} is a pickled model of more than {MAX_PARTS:,} parts; is it a ConvE?")
            for name, value in owned.items():
                if isinstance(value, Foreign) and kind == "_modules":
                    waiting.append((f"{prefix}{name}.", value))
                elif kind != "_modules" and isinstance(value, (Tensor, Foreign)):
                    if not (isinstance(transient, set) and name in transient):
                        state[f"{prefix}{name}"] = value
    return state, found


def settings_of_module(modules: Mapping[str, Foreign], prefix: str) -> dict[str, Any]:
    """The attributes of the module whose keys begin with `prefix`, and what PyKEEN's interaction says of its image."""
    settings = dict(modules[prefix].attributes) if prefix in modules else {}
    for part in modules.values():
        if isinstance(shape := part.attributes.get("shape_info"), Foreign):
            settings |= shape.attributes
    return settings


def _check_module(path: str, prefix: str, module: Foreign) -> None:
    part = plain(prefix[:-1] or "the model")
    for name, allowed in MODULE_SETTINGS.items():
        value = module.attributes.get(name, allowed[0])
        if not any(type(value) is type(usual) and value == usual for usual in allowed):
            raise InputError(
                f"{path}: {part} has {name} = {quote(value)} where TracIn computes with {allowed[0]}; the scores would "
                "differ"
            )
    if (row := module.attributes.get("padding_idx")) is not None:
        raise InputError(
            f"{path}: {part} has padding_idx = {quote(row)}: when PyTorch looks up that row, its gradient is zero; "
            "TracIn would count it; if no triple has that id, save model.state_dict() and load that"
        )
    kind = module.name.removeprefix(ACTIVATIONS)
    if kind != module.name and kind not in OURS:
        raise InputError(f"{path}: {part} is a {plain(kind)} where TracIn computes with ReLU; the scores would differ")
