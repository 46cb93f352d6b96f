"""Which layers' gradients count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracin.errors import InputError
from tracin.model import ConvE
from tracin_ext.backends.sequential import tracked_parameters
from tracin_ext.parameters import LAYERS

DEPTH = ("bn0", "conv", "bn1", "bn2", "fc")  # an int n takes the last n of these that the model has


def layers_of(model: Any) -> list[str]:
    """Layers that have parameters: the first words of their names, in the order of LAYERS, else of the model."""
    present = dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters())
    return [layer for layer in LAYERS if layer in present] if isinstance(model, ConvE) else list(present)


def select_layers(model: Any, layers: str | int | Sequence[str]) -> tuple[str, ...]:
    """Resolves the argument `layers` of TracIn; raises InputError for names and numbers that the model lacks.

    For a model that is no ConvE, a name may go on to the second word and further: `interaction.hr1d`.
    """
    present = layers_of(model)
    if layers == "all":
        return tuple(present)
    if isinstance(layers, int):
        if not isinstance(model, ConvE):
            raise InputError(f"layers is {layers}; only a ConvE has last layers; this model has {', '.join(present)}")
        depth = [layer for layer in DEPTH if layer in present]
        if not 1 <= layers <= len(depth):
            raise InputError(f"layers is {layers}; expected 1 to {len(depth)}, the last n of {', '.join(depth)}")
        return tuple(depth[-layers:])
    names = [layers] if isinstance(layers, str) else list(layers)
    if isinstance(model, ConvE):
        unknown = [name for name in names if name not in present]
    else:
        unknown = [name for name in names if not tracked_parameters(model, (name,))]
    if unknown or not names:
        came = ", ".join(map(repr, unknown)) or "empty"
        raise InputError(f"layers has {came}; this model has {', '.join(present)}")
    return tuple(layer for layer in present if layer in names) if isinstance(model, ConvE) else tuple(names)
