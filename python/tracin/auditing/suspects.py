"""The loss of each training triple, by which wrong ones are found."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tracin.errors import InputError
from tracin.progress import progress_bar
from tracin.subject import Subject

BLOCK = 2048  # distinct (head, relation) at a time


@torch.no_grad()
def losses_of(subject: Subject, progress: bool | None = None) -> Tensor:  # [n] float64
    """softplus(-score) of each training triple; the forward pass runs once for each distinct (head, relation)."""
    model, train = subject.model, subject.train
    device = next(model.parameters()).device
    codes, pair_of = torch.unique(train[:, 0] * model.num_relations + train[:, 1], return_inverse=True)
    order = pair_of.argsort(stable=True)
    starts = torch.searchsorted(pair_of[order], torch.arange(0, len(codes) + BLOCK, BLOCK)).tolist()
    scores = torch.empty(len(train), dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        with progress_bar("losses", len(train), progress, "triples") as advance:
            for block, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
                rows = order[start:end]
                some = train[rows].to(device)
                if hasattr(model, "hidden"):
                    pairs = codes[block * BLOCK : (block + 1) * BLOCK].to(device)
                    hidden = model.hidden(pairs // model.num_relations, pairs % model.num_relations)
                    place = (pair_of[rows] - block * BLOCK).to(device)
                    found = (hidden[place] * model.entity(some[:, 2])).sum(1)
                    found = found if model.bias is None else found + model.bias[some[:, 2]]
                else:
                    found = model(some)
                scores[rows] = found.double().cpu()
                advance(len(rows))
    finally:
        model.train(was_training)
    if not bool(scores.isfinite().all()):
        raise InputError("the model's scores are not finite; are its weights damaged, or did it diverge?")
    return softplus(-scores)
