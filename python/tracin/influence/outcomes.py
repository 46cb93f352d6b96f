"""What is told of scores before anyone relies on them: they are numbers, and lists hold what has an influence."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from tracin.errors import InputError

SURE = "as where a score is above 104, whose loss float32 rounds to 0"  # exp(-104) is near its least positive number
FLOAT64 = 'take float64 (--precision float64, argument precision="float64")'
BEST = {"absolute": "has any influence on it", "proponents": "is its proponent", "opponents": "is its opponent"}
PEEK = 64  # influences; a row whose first ones are 0 is looked at whole


def check_finite(
    scores: Tensor,  # [Q, B] influences, or [B] self-influences
    train: Tensor,  # [B, 3]
    test: Tensor | None,  # [Q, 3]
    precision: str,
) -> None:
    """Raises InputError that names the first pair whose influence is no number."""
    if math.isfinite(float(scores.sum())) or scores.isfinite().all():  # a sum of numbers may overflow, others cannot
        return
    *row, column = (~scores.isfinite()).nonzero()[0].tolist()
    whose = f"training triple {told(train[column])}"
    if test is None:
        value, what = scores[column], f"the self-influence of {whose}"
    else:
        value, what = scores[row[0], column], f"the influence of {whose} on test triple {told(test[row[0]])}"
    wider = "" if precision == "float64" else f"{FLOAT64}, "
    raise InputError(
        f"{what} is {value.item()}, not a finite number: {wider}a smaller learning rate, or weights that are not as "
        f"large; a model that is no ConvE must give a finite score for one triple alone"
    )


def told(triple: Tensor) -> str:  # [3]
    """(head, relation, tail)"""
    return str(tuple(triple.tolist()))


def zero_rows(
    scores: Tensor,  # [Q, n]
) -> Tensor:  # of the rows that are all 0
    """Few are, so that most of the scores are never looked at."""
    if not scores.shape[1]:
        return torch.empty(0, dtype=torch.int64)
    rows = (~scores[:, :PEEK].any(1)).nonzero()[:, 0]
    return rows[~scores[rows].any(1)]


def warn_of_zeros(
    test: Tensor,  # [Q, 3]
    rows: Tensor,  # [n] of test triples all whose influences are 0
    norms: Tensor,  # [n] their self-influences
    precision: str,
    layers: Sequence[str],
    order: str | None,  # of top-k lists
) -> None:
    """One warning for those whose gradient is 0, and one for lists of triples that have no influence."""
    flat = rows[norms == 0]
    if len(flat):
        remedy = "nothing can influence it" if precision == "float64" else f"{SURE}; {FLOAT64}, which resolves it"
        width = "float64" if precision == "float64" else "float32"
        warnings.warn(
            f"all influences on {_several(test, flat)} are 0: the gradient of its loss is 0 in {width}, {remedy}",
            stacklevel=5,
        )
    rest = rows[norms != 0]
    if len(rest) and order is not None:
        warnings.warn(
            f"the list of {_several(test, rest)} holds influences of 0 only: through {', '.join(layers)}, no training "
            f"triple {BEST[order]}",
            stacklevel=5,
        )


def _several(
    test: Tensor,  # [Q, 3]
    rows: Tensor,  # [n]
) -> str:
    first = int(rows[0])
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"test row {first} {told(test[first])}{more}"
