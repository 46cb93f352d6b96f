"""Which layers' gradients count."""

from __future__ import annotations

from collections.abc import Sequence

from tracin.errors import InputError
from tracin.model import ConvE
from tracin_ext.parameters import LAYERS

DEPTH = ("bn0", "conv", "bn1", "bn2", "fc")  # an int n takes the last n of these that the model has


def layers_of(model: ConvE) -> list[str]:
    """Layers that have parameters, in the order of LAYERS."""
    present = {name.split(".")[0] for name, _ in model.named_parameters()}
    return [layer for layer in LAYERS if layer in present]


def select_layers(model: ConvE, layers: str | int | Sequence[str]) -> tuple[str, ...]:
    """Resolves the argument `layers` of TracIn; raises InputError for names and numbers that the model lacks."""
    present = layers_of(model)
    if layers == "all":
        return tuple(present)
    if isinstance(layers, int):
        depth = [layer for layer in DEPTH if layer in present]
        if not 1 <= layers <= len(depth):
            raise InputError(f"layers is {layers}; expected 1 to {len(depth)}, the last n of {', '.join(depth)}")
        return tuple(depth[-layers:])
    names = [layers] if isinstance(layers, str) else list(layers)
    unknown = [name for name in names if name not in present]
    if unknown or not names:
        came = ", ".join(map(repr, unknown)) or "empty"
        raise InputError(f"layers has {came}; this model has {', '.join(present)}")
    return tuple(layer for layer in present if layer in names)
