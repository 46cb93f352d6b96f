"""Files of safetensors, read by its own library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tracin.errors import InputError


def read_safetensors(path: str) -> dict[str, Any]:
    """The tensors under 'state_dict', beside them the file's metadata, whose values are text.

    Raises:
        InputError: if the library is not installed, or the file is damaged.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise InputError(
            f"{path} is a safetensors file, and the library that reads it is not installed; install it with "
            "`pip install safetensors`"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} is a damaged safetensors file: {error}; copy or write it again") from error
    return {**{name: _value(text) for name, text in metadata.items()}, "state_dict": tensors}


def _value(text: str) -> Any:
    """Metadata hold text alone, and settings in it are JSON."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
