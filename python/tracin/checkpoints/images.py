"""The image that an embedding is: rows, columns and stacking, as told or as the weights allow.

A plane is the part of one embedding that one input channel sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracin.checkpoints.layouts import Layout
from tracin.errors import InputError
from tracin.model import STACK_AXES

STORED_IMAGES = (  # settings, or attributes of a pickled model, for rows and columns; stack_width counts rows
    ("embedding_height", "embedding_width"),
    ("image_height", "image_width"),
    ("stack_width", "stack_height"),
    ("embedding_shape1", "embedding_shape2"),
    ("emb_dim1", "emb_dim2"),
)


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
