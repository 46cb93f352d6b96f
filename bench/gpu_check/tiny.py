"""Small inputs through every kernel, each result compared with float64 on the CPU: what compute-sanitizer watches.

python -m bench.gpu_check.tiny cuda [PRECISION or MODEL...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.samples.models import pairs_of_triples, random_model
from tracin import TracIn
from tracin_ext import ops

TOLERANCES = {"float32": 1e-5, "float64": 1e-9, "mixed": 2e-2}
MODELS = ("plain", "everything odd", "no window sees both halves, in width", "one position")


def error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; infinite where something is NaN."""
    difference = (found.double() - expected).norm() / expected.norm()
    return float(difference.nan_to_num(nan=float("inf")))


def check_model(variant: str, device: str, precisions: Sequence[str]) -> None:
    """Influence, also of one pair, whose matrices are one row or column; self-influence; top k."""
    model = random_model(variant)
    test, train = pairs_of_triples(70)
    exact = TracIn(model, backend="factored", precision="float64", device="cpu", progress=False)
    wanted, own = exact.influence(train, test), exact.self_influence(train)
    for precision in precisions:
        tolerance = TOLERANCES[precision]
        ti = TracIn(model, backend="native", precision=precision, device=device, batch_size=33, progress=False)
        top = ti.top_k(train, test, k=5)
        errors = {
            "influence": error(ti.influence(train, test), wanted),
            "one pair": error(ti.influence(train[:1], test[:1]), wanted[:1, :1]),
            "one test": error(ti.influence(train, test[:1]), wanted[:1]),
            "one training triple": error(ti.influence(train[:1], test), wanted[:, :1]),
            "self-influence": error(ti.self_influence(train), own),
            "top 5": error(top.scores, wanted.gather(1, top.indices)),
        }
        print(f"{variant}, {precision}: " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items()), flush=True)
        wrong = [name for name, e in errors.items() if not e <= tolerance]
        assert not wrong, f"{variant}, {precision}: {', '.join(wrong)} off by more than {tolerance:.0e}"


def check_lists(dtype: torch.dtype, device: str) -> None:
    """Lists that overflow, ties, NaN: as on the CPU."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 5000, dtype=dtype, generator=generator).round(decimals=1)
    scores[0, 7] = torch.nan
    for k in (1, 10, 1000):
        lists = torch.zeros(3, k, dtype=dtype), torch.full((3, k), -1)
        found = [x.to(device) for x in lists]
        for part in (slice(0, 2500), slice(2500, 5000)):
            index = torch.arange(5000)[part]
            ops.merge_top_k(scores[:, part].contiguous().to(device), index, "absolute", *found)
            ops.merge_top_k(scores[:, part].contiguous(), index, "absolute", *lists)
        assert torch.equal(found[1].cpu(), lists[1]), f"top {k} of {dtype} differs from the CPU's"


def main() -> None:
    device, named = sys.argv[1], sys.argv[2:]
    precisions = [name for name in named if name in TOLERANCES] or [*TOLERANCES]
    for variant in [name for name in named if name not in TOLERANCES] or MODELS:
        check_model(variant, device, precisions)
    for dtype in (torch.float32, torch.float64):
        check_lists(dtype, device)
    print("tiny: all right")


if __name__ == "__main__":
    main()
