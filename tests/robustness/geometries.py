"""Random ConvE models: every backend and precision against float64 autograd.

    python -m tests.robustness.geometries --count 300 --seed 0

prints the worst error of a test triple, ||row - exact|| / ||exact||, of each backend and precision: of all triples, of
those away from ReLU's kink, where float32 may take another side than float64, and of models whose scores are saturated.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

import tracin
import tracin_ext
from tests.robustness import known
from tests.robustness.random_models import (
    SATURATED,
    Exact,
    Geometry,
    edges,
    exact,
    in_fresh_memory,
    model_of,
    random_geometry,
    row_errors,
    triples_of,
)

FAST = ("native", "factored")
SETTLED = (*FAST, "compiled")  # backends that settle ReLU's kink in float64: their bounds hold for every triple
SETTINGS = [
    *((backend, precision) for backend in FAST for precision in ("float32", "mixed", "float64")),
    *((backend, precision) for backend in ("vectorized", "sequential") for precision in ("float32", "float64")),
]
REPEATED = ("native", "float32")  # run twice, for equal bits
COMPILED = [("compiled", precision) for precision in ("float32", "mixed", "float64")]
COMPILED_EVERY = 60  # geometries: one takes most of a minute
# Bounds of ||row - exact|| / ||exact||. Autograd's dense gradients are multiplied in one float32 sum, whose error grows
# with the number of parameters (measured: 1.2e-4 for two million). In float64, softplus takes a residual of -1 from
# scores of -20 on, which is 2e-9 off.
LIMITS = {"float32": 1e-5, "mixed": 0.05, "float64": 1e-9}
FLOAT32_OF_A_PARAMETER = 1e-10
SATURATED_LIMITS = {"float32": 1e-4, "mixed": 0.05, "float64": 5e-9}


def limit_of(backend: str, precision: str, saturated: bool, parameters: int) -> float:
    limit = (SATURATED_LIMITS if saturated else LIMITS)[precision]
    dense = backend not in SETTLED and precision == "float32"
    return max(limit, FLOAT32_OF_A_PARAMETER * parameters) if dense else limit


@dataclass(frozen=True)
class Measured:
    """The errors of one model with one backend and precision."""

    geometry: Geometry
    backend: str
    precision: str
    worst: float  # of all test triples, and of the self-influences as one row
    worst_off_kink: float  # of those away from the kink, over training triples away from it
    saturated: bool
    limit: float
    repeats: bool  # a second run gives the same bits
    error: str = ""

    @property
    def key(self) -> str:
        """One name for one kind of fault."""
        name = "kernel of extent 1 along the stacking axis" if self.geometry.empty_middle else self.geometry.name
        return f"{self.backend}: {name}"

    @property
    def fault(self) -> str:
        """What is wrong; empty if nothing is."""
        if self.error:
            return self.error
        if not self.repeats:
            return f"{self.precision}: two equal runs give two results"
        worst = self.worst if self.backend in SETTLED else self.worst_off_kink
        return f"{self.precision}: error {worst:.1e}" if worst > self.limit else ""


def settings(compiled: bool) -> list[tuple[str, str]]:
    usable = [pair for pair in SETTINGS if pair[0] != "native" or tracin_ext.status()["available"]]
    return usable + COMPILED * compiled


def measure(geometry: Geometry, backend: str, precision: str, expected: Exact | None = None) -> Measured:
    model = model_of(geometry)
    train, test = triples_of(geometry)
    expected = expected or exact(model, train, test, geometry.layers)
    saturated = expected.largest_score > SATURATED

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        ti = tracin.TracIn(
            model, 1.0, layers=geometry.layers, backend=backend, precision=precision, device="cpu", progress=False
        )
        return ti.influence(train, test), ti.self_influence(train)

    limit = limit_of(backend, precision, saturated, sum(p.numel() for p in model.parameters()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, own = run() if backend == "compiled" else in_fresh_memory(run)
            again, _ = in_fresh_memory(run) if (backend, precision) == REPEATED else (found, own)
    except Exception as error:
        return Measured(geometry, backend, precision, torch.inf, torch.inf, saturated, limit, True, repr(error)[:200])
    quiet, columns = ~expected.kink_test, ~expected.kink_train
    whole, off = (
        largest(
            row_errors(found[q][:, c], expected.influence[q][:, c]), row_errors(own[None, c], expected.own[None, c])
        )
        for q, c in ((slice(None), slice(None)), (quiet, columns))
    )
    return Measured(geometry, backend, precision, whole, off, saturated, limit, torch.equal(found, again))


def largest(*errors: torch.Tensor) -> float:
    return max((float(x.max()) for x in errors if x.numel()), default=0.0)


def measure_all(geometries: Iterable[Geometry], compiled_every: int = 0) -> Iterator[Measured]:
    for number, one in enumerate(geometries):
        expected = exact(model_of(one), *triples_of(one), one.layers)
        for backend, precision in settings(bool(compiled_every) and number % compiled_every == 7):
            yield measure(one, backend, precision, expected)


def faults(measured: Iterable[Measured]) -> dict[str, str]:
    """Key -> what is wrong, of the first of its kind."""
    found: dict[str, str] = {}
    for one in measured:
        if one.fault:
            found.setdefault(one.key, f"{one.fault} ({one.geometry.name}: {one.geometry.describe()})")
    return found


def table(measured: list[Measured]) -> str:
    lines = [
        f"{'backend':11} {'precision':9} {'models':>6} {'off the kink':>12} {'all':>8} {'saturated':>9}  worst model"
    ]
    for backend, precision in dict.fromkeys((one.backend, one.precision) for one in measured):
        of_pair = [one for one in measured if (one.backend, one.precision) == (backend, precision)]
        usual = [one for one in of_pair if not one.saturated and not one.fault] or of_pair
        worst = max(usual, key=lambda one: one.worst_off_kink)
        lines.append(
            f"{backend:11} {precision:9} {len(of_pair):6} {worst.worst_off_kink:12.1e} "
            f"{max(one.worst for one in usual):8.1e} "
            f"{max((one.worst_off_kink for one in of_pair if one.saturated and not one.fault), default=0.0):9.1e}"
            f"  {worst.geometry.name}: {worst.geometry.describe()}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="models, those at the edges among them")
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compiled-every", type=int, default=COMPILED_EVERY, help="0: never")
    given = parser.parse_args()
    end = given.start + given.count
    chosen = (edges() + [random_geometry(given.seed, number) for number in range(end)])[given.start : end]
    torch.set_num_threads(1)  # the models are small: threads would only wait for one another
    begin = time.monotonic()
    measured = list(measure_all(chosen, given.compiled_every))
    print(table(measured))
    found = faults(measured)
    wrong = {one.geometry.name for one in measured if one.fault}
    print(f"{len(chosen)} models, {len(measured)} measurements in {time.monotonic() - begin:.0f} s")
    print(f"models with a fault: {len(wrong)} (left out of the table); kinds of faults: {len(found)}")
    for key, what in found.items():
        print(f"  {key}: {what}")
    print(known.report("geometries", found))


if __name__ == "__main__":
    main()
