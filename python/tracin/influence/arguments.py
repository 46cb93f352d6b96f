"""Checks of what `tracin.TracIn` is given."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tracin.errors import InputError
from tracin.triples.ids import check_ids
from tracin_ext import backends
from tracin_ext.ops import ORDERS

DEFAULT_LEARNING_RATE = 1e-3
PRECISIONS = {"float32": torch.float32, "mixed": torch.float32, "float64": torch.float64}
AUTOGRAD_BACKENDS = ("vectorized", "sequential")


def check_triples(
    triples: Any,  # [n, 3]
    name: str,
    model: Any,
) -> Tensor:  # [n, 3] int64, on the CPU
    """A tensor, or a PyKEEN triples factory's; InputError, which names the row, unless all ids are the model's."""
    triples = getattr(triples, "mapped_triples", triples)
    if not isinstance(triples, Tensor) or triples.dim() != 2 or triples.shape[1] != 3:
        shape = tuple(triples.shape) if isinstance(triples, Tensor) else type(triples).__name__
        raise InputError(f"{name} is {shape}; expected a tensor of shape [n, 3]: head, relation, tail")
    if triples.is_floating_point() or triples.dtype == torch.bool:
        raise InputError(f"{name} has dtype {triples.dtype}; expected integer ids")
    ids: Tensor = triples.long().cpu()
    check_ids(ids, model.num_entities, model.num_relations, name)
    return ids


def check_models(models: Sequence[Any]) -> None:
    """At least one, all modules that know their ids, of one shape, all weights finite."""
    if not models:
        raise InputError("no checkpoint was given; expected at least one")
    for index, model in enumerate(models):
        if not (isinstance(model, nn.Module) and hasattr(model, "num_entities") and hasattr(model, "num_relations")):
            raise InputError(
                f"model_or_checkpoints has a {type(model).__name__}; expected a ConvE, a Checkpoint, a PyKEEN model "
                "or a module that maps triples [B, 3] to scores [B] and has num_entities and num_relations"
            )
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        if shapes != {name: value.shape for name, value in models[0].state_dict().items()}:
            raise InputError(f"checkpoint {index} has other tensor shapes than checkpoint 0; expected one model")
        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise InputError(f"{name} of checkpoint {index} has NaN or infinite values; the training diverged?")


def check_batch_size(batch_size: int | str) -> int | str:
    """Raises InputError unless it is "auto" or a positive number."""
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0
    if batch_size != "auto" and not whole:
        raise InputError(f"batch_size is {batch_size!r}; expected 'auto' or a positive number of triples", "batch_size")
    return batch_size


def check_ranking(k: int, order: str) -> None:
    """Raises InputError unless k is a positive number and the order is one of ORDERS."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}; expected a positive number of training triples")
    if order not in ORDERS:
        raise InputError(f"order is {order!r}; expected one of {', '.join(ORDERS)}")


def resolve_backend(asked: str, device: torch.device, job: backends.Job) -> str:
    """The name of the backend that runs; InputError if it is not there or cannot run here."""
    if asked not in ("auto", *backends.NAMES):
        raise InputError(f"backend is {asked!r}; expected auto or one of {', '.join(backends.NAMES)}", "backend")
    name, against = backends.choose(asked, device, job)
    if name is None:
        raise InputError(f"backend {asked!r} cannot run here: {'; '.join(against)}", "backend")
    for reason, faster in against.items():
        warnings.warn(f"using the {name} backend, not {' or '.join(faster)}: {reason}", stacklevel=3)
    return name


def create_backend(
    name: str, device: torch.device, job: backends.Job, mixed: bool, recompute_activations: bool
) -> backends.Backend:
    """InputError if it cannot run here."""
    try:
        return backends.create(name, job.model, job.layers, job.dtype, device, job.loss, mixed, recompute_activations)
    except RuntimeError as error:
        raise InputError(f"backend {name!r} cannot run here: {error}", "backend") from error


def resolve_learning_rates(rates: float | Sequence[float] | None, given: Sequence[Any]) -> list[float]:
    """One rate per checkpoint."""
    if rates is None:
        own = [getattr(item, "learning_rate", None) for item in given]
        return [DEFAULT_LEARNING_RATE if rate is None else float(rate) for rate in own]
    several = [float(rates)] * len(given) if isinstance(rates, int | float) else [float(rate) for rate in rates]
    if len(several) != len(given):
        raise InputError(f"{len(several)} learning rates for {len(given)} checkpoints; give one for all or one each")
    if not all(rate > 0 and rate < float("inf") for rate in several):
        raise InputError(f"learning_rates is {rates}; expected positive numbers", "learning_rates")
    return several
