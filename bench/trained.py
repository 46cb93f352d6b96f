"""A small ConvE trained on a synthetic graph with structure, by sampled negatives: weights that a graph has shaped.

python -m bench.trained WORK: trains on the graph of W3's shape and says how well the model ranks.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.graphs import LEARNABLE, Shape, community_codes, random_model, write
from tracin import ConvE, load_model, save_checkpoint

BATCH, NEGATIVES = 1024, 256  # negatives are any entities
RATE = 0.01  # at first; falls to 0
HARMONICS, OWN = 3, 0.1  # what an entity's embedding begins with: waves on the torus of communities, and its own part
STEPS, QUICK_STEPS = 4000, 100  # the first take about a quarter of an hour on 2 cores
CANDIDATES = 1000  # that a test triple's tail is ranked among
Report = Callable[[str], None]


def trained_model(shape: Shape, work: Path, steps: int, report: Report) -> tuple[Path, float]:
    """The file of a model trained in so many steps, kept beside the graph for the next run, and its MRR."""
    files = write(shape, work)
    path = files.model.with_name(f"trained-{steps}.pt")
    triples = torch.from_numpy(np.load(files.train.with_name("ids.npy")).astype(np.int64))
    if not path.is_file():
        model = train(shape, triples[: shape.train], steps, report)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_checkpoint(part, model)
        part.rename(path)
    mrr = rank(load_model(path), triples, triples[shape.train :])
    report(f"  trained in {steps} steps: MRR {mrr:.3f} of {shape.test} test triples, each among {CANDIDATES} entities")
    return path, mrr


def train(
    shape: Shape,
    triples: Tensor,  # [n, 3]
    steps: int,
    report: Report,
) -> ConvE:
    torch.manual_seed(0)
    model = random_model(shape).train()
    assert model.bias is not None
    model.entity.weight.data = begun(shape)
    model.entity.sparse = True
    model.bias.data.fill_(-4)
    dense = [p for name, p in model.named_parameters() if name not in ("entity.weight", "bias")]
    bias = torch.nn.Embedding.from_pretrained(model.bias.data[:, None], freeze=False, sparse=True)
    optimizers = [
        torch.optim.Adam(dense, lr=RATE),
        torch.optim.SparseAdam([model.entity.weight, bias.weight], lr=RATE),
    ]
    schedules = [torch.optim.lr_scheduler.LinearLR(each, 1, 0, steps) for each in optimizers]
    start = time.perf_counter()
    total = 0.0
    for step in range(steps):
        heads, relations, tails = triples[torch.randint(len(triples), (BATCH,))].unbind(1)
        others = torch.randint(shape.entities, (NEGATIVES,))
        z = model.hidden(heads, relations)
        true = (z * model.entity(tails)).sum(1) + bias(tails)[:, 0]
        false = z @ model.entity(others).T + bias(others)[:, 0]
        loss = functional.softplus(-true).mean() + functional.softplus(false).sum(1).mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        total += float(loss.detach())
        if (step + 1) % max(1, steps // 20) == 0:
            mean, total = total / max(1, steps // 20), 0.0
            report(f"  step {step + 1:,} of {steps:,}, loss {mean:.3f}, {time.perf_counter() - start:.0f} s")
    model.bias.data = bias.weight.detach()[:, 0].clone()
    model.entity.sparse = False
    return model.eval()


def begun(shape: Shape) -> Tensor:  # [N, D]
    """Embeddings that tell communities apart, as those of long training do; how relations lead on is to be learnt."""
    at = torch.from_numpy(community_codes(shape)).float() * (2 * math.pi / math.isqrt(shape.communities))
    waves = [wave(harmonic * at) for harmonic in range(1, HARMONICS + 1) for wave in (torch.cos, torch.sin)]
    directions = torch.nn.init.orthogonal_(torch.empty(shape.dim, 4 * HARMONICS))
    return 0.5 * torch.cat(waves, 1) @ directions.T + OWN * torch.randn(shape.entities, shape.dim)


@torch.no_grad()
def rank(
    model: ConvE,
    triples: Tensor,  # [n, 3] all that are true
    test: Tensor,  # [q, 3]
) -> float:
    """Mean reciprocal rank of each test triple's tail among random entities that are no true tails of it."""
    generator = torch.Generator().manual_seed(0)
    span = model.num_entities * model.num_relations
    keys = triples[:, 0] + model.num_entities * triples[:, 1]
    of_tests = torch.isin(keys, test[:, 0] + model.num_entities * test[:, 1])
    true = (keys + span * triples[:, 2])[of_tests]
    found = []
    for head, relation, tail in test.tolist():
        others = torch.randint(model.num_entities, (CANDIDATES,), generator=generator)
        others = others[~torch.isin(head + model.num_entities * relation + span * others, true)]
        asked = torch.stack([torch.full_like(others, head), torch.full_like(others, relation), others], 1)
        scores = model(torch.cat([torch.tensor([[head, relation, tail]]), asked]))
        found.append(1 / (1 + int((scores[1:] > scores[0]).sum())))
    return float(np.mean(found))


if __name__ == "__main__":
    trained_model(LEARNABLE, Path(sys.argv[1]), STEPS, lambda text: print(text, flush=True))
