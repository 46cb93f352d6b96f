"""A small local page to look around in a model: search an entity, ask for its relations, see why."""

from tracin.exploring.pages import Explorer
from tracin.exploring.server import serve

__all__ = ["Explorer", "serve"]
