"""Layers by the names of a framework's parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tracin.checkpoints.layouts import LAYOUTS
from tracin.errors import InputError
from tracin.influence.layers import layers_of
from tracin.model import ConvE
from tracin_ext.parameters import LAYERS

LAYER_OF = {their: our.split(".")[0] for layout in LAYOUTS for our, their in layout.keys.items()}
LAYER_OF |= {layer: layer for layer in LAYERS}


def layer_of(name: str) -> str | None:
    """ConvE's layer of a layer's name, such as fc, or of a parameter's, such as interaction.hr1d.0.weight."""
    while name not in LAYER_OF and "." in name:
        name = name.rpartition(".")[0]
    return LAYER_OF.get(name)


def layers_named(names: Iterable[str], model: Any) -> list[str]:
    """The layer of each name; a model that is no ConvE has layers of any name, see `select_layers`.

    Raises:
        InputError: for a name that is no layer of a ConvE, or of a layer that this one lacks.
    """
    if not isinstance(model, ConvE):
        return list(names)
    present = layers_of(model)
    layers = []
    for name in names:
        layer = layer_of(name)
        if layer not in present:
            raise InputError(f"last_layer_names: this model has no {name!r}; its layers are {', '.join(present)}")
        layers.append(layer)
    return layers
