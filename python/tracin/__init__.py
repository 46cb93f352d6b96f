"""Training-data attribution for ConvE knowledge-graph models: exact TracIn influences from checkpoint files."""

from tracin.checkpoints.load import Checkpoint, load_checkpoint, load_model
from tracin.checkpoints.save import save_checkpoint
from tracin.errors import InputError
from tracin.influence.top_k import TopK
from tracin.influence.tracin import TracIn
from tracin.machine import info
from tracin.model import ConvE
from tracin.pykeen import from_pykeen
from tracin.results.frames import self_influence_frame
from tracin.training.loop import train
from tracin.triples.dictionaries import read_dictionary
from tracin.triples.read import read_triples

__all__ = [
    "Checkpoint", "ConvE", "InputError", "TopK", "TracIn", "from_pykeen", "info", "load_checkpoint", "load_model",
    "read_dictionary", "read_triples", "save_checkpoint", "self_influence_frame", "train",
]  # fmt: skip

__version__: str = info()["version"]


def __dir__() -> list[str]:
    """The public names, not what their modules import."""
    return [*__all__, "__version__"]
