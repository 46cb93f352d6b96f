"""A ConvE trained from triples, its filtered ranking, and the check that model and triples belong together."""

from tracin.training.loop import TrainingOptions, train
from tracin.training.ranking import Ranking, evaluate

__all__ = ["Ranking", "TrainingOptions", "evaluate", "train"]
