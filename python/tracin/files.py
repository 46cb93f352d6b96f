"""Outputs, whatever their format: a file is written whole or not at all.

While it is written it is `.NAME.PROCESS.part` beside the file, whose place it takes at the end: a failure leaves an
earlier file as it was, and readers never see half of one.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tracin.errors import InputError

PARQUET = ".parquet"  # ending of names, in any case
PART = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Opens a text file, UTF-8 with line ends as written, that takes the place of `path` once it is written whole."""
    with replacing_path(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def replacing_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes the place of `path` once it is written whole."""
    with replacing_path(path) as part, open(part, "wb") as file:
        yield file


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Gives the path of a file to write, which takes the place of `path` once the work in it ends without an error."""
    if is_device(path):
        yield path
        return
    target = path.resolve()  # a link stays a link
    part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    try:
        yield part
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()


def remove_parts(path: Path) -> None:
    """Removes what a process that was killed was still writing: of a file, or of all files in a folder."""
    target = path.resolve()
    folder, names = (target, "") if target.is_dir() else (target.parent, f"{glob.escape(target.name)}.")
    for part in folder.glob(f".{names}*{PART}"):
        part.unlink(missing_ok=True)


def is_device(path: Path) -> bool:
    """Devices and pipes are written to, never replaced; so is /dev/stdout, which may lead to a plain file."""
    return str(path.parent) in ("/dev", "/dev/fd") or (path.exists() and not path.is_file())


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == PARQUET


def check_writable(path: Path) -> None:
    """Raises unless a file can be written at `path`, so that a wrong output shows before the work and not after it.

    Raises:
        InputError: if the folder does not exist or cannot be written to, or `path` is a folder.
    """
    if path.is_dir():
        raise InputError(f"output {path} is a folder; name a file in it")
    if is_device(path):
        if is_parquet(path):
            raise InputError(f"output {path} is no plain file, which Parquet needs; name another file")
        return
    folder = path.resolve().parent
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"output {path}: {folder} {kind}; create the folder or name another")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"output {path}: cannot write to {folder} ({error.strerror}); choose another folder") from None
