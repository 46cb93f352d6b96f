"""What must hold between results whatever the model: relabelled, permuted, extended, scaled, summed, transposed.

    python -m tests.robustness.metamorphic --count 40 --seed 0

prints the worst deviation of each relation, ||row - expected|| / ||expected|| of a test triple.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tracin
import tracin_ext
from tests.robustness import known
from tests.robustness.random_models import (
    SATURATED,
    Geometry,
    edges,
    in_fresh_memory,
    model_of,
    random_geometry,
    row_errors,
    triples_of,
)

SETTINGS = [(backend, precision) for backend in ("native", "factored") for precision in ("float32", "float64")]
LIMITS = {"float32": 2e-5, "float64": 1e-9}  # of two float32 results from each other: twice that from the truth


@dataclass(frozen=True)
class Setup:
    """A model, its triples, and how to ask for influences."""

    geometry: Geometry
    backend: str
    precision: str
    model: tracin.ConvE
    train: Tensor  # [n, 3]
    test: Tensor  # [Q, 3]

    def tracin(self, model: Any = None, rates: Any = 1.0, **more: Any) -> tracin.TracIn:
        arguments = dict(backend=self.backend, precision=self.precision, device="cpu", progress=False)
        given = {"layers": self.geometry.layers, **arguments, **more}
        return tracin.TracIn(self.model if model is None else model, rates, **given)

    def influence(self, **more: Any) -> Tensor:
        return self.tracin(**more).influence(self.train, self.test)


Pair = tuple[Tensor, Tensor]  # what came, what is expected, both [rows, columns]


def relabelled_entities(s: Setup) -> Pair:
    order = torch.randperm(s.geometry.entities, generator=torch.Generator().manual_seed(1))  # new row -> old row
    renamed = model_of(s.geometry)
    with torch.no_grad():
        renamed.entity.weight.copy_(s.model.entity.weight[order])
        if renamed.bias is not None:
            renamed.bias.copy_(s.model.bias[order])

    def map_rows(rows: Tensor) -> Tensor:
        new = order.argsort()
        return torch.stack([new[rows[:, 0]], rows[:, 1], new[rows[:, 2]]], 1)

    return s.tracin(renamed).influence(map_rows(s.train), map_rows(s.test)), s.influence()


def relabelled_relations(s: Setup) -> Pair:
    order = torch.randperm(s.geometry.relations, generator=torch.Generator().manual_seed(2))
    step = s.geometry.options["relation_step"]
    renamed = model_of(s.geometry)
    with torch.no_grad():
        renamed.relation.weight.copy_(
            s.model.relation.weight.view(-1, step, renamed.relation.embedding_dim)[order].flatten(0, 1)
        )

    def map_rows(rows: Tensor) -> Tensor:
        return torch.stack([rows[:, 0], order.argsort()[rows[:, 1]], rows[:, 2]], 1)

    return s.tracin(renamed).influence(map_rows(s.train), map_rows(s.test)), s.influence()


def permuted_rows(s: Setup) -> Pair:
    order = torch.randperm(len(s.train), generator=torch.Generator().manual_seed(3))
    return s.tracin().influence(s.train[order], s.test), s.influence()[:, order]


def permuted_tests(s: Setup) -> Pair:
    order = torch.arange(len(s.test)).flip(0)
    return s.tracin().influence(s.train, s.test[order]), s.influence()[order]


def one_more_triple(s: Setup) -> Pair:
    more = torch.cat([s.train[:5], s.test[:1], s.train[5:]])
    found = s.tracin().influence(more, s.test)
    return torch.cat([found[:, :5], found[:, 6:]], 1), s.influence()


def one_less_test(s: Setup) -> Pair:
    return s.tracin().influence(s.train, s.test[:1]), s.influence()[:1]


def scaled_rate(s: Setup) -> Pair:
    return s.influence(rates=0.125), 0.125 * s.influence()


def added_checkpoints(s: Setup) -> Pair:
    other = model_of(s.geometry, seed=77)
    both = s.tracin([s.model, other], [0.5, 2.0]).influence(s.train, s.test)
    return both, 0.5 * s.influence() + 2.0 * s.influence(model=other)


def diagonal_is_self_influence(s: Setup) -> Pair:
    return s.tracin().influence(s.train, s.train).diagonal()[None], s.tracin().self_influence(s.train)[None]


def symmetry(s: Setup) -> Pair:
    square = s.tracin().influence(s.train, s.train)
    return square.T, square


def duplicates_are_equal(s: Setup) -> Pair:
    doubled = s.tracin().influence(torch.cat([s.train, s.train]), s.test)
    return doubled[:, len(s.train) :], doubled[:, : len(s.train)]


def batch_of_one(s: Setup) -> Pair:
    return s.influence(batch_size=1), s.influence()


def batch_of_five(s: Setup) -> Pair:
    return s.influence(batch_size=5), s.influence()


def layers_add_up(s: Setup) -> Pair:
    """Each layer that has parameters by itself, against all of them together."""
    present = {name.split(".")[0] for name, _ in s.model.named_parameters()}
    parts = [s.influence(layers=(name,)).double() for name in sorted(present)]
    return torch.stack(parts).sum(0), s.influence(layers="all")


def top_k_is_the_sorted_influence(s: Setup) -> Pair:
    whole = s.influence()
    top = s.tracin().top_k(s.train, s.test, k=len(s.train))
    return top.scores, whole.gather(1, top.indices)


RELATIONS: dict[str, Callable[[Setup], Pair]] = {
    function.__name__: function
    for function in (
        relabelled_entities, relabelled_relations, permuted_rows, permuted_tests, one_more_triple, one_less_test,
        scaled_rate, added_checkpoints, diagonal_is_self_influence, symmetry, duplicates_are_equal, batch_of_one,
        batch_of_five, layers_add_up, top_k_is_the_sorted_influence,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Checked:
    setup: Setup
    relation: str
    deviation: float
    error: str = ""

    @property
    def key(self) -> str:
        one = self.setup.geometry
        name = "kernel of extent 1 along the stacking axis" if one.empty_middle else f"{self.relation} of {one.name}"
        return f"{self.setup.backend}: {name}"

    @property
    def fault(self) -> str:
        if self.error:
            return self.error
        wrong = self.deviation > LIMITS[self.setup.precision]
        return f"{self.setup.precision}: {self.relation} is {self.deviation:.1e} off" if wrong else ""


def check(setup: Setup, relation: str) -> Checked:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, expected = in_fresh_memory(lambda: RELATIONS[relation](setup))
    except Exception as error:
        return Checked(setup, relation, torch.inf, repr(error)[:200])
    return Checked(setup, relation, float(row_errors(found, expected.double()).max()))


def geometries_of(seed: int, count: int) -> list[Geometry]:
    """Half from the edges, half drawn; saturated scores have bounds of their own elsewhere."""
    at_edges = [one for one in edges() if one.score_scale < SATURATED and one.options["embedding_dim"] < 1024]
    chosen = at_edges[:: max(1, 2 * len(at_edges) // max(1, count))][: count // 2]
    return chosen + [random_geometry(seed, 1000 + number) for number in range(count - len(chosen))]


def check_all(geometries: Iterable[Geometry]) -> Iterator[Checked]:
    for one in geometries:
        for backend, precision in SETTINGS:
            if backend == "native" and not tracin_ext.status()["available"]:
                continue
            setup = Setup(one, backend, precision, model_of(one), *triples_of(one))
            for relation in RELATIONS:
                yield check(setup, relation)


def faults(checked: Iterable[Checked]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in checked:
        if one.fault:
            found.setdefault(one.key, f"{one.fault} ({one.setup.geometry.name}: {one.setup.geometry.describe()})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="geometries")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # the models are small: threads would only wait for one another
    begin = time.monotonic()
    checked = list(check_all(geometries_of(given.seed, given.count)))
    print(f"{'relation':32}" + "".join(f"{' '.join(pair):>18}" for pair in SETTINGS))
    for relation in RELATIONS:
        worst = [
            max((c.deviation for c in checked if (c.relation, c.setup.backend, c.setup.precision) == (relation, *pair)
                 and not c.fault), default=0.0)
            for pair in SETTINGS
        ]  # fmt: skip
        print(f"{relation:32}" + "".join(f"{deviation:18.1e}" for deviation in worst))
    found = faults(checked)
    failed = sum(bool(c.fault) for c in checked)
    print(f"{len(checked)} checks in {time.monotonic() - begin:.0f} s, {failed} failed (left out of the table)")
    for key, what in found.items():
        print(f"  {key}: {what}")
    print(known.report("metamorphic", found))


if __name__ == "__main__":
    main()
