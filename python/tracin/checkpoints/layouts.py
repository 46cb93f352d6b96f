"""How each implementation names ConvE's tensors and numbers relations; which of them a state dict belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tracin.checkpoints.libkge import BIAS_COLUMN, ENTITY, RELATION, VECTOR_COLUMNS, default_libkge_image
from tracin.errors import InputError, plain
from tracin.triples.dictionaries import argument_of

LAYER_TENSORS = {  # layers of several tensors: the ends of their names
    "bn0": (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked"),
    "conv": (".weight", ".bias"),
    "fc": (".weight", ".bias"),
}
LAYER_TENSORS |= {"bn1": LAYER_TENSORS["bn0"], "bn2": LAYER_TENSORS["bn0"]}
CORE_DIMENSIONS = {"entity.weight": 2, "relation.weight": 2, "conv.weight": 4, "fc.weight": 2}


def _no_default(plane: int) -> None:
    return None


def _twenty_rows(plane: int) -> tuple[int, int]:
    return 20, plane // 20


def _closest_to_square(plane: int) -> tuple[int, int]:
    rows = max(h for h in range(1, math.isqrt(plane) + 1) if plane % h == 0)
    return rows, plane // rows


@dataclass(frozen=True)
class Layout:
    """How one implementation names ConvE's tensors, and the image it takes when nobody says otherwise."""

    name: str
    keys: Mapping[str, str]  # our layer or tensor -> the implementation's; what it does not have is absent
    optional: tuple[str, ...] = ()  # beginnings of our names of tensors that a file may lack
    image: Callable[[int], tuple[int, int] | None] = _no_default  # values of a plane -> default rows, columns
    stack: str = "height"
    stack_told: bool = True  # whether files of this kind are always stacked so; else both stackings are looked at
    inverse_step: int = 1  # row of relation r is inverse_step * r in a table that also holds the inverse relations
    setting: str | None = None  # a stored setting that only this implementation writes

    @property
    def tensors(self) -> dict[str, str]:
        """Our tensor name -> the file's key."""
        return {our + end: key + end for our, key in self.keys.items() for end in LAYER_TENSORS.get(our, ("",))}


NORMS = ("bn0", "bn1", "bn2")
_AFFINE = tuple(f"{norm}.{end}" for norm in NORMS for end in ("weight", "bias"))
_CONV1 = {"bn0": "bn0", "conv": "conv1", "bn1": "bn1", "fc": "fc", "bn2": "bn2"}
_DETTMERS = {"entity.weight": "emb_e.weight", "relation.weight": "emb_rel.weight", "bias": "b", **_CONV1}
_PYKEEN = {
    "entity.weight": "entity_representations.0._embeddings.weight",
    "relation.weight": "relation_representations.0._embeddings.weight",
    "bias": "entity_representations.1._embeddings.weight",
    "fc": "interaction.hr1d.0",
}
_PYKEEN_NORM = {
    "bn0": "interaction.hr2d.0",
    "conv": "interaction.hr2d.2",
    "bn1": "interaction.hr2d.3",
    "bn2": "interaction.hr1d.2",
}
_WIDTH = {"entity.weight": "entity_embeddings.weight", "relation.weight": "relation_embeddings.weight", **_CONV1}
_PYKEEN_FIRST = {**_WIDTH, "bias": "b"}  # versions before 1.0
_PYKEEN_LEGACY = {**_WIDTH, "bias": "bias_term.weight"}  # versions 1.0 to 1.3
_PYKEEN_LEGACY_TABLES = {  # versions 1.4 to 1.8
    "entity.weight": "entity_embeddings._embeddings.weight",
    "relation.weight": "relation_embeddings._embeddings.weight",
    "bias": "bias_term._embeddings.weight",
    **_CONV1,
}
_LIBKGE = {
    "entity.weight": ENTITY + VECTOR_COLUMNS,
    "relation.weight": RELATION + VECTOR_COLUMNS,
    "bias": ENTITY + BIAS_COLUMN,
    "conv": "_scorer.convolution",
    "bn1": "_scorer.bn1",
    "fc": "_scorer.projection",
    "bn2": "_scorer.bn2",
}
_KELPIE = {
    "entity.weight": "entity_embeddings",
    "relation.weight": "relation_embeddings",
    "bn0": "batch_norm_1",
    "conv": "convolutional_layer",
    "bn1": "batch_norm_2",
    "fc": "hidden_layer",
    "bn2": "batch_norm_3",
}
_NEURALKG = {"entity.weight": "emb_ent.weight", "relation.weight": "emb_rel.weight", "bias": "b", **_CONV1}
_OWN = {name: name for name in ("entity.weight", "relation.weight", "bias", "bn0", "conv", "bn1", "fc", "bn2")}

