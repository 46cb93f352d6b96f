"""What a checkpoint file holds, whoever wrote it: a state dict, settings, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tracin.checkpoints.layouts import IGNORED, listing
from tracin.checkpoints.libkge import LIBKGE_KEYS, libkge_settings, plain_libkge_state
from tracin.checkpoints.torch_files import read_torch_file
from tracin.digests import CHECKSUM, intact, is_digest
from tracin.errors import InputError, plain, quote
from tracin.safe_pickle import Foreign
from tracin.triples.dictionaries import read_dictionary

OWN_FORMAT, OWN_VERSION = "tracin", 2  # from version 2 on with a checksum
DROPOUTS = ("input_dropout", "feature_dropout", "hidden_dropout")
PYKEEN_MODEL = "trained_model.pkl"  # of a folder that PyKEEN's save_to_directory wrote
MAX_PARTS = 10_000  # of a pickled model; a file may name the same module within itself
MAX_KEY = 1_000  # characters of a state dict's key
# What a pickled module says of its own computation, and the only values that ConvE computes with.
MODULE_SETTINGS = {
    "eps": (1e-5,),
    "track_running_stats": (True,),
    "stride": (1, (1, 1)),
    "padding": (0, (0, 0)),
    "dilation": (1, (1, 1)),
    "groups": (1,),
    "normalizer": (None,),
    "max_norm": (None,),
}


@dataclass
class Contents:
    """A checkpoint file taken apart.

    Args:
        state: the state dict, with keys as LAYOUTS has them.
        settings: everything stored beside it, flat.
        kind: what the file is, where that is more than the state dict's own name.
        entities, relations: the labels stored, as a list or as label -> id; None if there are none.
        relation_step: rows from relation r to r + 1, if the file says so.
    """

    state: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    entities: Any = None
    relations: Any = None
    relation_step: int | None = None


def read_contents(path: str, entities: bool = True, relations: bool = True) -> Contents:
    """Takes apart a checkpoint file, or the folder of PyKEEN's save_to_directory.

    Args:
        path: file or folder.
        entities, relations: False leaves a dictionary alone that lies in a file of its own.

    Raises:
        InputError: if there is none, or it is damaged, unsafe, or holds no state dict.
    """
    folder = Path(path)
    if not folder.is_dir():
        return unpack(path, read_torch_file(path))
    if not (folder / PYKEEN_MODEL).is_file():
        raise InputError(f"{path} is a folder without {PYKEEN_MODEL}; expected a checkpoint file, or a PyKEEN folder")
    contents = read_contents(str(folder / PYKEEN_MODEL))
    contents.kind = "PyKEEN save_to_directory folder"
    triples = folder / "training_triples"
    if (triples / "base.pth").is_file():
        factory = read_torch_file(str(triples / "base.pth"))
        step = _step(factory.get("create_inverse_triples")) if isinstance(factory, dict) else None
        if None not in (step, contents.relation_step) and step != contents.relation_step:
            raise InputError(
                f"{path}: {PYKEEN_MODEL} and training_triples disagree on inverse triples; is it one run's?"
            )
        contents.relation_step = step or contents.relation_step
    for wanted, name, attribute in ((entities, "entity", "entities"), (relations, "relation", "relations")):
        file = triples / f"{name}_to_id.tsv.gz"
        if wanted and file.is_file():
            setattr(contents, attribute, read_dictionary(file))
    return contents


def unpack(path: str, content: Any) -> Contents:
    """Takes apart what `read_torch_file` read."""
    if isinstance(content, Mapping):
        check_intact(path, content)
    if isinstance(content, Foreign) and "_modules" in content.attributes:
        return _unpack_module(path, content)
    if not isinstance(content, Mapping):
        what = plain(content.name) if isinstance(content, Foreign) else type(content).__name__
        raise InputError(f"{path} holds a {what}; expected a state dict or a model")
    if content.get("type") in ("train", "package") and "model" in content:
        return _unpack_libkge(path, content)
    wrapped = next((key for key in ("state_dict", "model_state_dict") if isinstance(content.get(key), Mapping)), None)
    if wrapped is None and not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            f"{path} holds {listing(map(str, content))}; expected a state dict, alone or as 'state_dict' or "
            "'model_state_dict'"
        )
    state = {str(key): value for key, value in (content if wrapped is None else content[wrapped]).items()}
    if any(key.startswith(LIBKGE_KEYS) for key in state):
        state = plain_libkge_state(path, state)
    if wrapped is None:
        return Contents(state)
    settings: dict[str, Any] = {}
    for part in (content.get("args"), content.get("config"), content.get("model_config"), content):
        settings |= part if isinstance(part, Mapping) else {}
    if settings.get("format") == OWN_FORMAT:
        return _unpack_own(path, state, settings)
    contents = Contents(state, _foreign_settings(settings), _pykeen_kind(content))
    contents.entities = content.get("entity_to_id_dict")
    contents.relations = content.get("relation_to_id_dict")
    return contents


def check_intact(path: str, content: Mapping[Any, Any]) -> None:
    """Raises InputError if a file of our own is not as it was written; those of version 1 cannot tell."""
    version = content.get("version") if content.get("format") == OWN_FORMAT else None
    if (version == OWN_VERSION or is_digest(content.get(CHECKSUM))) and not intact(content):
        raise InputError(f"{path} is damaged: its content does not match its checksum; copy or save it anew")


def _foreign_settings(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without names that mean other things elsewhere than in files of our own."""
    return {key: value for key, value in settings.items() if key not in DROPOUTS}


