"""PyKEEN models in memory: a ConvE becomes ours, any other is scored by its own code. PyKEEN is never imported."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tracin.checkpoints.contents import Contents
from tracin.checkpoints.layouts import detect
from tracin.checkpoints.load import Checkpoint, checkpoint_of
from tracin.errors import InputError

PLAIN = (bool, int, float, str)


def is_pykeen(model: object) -> bool:
    """Whether it is a PyKEEN model, told from its methods, or the result of a PyKEEN pipeline."""
    return _is_model(model) or _is_result(model)


def _is_model(value: object) -> bool:
    names = ("score_hrt", "use_inverse_triples", "num_entities", "num_real_relations")
    return isinstance(value, nn.Module) and all(hasattr(value, name) for name in names)


def _is_result(value: object) -> bool:
    """Whether it holds a model and the factory that it was trained with."""
    return not isinstance(value, nn.Module) and hasattr(value, "training") and _is_model(getattr(value, "model", None))


def relation_step(model: Any) -> int:
    """PyKEEN's own id of relation r is relation_step * r: with inverse triples, that of its inverse is 2 r + 1."""
    return 2 if model.use_inverse_triples else 1


class TripleScorer(nn.Module):
    """A copy, in eval mode, of a PyKEEN model: maps triples to scores; its parameters keep their names.

    Args:
        model: any PyKEEN model.

    Raises:
        InputError: if the model cannot be copied, or has parameters outside its submodules.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        kind = type(model).__name__
        if outside := [name for name, _ in model.named_parameters(recurse=False)]:
            raise InputError(f"{kind} has parameters outside submodules, which are not handled: {', '.join(outside)}")
        try:
            model = copy.deepcopy(model).eval()
        except RuntimeError as error:  # of tensors with a history, such as cached representations
            raise InputError(f"this {kind} cannot be copied ({error}); load it anew, without what it caches") from error
        self.num_entities: int = model.num_entities
        self.num_relations: int = model.num_real_relations
        self.relation_step = relation_step(model)
        self.config = {  # what tells it from others with the same weights
            name: (type(module).__name__, [item for item in vars(module).items() if isinstance(item[1], PLAIN)])
            for name, module in model.named_modules()
        }
        for child_name, child in model.named_children():
            self.add_module(child_name, child)
        self._score = model.score_hrt  # the model itself is no submodule, or all names would begin with its own

    def forward(
        self,
        triples: Tensor,  # [B, 3] head, relation, tail
    ) -> Tensor:  # [B]
        """Scores of triples."""
        heads, relations, tails = triples.unbind(1)
        scores: Tensor = self._score(torch.stack([heads, self.relation_step * relations, tails], 1))
        return scores.squeeze(1)


def __getattr__(name: str) -> Any:
    """TracInCallback, which needs PyKEEN."""
    if name == "TracInCallback":
        from tracin.callbacks import TracInCallback

        return TracInCallback
    raise AttributeError(f"module 'tracin.pykeen' has no attribute {name!r}")


def from_pykeen(model: Any, triples_factory: Any = None) -> Checkpoint:
    """A PyKEEN model as it is now, for `tracin.TracIn`; training it further does not change the result.

    A ConvE becomes a `tracin.ConvE` and runs on every backend. Any other model is scored by its own `score_hrt` and
    runs on the backends that build gradients, vectorized and sequential.

    Args:
        model: a PyKEEN model, or the result of `pykeen.pipeline.pipeline`. Relation ids of triples are those of its
            factory, also with inverse triples.
        triples_factory: the factory it was trained with, for the dictionaries of labels; None: that of the result, of a
            model alone no dictionaries.

    Returns:
        The model in eval mode, a ConvE on the CPU; learning_rate and epoch are None.

    Raises:
        InputError: if it is no PyKEEN model, the factory is another model's, or a weight is not finite.

    Example:
        >>> result = pykeen.pipeline.pipeline(dataset="nations", model="ConvE")
        >>> TracIn(from_pykeen(result)).top_k(result.training, test)
    """
    if _is_result(model):
        triples_factory = model.training if triples_factory is None else triples_factory
        model = model.model
    if not _is_model(model):
        raise InputError(f"model is a {type(model).__name__}; expected a PyKEEN model")
    name = f"PyKEEN {type(model).__name__}"
    dictionaries = (None, None) if triples_factory is None else _dictionaries(name, model, triples_factory)
    if _is_plain_conve(model):
        state = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
        shape = model.interaction.shape_info
        settings = {"image_height": shape.image_height, "image_width": shape.image_width}
        contents = Contents(state, settings, name, relation_step=relation_step(model))
        checkpoint = replace(checkpoint_of(name, contents, dictionaries=dictionaries), path="")
        _freeze_alike(checkpoint.model, model)
        return checkpoint
    return Checkpoint(TripleScorer(model), None, None, *dictionaries, format=name)


def _freeze_alike(ours: nn.Module, theirs: nn.Module) -> None:
    """What is frozen (requires_grad False) in a model is frozen in the ConvE made of it."""
    trained = {name: parameter.requires_grad for name, parameter in theirs.named_parameters()}
    keys = detect("", theirs.state_dict(), {}).tensors
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(trained[keys[name]])


def _is_plain_conve(model: Any) -> bool:
    """Whether our ConvE computes the same from its state dict."""
    interaction = getattr(model, "interaction", None)
    if type(interaction).__name__ != "ConvEInteraction" or not hasattr(interaction, "shape_info"):
        return False
    tables = [*model.entity_representations, *model.relation_representations]
    if any(getattr(table, "normalizer", None) is not None for table in tables):
        return False
    try:
        detect("", model.state_dict(), {})
    except InputError:  # of representations that are no plain tables
        return False
    return True


def _dictionaries(name: str, model: Any, factory: Any) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    """label -> id of entities and relations, in the order of ids; None of a factory without labels."""
    found: list[dict[str, int] | None] = []
    sizes = (
        ("entity", "entities", "num_entities", "num_entities"),
        ("relation", "relations", "num_real_relations", "real_num_relations"),
    )
    for kind, kinds, ours, theirs in sizes:
        expected, size = getattr(model, ours), getattr(factory, theirs, None)
        if size != expected:
            raise InputError(
                f"{name} has {expected} {kinds}, its triples factory {size}; give the factory it was trained with"
            )
        labels = getattr(factory, f"{kind}_to_id", None)
        found.append(None if labels is None else dict(sorted(labels.items(), key=lambda item: item[1])))
    return found[0], found[1]
