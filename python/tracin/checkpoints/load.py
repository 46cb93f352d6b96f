"""Checkpoints: ConvE weights of several implementations read into one `ConvE`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tracin.checkpoints.contents import DROPOUTS, Contents, read_contents, stored_dictionary, told_kind
from tracin.checkpoints.images import Sizes, resolve_image
from tracin.checkpoints.layouts import (
    CORE_DIMENSIONS,
    NORMS,
    Layout,
    check_entities,
    detect,
    listing,
    relation_step,
)
from tracin.checkpoints.settings import number
from tracin.errors import InputError, plain, quote
from tracin.model import ConvE
from tracin.notebook import as_html
from tracin.triples.dictionaries import dictionary_given, in_id_order


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A model and what its file knew about it.

    Args:
        model: in eval mode, on the CPU, every parameter with requires_grad.
        learning_rate: as stored under 'learning_rate' or 'lr', else that of the stored optimizer, else that of the
            stored arguments; None if the file has none, or several.
        epoch: as stored; None if the file has none.
        entity_to_id, relation_to_id: label -> id, 0..n-1 in id order; None if neither the caller nor the file has them.
        format: what the file is and which of its weights were read, for people.
        path: the file.
        image_reason: why the embeddings are read as images of this shape, for people.

    Example:
        >>> load_checkpoint("model.pt").model.num_entities
        30
    """

    model: Any  # ConvE from files; tracin.from_pykeen may give another kind
    learning_rate: float | None = None
    epoch: int | None = None
    entity_to_id: dict[str, int] | None = None
    relation_to_id: dict[str, int] | None = None
    format: str = ""
    path: str = ""
    image_reason: str = ""

    def __repr__(self) -> str:
        known = [f"learning rate {self.learning_rate:g}"] if self.learning_rate is not None else []
        known += [f"epoch {self.epoch}"] if self.epoch is not None else []
        known += [kind for kind, some in self._labels.items() if some]
        return f"Checkpoint({', '.join([self.path or self.format or 'in memory', self._size, *known])})"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {"file": self.path, "format": self.format, "model": self._size}
        facts |= {"image": self.image_reason, "learning rate": self.learning_rate, "epoch": self.epoch}
        facts |= {kind: "known" if some else "not known" for kind, some in self._labels.items()}
        return as_html("Checkpoint", {name: fact for name, fact in facts.items() if fact not in (None, "")})

    @property
    def _size(self) -> str:
        model = self.model
        return f"{type(model).__name__} of {model.num_entities} entities, {model.num_relations} relations"

    @property
    def _labels(self) -> dict[str, bool]:
        return {"entity labels": self.entity_to_id is not None, "relation labels": self.relation_to_id is not None}


def load_checkpoint(
    path: str | os.PathLike[str],
    embedding_height: int | None = None,
    embedding_width: int | None = None,
    stack: str | None = None,
    entity_to_id: Any = None,
    relation_to_id: Any = None,
) -> Checkpoint:
    """Read a ConvE that Dettmers' code, AttributionAttack, PyKEEN, LibKGE, Kelpie or plain PyTorch wrote, or our own.

    Of PyKEEN this takes state dicts, whole pickled models, checkpoints of its training loop and its callbacks, and
    folders of save_to_directory; of LibKGE checkpoints and packages; of Lightning checkpoints; safetensors files where
    its library is installed; any of them in gzip. Beginnings that wrappers give all keys, such as "module.", are left
    out. Nothing in a file is executed, and no framework need be installed.

    The image is what the arguments say, else what the file says, else the implementation's default if it fits the
    weights, else the only one that fits; with a warning where the default is not the only one. Weights become float32;
    a float64 file stays float64.

    Args:
        path: the file or folder.
        embedding_height, embedding_width: rows and columns of ONE embedding's plane, in pixels.
        stack: "height" or "width", how the head's and the relation's planes are put together.
        entity_to_id, relation_to_id: label -> id, the path of a file of them, or a PyKEEN triples factory or the result
            of a PyKEEN pipeline that has them; used instead of the file's own. State dicts of PyKEEN need
            `relation_to_id`: only its size tells whether the model has inverse relations, so that the row of
            relation r is 2 r.

    Returns:
        The model in eval mode on the CPU, and what the file says besides.

    Raises:
        InputError: if the file is missing, damaged, of a kind not read, no ConvE, or not what the arguments say; if it
            leaves its image or its relations open; if its learning rate is not positive.

    Example:
        >>> checkpoint = load_checkpoint("model.pt", relation_to_id=read_dictionary("rel_dict.txt"))
        >>> influences = TracIn(checkpoint).influence(train, test)
    """
    name = os.fspath(path)
    entity_to_id = dictionary_given(entity_to_id, "entity")
    relation_to_id = dictionary_given(relation_to_id, "relation")
    image, dictionaries = (embedding_height, embedding_width, stack), (entity_to_id, relation_to_id)
    try:
        contents = read_contents(name, entity_to_id is None, relation_to_id is None)
        return checkpoint_of(name, contents, image, dictionaries)
    except (InputError, MemoryError, Warning):
        raise
    except Exception as error:  # of a file that is put together as no program does
        raise InputError(
            f"{name} is not read as a checkpoint ({type(error).__name__}: {quote(str(error))}); copy or write it again"
        ) from error


