"""Names of layers on the command line: our own, or those of a framework's parameters."""

from __future__ import annotations

from collections.abc import Iterable

from tracin.checkpoint_layouts import LAYOUTS
from tracin.errors import InputError
from tracin.layers import layers_of
from tracin.model import ConvE
from tracin_ext.parameters import LAYERS

LAYER_OF = {their: our.split(".")[0] for layout in LAYOUTS for our, their in layout.keys.items()}
LAYER_OF |= {layer: layer for layer in LAYERS}


def layers_named(names: Iterable[str], model: ConvE) -> list[str]:
    """The layer of each name: a layer such as `fc`, or a parameter such as `fc.weight` or `interaction.hr1d.0.weight`.

    Raises:
        InputError: for a name that is neither, or of a layer that the model lacks.
    """
    present = layers_of(model)
    layers = []
    for name in names:
        stem = name
        while stem not in LAYER_OF and "." in stem:
            stem = stem.rpartition(".")[0]
        layer = LAYER_OF.get(stem)
        if layer not in present:
            raise InputError(f"--last-layer-names: this model has no {name!r}; its layers are {', '.join(present)}")
        layers.append(layer)
    return layers
