"""Checks of what `tracin.TracIn` is given."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tracin.errors import InputError, quote
from tracin.triples.given import FACTORY, check_same_dictionaries, ids_of
from tracin.triples.ids import check_ids
from tracin.triples.labels import Dictionaries
from tracin_ext import backends
from tracin_ext.ops import ORDERS

DEFAULT_LEARNING_RATE = 1e-3
PRECISIONS = {"float32": torch.float32, "mixed": torch.float32, "float64": torch.float64}
AUTOGRAD_BACKENDS = ("vectorized", "sequential")


def check_triples(
    triples: Any,  # [n, 3], in any form that `ids_of` reads
    name: str,
    model: Any,
    source: Dictionaries | None = None,  # the model's
) -> Tensor:  # [n, 3] int64, on the CPU
    """Rows of ids; InputError, which names the row, unless all ids are the model's."""
    if hasattr(triples, "mapped_triples"):
        check_factory_size(triples, name, model)
    ids = ids_of(triples, name, source)
    check_ids(ids, model.num_entities, model.num_relations, name)
    return ids


def check_factory_size(factory: Any, name: str, model: Any) -> None:
    """Raises InputError for a PyKEEN factory of more or fewer entities or relations than the model has."""
    for kind, size, expected in (
        ("entities", getattr(factory, "num_entities", None), model.num_entities),
        ("relations", getattr(factory, "real_num_relations", None), model.num_relations),
    ):
        if size is not None and size != expected:
            raise InputError(
                f"{name} is a triples factory of {size} {kind}, the model has {expected}, so its ids are others; "
                f"{FACTORY}",
                name,
            )


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


def shared_dictionaries(given: Sequence[Any]) -> Dictionaries | None:
    """What has the dictionaries of all checkpoints; InputError where two have different ones; None if none has any."""
    kinds = ("entity_to_id", "relation_to_id")
    known = [(i, item) for i, item in enumerate(given) if any(getattr(item, kind, None) is not None for kind in kinds)]
    for index, item in known[1:]:
        remedy = "expected checkpoints of one training run"
        check_same_dictionaries(f"checkpoint {index}", item, f"checkpoint {known[0][0]}", known[0][1], remedy)
    whole = [item for _, item in known if all(getattr(item, kind, None) is not None for kind in kinds)]
    return next(iter(whole or [item for _, item in known]), None)


def check_batch_size(batch_size: int | str) -> int | str:
    """Raises InputError unless it is "auto" or a positive number."""
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0
    if batch_size != "auto" and not whole:
        raise InputError(f"batch_size is {batch_size!r}; expected 'auto' or a positive number of triples", "batch_size")
    return batch_size


def check_indices(
    indices: Any,  # [n_test, k]
    tests: int,
    triples: int,
) -> Tensor:  # [n_test, k] int64
    """Raises InputError unless it holds numbers of training triples for each test triple."""
    index = torch.as_tensor(indices)
    if index.dim() != 2 or len(index) != tests or index.dtype.is_floating_point:
        raise InputError(
            f"indices is {list(index.shape)} of {index.dtype}; expected whole numbers [{tests}, k], a row for each "
            "test triple",
            "indices",
        )
    if index.numel() and not (0 <= int(index.min()) and int(index.max()) < triples):
        raise InputError(
            f"indices has {int(index.min())} to {int(index.max())}; expected training triples 0 to {triples - 1}",
            "indices",
        )
    return index.long()


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
    """One rate per checkpoint: those given, else the checkpoints' own, of one checkpoint alone else the default."""
    if rates is None:
        return own_learning_rates(given)
    several = [rates] * len(given) if isinstance(rates, int | float) else rates
    if isinstance(several, str) or not hasattr(several, "__iter__"):
        raise InputError(
            f"learning_rates is {quote(rates)}; expected a positive number, or one for each checkpoint",
            "learning_rates",
        )
    found = [positive_rate(rate, f"learning_rates is {quote(rates)}") for rate in several]
    if len(found) != len(given):
        raise InputError(f"{len(found)} learning rates for {len(given)} checkpoints; give one for all or one each")
    return found


def own_learning_rates(given: Sequence[Any]) -> list[float]:
    """What the checkpoints were trained with; of several, all have to know it."""
    own = [getattr(item, "learning_rate", None) for item in given]
    names = [
        f"checkpoint {i}" + (f" ({path})" if (path := getattr(item, "path", "")) else "")
        for i, item in enumerate(given)
    ]
    unknown = [name for name, rate in zip(names, own, strict=True) if rate is None]
    if unknown and len(given) > 1:
        raise InputError(
            f"{' and '.join(unknown)} hold{'s' * (len(unknown) == 1)} no learning rate, and each of several "
            "checkpoints is weighted by its own; give learning_rates, one for all or one each",
            "learning_rates",
        )
    return [
        DEFAULT_LEARNING_RATE if rate is None else positive_rate(rate, f"the learning rate of {name} is {quote(rate)}")
        for name, rate in zip(names, own, strict=True)
    ]


def positive_rate(rate: Any, told: str) -> float:
    """Raises InputError, which begins with `told`, unless it is a positive, finite number."""
    try:
        number = float("nan") if isinstance(rate, bool | str) else float(rate)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise InputError(f"{told}; expected positive numbers", "learning_rates")
    return number