def checkpoint_of(
    name: str,
    contents: Contents,
    image: tuple[int | None, int | None, str | None] = (None, None, None),  # rows, columns, stacking
    dictionaries: tuple[Mapping[str, int] | None, Mapping[str, int] | None] = (None, None),  # entities, relations
) -> Checkpoint:
    """The checkpoint of a state dict, whose tensors it shares, and of what is stored beside it.

    `name` is what errors call it, as those of `load_checkpoint` name the file.
    """
    settings = contents.settings
    layout = detect(name, contents.state, settings)
    tensors = _tensors(name, layout, contents.state)
    sizes = _sizes(name, layout, tensors)
    _check_embeddings(name, settings.get("max_norm"), tensors["entity.weight"])
    _check_norms(name, layout, contents.state, tensors)
    found = resolve_image(name, layout, sizes, settings, *image)
    entities = _dictionary(name, "entity", dictionaries[0], contents.entities)
    relations = _dictionary(name, "relation", dictionaries[1], contents.relations)
    check_entities(name, sizes.num_entities, entities)
    shape: dict[str, Any] = dict(embedding_height=found.height, embedding_width=found.width, stack=found.stack)
    shape["relation_step"] = relation_step(name, layout, sizes.num_relations, contents.relation_step, relations)
    model = _build(name, layout, sizes, shape, settings, tensors)
    epoch = number(settings.get("epoch"))
    return Checkpoint(
        model=model,
        learning_rate=contents.learning_rate,
        epoch=None if epoch is None else int(epoch),
        entity_to_id=entities,
        relation_to_id=relations,
        format=contents.told(layout.name),
        path=name,
        image_reason=found.reason,
    )


def load_model(
    path: str | os.PathLike[str],
    embedding_height: int | None = None,
    embedding_width: int | None = None,
    stack: str | None = None,
    entity_to_id: Any = None,
    relation_to_id: Any = None,
) -> ConvE:
    """The model of `load_checkpoint`, whose arguments these are.

    Example:
        >>> load_model("model.pt")(torch.tensor([[0, 0, 1]])).shape
        torch.Size([1])
    """
    model: ConvE = load_checkpoint(path, embedding_height, embedding_width, stack, entity_to_id, relation_to_id).model
    return model


