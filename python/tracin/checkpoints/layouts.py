"""How each implementation names ConvE's tensors and shapes its image; which of them a state dict belongs to.

N entities, R relation rows, D embedding, C channels; a plane is the part of one embedding that one input channel sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracin.checkpoints.libkge import BIAS_COLUMN, ENTITY, RELATION, VECTOR_COLUMNS, default_libkge_image
from tracin.errors import InputError, plain
from tracin.model import STACK_AXES

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
_OWN = {name: name for name in ("entity.weight", "relation.weight", "bias", "bn0", "conv", "bn1", "fc", "bn2")}

OWN = Layout("tracin checkpoint", _OWN, ("bias", "conv.bias", *NORMS))
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
    Layout("width-stacked PyTorch state dict", _WIDTH, (), lambda plane: (10, 20), stack="width"),
    Layout("Kelpie state dict", _KELPIE, (), _twenty_rows),
    Layout("state dict of PyKEEN 1.0 to 1.3", _PYKEEN_LEGACY, NORMS, _closest_to_square, inverse_step=2),
    Layout("state dict of PyKEEN 1.4 to 1.8", _PYKEEN_LEGACY_TABLES, NORMS, _closest_to_square, inverse_step=2),
    Layout("LibKGE state dict", _LIBKGE, (*_AFFINE, "conv.bias"), default_libkge_image),
    OWN,
)
PYKEEN_MISNAMED = "interaction.hr1d.1."  # where PyKEEN has nothing to store
IGNORED = ("loss.", ".regularizer.", "weight_regularizers.")  # parts of PyKEEN keys that play no part in a score
STORED_IMAGES = (  # settings, or attributes of a pickled model, for rows and columns; stack_width counts rows
    ("embedding_height", "embedding_width"),
    ("image_height", "image_width"),
    ("stack_width", "stack_height"),
    ("embedding_shape1", "embedding_shape2"),
    ("emb_dim1", "emb_dim2"),
)


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
    tensors = layout.tensors
    if sum(tensors[name] in present for name in CORE_DIMENSIONS) < len(CORE_DIMENSIONS) - 1:
        raise InputError(
            f"{path} is not a ConvE: its keys are {listing(sorted(present)) or 'none'}; TracIn needs a ConvE's "
            "embeddings, convolution and fully connected layer"
        )
    optional = (*layout.optional, *(f"{norm}.num_batches_tracked" for norm in NORMS))
    missing = [key for name, key in tensors.items() if key not in present and not name.startswith(optional)]
    unexpected = sorted(present - set(tensors.values()))
    if missing or unexpected:
        raise InputError(
            f"{path} looks like a {layout.name}, but its keys differ: missing {listing(missing) or 'none'}; "
            f"unexpected {listing(unexpected) or 'none'}; was it changed or converted?"
        )
    return layout


@dataclass(frozen=True)
class Sizes:
    """What the tensors' shapes tell; rows and columns of the image are not among it."""

    num_entities: int
    num_relations: int
    embedding_dim: int
    input_channels: int
    output_channels: int
    kernel_height: int
    kernel_width: int
    features: int

    def images(self, stack: str) -> list[tuple[int, int]]:
        """All (rows, columns) of one embedding that give fc its number of inputs."""
        plane, rest = divmod(self.embedding_dim, self.input_channels)
        found = []
        for height in (h for h in range(1, plane + 1) if plane % h == 0 and not rest):
            width = plane // height
            rows = height * (2 if stack == "height" else 1) - self.kernel_height + 1
            columns = width * (2 if stack == "width" else 1) - self.kernel_width + 1
            if rows > 0 and columns > 0 and self.output_channels * rows * columns == self.features:
                found.append((height, width))
        return found


class Image(NamedTuple):
    """How one embedding is an image, and why it is taken to be."""

    height: int
    width: int
    stack: str
    reason: str


class AmbiguousImage(InputError):
    """Several (rows, columns) fit the weights, in this stacking, and nothing chooses among them."""

    def __init__(self, message: str, choices: list[tuple[int, int]], stack: str) -> None:
        super().__init__(message)
        self.choices, self.stack = choices, stack


def resolve_image(
    path: str,
    layout: Layout,
    sizes: Sizes,
    settings: Mapping[str, Any],
    height: int | None,
    width: int | None,
    stack: str | None,
) -> Image:
    """Rows, columns and stacking: as asked, else as stored, else the layout's default, else the only one that fits."""
    for name, value in (("embedding_height", height), ("embedding_width", width)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; expected a positive number of pixels")
    if stack is None:
        stored = settings.get("stack")
        stack = stored if isinstance(stored, str) and stored in STACK_AXES else layout.stack
    elif stack not in STACK_AXES:
        raise InputError(f"stack is {stack!r}; expected 'height' or 'width'")
    fitting = sizes.images(stack)

    wanted, said, reason = (height, width), "the arguments ask for", "as asked for"
    if wanted == (None, None):
        wanted, said, reason = _stored_image(settings), "the file itself says", "as the file says"
    if wanted != (None, None):
        for image in fitting:
            if wanted[0] in (None, image[0]) and wanted[1] in (None, image[1]):
                return Image(*image, stack, reason)
        asked = " x ".join("any" if side is None else str(side) for side in wanted)
        raise InputError(f"{path}: {said} an image of {asked} stacked in {stack}, but {_choices(sizes)}")
    default = layout.image(sizes.embedding_dim) if sizes.input_channels == 1 else None
    if default in fitting:
        return Image(*default, stack, "the default of this kind of file")
    if len(fitting) == 1:
        return Image(*fitting[0], stack, "the only one that fits the weights")
    message = f"{path}: the file does not tell the shape of an embedding's image: {_choices(sizes)}"
    raise AmbiguousImage(message, fitting, stack) if fitting else InputError(message)


def _stored_image(settings: Mapping[str, Any]) -> tuple[int | None, int | None]:
    for names in STORED_IMAGES:
        rows, columns = (value if isinstance(value := settings.get(name), int) else None for name in names)
        if rows is not None or columns is not None:
            return rows, columns
    return None, None


def _choices(sizes: Sizes) -> str:
    layer = (
        f"fc takes {sizes.features} inputs from {sizes.output_channels} channels of a {sizes.kernel_height} x "
        f"{sizes.kernel_width} kernel over {sizes.embedding_dim} values in {sizes.input_channels} plane(s)"
    )
    fitting = {stack: sizes.images(stack) for stack in STACK_AXES}
    if not any(fitting.values()):
        return f"no shape fits: {layer}; is it a ConvE without padding, with stride 1?"
    text = "; ".join(
        f"stacked in {stack}: {', '.join(f'{rows} x {columns}' for rows, columns in images)}"
        for stack, images in fitting.items()
        if images
    )
    return (
        f"{layer}, and what fits (rows x columns) is {text}; choose with --embedding-height, --embedding-width and "
        "--stack (arguments embedding_height, embedding_width, stack)"
    )
