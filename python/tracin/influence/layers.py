"""Which layers' gradients count, also by the names of other frameworks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tracin.checkpoints.layouts import LAYOUTS
from tracin.errors import InputError
from tracin.model import ConvE
from tracin_ext.backends.sequential import tracked_parameters
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
            text = f"last_layer_names: this model has no {name!r}; its layers are {', '.join(present)}"
            raise InputError(text, "last_layer_names")
        layers.append(layer)
    return layers


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
            text = f"layers is {layers}; only a ConvE has last layers; this model has {', '.join(present)}"
            raise InputError(text, "layers")
        depth = [layer for layer in DEPTH if layer in present]
        if not 1 <= layers <= len(depth):
            text = f"layers is {layers}; expected 1 to {len(depth)}, the last n of {', '.join(depth)}"
            raise InputError(text, "layers")
        return tuple(depth[-layers:])
    names = [layers] if isinstance(layers, str) else list(layers)
    if isinstance(model, ConvE):
        unknown = [name for name in names if name not in present]
    else:
        unknown = [name for name in names if not tracked_parameters(model, (name,))]
    if unknown or not names:
        came = ", ".join(map(repr, unknown)) or "empty"
        raise InputError(f"layers has {came}; this model has {', '.join(present)}", "layers")
    return tuple(layer for layer in present if layer in names) if isinstance(model, ConvE) else tuple(names)


def trainable_parts(models: Sequence[Any], layers: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What counts of the layers, and what of them is frozen: parameters whose requires_grad is False.

    Whole layers by their name, those that are frozen in part by their parameters.

    Raises:
        InputError: if nothing is left, or the models differ in it.
    """
    frozen = [{name for name, value in model.named_parameters() if not value.requires_grad} for model in models]
    for index, names in enumerate(frozen):
        if names != frozen[0]:
            differing = min(names ^ frozen[0])
            raise InputError(
                f"{differing} is frozen (requires_grad False) in only one of checkpoints 0 and {index}; expected the "
                "same parameters of all"
            )
    counted: list[str] = []
    left_out: list[str] = []
    for layer in layers:
        parameters = list(tracked_parameters(models[0], (layer,)))
        kept = [name for name in parameters if name not in frozen[0]]
        whole = len(kept) == len(parameters)
        counted += [layer] if whole else kept
        left_out += [] if whole else [name for name in parameters if name in frozen[0]] if kept else [layer]
    if not counted:
        raise InputError(
            f"every parameter of {', '.join(layers)} is frozen (requires_grad False), so that nothing is attributed; "
            "set requires_grad_(True) on the model or on those parameters that were trained",
            "layers",
        )
    return tuple(counted), tuple(left_out)
