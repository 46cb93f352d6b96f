"""The image that an embedding is: rows, columns and stacking, as told or as the weights allow.

A plane is the part of one embedding that one input channel sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracin.checkpoints.layouts import Layout
from tracin.checkpoints.settings import number
from tracin.errors import InputError, LibraryWarning, quote
from tracin.model import STACK_AXES

STORED_IMAGES = (  # settings, or attributes of a pickled model, for rows and columns; stack_width counts rows
    ("embedding_height", "embedding_width"),
    ("image_height", "image_width"),
    ("stack_width", "stack_height"),
    ("embedding_shape1", "embedding_shape2"),
    ("emb_dim1", "emb_dim2"),
    ("emb_shape", None),
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
    """Several images fit the weights, and nothing chooses among them.

    Args:
        choices: their (rows, columns) in one stacking.
        stack: that stacking.
    """

    def __init__(self, message: str, choices: list[tuple[int, int]], stack: str) -> None:
        super().__init__(message)
        self.choices, self.stack = choices, stack


class SeveralImages(LibraryWarning):
    """Several images fit the weights, and that of the implementation was taken."""


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
    if stack is not None and stack not in STACK_AXES:
        raise InputError(f"stack is {stack!r}; expected 'height' or 'width'")
    stacks = _stacks(layout, settings, stack)
    fitting = {one: sizes.images(one) for one in stacks}
    asked = (height, width) != (None, None)
    wanted = [(height, width)] if asked else _stored_images(path, settings)
    said, reason = ("the arguments ask for", "as asked for") if asked else ("the file itself says", "as the file says")
    if wanted:
        fitting = {one: [image for image in fitting[one] if _meets(image, wanted)] for one in stacks}
        if not any(fitting.values()):
            shapes = " and ".join(" x ".join("any" if side is None else str(side) for side in one) for one in wanted)
            raise InputError(
                f"{path}: {said} an image of {shapes} stacked in {' or '.join(stacks)}, but {_choices(sizes)}"
            )
    found = [Image(*image, one, reason) for one in stacks for image in fitting[one]]
    if wanted and len(found) == 1:
        return found[0]
    default = layout.image(sizes.embedding_dim) if sizes.input_channels == 1 and stacks == (layout.stack,) else None
    if not wanted and default is not None and default in fitting[stacks[0]]:
        if len(found) > 1:
            _warn_of_others(path, default, found)
        return Image(*default, layout.stack, "the default of this kind of file")
    if len(found) == 1:
        elsewhere = any(sizes.images(one) for one in STACK_AXES if one not in stacks)
        stacked = f" stacked in {stacks[0]}" if elsewhere else ""
        return found[0]._replace(reason=f"the only one{stacked} that fits the weights")
    message = f"{path}: the file does not tell the shape of an embedding's image: {_choices(sizes)}"
    if not found:
        raise InputError(message)
    first = found[0].stack
    raise AmbiguousImage(message, fitting[first], first)


def _stacks(layout: Layout, settings: Mapping[str, Any], asked: str | None) -> tuple[str, ...]:
    """The stackings that are looked at, the likelier one first."""
    if asked is not None:
        return (asked,)
    stored = settings.get("stack")
    if isinstance(stored, str) and stored in STACK_AXES:
        return (stored,)
    return (layout.stack, *(one for one in STACK_AXES if one != layout.stack and not layout.stack_told))


def _meets(image: tuple[int, int], wanted: list[tuple[int | None, int | None]]) -> bool:
    return all(side in (None, one) for pair in wanted for side, one in zip(pair, image, strict=True))


def _warn_of_others(path: str, default: tuple[int, int], found: list[Image]) -> None:
    others = [f"{image.height} x {image.width}" for image in found if (image.height, image.width) != default]
    warnings.warn(
        f"{path}: an embedding's image is taken to be {default[0]} x {default[1]}, the default of such files; the "
        f"weights fit {', '.join(others)} as well: if the model was trained so, give embedding_height",
        SeveralImages,
        stacklevel=5,
    )


def _stored_images(path: str, settings: Mapping[str, Any]) -> list[tuple[int | None, int | None]]:
    """Every (rows, columns) that the settings name; None for one that they do not."""
    found = []
    for names in STORED_IMAGES:
        pair = [None if name is None else _pixels(path, name, settings.get(name)) for name in names]
        if pair != [None, None]:
            found.append((pair[0], pair[1]))
    return list(dict.fromkeys(found))


def _pixels(path: str, name: str, value: Any) -> int | None:
    if value is None:
        return None
    size = number(value)
    if size is None or size < 1 or size != int(size):
        raise InputError(
            f"{path}: the file says {name} = {quote(value)}; expected a positive number of pixels: give the image with "
            "--embedding-height, --embedding-width and --stack (arguments embedding_height, embedding_width, stack)"
        )
    return int(size)


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
