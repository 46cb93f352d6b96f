"""What this machine can do, measured in the same run, and the plain limit of a job.

Plain limit: the matrix products of the undecomposed factored form, and nothing else, each at the best rate that
torch.mm reaches at the block shapes used. For B training triples over G distinct (head, relation) pairs and Q tests:

    forward   2 D F G        [G, F] x [F, D]      u = Wfc v
    backward  2 D F B        [B, D] x [D, F]      Wfc^T delta
    features  2 F G Q        [G, F] x [F, Q]      v . v'
    linear    2 (3 D + S) B Q                     e . e', delta . delta', (e un) . (e un)', S^T M S'

The convolution and the test side are left out, so the limit is the lower for it. Sizes: D embedding, F features,
S = C (J + 1) statistics.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import tracin_ext
from bench.measure import measure
from tracin import ConvE
from tracin_ext.ops import constant

BLOCKS = (512, 1024, 2048, 4096)  # training triples of a block; the products run on blocks of such sizes
TESTS = 2048  # test triples of a block at most
BANDWIDTH_BYTES = 256 << 20  # eight times the last cache of what is common, so that memory is measured
# Triples of one head from which the native backend builds its Jacobian.
JACOBIAN_FROM = constant("jacobian_from") if tracin_ext.native else sys.maxsize
LOW_PRECISION = ("backward", "features", "linear")  # in bfloat16 when precision is "mixed"


@dataclass(frozen=True)
class Work:
    """The sizes of a job, all that its FLOPs depend on."""

    train: int  # B
    test: int  # Q
    pairs: int  # G, distinct (head, relation) of train
    heads: int  # distinct heads of train
    relations: int  # distinct relations of train
    rich_heads: int  # heads of train with at least JACOBIAN_FROM triples
    rich_triples: int  # triples of train with such a head
    test_pairs: int  # distinct (head, relation) of test
    test_heads: int  # distinct heads of test
    dim: int  # D
    features: int  # F
    mixed_features: int  # features whose window sees head and relation
    statistics: int  # S
    taps: int  # J

    @property
    def half(self) -> int:
        """Features that see the head alone; as many see the relation alone."""
        return (self.features - self.mixed_features) // 2


def work_of(model: ConvE, train: Tensor, test: Tensor) -> Work:  # [B, 3], [Q, 3]
    config = model.config
    planes, rows, columns = model.image
    kernel = config["kernel_height"], config["kernel_width"]
    outputs = [rows - kernel[0] + 1, columns - kernel[1] + 1]
    axis = 0 if model.stack == "height" else 1
    alone = max(0, model.plane[1 + axis] - kernel[axis] + 1)  # output rows (columns) of one embedding
    channels, features = config["output_channels"], model.fc.in_features
    taps = planes * kernel[0] * kernel[1]
    of_head = train[:, 0].long().unique(return_counts=True)[1]
    rich = of_head[of_head >= JACOBIAN_FROM]
    test_pairs, test_heads, _ = distinct(test)
    return Work(
        len(train),
        len(test),
        *distinct(train),
        len(rich),
        int(rich.sum()),
        test_pairs,
        test_heads,
        config["embedding_dim"],
        features,
        features - 2 * channels * alone * outputs[1 - axis],
        channels * (taps + 1),
        taps,
    )


def distinct(triples: Tensor) -> tuple[int, int, int]:  # [n, 3]
    """How many pairs, heads, relations."""
    heads, relations = triples[:, 0].long(), triples[:, 1].long()
    pairs = heads * (int(relations.max()) + 1 if len(triples) else 1) + relations
    return len(pairs.unique()), len(heads.unique()), len(relations.unique())


def plain_flops(work: Work) -> dict[str, float]:
    """FLOPs of each product of the undecomposed form."""
    return {
        "forward": 2.0 * work.dim * work.features * work.pairs,
        "backward": 2.0 * work.dim * work.features * work.train,
        "features": 2.0 * work.features * work.pairs * work.test,
        "linear": 2.0 * (3 * work.dim + work.statistics) * work.train * work.test,
    }


def native_flops(work: Work) -> dict[str, float]:
    """The products that the native backend does: the image's halves once per head and per relation, tests grouped.

    The relation's half is prepared with the model. Backward, its statistics are J delta with a Jacobian J [S, D], and
    so are the head's where a head has triples enough to repay its own.
    """
    D, half, mixed, S = work.dim, work.half, work.mixed_features, work.statistics
    halves = half * work.heads * work.test_heads + mixed * work.pairs * work.test_pairs
    own = half * (work.train - work.rich_triples) + half * (work.taps + 1) * work.rich_heads + S * work.rich_triples
    return plain_flops(work) | {
        "forward": 2.0 * D * (half * work.heads + mixed * work.pairs),
        "backward": 2.0 * D * (mixed * work.train + own + S * work.train),
        "features": 2.0 * halves,
    }


def seconds_at(flops: dict[str, float], rates: dict[str, dict[str, float]], precision: str) -> float:
    """Time of the products at the measured rates (FLOP/s by type and product); the limit if nothing else took time."""
    low = LOW_PRECISION if precision == "mixed" else ()
    return sum(count / rates["bfloat16" if name in low else "float32"][name] for name, count in flops.items())


def products(work: Work, block: int) -> Iterator[tuple[str, int, int, int]]:
    """(name, m, inner, n) of each product on a block of training triples."""
    block, tests = min(block, work.train), min(work.test, TESTS)
    yield "forward", block, work.features, work.dim
    yield "backward", block, work.dim, work.features
    yield "features", block, work.features, tests
    yield "linear", block, 3 * work.dim + work.statistics, tests


def measure_rates(work: Work, quick: bool = False) -> dict[str, dict[str, float]]:
    """Best FLOP/s of torch.mm for each product over blocks and both orders of the operands, by type."""
    best: dict[str, dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        rates = best.setdefault(str(dtype).removeprefix("torch."), {})
        for block in BLOCKS[1:3] if quick else BLOCKS:
            for name, *shape in products(work, block):
                for m, inner, n in (shape, shape[::-1]):
                    rates[name] = max(rates.get(name, 0.0), rate_of(m, inner, n, dtype, 3 if quick else 5))
    return best


def rate_of(m: int, inner: int, n: int, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of torch.mm [m, inner] x [inner, n] into an existing tensor, best of several."""
    a, b, out = (torch.ones(shape, dtype=dtype) for shape in ((m, inner), (inner, n), (m, n)))
    timing, _ = measure(lambda: torch.mm(a, b, out=out), repeats, memory=False)
    return 2.0 * m * inner * n / timing.best


def measure_bandwidth() -> dict[str, float]:
    """Bytes per second of reading (a sum) and of copying (bytes read plus bytes written), best of several."""
    source = torch.ones(BANDWIDTH_BYTES // 4)
    target = torch.empty_like(source)
    read, _ = measure(source.sum, 5, memory=False)
    copy, _ = measure(lambda: target.copy_(source), 5, memory=False)
    return {"read": BANDWIDTH_BYTES / read.best, "copy": 2 * BANDWIDTH_BYTES / copy.best}
