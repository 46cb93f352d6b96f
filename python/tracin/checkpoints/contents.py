"""What a checkpoint file holds, whoever wrote it: a state dict, settings, labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tracin.checkpoints.file_kinds import is_safetensors
from tracin.checkpoints.layouts import IGNORED, LAYER_KEYS, has_core, listing
from tracin.checkpoints.libkge import LIBKGE_KEYS, libkge_settings, plain_libkge_state
from tracin.checkpoints.modules import is_module, settings_of_module, state_of, uncompiled
from tracin.checkpoints.safetensors_files import read_safetensors
from tracin.checkpoints.settings import entries_of, learning_rate_of, settings_of
from tracin.checkpoints.torch_files import head_of, read_torch_file
from tracin.digests import CHECKSUM, intact, is_digest
from tracin.errors import InputError, plain, quote
from tracin.model import CONFIG_KEY
from tracin.safe_pickle import Foreign, OrderedItems
from tracin.triples.dictionaries import read_dictionary

OWN_FORMAT, OWN_VERSION = "tracin", 2  # from version 2 on with a checksum
DROPOUTS = ("input_dropout", "feature_dropout", "hidden_dropout")
PYKEEN_MODEL = "trained_model.pkl"  # of a folder that PyKEEN's save_to_directory wrote
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".model", ".gz")
STATE_NAMES = ("state_dict", "model_state_dict")  # of the weights among what else a checkpoint holds
MODEL_NAMES = ("model", "net", "network", "module")
ARRAY = "a NumPy array or number"


@dataclass
class Contents:
    """A checkpoint file taken apart.

    Args:
        state: the state dict, with keys as LAYOUTS has them; what is no tensor too, where a layer has that name.
        settings: everything stored beside it, flat.
        kind: what the file is, where that is more than the state dict's own name.
        entities, relations: the labels stored, as a list or as label -> id; None if there are none.
        relation_step: rows from relation r to r + 1, if the file says so.
        learning_rate: that training had reached.
        notes: what people should know of how the file was read.
    """

    state: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    entities: Any = None
    relations: Any = None
    relation_step: int | None = None
    learning_rate: float | None = None
    notes: list[str] = field(default_factory=list)

    def told(self, name: str) -> str:
        """What the file is, for people; `name` is that of its state dict."""
        return "; ".join([self.kind or name, *self.notes])


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
        return unpack(path, read_safetensors(path) if is_safetensors(head_of(path)) else read_torch_file(path))
    if not (folder / PYKEEN_MODEL).is_file():
        raise _other_folder(folder)
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


def _other_folder(folder: Path) -> InputError:
    files = sorted(file.name for file in os.scandir(folder) if file.name.endswith(WEIGHT_FILES) and file.is_file())
    remedy = (
        f"name the checkpoint in it: {listing(files)}" if files else "expected a checkpoint file, or PyKEEN's folder"
    )
    return InputError(f"{folder} is a folder without {PYKEEN_MODEL}, as PyKEEN's save_to_directory has it; {remedy}")


def unpack(path: str, content: Any) -> Contents:
    """Takes apart what `read_torch_file` read."""
    if isinstance(content, Mapping):
        check_intact(path, content)
    if is_module(content):
        return _of_module(path, content)
    if isinstance(content, (list, tuple)):
        return _of_parts(path, content)
    entries = entries_of(content)
    if not isinstance(content, Mapping) and not _models_in(entries):
        what = plain(content.name) if isinstance(content, Foreign) else type(content).__name__
        raise InputError(f"{path} holds a {what}; expected a state dict or a model")
    if entries.get("type") in ("train", "package") and "model" in entries:
        return _of_libkge(path, entries)
    name, *others = _chosen(path, entries)
    if name is None:
        return _of_state(path, content)
    contents = _model(path, entries[name])
    settings = settings_of(entries)
    if settings.get("format") == OWN_FORMAT:
        return _of_own(path, contents.state, settings)
    contents.settings = _foreign_settings({**contents.settings, **settings})
    contents.kind = _pykeen_kind(content) or contents.kind
    if name not in STATE_NAMES:
        contents.notes.append(f"the weights under {quote(name)}")
    if others:
        contents.notes.append(f"those under {listing(map(quote, others))} are not read")
    if isinstance(entries.get("best_epoch_model_checkpoint"), Mapping):
        contents.notes.append("the weights of its last epoch, not those of the best")
    contents.entities, contents.relations = entries.get("entity_to_id_dict"), entries.get("relation_to_id_dict")
    if isinstance(factory := entries.get("training"), Foreign):
        _take_factory(contents, factory)
    _take_rate(path, contents, entries)
    return contents


def _model(path: str, value: Any) -> Contents:
    return _of_module(path, value) if is_module(value) else _of_state(path, value)


def _take_rate(path: str, contents: Contents, entries: Any) -> None:
    contents.learning_rate, note = learning_rate_of(path, entries, contents.settings)
    contents.notes += [note] if note else []


def _take_factory(contents: Contents, factory: Foreign) -> None:
    """The labels of PyKEEN's triples factory, in a pickled PipelineResult."""
    contents.kind = "PyKEEN pipeline result"
    for kind, attribute in (("entity", "entities"), ("relation", "relations")):
        labels = entries_of(factory.attributes.get(f"{kind}_labeling")).get("label_to_id")
        setattr(contents, attribute, labels)


