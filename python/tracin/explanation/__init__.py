"""Why a model predicts a triple: reasons from its training triples, by name, for people to read."""

from tracin.explanation.answer import Explanation
from tracin.explanation.ask import Explainer, explain

__all__ = ["Explainer", "Explanation", "explain"]