def _tensors(path: str, layout: Layout, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under our names, all of one floating-point type, every value finite."""
    found = {name: state[key] for name, key in layout.tensors.items() if key in state}
    bad = []
    for name, tensor in found.items():
        key = layout.tensors[name]
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"{path}: {plain(key)} is {told_kind(tensor)}; expected a dense tensor of floating-point numbers: "
                "convert it and write the file again"
            )
        if name.endswith("num_batches_tracked"):
            continue
        if not tensor.is_floating_point():
            raise InputError(f"{path}: {key} has dtype {tensor.dtype}; expected floating-point weights")
        nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        if nan or infinite:
            bad.append(f"{key} has {nan:,} NaN and {infinite:,} infinite of {tensor.numel():,} values")
        elif name.endswith("running_var") and (tensor < 0).any():
            bad.append(f"{key} has negative values")
    if bad:
        raise InputError(f"{path}: {listing(bad)}; take a checkpoint from before the training diverged")
    double = any(tensor.dtype == torch.float64 for tensor in found.values())
    dtype = torch.float64 if double else torch.float32
    for name, tensor in found.items():
        counter = name.endswith("num_batches_tracked")
        found[name] = tensor.detach().to(torch.int64 if counter else dtype).contiguous()
    for norm in NORMS:
        if f"{norm}.running_mean" in found:
            found.setdefault(f"{norm}.num_batches_tracked", torch.tensor(0))
    if "bias" in found and found["bias"].dim() == 2:
        found["bias"] = found["bias"].squeeze(1)
    return found


def _sizes(path: str, layout: Layout, tensors: Mapping[str, Tensor]) -> Sizes:
    for name, dimensions in CORE_DIMENSIONS.items():
        tensor, key = tensors[name], layout.tensors[name]
        if tensor.dim() != dimensions or tensor.numel() == 0:
            raise InputError(
                f"{path}: {key} has shape {tuple(tensor.shape)}; expected {dimensions} dimensions, none of them 0"
            )
    entities, dim = tensors["entity.weight"].shape
    channels, planes, kernel_height, kernel_width = tensors["conv.weight"].shape
    relations, features = len(tensors["relation.weight"]), tensors["fc.weight"].shape[1]
    return Sizes(entities, relations, dim, planes, channels, kernel_height, kernel_width, features)


def _check_embeddings(path: str, stored: Any, entities: Tensor) -> None:
    """AttributionAttack's option shortens an embedding when a head is looked up, in place: scores change on the way."""
    limit = 1.0 if stored is True else number(stored)
    longest = float(entities.norm(dim=1).max())
    if limit is not None and longest > limit * (1 + 1e-4):
        raise InputError(
            f"{path}: an entity's embedding has the norm {longest:.4g}, but the model limits norms to {limit:g} as it "
            "looks embeddings up, so that scores depend on what was looked up before; save it with shortened embeddings"
        )


def _check_norms(path: str, layout: Layout, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Some models make a norm and skip it: its values are those it was made with, and no batch was counted."""
    counters = {norm: f"{norm}.num_batches_tracked" for norm in NORMS}
    seen = {norm: int(tensors[name]) for norm, name in counters.items() if layout.tensors.get(name) in state}
    made = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    for norm, batches in seen.items():
        stored = [(tensors[name], value) for end, value in made.items() if (name := f"{norm}.{end}") in tensors]
        if batches == 0 < max(seen.values()) and all(bool((values == value).all()) for values, value in stored):
            key = layout.tensors[f"{norm}.running_mean"].removesuffix(".running_mean")
            raise InputError(
                f"{path}: {key} saw none of the {max(seen.values()):,} batches of the training, so the model stores it "
                f"and seems not to use it, and TracIn would; remove the tensors of {key} from the state dict, or only "
                f"{key}.num_batches_tracked if the model does use it"
            )


def _build(
    path: str,
    layout: Layout,
    sizes: Sizes,
    shape: Mapping[str, Any],
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> ConvE:
    config = {key: value for key, value in asdict(sizes).items() if key not in ("input_channels", "features")}
    config |= {norm: f"{norm}.running_mean" in tensors for norm in NORMS}
    norms = [norm for norm in NORMS if config[norm]]
    config["batch_norm_affine"] = not norms or any(f"{norm}.weight" in tensors for norm in norms)
    biases = {"conv_bias": "conv.bias", "fc_bias": "fc.bias", "entity_bias": "bias"}
    config |= {**{name: key in tensors for name, key in biases.items()}, **shape}
    rates = {name: number(settings.get(name)) for name in DROPOUTS}
    config |= {name: rate for name, rate in rates.items() if rate is not None and 0 <= rate <= 1}
    with torch.device("meta"):  # no memory and no random numbers for values that the file's replace
        model = ConvE(**config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for norm in NORMS:
        if not config[norm] and f"{norm}.weight" in tensors:
            raise InputError(
                f"{path}: {plain(layout.keys[norm])} has a weight but no running_mean; TracIn computes batch norms in "
                "eval mode: is it a LayerNorm, or is the file incomplete?"
            )
    missing = [layout.tensors[name] for name in expected if name not in tensors]
    if missing:
        raise InputError(f"{path} lacks {listing(missing)}; is the file complete?")
    wrong = [
        f"{layout.tensors[name]} is {tuple(tensor.shape)} where {expected.get(name, 'none')} is expected"
        for name, tensor in tensors.items()
        if tuple(tensor.shape) != expected.get(name)
    ]
    if wrong:
        raise InputError(
            f"{path}: shapes disagree: {listing(wrong)}, for {sizes.num_entities} entities of {sizes.embedding_dim} "
            f"values and {sizes.output_channels} channels; was the file put together from two models?"
        )
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


def _dictionary(path: str, kind: str, given: Mapping[str, int] | None, stored: Any) -> dict[str, int] | None:
    """The dictionary given, else the stored one, in the order of ids; None if there is neither."""
    found = stored_dictionary(path, kind, stored) if given is None else given
    return None if found is None else in_id_order(kind, found)
