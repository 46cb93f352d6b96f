"""Damaged folders of indexes: each is refused, or answers as the whole one does.

python -m tests.robustness.fuzz_index --count 500
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import torch
from torch import Tensor

import tracin
from tests.robustness.mutations import BYTES
from tests.samples.models import random_model, random_triples
from tracin.index.folder import MANIFEST

TRAIN, TESTS = 600, 3


def built(folder: Path, seed: int, store: str) -> Path:
    """A small index whose lists of 2 are found by bounds."""
    model = random_model(seed=seed)
    checkpoint = tracin.Checkpoint(
        model,
        entity_to_id={f"entity {i}": i for i in range(model.num_entities)},
        relation_to_id={f"relation {i}": i for i in range(model.num_relations)},
    )
    path = folder / f"{store}-{seed}"
    tracin.index.build(checkpoint, random_triples(TRAIN, seed), path, store=store)
    return path


def answers(path: Path) -> tuple[Tensor, Tensor, list[str]]:
    index = tracin.Index(path)
    assert index.labels is not None
    top = index.top_k(random_triples(TESTS, seed=9), k=2)
    return index.train[top.indices], top.scores, [index.labels.entity(i) for i in range(12)]


def files_of(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file())


def damage(path: Path, other: Path, rng: Random) -> str:
    """One change to a folder; `other`: the folder of another index."""
    files = files_of(path)
    target = path / MANIFEST if rng.random() < 0.3 else rng.choice(files)
    kind = rng.choice(["bytes"] * 6 + ["removed", "exchanged", "foreign", "empty", "a folder"])
    if kind == "bytes":
        mutation = rng.choice(BYTES)
        kind = mutation.__name__
        data = target.read_bytes()
        target.write_bytes(mutation(data, rng) if data else b"x")
    elif kind == "removed":
        target.unlink()
    elif kind == "exchanged":
        second = rng.choice(files)
        data = target.read_bytes()
        target.write_bytes(second.read_bytes())
        second.write_bytes(data)
    elif kind == "foreign":
        same = [each for each in files_of(other) if each.name == target.name]
        shutil.copyfile(same[0] if same else rng.choice(files_of(other)), target)
    elif kind == "empty":
        target.write_bytes(b"")
    else:
        target.unlink()
        target.mkdir()
    return f"{kind}: {target.relative_to(path)}"


def fuzz(count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """How many were refused and how many answered, and what went wrong."""
    outcomes: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        indexes = {(store, i): built(folder, i, store) for store in ("compact", "norms") for i in (0, 1)}
        expected = {key: answers(path) for key, path in indexes.items()}
        for number in range(count):
            rng = Random(f"{seed} {number}")
            store, i = rng.choice(sorted(indexes))
            path = folder / "damaged"
            shutil.copytree(indexes[store, i], path)
            done = damage(path, indexes[store, 1 - i], rng)
            try:
                found = answers(path)
            except tracin.InputError as error:
                outcomes["refused"] += 1
                if str(path) not in str(error):
                    faults.append(f"{number}, {done}: the message names no file: {error}")
            except Exception as error:
                faults.append(f"{number}, {done}: {type(error).__name__}: {error}")
            else:
                outcomes["right"] += 1
                if not all(map(same, found, expected[store, i])):
                    faults.append(f"{number}, {done}: another answer")
            shutil.rmtree(path)
    return outcomes, faults


def same(one: Tensor | list[str], other: Tensor | list[str]) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes, faults = fuzz(options.count, options.seed)
    print(dict(outcomes))
    print("\n".join(faults) or "no faults")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
