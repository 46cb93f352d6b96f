"""The checkpoints of one training run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.digests import digest_models
from tracin.errors import InputError, quote

ENDINGS = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".pkl", ".safetensors", ".gz")  # of checkpoints in a folder


def load_checkpoints(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    embedding_height: int | None = None,
    embedding_width: int | None = None,
    stack: str | None = None,
    entity_to_id: Mapping[str, int] | None = None,
    relation_to_id: Mapping[str, int] | None = None,
) -> list[Checkpoint]:
    """Read the checkpoints of one training run, for `tracin.TracIn`, which adds them up.

    Args:
        paths: their files, or a folder, of which every file counts whose name ends as checkpoints' do (.pt, .pth,
            .ckpt, .safetensors, ...).
        embedding_height, embedding_width, stack, entity_to_id, relation_to_id: as in `load_checkpoint`.

    Returns:
        The checkpoints as they were given; those of a folder by epoch where all have one, else by the numbers in their
        names.

    Raises:
        InputError: if there are none, two have the same weights, or one cannot be read.

    Example:
        >>> TracIn(load_checkpoints(["model.pt"])).top_k(train, test, k=10)
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    folder = Path(several[0]) if len(several) == 1 and Path(several[0]).is_dir() else None
    files = [Path(path) for path in several] if folder is None else checkpoints_in(folder)
    found = [
        load_checkpoint(path, embedding_height, embedding_width, stack, entity_to_id, relation_to_id) for path in files
    ]
    if not found:
        raise InputError("no checkpoint is named; name files, or a folder of them", "checkpoints")
    if folder is not None and all(checkpoint.epoch is not None for checkpoint in found):
        found.sort(key=lambda checkpoint: checkpoint.epoch or 0)
    met: dict[str, str] = {}
    for checkpoint in found:
        told = digest_models([checkpoint.model])
        if told in met:
            raise InputError(
                f"{checkpoint.path} has the same weights as {met[told]}, so that they would count twice; leave one out"
            )
        met[told] = checkpoint.path
    return found


def checkpoints_in(folder: Path) -> list[Path]:
    """The files of a folder that end as checkpoints do, ordered by the numbers in their names.

    Raises:
        InputError: if there are none.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file()]
    if not files:
        raise InputError(f"{quote(str(folder))} has no file that ends in one of {', '.join(ENDINGS)}")
    return sorted(files, key=lambda path: [int(part) if part.isdecimal() else part for part in parts(path.name)])


def parts(name: str) -> list[str]:
    """Text and numbers in turn, the text first."""
    return re.split(r"(\d+)", name)