def _pykeen_kind(content: Mapping[Any, Any]) -> str | None:
    if "relation_to_id_dict" in content and "model_state_dict" in content:
        return "PyKEEN training-loop checkpoint"
    if set(content) == {"state_dict", "version"}:
        return "PyKEEN callback checkpoint"
    return None


def _unpack_own(path: str, state: dict[str, Any], settings: dict[str, Any]) -> Contents:
    if settings.get("version") not in (1, OWN_VERSION):
        raise InputError(
            f"{path} has version {quote(settings.get('version'))} of the tracin format; this release reads versions 1 "
            f"to {OWN_VERSION}: please upgrade"
        )
    step = 2 if settings.get("relation_step") == 2 else 1
    return Contents(state, settings, None, settings.get("entities"), settings.get("relations"), step)


def _unpack_libkge(path: str, content: Mapping[str, Any]) -> Contents:
    model = content["model"]
    state = model[0] if isinstance(model, (tuple, list)) and model else model
    if not isinstance(state, Mapping):
        raise InputError(f"{path} is a LibKGE {content['type']} file without a model; is it a file of a search job?")
    state = plain_libkge_state(path, {str(key): value for key, value in state.items()})
    settings = libkge_settings(path, content.get("config"), state) | {"epoch": content.get("epoch")}
    kind = "LibKGE package" if content["type"] == "package" else "LibKGE checkpoint"
    contents = Contents(state, settings, kind)
    dataset = content.get("dataset")
    meta = dataset.get("meta") if isinstance(dataset, Mapping) else None
    if isinstance(meta, Mapping):
        contents.entities, contents.relations = meta.get("entity_ids"), meta.get("relation_ids")
    return contents


def _unpack_module(path: str, module: Foreign) -> Contents:
    """The state dict of a pickled torch.nn.Module, from the attributes that every module has."""
    state: dict[str, Any] = {}
    settings = _foreign_settings(module.attributes)
    waiting = [("", module)]
    parts = 0
    while waiting:
        prefix, part = waiting.pop()
        attributes = part.attributes
        if not any(ignored in prefix for ignored in IGNORED):
            _check_module(path, prefix, attributes)
        transient = attributes.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers", "_modules"):
            owned = attributes.get(kind)
            owned = owned if isinstance(owned, dict) else {}
            parts += 1 + len(owned)
            if parts > MAX_PARTS or len(prefix) > MAX_KEY:
                raise InputError(f"{path} is a pickled model of more than {MAX_PARTS:,} parts; is it a ConvE?")
            for name, value in owned.items():
                if isinstance(value, Foreign) and kind == "_modules":
                    waiting.append((f"{prefix}{name}.", value))
                elif isinstance(value, Tensor) and not (isinstance(transient, set) and name in transient):
                    state[f"{prefix}{name}"] = value
        if isinstance(shape := attributes.get("shape_info"), Foreign):  # of PyKEEN's interaction
            settings |= shape.attributes
    framework = "PyKEEN" if module.name.startswith("pykeen.") else "PyTorch"
    step = _step(module.attributes.get("use_inverse_triples"))
    return Contents(state, settings, f"whole pickled {framework} model", relation_step=step)


def _check_module(path: str, prefix: str, attributes: Mapping[str, Any]) -> None:
    for name, allowed in MODULE_SETTINGS.items():
        value = attributes.get(name, allowed[0])
        if not any(type(value) is type(usual) and value == usual for usual in allowed):
            raise InputError(
                f"{path}: {plain(prefix[:-1] or 'the model')} has {name} = {quote(value)} where TracIn computes with "
                f"{allowed[0]}; the scores would differ"
            )


def _step(inverse: Any) -> int | None:
    """Rows between relations of a PyKEEN model, from whether it has inverse triples."""
    return (2 if inverse else 1) if isinstance(inverse, bool) else None


def stored_dictionary(path: str, kind: str, stored: Any) -> dict[str, int] | None:
    """Label -> id from what a file holds: a list of labels in the order of ids, or the dictionary; None from None."""
    if stored is None:
        return None
    numbers = stored.values() if isinstance(stored, dict) else ()
    if not isinstance(stored, (list, dict)) or not (
        set(map(type, stored)) <= {str} and set(map(type, numbers)) <= {int}
    ):
        raise _damaged_labels(path, kind)
    ids = stored if isinstance(stored, dict) else {label: row for row, label in enumerate(stored)}
    if len(ids) != len(stored):
        raise _damaged_labels(path, kind)
    return ids


def _damaged_labels(path: str, kind: str) -> InputError:
    return InputError(f"{path}: the stored {kind} labels are damaged; give the {kind} dictionary as a file")
