"""Digests of tensors and plain values: whether inputs are the same, and whether a file is as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DIGEST = "sha256:"  # how digests begin
CHECKSUM = "checksum"  # the key of what `sealed` adds
BYTES = 1 << 20  # of a file at a time


def is_digest(value: object) -> bool:
    return isinstance(value, str) and value.startswith(DIGEST)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and values."""
    state = hashlib.sha256()
    for name, tensor in tensors.items():
        _add_tensor(state, name, tensor)
    return DIGEST + state.hexdigest()


def digest_models(models: list[Any]) -> str:
    """Of all weights and of what tells how to read them."""
    config = torch.tensor(list(repr([getattr(model, "config", None) or repr(model) for model in models]).encode()))
    weights = {f"{i}.{name}": tensor for i, model in enumerate(models) for name, tensor in model.state_dict().items()}
    return digest({"config": config, **weights})


def digest_of(value: object) -> str:
    """Of tensors, numbers, texts, and of lists and dicts of them, nested as they are."""
    state = hashlib.sha256()
    _add(state, value)
    return DIGEST + state.hexdigest()


def digest_bytes(data: bytes) -> str:
    return DIGEST + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Of a file's bytes."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while some := file.read(BYTES):
            state.update(some)
    return DIGEST + state.hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content and its checksum, for a file that is read back."""
    return content | {CHECKSUM: digest_of(content)}


def intact(content: Mapping[Any, Any]) -> bool:
    """Whether what was read is what was sealed; without a checksum it is not."""
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return content.get(CHECKSUM) == digest_of(rest)


def _add_tensor(state: Any, name: str, tensor: Tensor) -> None:
    state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
    state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _add(state: Any, value: object) -> None:
    """Each part with its kind and size before it, so that no two values give the same bytes."""
    if isinstance(value, Tensor):
        _add_tensor(state, "tensor", value)
    elif isinstance(value, Mapping):
        state.update(f"dict {len(value)};".encode())
        for key, item in value.items():
            _add(state, key)
            _add(state, item)
    elif isinstance(value, (list, tuple)):
        state.update(f"list {len(value)};".encode())
        for item in value:
            _add(state, item)
    else:
        text = repr(value).encode(errors="backslashreplace")
        state.update(f"{type(value).__name__} {len(text)};".encode() + text)
