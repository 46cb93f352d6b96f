"""How exact products of float32 are that tensor cores compute in parts, emulated on the CPU.

    python -m bench.split_products          # writes results/split_products.json

An operand becomes a sum of parts of few bits (TF32: 11, bfloat16: 8), and a product the sum of the parts' products that
count, three for two parts each. A tensor core multiplies parts exactly; how it adds is emulated twice, to
the nearest float32, and cut off to float32 after every eight terms, as tensor cores were seen to do (Ootomo, Yokota:
Recovering single precision accuracy from Tensor Cores, 2022). In parts are the products that mixed precision takes in
bfloat16: backward, linear terms, delta . delta', v . v'. What is told is the worst test triple's error against float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from bench.graphs import Graph, load_fb15k237
from bench.report import write_json
from bench.verify import worst_test_error
from tracin.model import ConvE
from tracin_ext.backends import factored
from tracin_ext.backends.factored import FactoredBackend, Factors
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.parameters import LAYERS, ConvEParameters

ROOT = Path(__file__).resolve().parents[1]
TRAIN, TESTS = 256, 100
STEP = 8  # terms that a tensor core adds before it cuts off
Round = Callable[[Tensor], Tensor]


def to_tf32(x: Tensor) -> Tensor:
    """To the nearest number of 11 bits, ties to even."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def to_bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def cut_off(x: Tensor) -> Tensor:  # float64
    """To float32, towards zero; as float64."""
    near = x.float()
    return torch.where(near.double().abs() > x.abs(), near.nextafter(torch.zeros_like(near)), near).double()


@dataclass(frozen=True)
class Way:
    """A way of multiplying: the parts, and how many of an operand; 0: as it is, in float32."""

    name: str
    round: Round | None
    parts: int
    cuts: bool

    def split(self, x: Tensor) -> list[Tensor]:
        assert self.round is not None
        found = []
        for _ in range(self.parts):
            found.append(self.round(x))
            x = x - found[-1]
        return found

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:  # [m, k], [k, n] -> [m, n]
        """One product of the parts side by side: their products add up in one accumulator, the small ones first."""
        if self.round is None:
            return a @ b
        left, right = self.split(a), self.split(b)
        pairs = [(i, j) for i in range(self.parts) for j in range(self.parts) if i + j < self.parts]
        pairs.sort(key=lambda pair: -sum(pair))
        x = torch.cat([left[i] for i, _ in pairs], 1).double()
        y = torch.cat([right[j] for _, j in pairs], 0).double()
        if not self.cuts:
            return (x @ y).float()
        total = x.new_zeros(len(x), y.shape[1])
        for k in range(0, x.shape[1], STEP):
            total = cut_off(total + x[:, k : k + STEP] @ y[k : k + STEP])
        return total.float()


WAYS = (
    Way("float32", None, 0, False),
    Way("bfloat16", to_bfloat16, 1, True),
    Way("TF32", to_tf32, 1, True),
    Way("2 x TF32, 3 products", to_tf32, 2, False),
    Way("2 x TF32, 3 products, cut off", to_tf32, 2, True),
    Way("2 x bfloat16, 3 products", to_bfloat16, 2, False),
    Way("2 x bfloat16, 3 products, cut off", to_bfloat16, 2, True),
)


def parts_of_image(p: ConvEParameters) -> list[slice]:
    """Positions of the head's half, the middle and the relation's half, of an image stacked in height."""
    (height, width), (kernel_height, kernel_width) = p.plane[-2:], p.conv_weight.shape[2:]
    columns = width - kernel_width + 1
    own, middle = (height - kernel_height + 1) * columns, (kernel_height - 1) * columns
    return [slice(0, own), slice(own, own + middle), slice(own + middle, 2 * own + middle)]


def gram(way: Way, p: ConvEParameters, v: Tensor, other: Tensor) -> Tensor:  # [G, F], [H, F] -> [G, H]
    """v . v' by halves of the image, that of the relation in float32: it comes from a table."""
    a, b = (x.unflatten(1, (p.conv_weight.shape[0], -1)) for x in (v, other))
    head, middle, relation = parts_of_image(p)
    total = a[..., relation].flatten(1) @ b[..., relation].flatten(1).T
    for part in (head, middle):
        total = total + way.multiply(a[..., part].flatten(1), b[..., part].flatten(1).T)
    return total


def scores(way: Way, model: ConvE, train: Tensor, test: Tensor) -> Tensor:  # [n, 3], [q, 3] -> [q, n]
    """As the kernels compute them around these products, forward pass and joins in float32."""
    backend = FactoredBackend(model, LAYERS, torch.float32, torch.device("cpu"))
    p, plain = backend.parameters, factored.product
    factored.product = lambda _, a, b: way.multiply(a, b)
    try:
        left, right = backend.factors(test), backend.factors(train)
    finally:
        factored.product = plain

    def linear(f: Factors, S: Tensor) -> Tensor:
        return torch.cat([f.e, f.e_un, S], 1)

    assert p.M is not None
    dots = way.multiply(left.delta * (p.hidden_gamma * p.hidden_rstd), right.e.T)
    v_of_v = gram(way, p, left.v, right.v)[left.group][:, right.group]
    total = dots * (v_of_v + 1) + way.multiply(linear(left, left.S @ p.M), linear(right, right.S).T)
    joins = factored.pair_terms(p, left, right)
    return total + sum(joins[name] for name in factored.PAIR_TERMS[2:])


def ordered(triples: Tensor) -> Tensor:
    return triples[order_by_head_relation(triples)]


def errors(graph: Graph) -> Iterator[dict[str, Any]]:
    chosen = torch.randperm(len(graph.train), generator=torch.Generator().manual_seed(0))[:TRAIN]
    train, test = ordered(graph.train[chosen]), ordered(graph.test[:TESTS])
    wide = FactoredBackend(graph.model, LAYERS, torch.float64, torch.device("cpu"))
    exact = wide.scores(wide.test_factors(test), train, 1.0)
    for way in WAYS:
        yield {"way": way.name, "error": worst_test_error(scores(way, graph.model, train, test), exact)}


def folder_of(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


@click.command()
def main() -> None:
    """Writes results/split_products.json."""
    graph, _ = load_fb15k237(folder_of("TRACIN_DATA"), folder_of("TRACIN_CHECKPOINTS"), ROOT / "build" / "bench")
    rows = []
    with torch.no_grad():
        for row in errors(graph):
            rows.append(row)
            click.echo(f"{row['way']}: {row['error']:.1e}")
    write_json(
        ROOT / "results" / "split_products.json",
        {"graph": graph.source, "train": TRAIN, "tests": TESTS, "rows": rows},
    )


if __name__ == "__main__":
    main()
