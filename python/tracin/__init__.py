"""Training-data attribution for ConvE knowledge-graph models: exact TracIn influences from checkpoint files."""

from tracin.checkpoints import Checkpoint, load_checkpoint, load_model, save_checkpoint
from tracin.dictionaries import read_dictionary
from tracin.errors import InputError
from tracin.frames import self_influence_frame
from tracin.influence import TracIn
from tracin.info import info
from tracin.model import ConvE
from tracin.pykeen_models import from_pykeen
from tracin.top_k import TopK
from tracin.training import train
from tracin.triples import read_triples

__all__ = [
    "Checkpoint", "ConvE", "InputError", "TopK", "TracIn", "from_pykeen", "info", "load_checkpoint", "load_model",
    "read_dictionary", "read_triples", "save_checkpoint", "self_influence_frame", "train",
]  # fmt: skip

__version__: str = info()["version"]
