"""Training-data attribution for ConvE knowledge-graph models: exact TracIn influences from checkpoint files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracin import index as index
    from tracin.auditing.audit import Audit, audit
    from tracin.checkpoints.load import Checkpoint, load_checkpoint, load_model
    from tracin.checkpoints.save import save_checkpoint
    from tracin.checkpoints.several import load_checkpoints
    from tracin.errors import InputError
    from tracin.explanation.answer import Explanation
    from tracin.explanation.ask import explain
    from tracin.index.query import Index
    from tracin.influence.top_k import TopK
    from tracin.influence.tracin import TracIn
    from tracin.machine import info
    from tracin.model import ConvE
    from tracin.pykeen import from_pykeen
    from tracin.results.frames import self_influence_frame
    from tracin.training.loop import train
    from tracin.triples.dictionaries import read_dictionary
    from tracin.triples.read import read_triples

    __version__: str

__all__ = [
    "Audit", "Checkpoint", "ConvE", "Explanation", "Index", "InputError", "TopK", "TracIn", "audit", "explain",
    "from_pykeen", "info", "load_checkpoint", "load_checkpoints", "load_model", "read_dictionary", "read_triples",
    "save_checkpoint", "self_influence_frame", "train",
]  # fmt: skip

# Where the public names are: a module is imported with the first use of one, PyTorch with it.
_MODULES = {
    "Audit": "auditing.audit",
    "Checkpoint": "checkpoints.load",
    "ConvE": "model",
    "Explanation": "explanation.answer",
    "Index": "index.query",
    "InputError": "errors",
    "TopK": "influence.top_k",
    "TracIn": "influence.tracin",
    "audit": "auditing.audit",
    "explain": "explanation.ask",
    "from_pykeen": "pykeen",
    "info": "machine",
    "load_checkpoint": "checkpoints.load",
    "load_checkpoints": "checkpoints.several",
    "load_model": "checkpoints.load",
    "read_dictionary": "triples.dictionaries",
    "read_triples": "triples.read",
    "save_checkpoint": "checkpoints.save",
    "self_influence_frame": "results.frames",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = import_module("tracin.machine").version()
    elif name == "index":
        value = import_module("tracin.index")
    elif name in _MODULES:
        value = getattr(import_module(f"tracin.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module 'tracin' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, not what their modules import."""
    return [*__all__, "__version__"]
