"""The graphs that are measured: FB15k-237 by path, else synthetic ones of the same shape.

Sizes: n triples, N entities, R relations, G distinct (head, relation) pairs, D embedding.
"""

from __future__ import annotations

import math
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracin import ConvE, InputError, load_model, read_dictionary, read_triples, save_checkpoint

Ids = NDArray[np.int64]
LINES = 2_000_000  # of a text file written at a time: 100 MB of labels


@dataclass(frozen=True)
class Shape:
    """Sizes of a graph and of the ConvE over it."""

    name: str
    entities: int
    relations: int
    train: int
    test: int
    dim: int
    height: int
    width: int
    channels: int = 32
    distinct: float = 0.33  # distinct (head, relation) pairs per triple, training and test together
    communities: int = 0  # of entities, which relations lead from one to another; 0: tails do not depend on heads


FB15K237 = Shape("FB15k-237", 14_541, 237, 272_115, 20_466, dim=200, height=20, width=10)
BIOMEDICAL = Shape("biomedical", 1_450_000, 50, 18_600_000, 100, dim=32, height=8, width=4)
BIOMEDICAL_SMALL = Shape("biomedical-small", 12_000, 50, 150_000, 100, dim=32, height=8, width=4)
LEARNABLE = replace(BIOMEDICAL, name="biomedical-learnable", communities=256)
LEARNABLE_SMALL = replace(BIOMEDICAL_SMALL, name="biomedical-learnable-small", communities=16)

# P(rank i) ~ i^-exponent. Heads and tails as FB15k-237's degrees fall between rank 10 and 10,000 (0.5-0.8, 0.8-1.0);
# fan-outs so that, as there, 34% of all triples and some 65% of any 32,768 have distinct pairs.
HEADS, RELATIONS, TAILS, FAN_OUT = 0.6, 0.8, 0.8, 0.85
ASTRAY = 0.2  # of the triples of a graph with communities: their tails are those of a graph without


@dataclass(frozen=True)
class Graph:
    """A model, its triples, and where they come from."""

    shape: Shape
    source: str
    model: ConvE
    train: Tensor  # [n_train, 3]
    test: Tensor  # [n_test, 3]


@dataclass(frozen=True)
class Files:
    """A graph as `tracin run` reads it."""

    model: Path
    train: Path
    test: Path
    entity_to_id: Path
    relation_to_id: Path


def load_fb15k237(data: Path | None, checkpoints: Path | None, work: Path) -> tuple[Graph, Files]:
    """FB15k-237 and its trained ConvE; a synthetic graph and a random model if both folders are None."""
    if data is None and checkpoints is None:
        return synthetic(FB15K237), write(FB15K237, work)
    if data is None or checkpoints is None:
        missing = "data" if data is None else "checkpoints"
        raise InputError(f"only one of the folders of data and checkpoints is given; --{missing} names the other")
    trained = checkpoints / "fb15k-237"
    text = work / "fb15k-237"
    text.mkdir(parents=True, exist_ok=True)
    with tarfile.open(data / "FB15k-237.tar.gz") as archive:
        for member in archive.getmembers():
            source = archive.extractfile(member) if Path(member.name).name in ("train.txt", "test.txt") else None
            if source is not None:
                (text / Path(member.name).name).write_bytes(source.read())
    files = Files(
        trained / "epoch_14.pt",
        text / "train.txt",
        text / "test.txt",
        trained / "node_dict.txt",
        trained / "rel_dict.txt",
    )
    entities, relations = read_dictionary(files.entity_to_id), read_dictionary(files.relation_to_id)
    train, test = (read_triples(path, entities, relations) for path in (files.train, files.test))
    return Graph(FB15K237, "FB15k-237, trained ConvE", load_model(files.model), train, test), files


def synthetic(shape: Shape, seed: int = 0) -> Graph:
    """Random triples with power-law degrees and a random model, both reproducible."""
    triples = torch.from_numpy(generate(shape, seed))
    source = f"synthetic graph of the shape of {shape.name}, random ConvE"
    return Graph(shape, source, random_model(shape, seed), triples[: shape.train], triples[shape.train :])


