"""Time of a training epoch beside PyKEEN's loop: the same model, batches and optimizer on triples of FB15k-237."""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.graphs import Graph
from bench.jobs import Report, Row
from tracin.training.loop import train

TRIPLES = 4_000  # of the training triples, all entities
DROPOUT = {"input_dropout": 0.2, "feature_dropout": 0.2, "hidden_dropout": 0.3}
BATCH, RATE, SMOOTHING = 128, 0.003, 0.1
SHAPE = {"embedding_dim": 200, "embedding_height": 20, "embedding_width": 10, "output_channels": 32}


def ours(triples: Tensor, entities: int, relations: int) -> float:  # [n, 3]
    start = time.perf_counter()
    options: dict[str, Any] = (
        SHAPE | DROPOUT | {"batch_size": BATCH, "learning_rate": RATE, "label_smoothing": SMOOTHING}
    )
    train(triples, num_entities=entities, num_relations=relations, epochs=1, device="cpu", progress=False, **options)
    return time.perf_counter() - start


def pykeen(triples: Tensor, entities: int, relations: int) -> float:  # [n, 3]
    from pykeen.losses import BCEWithLogitsLoss
    from pykeen.models import ConvE
    from pykeen.training import LCWATrainingLoop
    from pykeen.triples import CoreTriplesFactory

    factory = CoreTriplesFactory(triples, entities, relations, create_inverse_triples=True)
    start = time.perf_counter()
    model = ConvE(
        triples_factory=factory,
        input_dropout=DROPOUT["input_dropout"],
        feature_map_dropout=DROPOUT["feature_dropout"],
        output_dropout=DROPOUT["hidden_dropout"],
        loss=BCEWithLogitsLoss(),
        random_seed=0,
        **SHAPE,
    )
    loop = LCWATrainingLoop(
        model=model, triples_factory=factory, optimizer=torch.optim.Adam(model.parameters(), lr=RATE)
    )
    loop.train(
        factory,
        num_epochs=1,
        batch_size=BATCH,
        label_smoothing=SMOOTHING,
        use_tqdm=False,
        use_tqdm_batch=False,
        num_workers=0,
    )
    return time.perf_counter() - start


LOOPS: dict[str, Callable[[Tensor, int, int], float]] = {"tracin train": ours, "PyKEEN LCWA loop": pykeen}


def training_job(graph: Graph, quick: bool, report: Report) -> dict[str, Any]:
    """Epochs of both, alternating; model and optimizer are made within the time."""
    order = torch.randperm(len(graph.train), generator=torch.Generator().manual_seed(0))
    triples = graph.train[order[: TRIPLES // 20 if quick else TRIPLES]].long()
    sizes = graph.model.num_entities, graph.model.num_relations
    report(f"an epoch on {len(triples)} triples of {graph.source}, and their inverses")
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    logging.getLogger("pykeen").setLevel(logging.ERROR)
    absent = {}
    for _ in range(1 if quick else 3):
        for name, loop in LOOPS.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    seconds[name].append(loop(triples, *sizes))
            except ImportError as error:
                absent[name] = f"{error}; pip install pykeen"
    rows: list[Row] = []
    for name, each in seconds.items():
        if name in absent:
            rows.append({"method": name, "unavailable": absent[name]})
        else:
            rows.append({"method": name, "seconds": statistics.median(each), "spread": max(each) - min(each)})
        report(f"  {name:18} " + (f"{rows[-1]['seconds']:.1f} s" if each else absent[name]))
    return {"job": "training", "graph": graph.source, "train": len(triples), "rows": rows}