def _models_in(entries: Mapping[Any, Any]) -> list[Any]:
    """The names under which there is a module, or a state dict with a convolution."""
    return [name for name, value in entries.items() if is_module(value) or _is_state(value)]


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) and item.dim() == 4 for item in value.values())


def _chosen(path: str, entries: Mapping[Any, Any]) -> list[Any]:
    """The name of the model that is read, then those of other models; None first if the entries are the state dict."""
    models = _models_in(entries)
    named = [name for name in STATE_NAMES if isinstance(entries.get(name), Mapping)]
    named = named or [name for name in MODEL_NAMES if name in models] or models
    if not named:
        return [None]
    if len(named) > 1 and named[0] not in STATE_NAMES + MODEL_NAMES:
        raise InputError(
            f"{path} holds several models, {listing(map(quote, named))}; write the one you mean into a file of its "
            f"own: torch.save(content[{quote(named[0])}], ...)"
        )
    return [named[0], *(name for name in models if name != named[0])]


def _of_parts(path: str, content: list[Any] | tuple[Any, ...]) -> Contents:
    """A list or tuple of a model and other things, such as an optimizer's state."""
    models = [part for part in content if is_module(part) or _is_state(part)]
    if len(models) != 1:
        holds = f"{len(models)} models" if models else "no model"
        raise InputError(
            f"{path} holds a {type(content).__name__} of {len(content)} parts with {holds}; expected a state dict or a "
            "model"
        )
    contents = _model(path, models[0])
    contents.notes.append(f"the model in a {type(content).__name__} of {len(content)} parts")
    others = [entries for part in content if part is not models[0] and (entries := entries_of(part))]
    optimizers = [{"optimizer": entries} for entries in others if "param_groups" in entries]
    for entries in others:
        contents.settings = {**_foreign_settings(settings_of(entries)), **contents.settings}
    for entries in (*optimizers, *others):
        if contents.learning_rate is None:
            _take_rate(path, contents, entries)
    return contents


def _of_state(path: str, content: Any) -> Contents:
    """A state dict; entries that are no tensors are settings, unless they have the name of a layer's tensor."""
    entries = {key if isinstance(key, str) else quote(key): value for key, value in entries_of(content).items()}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    if entries and not tensors:
        arrays = [key for key, value in entries.items() if told_kind(value) == ARRAY]
        what = f"no tensors: {arrays[0]} is {ARRAY}" if arrays else listing(entries)
        raise InputError(
            f"{path} holds {what}; expected a state dict of tensors, alone or as 'state_dict' or 'model_state_dict'"
        )
    prefix = common_prefix(tensors)
    state = {key.removeprefix(prefix): value for key, value in tensors.items()}
    foreign = {key.removeprefix(prefix): value for key, value in entries.items() if key not in tensors}
    state |= {key: value for key, value in foreign.items() if key in LAYER_KEYS or _is_array(value)}
    settings = {key: value for key, value in foreign.items() if key not in state}
    contents = Contents(state, settings)
    if any(key.startswith(LIBKGE_KEYS) for key in state):
        contents.state = plain_libkge_state(path, state)
    if prefix:
        contents.notes.append(f"keys without their beginning {quote(prefix)}")
    if settings:
        _take_rate(path, contents, settings)
    config = _own_config(content, prefix)
    if config is not None:
        contents.settings = {**settings, **config}
        contents.relation_step = 2 if config.get("relation_step") == 2 else 1
    return contents


def _is_array(value: Any) -> bool:
    """Whether it is a tensor of another kind: what it is called then decides."""
    return isinstance(value, Foreign) and value.name.startswith(("torch._utils._rebuild", "torch.Tensor"))


def told_kind(value: Any) -> str:
    """What an entry of a state dict is that is no dense tensor."""
    if not isinstance(value, Foreign):
        return f"a {type(value).__name__}"
    arguments = value.arguments if isinstance(value.arguments, tuple) else ()
    inner = [argument.name for argument in arguments if isinstance(argument, Foreign)]
    if "sparse" in value.name:
        return "a sparse tensor"
    if value.name.startswith("numpy."):
        return ARRAY
    if value.name.startswith("torch.") and "_rebuild" in value.name or value.name == "torch.Tensor":
        return f"a tensor of {plain(inner[-1])}" if inner else "a tensor of another kind"
    return f"a {plain(value.name)}"


