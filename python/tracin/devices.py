"""Which device runs the work."""

from __future__ import annotations

import torch

from tracin.errors import InputError


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is some."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; expected auto, cpu or cuda") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but this PyTorch sees no CUDA device; take --device cpu or auto")
    return resolved
