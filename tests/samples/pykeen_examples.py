"""Small PyKEEN models and factories of random triples; a test that asks for one is skipped without PyKEEN."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from tests.samples.models import ENTITIES, RELATIONS, random_triples

OPTIONS: dict[str, dict[str, Any]] = {  # sizes that are not PyKEEN's own
    "TransE": {"embedding_dim": 8, "scoring_fct_norm": 2},
    "DistMult": {"embedding_dim": 8},
    "ComplEx": {"embedding_dim": 6},
    "RotatE": {"embedding_dim": 6},
    "TuckER": {"embedding_dim": 6, "relation_dim": 4},
    "ProjE": {"embedding_dim": 8},
    "CompGCN": {"embedding_dim": 8},
    "ConvE": {"embedding_dim": 24, "output_channels": 3, "embedding_height": 4, "embedding_width": 6},
}


def factory(inverse: bool = False, labels: bool = False) -> Any:
    triples = pytest.importorskip("pykeen.triples")
    mapped = random_triples(60)
    mapped[0] = torch.tensor([ENTITIES - 1, RELATIONS - 1, 0])
    if not labels:
        return triples.CoreTriplesFactory(mapped, ENTITIES, RELATIONS, create_inverse_triples=inverse)
    dictionaries = [
        {f"{kind} {row}": row for row in reversed(range(n))} for kind, n in (("e", ENTITIES), ("r", RELATIONS))
    ]
    return triples.TriplesFactory(mapped, *dictionaries, create_inverse_triples=inverse)


def pykeen_model(name: str, inverse: bool = False, **options: Any) -> Any:
    """In training mode, as PyKEEN makes it; its running statistics matter."""
    models = pytest.importorskip("pykeen.models")
    logging.getLogger("pykeen").setLevel(logging.ERROR)
    options = OPTIONS[name] | options
    model = getattr(models, name)(triples_factory=factory(inverse), random_seed=1, **options)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif buffer_name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model
