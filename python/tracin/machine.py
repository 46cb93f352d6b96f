"""What this machine is and which device of it runs the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch

import tracin_ext
from tracin.errors import InputError
from tracin_ext import backends

DISTRIBUTION = "tracin-ext"

_processes_here = 1


def info() -> dict[str, Any]:
    """What runs on this machine; never raises.

    Returns:
        version of this package; backend, the one that "auto" takes for a ConvE on the CPU; reason, why nothing faster
        is in use (None if nothing is); extension, `tracin_ext.status()`; isa, the CPU instructions in use (None without
        the native extension); cuda, whether PyTorch sees a CUDA device; cuda_backend, the one that "auto" takes there,
        and cuda_reason; threads, of the CPU; torch, its version.

    Example:
        >>> tracin.info()["backend"]
        'native'
    """
    status = tracin_ext.status()
    backend, against = backends.choose("auto", torch.device("cpu"))
    cuda_backend: str | None = None
    cuda_reason: str | None = "PyTorch sees no CUDA device"
    if torch.version.cuda is None:
        cuda_reason = "this PyTorch is built without CUDA"
    elif torch.cuda.is_available():
        cuda_backend, cuda_against = backends.choose("auto", torch.device("cuda"))
        cuda_reason = "; ".join(cuda_against) or None
    return {
        "version": version(),
        "backend": backend,
        "reason": "; ".join(against) or None,
        "extension": status,
        "isa": status["isa"],
        "cuda": cuda_backend is not None,
        "cuda_backend": cuda_backend,
        "cuda_reason": cuda_reason,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def version() -> str:
    """Of the installed package; "not installed" when it runs from its source tree."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "not installed"


def format_info(facts: dict[str, Any]) -> str:
    """The facts of `info` as lines for people."""
    extension = facts["extension"]
    native = "not in use" if extension["reason"] else "in use"
    lines = {
        "tracin-ext": facts["version"],
        "torch": facts["torch"],
        "CPU": f"backend {facts['backend']}, {facts['threads']} threads",
        "": f"not faster because {facts['reason']}" if facts["reason"] else "the fastest backend there is",
        "CUDA": f"backend {facts['cuda_backend']}" if facts["cuda"] else f"not in use: {facts['cuda_reason']}",
        "native extension": native,
    }
    if extension["version"] is not None:
        lines |= {
            "  version": extension["version"],
            "  compiler": extension["compiler"],
            "  CPU variants": f"{', '.join(extension['isa_variants'])}; in use: {facts['isa']}",
            "  CUDA targets": ", ".join(extension["cuda_targets"]) or "none",
        }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is some."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; expected auto, cpu or cuda", "device") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but this PyTorch sees no CUDA device; take --device cpu or auto", "device")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise InputError(f"device is {device!r}; the last one that this PyTorch sees is cuda:{last}", "device")
    return resolved


def processes_here() -> int:
    """How many processes of this run share this machine, this one among them."""
    return _processes_here


@contextmanager
def shared_by(processes: int) -> Iterator[None]:
    """While so many processes of the run share this machine."""
    global _processes_here
    before, _processes_here = _processes_here, processes
    try:
        yield
    finally:
        _processes_here = before
