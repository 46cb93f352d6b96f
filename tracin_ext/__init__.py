"""Tensor operations of TracIn. Works without the native extension; `status` says if it runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from tracin_ext.library import Library

__all__ = ["TORCH_REQUIRED", "status"]

TORCH_REQUIRED = "2.10"
_BUILD_ERROR = Path(__file__).with_name("_build_error.txt")


def _load() -> tuple[Library | None, str | None]:
    """Loads the library, which registers torch.ops.tracin_ext; returns it, or the reason why it is not there."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < tuple(int(part) for part in TORCH_REQUIRED.split(".")):
        return None, f"torch {torch.__version__} is too old, the native extension needs {TORCH_REQUIRED}: upgrade torch"
    path = next(Path(__file__).parent.glob("libtracin_ext.*"), None)
    if path is None and _BUILD_ERROR.exists():
        return None, f"the native extension was not built: {_BUILD_ERROR.read_text().strip()}"
    if path is None:
        return None, "the native extension was not built: install tracin-ext with a C++ compiler present"
    try:
        return Library(path), None
    except OSError as error:
        cause = error.__cause__ or error  # torch names the file alone
        return None, f"the native extension does not load ({cause}): install tracin-ext again with this torch"


native, _reason = _load()  # the library, or None


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
            del info["constants"]
        except ValueError as error:
            reason = str(error)
    return {"available": reason is None, "reason": reason, "torch_required": TORCH_REQUIRED, **info}


if native is not None:
    importlib.import_module("tracin_ext.ops")  # registers the fake kernels