OWN = Layout("tracin checkpoint", _OWN, ("bias", "conv.bias", "fc.bias", *NORMS), stack_told=False)
LAYOUTS = (
    Layout("Dettmers' ConvE state dict", _DETTMERS, ("conv.bias",), _twenty_rows),
    Layout("AttributionAttack checkpoint", _DETTMERS, ("conv.bias",), lambda plane: (20, 10), setting="stack_width"),
    Layout("PyKEEN state dict", {**_PYKEEN, **_PYKEEN_NORM}, (), _closest_to_square, inverse_step=2),
    Layout(
        "PyKEEN state dict without batch norm",
        {**_PYKEEN, "conv": "interaction.hr2d.1"},
        (),
        _closest_to_square,
        inverse_step=2,
    ),
    Layout("PyTorch state dict", _WIDTH, ("conv.bias",), stack="width", stack_told=False),
    Layout(
        "width-stacked PyTorch state dict",
        _WIDTH,
        ("conv.bias",),
        lambda plane: (10, 20),
        stack="width",
        setting="model_config",
    ),
    Layout("Kelpie state dict", _KELPIE, (), _twenty_rows),
    Layout("NeuralKG state dict", _NEURALKG, ("conv.bias", "fc.bias"), _twenty_rows),
    Layout("state dict of PyKEEN before 1.0", _PYKEEN_FIRST, ("conv.bias",), _closest_to_square),
    Layout("state dict of PyKEEN 1.0 to 1.3", _PYKEEN_LEGACY, NORMS, _closest_to_square, inverse_step=2),
    Layout("state dict of PyKEEN 1.4 to 1.8", _PYKEEN_LEGACY_TABLES, NORMS, _closest_to_square, inverse_step=2),
    Layout("LibKGE state dict", _LIBKGE, (*_AFFINE, "conv.bias"), default_libkge_image),
    OWN,
)
# Names under which yet other programs keep the same tensors. What is computed with them the file does not tell: it is
# read only if it has these and nothing else, and the image has to be told.
OTHER_NAMES = {
    "entity.weight": (
        "ent_embs.weight",
        "ent_embeddings.weight",
        "ent_emb.weight",
        "entity_embs.weight",
        "entity_emb.weight",
        "entity_embedding.weight",
        "entity_embeddings.weight",
        "entity_embedding",
        "emb_ent.weight",
        "emb_e.weight",
        "E.weight",
    ),
    "relation.weight": (
        "rel_embs.weight",
        "rel_embeddings.weight",
        "rel_emb.weight",
        "relation_embs.weight",
        "relation_emb.weight",
        "relation_embedding.weight",
        "relation_embeddings.weight",
        "relation_embedding",
        "emb_rel.weight",
        "R.weight",
    ),
    "bias": ("b", "bias", "bias_term", "bias_term.weight", "ent_bias", "entity_bias"),
    "bn0": ("bn0",),
    "conv": ("conv1", "conv", "conv2d"),
    "bn1": ("bn1",),
    "fc": ("fc", "fc1"),
    "bn2": ("bn2",),
}
PYKEEN_MISNAMED = "interaction.hr1d.1."  # where PyKEEN has nothing to store
# Parts of keys that play no part in a score.
IGNORED = ("loss.", "loss_fn.", "criterion.", ".regularizer.", "weight_regularizers.")
LAYER_KEYS = {key for layout in LAYOUTS for key in layout.tensors.values()}
LAYER_KEYS |= {
    name + end for our, names in OTHER_NAMES.items() for name in names for end in LAYER_TENSORS.get(our, ("",))
}


