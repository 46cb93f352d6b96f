"""The library of native ops, libtracin_ext. It binds to torch and to no Python: one build serves every Python."""

from __future__ import annotations

import ctypes
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch


class Library:
    """The loaded library; loading it registers torch.ops.tracin_ext. OSError if it does not load."""

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(str(path))
        self._build_info = ctypes.CDLL(str(path.resolve())).tracin_build_info
        self._build_info.restype = ctypes.c_char_p

    def build_info(self) -> dict[str, Any]:
        """What was built.

        Returns:
            version, isa (the variant in use), isa_variants (compiled), bfloat16 (whether its products are fast here),
            compiler, cuda_targets, constants (those of csrc/constants.h, by name).

        Raises:
            ValueError: the environment variable TRACIN_CPU names a variant that cannot run here.
        """
        info: dict[str, Any] = json.loads(self._build_info().decode(errors="replace"))
        if "error" in info:
            raise ValueError(info["error"])
        return info

    @cached_property
    def constants(self) -> dict[str, int]:
        """Of csrc/constants.h, by name."""
        constants: dict[str, int] = self.build_info()["constants"]
        return constants
