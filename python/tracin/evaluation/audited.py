"""Does an audit find wrong triples that were put among the training triples, and how many there are?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.models import trained
from tracin.evaluation.noise import Corrupted, Found, corrupt, found_by, losses
from tracin.evaluation.scores import Model, tracin_of
from tracin.training.ranking import evaluate
from tracin.training.unusual import estimated_wrong, unusual


@dataclass(frozen=True)
class Audited:
    """What an audit says of a training set.

    Args:
        wrong: how many triples were made wrong.
        estimated: how many it says are wrong.
        mrr: of the model, filtered, on the test triples, to tell how well it was trained.
        scores: how well the wrong ones are found by what an audit goes by (the loss, set against what is usual for the
            relation), by the loss alone and by self-influence; none where no triple is wrong.
    """

    wrong: int
    estimated: int
    mrr: float
    scores: dict[str, Found]


def find_audited(
    graph: Graph,
    recipe: Recipe,
    folder: Path,
    *,
    shares: Sequence[float],
    at: Sequence[int] = (100,),
    bootstrap: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[float, Audited]:
    """Corrupts a share of the training triples, trains a model on them, and audits it, for each share.

    Args:
        shares: of wrong triples; 0 leaves the training triples as they are.
        at: the k of the precisions.
        others: see `corrupt`, `trained`.
    """
    found = {}
    for share in dict.fromkeys(shares):
        none = torch.zeros(len(graph.train), dtype=torch.bool)
        made = corrupt(graph, share, seed) if share else Corrupted(graph, none)
        model = Model(trained(made.graph, recipe, folder, seed=seed, progress=progress), seed)
        tell(f"the model of {share:.0%} wrong triples is trained")
        found[share] = audited(made, model, at, bootstrap, seed)
    return found


def audited(made: Corrupted, model: Model, at: Sequence[int], bootstrap: int, seed: int) -> Audited:
    graph, wrong = made.graph, made.wrong
    both = model.last.relation.num_embeddings == 2 * graph.num_relations
    ranking = evaluate(model.checkpoints[-1].model, graph.test, graph.known, both_directions=both)
    loss = losses(model, graph.train).double()
    scores: dict[str, Tensor] = {}
    if wrong.any():
        own = tracin_of(graph, model.checkpoints[-1:], {}).self_influence(graph.train)
        scores = {"audit": unusual(loss, graph.train[:, 1]), "loss": loss, "self-influence": own.double().cpu()}
    return Audited(
        wrong=int(wrong.sum()),
        estimated=estimated_wrong(loss),
        mrr=ranking.mrr,
        scores={name: found_by([(each, wrong)], at, bootstrap, seed) for name, each in scores.items()},
    )
