"""What the card can do: copy bandwidth, and its products at the shapes of W2, in the layouts that could be chosen.

python -m bench.gpu_check.card cuda FOLDER      # writes FOLDER/card.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.report import write_json

FEATURES, MIDDLE, HALF, DIM, COLUMNS = 9728, 512, 4608, 200, 720  # FB15k-237 at d = 200
TESTS, PAIRS, HEADS = 20_466, 13_737, 8_171
BLOCKS = (512, 4096, 8192)  # training triples, of which a third are distinct pairs
COPIED = 1 << 30


def seconds_of(call: Callable[[], Any], repeats: int = 5) -> float:
    """Mean of several calls after one, by the device's clock."""
    call()
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(True), torch.cuda.Event(True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / repeats * 1e-3


def random(*sizes: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*sizes, device="cuda").to(dtype)


def products(B: int, dtype: torch.dtype) -> dict[str, float]:
    """TFLOP/s of W2's products for a block of B triples, operands laid out along k ("k") or across it."""
    G = max(1, B * 93 // 272)
    narrow = dtype == torch.bfloat16
    wide = {"out_dtype": torch.float32} if narrow else {}
    test_v, v = random(FEATURES, PAIRS, dtype=dtype), random(G, FEATURES, dtype=dtype)
    e, linear = random(B, DIM, dtype=dtype), random(B, COLUMNS, dtype=dtype)
    test_linear = random(COLUMNS, TESTS, dtype=dtype)
    along, padded = test_v.T.contiguous(), random(FEATURES, -(-PAIRS // 8) * 8, dtype=dtype)
    linear_along = test_linear.T.contiguous()
    cases: dict[str, tuple[Tensor, Tensor]] = {
        "v.v', across": (test_v.T, v.T),
        "v.v', along": (along, v.T),
        "v.v', across, padded to 8": (padded.T, v.T),
        "v.v' of the middle, along": (along[:, :MIDDLE], v[:, :MIDDLE].T),
        "v.v' of a half, along": (along[:HEADS, MIDDLE : MIDDLE + HALF], v[:, MIDDLE : MIDDLE + HALF].T),
        "delta W": (e, random(DIM, FEATURES, dtype=dtype)),
        "linear, across": (test_linear.T, linear.T),
        "linear, along": (linear_along, linear.T),
        "delta.delta', along": (random(TESTS, DIM, dtype=dtype), e.T),
    }
    if not narrow:
        cases["v W"] = (v, random(FEATURES, DIM, dtype=dtype))
    rates = {}
    for name, (a, b) in cases.items():
        taken = seconds_of(lambda a=a, b=b: torch.mm(a, b, **wide))  # type: ignore[misc]
        rates[name] = round(2 * a.shape[0] * a.shape[1] * b.shape[1] / taken / 1e12, 1)
    return rates


def copies() -> dict[str, float]:
    """Bandwidth within the card, bytes read and written, and of copies to the host."""
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda").random_()
    target, part = torch.empty_like(source), source[: COPIED // 4]
    pinned, pageable = (torch.empty(COPIED // 4, dtype=torch.uint8, pin_memory=pin) for pin in (True, False))
    return {
        "copy_TB_s": round(2 * COPIED / seconds_of(lambda: target.copy_(source)) / 1e12, 2),
        "to_pinned_GB_s": round(len(part) / seconds_of(lambda: pinned.copy_(part)) / 1e9, 1),
        "to_pageable_GB_s": round(len(part) / seconds_of(lambda: pageable.copy_(part)) / 1e9, 1),
    }


def main() -> None:
    properties = torch.cuda.get_device_properties(0)
    rates: dict[str, Any] = {}
    matmul: Any = torch.backends.cuda.matmul
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
        square = random(8192, 8192, dtype=dtype)
        taken = seconds_of(lambda: square @ square)  # noqa: B023
        rates[name] = {"8192 cubed": round(2 * 8192**3 / taken / 1e12, 1)}
        for B in BLOCKS:
            rates[name][f"B = {B}"] = products(B, dtype)
            torch.cuda.empty_cache()
    found = {
        "name": properties.name,
        "memory_GiB": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **copies(),
        "product_TFLOP_s": rates,
    }
    write_json(Path(sys.argv[2]) / "card.json", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
