"""Whether autograd and vmap can follow a model: found out on two triples."""

from __future__ import annotations

from typing import Any

import torch

from tracin_ext.backends.sequential import SequentialBackend
from tracin_ext.backends.vectorized import VectorizedBackend
from tracin_ext.losses import Loss

CLOSE = 1e-3  # relative; what goes wrong gives other gradients altogether


def failure(
    name: str, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, loss: Loss
) -> str | None:
    """What is wrong with the gradients of the sequential or the vectorized backend; None if they are right."""
    last, relation = model.num_entities - 1, model.num_relations - 1
    triples = torch.tensor([[0, 0, last], [last, relation, 0]], device=device)
    try:
        sequential = SequentialBackend(model, layers, dtype, device, loss)
        expected = sequential.test_factors(triples)
        again = sequential.test_factors(triples.flip(0)).flip(0)
    except Exception as error:  # a model is anybody's code
        return f"autograd cannot follow this model: {first_line(error)}"
    if not close(again, expected):
        return "the gradients of this model differ from call to call: it must not keep or draw anything in between"
    if depends_on_batch(sequential.model, triples):
        return (
            "the score that this model gives a triple depends on the other triples of the batch, as where scores are "
            "standardised over it: TracIn needs the score of one triple alone"
        )
    if name == "sequential":
        return None
    try:
        found = VectorizedBackend(model, layers, dtype, device, loss).test_factors(triples)
    except Exception as error:
        return f"vmap cannot follow this model: {first_line(error)}"
    return None if close(found, expected) else "vmap gives other gradients of this model than autograd"


@torch.no_grad()
def depends_on_batch(
    model: torch.nn.Module,
    triples: torch.Tensor,  # [2, 3]
) -> bool:
    """Whether the scores of two triples are others than those of each alone."""
    alone = torch.cat([model(triple[None]).flatten() for triple in triples])
    try:
        together = model(triples).flatten()
    except Exception:  # a model of one triple at a time
        return False
    return not close(together, alone)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    bound = CLOSE * float(expected.abs().nan_to_num().max())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=bound, equal_nan=True)


def first_line(error: BaseException) -> str:
    """Of an error's text, with its type where there is none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
