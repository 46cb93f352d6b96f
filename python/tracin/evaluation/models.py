"""The model that scores are computed with, trained once and kept with its checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.digests import digest_of
from tracin.errors import InputError
from tracin.evaluation.graph import Graph, Recipe
from tracin.training.loop import train

NAMED = 16  # letters of a digest


def trained(
    graph: Graph,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    checkpoints: int = 1,
    triples: Tensor | None = None,  # [k, 3] int64
    progress: bool | None = None,
) -> list[Checkpoint]:
    """Trains a model on one thread, or takes what an earlier run left in the folder.

    Args:
        graph, recipe: what is trained, and how.
        folder: holds a folder for each model, named by a digest of all that went into it; a run that was stopped goes
            on at its last checkpoint.
        seed: of initial weights, order and dropout.
        checkpoints: how many to keep, evenly spread over the epochs.
        triples: trained on in place of the graph's training triples.
        progress: whether to show progress on stderr; None shows it on a terminal.

    Returns:
        The checkpoints, the last epoch's last.

    Raises:
        InputError: if there are fewer epochs than checkpoints, or a file in the folder is damaged.
    """
    if not 1 <= checkpoints <= recipe.epochs:
        raise InputError(f"checkpoints is {checkpoints}; expected at least 1 and at most {recipe.epochs}, the epochs")
    triples = graph.train if triples is None else triples
    epochs = [recipe.epochs * part // checkpoints for part in range(1, checkpoints + 1)]
    options = recipe.seeded(seed)
    sizes = [graph.num_entities, graph.num_relations]
    named = folder / digest_of([triples, sizes, asdict(options), epochs]).rpartition(":")[2][:NAMED]
    paths = [named / f"epoch_{epoch:03d}.pt" for epoch in epochs]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for before, (epoch, path) in zip((None, *paths), zip(epochs, paths, strict=True), strict=False):
            if not path.exists():
                train(
                    triples,
                    num_entities=graph.num_entities,
                    num_relations=graph.num_relations,
                    epochs=epoch,
                    output=named,
                    resume_from=before,
                    relation_to_id=graph.relation_to_id,
                    device="cpu",
                    progress=progress,
                    **asdict(options),
                )
    finally:
        torch.set_num_threads(threads)
    return [load_checkpoint(path) for path in paths]