def listing(names: Iterable[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(map(plain, names))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def detect(path: str, keys: Iterable[str], settings: Mapping[str, Any]) -> Layout:
    """The layout whose keys are there, every required one of them and no others."""
    present = {key for key in keys if not any(part in key for part in IGNORED)}
    if any(key.startswith(PYKEEN_MISNAMED) for key in present):
        raise InputError(
            f"{path} was converted to PyKEEN's names wrongly: its last batch norm is called {PYKEEN_MISNAMED[:-1]}, "
            "where PyKEEN has a dropout, and its image need not be PyKEEN's; load the checkpoint it was converted from"
        )

    def likeness(layout: Layout) -> tuple[int, bool]:
        return len(present & set(layout.tensors.values())), (layout.setting or "") in settings

    layout = max(LAYOUTS, key=likeness)
    missing, unexpected = _differences(layout, present)
    if not missing and not unexpected:
        return layout
    other = _other_names(present)
    if other is not None and not any(_differences(other, present)):
        return other
    if _core(layout, present) < len(CORE_DIMENSIONS) - 1:
        raise InputError(
            f"{path} is not a ConvE: its keys are {listing(sorted(present)) or 'none'}; TracIn needs a ConvE's "
            "embeddings, convolution and fully connected layer"
        )
    raise InputError(
        f"{path} looks like a {layout.name}, but its keys differ: missing {listing(missing) or 'none'}; "
        f"unexpected {listing(unexpected) or 'none'}; was it changed or converted?"
    )


def _differences(layout: Layout, present: set[str]) -> tuple[list[str], list[str]]:
    """Required keys that are not there, and keys that the layout does not have."""
    tensors = layout.tensors
    optional = (*layout.optional, *(f"{norm}.num_batches_tracked" for norm in NORMS))
    missing = [key for name, key in tensors.items() if key not in present and not name.startswith(optional)]
    return missing, sorted(present - set(tensors.values()))


def _core(layout: Layout, present: set[str]) -> int:
    return sum(layout.tensors[name] in present for name in CORE_DIMENSIONS)


def has_core(keys: Iterable[str]) -> bool:
    """Whether all, or all but one, of the tensors without which there is no ConvE have names that are known."""
    present = set(keys)
    other = _other_names(present)
    found = max(_core(layout, present) for layout in (*LAYOUTS, *([other] if other else [])))
    return found >= len(CORE_DIMENSIONS) - 1


def _other_names(present: set[str]) -> Layout | None:
    """The layout of a state dict that has each layer once, under one of OTHER_NAMES."""
    keys: dict[str, str] = {}
    for our, names in OTHER_NAMES.items():
        end = LAYER_TENSORS.get(our, ("",))[0]  # the weight, without which there is no layer
        found = [name for name in names if name + end in present]
        if len(found) > 1 or not (found or our in NORMS or our == "bias"):
            return None
        if found:
            keys[our] = found[0]
    name = f"state dict with the names {plain(keys['entity.weight'])}, {plain(keys['relation.weight'])}"
    optional = ("bias", "conv.bias", "fc.bias")
    return Layout(name, keys, optional, stack_told=False)


def check_entities(path: str, num_entities: int, entities: Mapping[str, int] | None) -> None:
    """Raises InputError unless the dictionary, if there is one, is as large as the entity table."""
    if entities is not None and len(entities) != num_entities:
        raise _foreign_dictionary(path, "entity", f"{num_entities} entities", len(entities))


def relation_step(path: str, layout: Layout, rows: int, stored: int | None, relations: Mapping[str, int] | None) -> int:
    """How many rows of the relation table lie between relation r and r + 1; `stored` is what the file says."""
    if relations is None and stored is None and layout.inverse_step != 1 and rows % 2 == 0:
        raise InputError(
            f"{path}: the model has {rows} rows of relations, which are {rows} relations or {rows // 2} and their "
            "inverses (create_inverse_triples), and the file does not tell; give the dictionary of its relations "
            "(--relation-to-id, argument relation_to_id), such as the triples factory's relation_to_id"
        )
    if relations is None:
        return stored or 1
    steps = {} if stored == 2 else {rows: 1}  # size of a dictionary that fits -> step
    if rows % 2 == 0 and (stored != 1 or layout.inverse_step == 1):
        steps[rows // 2] = stored or layout.inverse_step
    if len(relations) in steps:
        return steps[len(relations)]
    whole, *half = steps
    halves = f" (or {half[0]} and their inverses)" if half else ""
    raise _foreign_dictionary(path, "relation", f"{whole} relations{halves}", len(relations))


def _foreign_dictionary(path: str, kind: str, expected: str, size: int) -> InputError:
    return InputError(
        f"{path}: the model has {expected}, but the {kind} dictionary has {size} entries; is it the dictionary the "
        "model was trained with?",
        *argument_of(kind),
    )
