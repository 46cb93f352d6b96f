"""What is asked of `TracIn`: its arguments method, query, direction, normalize and the correction's, checked."""

from __future__ import annotations

import difflib
import warnings
from typing import Any

import torch

from tracin.errors import InputError, quote
from tracin.influence.arguments import resolve_backend
from tracin.influence.directions import check_direction, has_inverses
from tracin.influence.fisher import NORMALIZE, Correction, Question
from tracin.model import ConvE
from tracin.triples.labels import Dictionaries
from tracin_ext.backends import Job
from tracin_ext.embeddings import LAYERS
from tracin_ext.tail_losses import Against, LossOptions, TailLoss

METHODS = ("tracin", "accurate")
QUERIES = ("bce", "ce", "score", "against")
AGAINST = "against"
EMBEDDINGS = ", ".join(LAYERS)


def resolve_question(
    method: str,
    loss: str,
    query: str | None,
    direction: str | None,
    query_direction: str | None,
    normalize: str | None,
    model: Any,
    dictionaries: Dictionaries | None,
) -> Question | None:
    """None: plain TracIn, the loss of the triple as it stands for training and test triples.

    Raises:
        InputError: for what is unknown, or this model cannot have.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}; expected one of {', '.join(METHODS)}", "method")
    accurate = method == "accurate"
    relations = getattr(dictionaries, "relation_to_id", None)
    if direction is None:
        direction = "both" if accurate and has_inverses(model, relations) else "forward"
    if query_direction is None:
        query_direction = "forward" if accurate else direction
    if normalize is None:
        normalize = "train" if accurate else "none"
    if normalize not in NORMALIZE:
        raise InputError(f"normalize is {normalize!r}; expected one of {', '.join(NORMALIZE)}", "normalize")
    check_direction(direction, "direction", model)
    check_direction(query_direction, "query_direction", model)
    kind, other = _query(query, model, dictionaries) if query is not None else ("ce" if accurate else loss, None)
    question = Question(kind, other, direction, query_direction, normalize)
    if method == "tracin" and question == Question(loss, None, "forward", "forward", "none"):
        return None
    if not isinstance(model, ConvE):
        raise InputError(
            f"a {type(model).__name__} has no gradients at embeddings that are known; only a ConvE takes method "
            "'accurate', other queries than the loss, directions and normalised scores",
            "method",
        )
    return question


def _query(query: str, model: Any, dictionaries: Dictionaries | None) -> tuple[str, int | None]:
    """Its name, and the other tail of "against:TAIL"."""
    name, colon, tail = query.partition(":")
    if name not in QUERIES or (name == AGAINST) != bool(colon and tail):
        names = ", ".join(f"{AGAINST}:TAIL" if name == AGAINST else name for name in QUERIES)
        raise InputError(f"query is {query!r}; expected one of {names}", "query")
    if name != AGAINST:
        return name, None
    labels = getattr(dictionaries, "entity_to_id", None) or {}
    if tail in labels:
        return name, labels[tail]
    if tail.isdecimal() and int(tail) < model.num_entities:
        return name, int(tail)
    near = difflib.get_close_matches(tail, labels, 3)
    remedy = f"; did you mean {' or '.join(map(quote, near))}?" if near else ""
    raise InputError(
        f"query is {query!r}: {tail!r} is no entity label and no id below {model.num_entities}{remedy}", "query"
    )


def resolve_correction(method: str, samples: int, ridge: float, seed: int) -> Correction:
    """Raises InputError for a number out of range."""
    for name, number in (("samples", samples), ("seed", seed)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InputError(f"{name} is {number!r}; expected a whole number from 0 on", name)
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 < ridge < float("inf"):
        raise InputError(f"ridge is {ridge!r}; expected a positive number", "ridge")
    return Correction(samples if method == "accurate" else 0, float(ridge), seed)


def layers_at_embeddings(layers: Any, model: Any) -> Any:
    """All of them that the model has, where "all" are asked for; InputError for others."""
    if layers == "all":
        return [layer for layer in LAYERS if getattr(model, layer) is not None]
    names = [layers] if isinstance(layers, str) else layers
    if isinstance(layers, int) or not set(names) <= set(LAYERS):
        raise InputError(
            f"layers is {layers!r}; method 'accurate', other queries than the loss, directions and normalised scores "
            f"take layers among {EMBEDDINGS}, or 'all' for these",
            "layers",
        )
    return layers


def without_mixed(precision: str, what: str) -> str:
    """There are no large products that bfloat16 would speed up, or none that it would leave exact."""
    if precision == "mixed":
        warnings.warn(f"{what} are computed in float32, not in mixed precision", stacklevel=4)
        return "float32"
    return precision


def resolve_embedding_backend(asked: str, device: torch.device, job: Job) -> str:
    """Native on a CPU, else factored; InputError for others."""
    if asked not in ("auto", "native", "factored") or (asked == "native" and device.type != "cpu"):
        raise InputError(
            f"backend {asked!r} on {device.type} has no scores from gradients at embeddings alone; take backend "
            "'auto', which is native on a CPU and factored on a GPU",
            "backend",
        )
    return resolve_backend("factored" if device.type != "cpu" else asked, device, job)


def query_of(question: Question, options: LossOptions, num_entities: int) -> TailLoss:
    """Of which test triples' gradients are taken."""
    if question.other is not None:
        return Against(question.other)
    return options.loss(question.query, num_entities)


def told_question(method: str, question: Question, correction: Correction) -> str:
    """What is asked, for people."""
    query = question.query if question.other is None else f"{question.query} entity {question.other}"
    direction = {"both": "both directions", "forward": "forward", "inverse": "inverse"}
    parts = [
        f"method {method}",
        f"query {query}, {direction[question.query_direction]}",
        f"training samples {direction[question.direction]}",
    ]
    if question.normalize != "none":
        parts.append(f"divided by norms ({question.normalize})")
    if method == "accurate":
        drawn = f"{correction.samples} samples, ridge {correction.ridge:g}, seed {correction.seed}"
        parts.append(f"corrected by {drawn}" if correction.samples else "not corrected")
    return ", ".join(parts)
