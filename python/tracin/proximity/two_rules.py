"""What two rules alone say about a prediction: the control that attributions have to beat."""

from __future__ import annotations

from torch import Tensor


def two_rules(
    train: Tensor,  # [n, 3] head, relation, tail
    test: Tensor,  # [m, 3]
) -> Tensor:  # [m, n] float32
    """How many of two rules hold: the same relation and a shared end in the same place; the same two entities.

    Ends are shared where both heads or both tails are one entity; the two entities may be in either order. No model
    is asked. Values are 0, 1 and 2.

    Example:
        >>> two_rules(torch.tensor([[0, 0, 1], [1, 5, 0]]), torch.tensor([[0, 0, 2]]))
        tensor([[1., 0.]])
    """
    heads, relations, tails = (column[None] for column in train.unbind(1))
    head, relation, tail = (column[:, None] for column in test.unbind(1))
    same_head, same_tail = heads == head, tails == tail
    same_pair = (same_head & same_tail) | ((heads == tail) & (tails == head))
    return ((relations == relation) & (same_head | same_tail)).float() + same_pair.float()
