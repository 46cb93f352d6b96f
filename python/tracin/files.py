"""Outputs, whatever their format: a file is written whole or not at all.

While it is written it is `.NAME.PROCESS.tracin-part` beside the file, whose place it takes at the end: a failure leaves
an earlier file as it was, and readers never see half of one. Its writer holds a lock on it, so that what a killed
process left is told from what another one is writing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tracin.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

PARQUET = ".parquet"  # ending of names, in any case
PART = ".tracin-part"
PIECES = ".pieces"  # after a part's name: a folder of what it is put together from
LOCK = ".tracin-lock"
OWN_PART = re.compile(rf"\.(.+)\.\d+{re.escape(PART)}(?:{re.escape(PIECES)})?")
LONGEST_NAME = 255  # bytes, of most file systems
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_watching: list[Callable[[Path], None]] = []


@contextmanager
def watched(replaced: Callable[[Path], None]) -> Iterator[None]:
    """Within it, `replaced` is told the path of each file that is whole and about to take its place."""
    _watching.append(replaced)
    try:
        yield
    finally:
        _watching.remove(replaced)


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Opens a text file, UTF-8 with line ends as written, that takes the place of `path` once it is written whole."""
    with replacing_path(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def replacing_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes the place of `path` once it is written whole; what is written can be read."""
    with replacing_path(path) as part, open(part, "wb+") as file:
        yield file


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Gives the path of a file to write, which takes the place of `path` once the work in it ends without an error.

    The new file may be read and written by those who might the earlier one.

    Raises:
        OSError: with the name of `path` and a remedy if the disk is full.
    """
    with saying_which_is_full(path):
        if is_device(path):
            yield path
            return
        target = path.resolve()  # a link stays a link
        part = target.with_name(beside(target.name, f".{os.getpid()}{PART}"))
        held = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(held)
            mode = stat.S_IMODE((target if target.exists() else part).stat().st_mode)
            os.chmod(part, mode)
            yield part
            os.chmod(part, mode)  # another file may have taken the part's place
            for replaced in _watching:
                replaced(target)
            os.replace(part, target)
        finally:
            os.close(held)
            with suppress(OSError):
                part.unlink()


@contextmanager
def saying_which_is_full(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, f"{error.strerror}; free some space or choose another place", str(path)) from error


def beside(name: str, ending: str) -> str:
    """The name of a hidden file that belongs to the file of a name."""
    hidden = f".{name}{ending}"
    short = len(os.fsencode(hidden)) <= LONGEST_NAME
    return hidden if short else f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{ending}"


def remove_parts(path: Path) -> None:
    """Removes what processes that were killed were still writing: of a file, or of all files in a folder."""
    target = path.resolve()
    folder, name = (target, None) if target.is_dir() else (target.parent, beside(target.name, "")[1:])
    with suppress(OSError):
        found = [
            entry
            for entry in folder.iterdir()
            if (match := OWN_PART.fullmatch(entry.name)) and name in (None, match[1])
        ]
        for entry in sorted(found):
            _remove_unless_locked(entry)


def _remove_unless_locked(entry: Path) -> None:
    if entry.name.endswith(PIECES):
        if not entry.with_name(entry.name[: -len(PIECES)]).exists():
            shutil.rmtree(entry, ignore_errors=True)
        return
    with suppress(OSError):
        held = os.open(entry, os.O_RDWR)
        try:
            if _take(held):
                entry.unlink(missing_ok=True)
        finally:
            os.close(held)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While work goes on whose outputs are at `path`, a file or a folder, other processes that ask for it are refused.

    The lock ends with the process, however it ends.

    Raises:
        InputError: if another process, or another call in this one, holds it.
    """
    if is_device(path) and not path.is_dir():
        yield
        return
    target = path.resolve()
    lock = target / LOCK if target.is_dir() else target.with_name(beside(target.name, LOCK))
    held = _locked_file(path, lock)
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                lock.unlink()
            os.close(held)


def _locked_file(path: Path, lock: Path) -> int | None:
    """The open file that holds the lock; None where there can be none."""
    while True:
        try:
            held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None  # whoever writes there will say so
        if not _take(held):
            owner = os.read(held, 20).decode(errors="replace").strip()
            os.close(held)
            who = f" (process {owner})" if owner.isdecimal() else ""
            raise InputError(
                f"another run{who} is working on {path}; wait until it ends, or name another file or folder"
            )
        if _is_at(held, lock):
            with suppress(OSError):  # a full disk: the lock holds without its owner's name
                os.ftruncate(held, 0)
                os.pwrite(held, str(os.getpid()).encode(), 0)
            return held
        os.close(held)  # its holder has just removed it


def _is_at(held: int, path: Path) -> bool:
    """Whether an open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(held), os.stat(path))
    except OSError:
        return False


def _take(held: int) -> bool:
    """Locks an open file if nobody else has."""
    if fcntl is not None:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True


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
    length = len(os.fsencode(path.name))
    if length > LONGEST_NAME:
        raise InputError(
            f"output {path.name[:40]}...: the name has {length} bytes, at most {LONGEST_NAME} are possible; shorten it"
        )
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
