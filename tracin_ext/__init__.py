"""Tensor operations of TracIn. Works without the native extension; `status` says if it runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

__all__ = ["TORCH_REQUIRED", "status"]

TORCH_REQUIRED = "2.13"
_BUILD_ERROR = Path(__file__).with_name("_build_error.txt")


def _load() -> tuple[ModuleType | None, str | None]:
    """Loads _C, which registers torch.ops.tracin_ext; returns it, or the reason why it is not there."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < tuple(int(part) for part in TORCH_REQUIRED.split(".")):
        return None, f"torch {torch.__version__} is too old, the native extension needs {TORCH_REQUIRED}: upgrade torch"
    try:
        return importlib.import_module("tracin_ext._C"), None
    except ModuleNotFoundError as error:
        if _BUILD_ERROR.exists():
            return None, f"the native extension was not built: {_BUILD_ERROR.read_text().strip()}"
        return None, f"the native extension was not built ({error}): install tracin-ext with a C++ compiler present"
    except ImportError as error:
        return None, f"the native extension does not load ({error}): install tracin-ext again with this torch"


native, _reason = _load()  # the module _C, or None


def status() -> dict[str, Any]:
    """What the native extension is, or why it is not in use; never raises.

    Returns:
        available (bool), reason (None if available, else one sentence with the remedy), torch_required, and of the
        extension: version, isa (the variant in use), isa_variants (compiled), compiler, cuda_targets; None or empty
        without it.

    Example:
        >>> tracin_ext.status()["available"]
        True
    """
    info: dict[str, Any] = {
        "version": None, "isa": None, "isa_variants": [], "bfloat16": False, "compiler": None, "cuda_targets": [],
    }  # fmt: skip
    reason = _reason
    if native is not None:
        try:
            info = native.build_info()
        except ValueError as error:
            reason = str(error)
    return {"available": reason is None, "reason": reason, "torch_required": TORCH_REQUIRED, **info}


if native is not None:
    importlib.import_module("tracin_ext.ops")  # registers the fake kernels
