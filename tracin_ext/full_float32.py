"""Products and convolutions on a GPU in full float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 off, which PyTorch allows in convolutions by default and rounds operands to 10 bits; then restores it.

    Example:
        >>> with full_float32():
        ...     a @ b
    """
    cudnn: Any = torch.backends.cudnn  # its stubs lack conv
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