def _own_config(content: Any, prefix: str) -> Mapping[Any, Any] | None:
    """The shape that a ConvE of this package leaves in its state dict, see `tracin.model`."""
    if not isinstance(content, OrderedItems):
        return None
    metadata = entries_of(entries_of(content.state).get("_metadata")).get(prefix[:-1])
    config = entries_of(metadata).get(CONFIG_KEY)
    return config if isinstance(config, Mapping) else None


def common_prefix(keys: Any) -> str:
    """The beginning, up to a dot, that wrappers gave all keys of a ConvE; "" if there is none."""
    names = [key for key in keys if not any(ignored in key for ignored in IGNORED)]
    prefix = os.path.commonprefix(names)
    prefix = prefix[: prefix.rfind(".") + 1]
    return prefix if prefix and not has_core(names) and has_core(name.removeprefix(prefix) for name in names) else ""


def check_intact(path: str, content: Mapping[Any, Any]) -> None:
    """Raises InputError if a file of our own is not as it was written; those of version 1 cannot tell."""
    version = content.get("version") if content.get("format") == OWN_FORMAT else None
    if (version == OWN_VERSION or is_digest(content.get(CHECKSUM))) and not intact(content):
        raise InputError(f"{path} is damaged: its content does not match its checksum; copy or save it anew")


def _foreign_settings(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without names that mean other things elsewhere than in files of our own."""
    return {key: value for key, value in settings.items() if key not in DROPOUTS}


def _pykeen_kind(content: Any) -> str | None:
    if not isinstance(content, Mapping):
        return None
    if "relation_to_id_dict" in content and "model_state_dict" in content:
        return "PyKEEN training-loop checkpoint"
    if set(content) == {"state_dict", "version"}:
        return "PyKEEN callback checkpoint"
    return None


def _of_own(path: str, state: dict[str, Any], settings: dict[str, Any]) -> Contents:
    if settings.get("version") not in (1, OWN_VERSION):
        raise InputError(
            f"{path} has version {quote(settings.get('version'))} of the tracin format; this release reads versions 1 "
            f"to {OWN_VERSION}: please upgrade"
        )
    step = 2 if settings.get("relation_step") == 2 else 1
    contents = Contents(state, settings, None, settings.get("entities"), settings.get("relations"), step)
    _take_rate(path, contents, {"learning_rate": settings.get("learning_rate")})
    return contents


def _of_libkge(path: str, content: Mapping[Any, Any]) -> Contents:
    model = content["model"]
    state = model[0] if isinstance(model, (tuple, list)) and model else model
    if not isinstance(state, Mapping):
        raise InputError(f"{path} is a LibKGE {content['type']} file without a model; is it a file of a search job?")
    state = plain_libkge_state(path, {str(key): value for key, value in state.items() if isinstance(key, str)})
    settings = libkge_settings(path, content.get("config"), state) | {"epoch": content.get("epoch")}
    kind = "LibKGE package" if content["type"] == "package" else "LibKGE checkpoint"
    contents = Contents(state, settings, kind)
    dataset = content.get("dataset")
    meta = dataset.get("meta") if isinstance(dataset, Mapping) else None
    if isinstance(meta, Mapping):
        contents.entities, contents.relations = meta.get("entity_ids"), meta.get("relation_ids")
    if type(content.get("epoch")) is int:
        contents.notes.append(f"the weights after epoch {content['epoch']}")
    _take_rate(path, contents, {name: content.get(name) for name in ("optimizer_state_dict", "lr")})
    return contents


def _of_module(path: str, module: Foreign) -> Contents:
    """The state dict of a pickled torch.nn.Module."""
    whole = uncompiled(module)
    state, modules = state_of(path, whole)
    prefix = common_prefix(state)
    inner = modules.get(prefix, whole)
    framework = "PyKEEN" if inner.name.startswith("pykeen.") else "PyTorch"
    contents = Contents(
        {key.removeprefix(prefix): value for key, value in state.items()},
        _foreign_settings(settings_of(settings_of_module(modules, prefix))),
        f"whole pickled {framework} model",
        relation_step=_step(inner.attributes.get("use_inverse_triples")),
    )
    if prefix or whole is not module:
        contents.notes.append(f"without {plain(module.name.rpartition('.')[2])} around it")
    return contents


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
    if len(ids) != len(stored) or not _is_unicode(ids):
        raise _damaged_labels(path, kind)
    return ids


def _is_unicode(labels: Mapping[str, int]) -> bool:
    """Whether every label can be written to a file; a pickle may hold halves of characters."""
    try:
        "".join(labels).encode()
    except UnicodeEncodeError:
        return False
    return True


def _damaged_labels(path: str, kind: str) -> InputError:
    return InputError(f"{path}: the stored {kind} labels are damaged; give the {kind} dictionary as a file")
