"""Products and convolutions on a GPU in full float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Settings:
    """PyTorch's are those of the whole process: the first thread inside changes them, the last one puts them back."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    before: list[str] = field(default_factory=list)


SETTINGS = Settings()


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 off, which PyTorch allows in convolutions by default and rounds operands to 10 bits; then restores it.

    It is off for all threads until the last one that is inside leaves; what other code sets meanwhile is lost.

    Example:
        >>> with full_float32():
        ...     a @ b
    """
    cudnn: Any = torch.backends.cudnn  # its stubs lack conv
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv)
    with SETTINGS.lock:
        if not SETTINGS.inside:
            SETTINGS.before = [kind.fp32_precision for kind in kinds]
        SETTINGS.inside += 1
        for kind in kinds:
            kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        with SETTINGS.lock:
            SETTINGS.inside -= 1
            if not SETTINGS.inside:
                for kind, precision in zip(kinds, SETTINGS.before, strict=True):
                    kind.fp32_precision = precision