def generate(shape: Shape, seed: int = 0) -> Ids:  # [train + test, 3]
    """Distinct triples: pairs (head, relation) by power laws, a power law of tails per pair, tails by a power law."""
    rng = np.random.default_rng(seed)
    total = shape.train + shape.test
    pairs = distinct_pairs(rng, shape, round(shape.distinct * total))  # [G]
    tails = rng.permutation(shape.entities)
    leads_to = community_leads_to(rng, shape) if shape.communities else None

    def keys(chosen: Ids) -> Ids:  # [m] pairs -> [m] one number for a triple
        place = ranks(rng, shape.entities, len(chosen), TAILS)
        if leads_to is not None:
            own = rng.random(len(chosen)) >= ASTRAY
            member = ranks(rng, shape.entities // shape.communities, int(own.sum()), TAILS)
            place[own] = member * shape.communities + leads_to(tails, chosen[own])
        return chosen * shape.entities + tails[place]

    first = keys(pairs)
    further = np.empty(0, np.int64)
    wanted = total - len(first)
    while len(further) < wanted:
        drawn = keys(pairs[ranks(rng, len(pairs), int(1.2 * (wanted - len(further))) + 16, FAN_OUT)])
        further = np.setdiff1d(np.concatenate([further, drawn]), first)
    every = np.concatenate([first, rng.choice(further, wanted, replace=False)])
    rng.shuffle(every)
    pair, tail = np.divmod(every, shape.entities)
    head, relation = np.divmod(pair, shape.relations)
    return np.stack([head, relation, tail], 1)


def community_leads_to(rng: np.random.Generator, shape: Shape) -> Callable[[Ids, Ids], Ids]:
    """(entities by place [N], pairs [m]) -> communities [m] of the pairs' tails.

    The entity at place p is in community p mod communities. Communities lie on a torus, on which each relation goes by
    steps of its own: what a model of few dimensions can learn.
    """
    side = math.isqrt(shape.communities)
    if side * side != shape.communities:
        raise ValueError(f"communities is {shape.communities}; expected a square")
    steps = rng.integers(side, size=(2, shape.relations))

    def leads_to(by_place: Ids, pairs: Ids) -> Ids:
        heads, relations = np.divmod(pairs, shape.relations)
        place = np.empty_like(by_place)
        place[by_place] = np.arange(len(by_place))
        row, column = np.divmod(place[heads] % shape.communities, side)
        return (row + steps[0, relations]) % side * side + (column + steps[1, relations]) % side

    return leads_to


def community_codes(shape: Shape, seed: int = 0) -> Ids:  # [N, 2] row and column on the torus
    """Each entity's community in the graph that `generate` makes."""
    rng = np.random.default_rng(seed)
    distinct_pairs(rng, shape, round(shape.distinct * (shape.train + shape.test)))
    community = np.empty(shape.entities, np.int64)
    community[rng.permutation(shape.entities)] = np.arange(shape.entities) % shape.communities
    return np.stack(np.divmod(community, math.isqrt(shape.communities)), 1)


def distinct_pairs(rng: np.random.Generator, shape: Shape, count: int) -> Ids:  # [count] head * R + relation
    heads, relations = rng.permutation(shape.entities), rng.permutation(shape.relations)
    pairs = np.empty(0, np.int64)
    while len(pairs) < count:
        draw = 2 * (count - len(pairs)) + 16
        head = heads[ranks(rng, shape.entities, draw, HEADS)]
        pairs = np.union1d(pairs, head * shape.relations + relations[ranks(rng, shape.relations, draw, RELATIONS)])
    return rng.permutation(pairs)[:count]


def ranks(rng: np.random.Generator, count: int, size: int, exponent: float) -> Ids:  # [size] in 0..count-1
    """P(i) ~ (i + 1)^-exponent, by inverting the distribution function of the continuous law."""
    power = 1 - exponent
    drawn = (rng.random(size) * ((count + 1) ** power - 1) + 1) ** (1 / power)
    return np.minimum(drawn.astype(np.int64) - 1, count - 1)


def random_model(shape: Shape, seed: int = 0) -> ConvE:
    """Random weights; the batch norms' statistics are those of a sample, so about half of all ReLUs are open."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = ConvE(
            shape.entities,
            shape.relations,
            shape.dim,
            embedding_height=shape.height,
            embedding_width=shape.width,
            output_channels=shape.channels,
            input_dropout=0,
            feature_dropout=0,
            hidden_dropout=0,
        )
        model.entity.weight.normal_(0, 0.3)
        model.relation.weight.normal_(0, 0.3)
        norms: list[Any] = [module for module in model.modules() if hasattr(module, "momentum")]
        for norm in norms:
            norm.momentum = None  # one pass sets the statistics, instead of a tenth of them
        model.train()
        model.hidden(torch.randint(shape.entities, (256,)), torch.randint(shape.relations, (256,)))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def write(shape: Shape, work: Path, seed: int = 0) -> Files:
    """The synthetic graph as text files of labels, dictionaries, a checkpoint, and ids.npy; kept for the next run."""
    folder = work / f"synthetic-{shape.name}-{seed}"
    files = files_in(folder)
    if folder.is_dir():
        return files
    building = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    building.mkdir(parents=True)
    try:
        write_parts(shape, seed, files_in(building), building / "ids.npy")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return files


def write_parts(shape: Shape, seed: int, files: Files, ids: Path) -> None:
    triples = generate(shape, seed)
    np.save(ids, triples.astype(np.int32))
    save_checkpoint(files.model, random_model(shape, seed))
    entities = write_dictionary(files.entity_to_id, "NODE:", shape.entities)
    relations = write_dictionary(files.relation_to_id, "predicate:", shape.relations)
    write_triples(files.train, triples[: shape.train], entities, relations)
    write_triples(files.test, triples[shape.train :], entities, relations)


def files_in(folder: Path) -> Files:
    names = ("model.pt", "train.txt", "test.txt", "node_dict.txt", "rel_dict.txt")
    return Files(*(folder / name for name in names))


def write_dictionary(path: Path, prefix: str, count: int) -> pl.Series:  # [count] labels in id order
    ids = pl.Series("id", np.arange(count))
    labels = (prefix + ids.cast(pl.String)).alias("label")
    pl.DataFrame([labels, ids]).write_csv(path, separator="\t", include_header=False)
    return labels


def write_triples(
    path: Path,
    triples: Ids,  # [n, 3]
    entities: pl.Series,  # [N] labels
    relations: pl.Series,  # [R] labels
) -> None:
    with path.open("wb") as file:
        for start in range(0, len(triples), LINES):
            head, relation, tail = triples[start : start + LINES].T
            columns = {"head": entities[head], "relation": relations[relation], "tail": entities[tail]}
            pl.DataFrame(columns).write_csv(file, separator="\t", include_header=False)
