"""Files as they come: told by their first bytes, opened once where they can be read only once."""

from __future__ import annotations

import gzip
import importlib
import os
import stat
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from tracin.errors import InputError, quote

PathLike = str | os.PathLike[str]

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
PARQUET = b"PAR1"  # also the last bytes of the file
FOREIGN = {  # first bytes: what the file is, how it becomes text
    b"\xfd7zXZ\x00": ("packed by xz", "unpack it with xz -d"),
    b"PK\x03\x04": ("a zip archive", "unpack it with unzip"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"\x89HDF": ("an HDF5 file", "write it as text"),
    **{b"BZh%d1AY&SY" % level: ("packed by bzip2", "unpack it with bzip2 -d") for level in range(1, 10)},
}
OF_PYKEEN = ("numeric_triples.tsv.gz", "training_triples/numeric_triples.tsv.gz")  # triples in its folders
SNIFFED = 16  # first bytes that tell what a file is
PIECE = 1 << 20
LONGEST_LINE = 1 << 20  # bytes, and of empty lines in a row at the end of a file


class Source(os.PathLike[str]):
    """A file that may be opened again and again: what can be read only once, or is packed by zstd, is kept as a copy.

    Streams of one source share their position where there is a copy: one is read at a time.
    """

    def __init__(self, path: PathLike, copy: IO[bytes] | None = None) -> None:
        self.path = path
        self._copy: IO[bytes] | None = None  # of what is to be read instead
        if copy is not None:
            self._keep(copy)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def once(self) -> bool:
        """Whether it is a pipe or the like, which only one process can read, and only once."""
        return os.path.dirname(self) in ("/dev", "/dev/fd") or (os.path.exists(self) and not os.path.isfile(self))

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The bytes, of gzip and zstd the unpacked ones. GzipFile is the only stream that is not as quick to seek."""
        with self._telling():
            if self._copy is None and self.once and not os.path.isdir(self):
                with open(self, "rb") as pipe:
                    self._refuse_devices(pipe)
                    self._keep(_copied(pipe))
            if self._copy is not None:
                self._copy.seek(0)
                yield self._unpacked(self._copy)
            else:
                with open(self, "rb") as raw:
                    yield self._unpacked(raw)

    def _keep(self, copy: IO[bytes]) -> IO[bytes]:
        """A copy is closed, which removes it, once nobody holds the source."""
        weakref.finalize(self, copy.close)
        self._copy = copy
        return copy

    def is_parquet(self) -> bool:
        with self.opened() as stream:
            if isinstance(stream, gzip.GzipFile) or stream.read(len(PARQUET)) != PARQUET:
                return False
            stream.seek(-len(PARQUET), os.SEEK_END)
            return stream.read() == PARQUET

    def _unpacked(self, raw: IO[bytes]) -> IO[bytes]:
        start = cast(Any, raw).peek(SNIFFED)[:SNIFFED]
        for magic, (what, remedy) in FOREIGN.items():
            if start.startswith(magic):
                raise InputError(f"{self}: this is {what}, expected text, plain or packed by gzip or zstd; {remedy}")
        if start.startswith(GZIP):
            return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
        if start.startswith(ZSTD):
            return self._keep(_copied(_zstd(self, raw)))
        return raw

    def _refuse_devices(self, pipe: IO[bytes]) -> None:
        mode = os.fstat(pipe.fileno()).st_mode
        endless = stat.S_ISCHR(mode) and not pipe.isatty() and os.path.realpath(self) != os.devnull
        if endless or stat.S_ISBLK(mode):
            raise InputError(f"{self}: this is a device, expected a file or a pipe of text")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise InputError(f"{self}: there is no such file; check the path") from None
        except IsADirectoryError:
            paths = (os.path.join(self, name) for name in OF_PYKEEN)
            inside = next((f", such as {path}" for path in paths if os.path.isfile(path)), "")
            raise InputError(f"{self}: this is a folder, expected a text file; name a file inside it{inside}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{self}: the gzip file is damaged ({error}); copy or pack it again") from None
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self}: cannot be read ({reason}); check the path and its rights") from None
        except ValueError as error:  # a NUL in the path
            if isinstance(error, InputError):
                raise
            raise InputError(f"{quote(str(self))}: cannot be read ({error}); check the path") from None


def source_of(path: PathLike) -> Source:
    """The source of a path, or the one that is given."""
    if isinstance(path, Source):
        return path
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path is {quote(path)}; expected the path of a file", "path")
    return Source(path)


def long_line(text: bytes) -> int | None:
    """Where a line of more than LONGEST_LINE bytes starts, which nothing but a wrong or damaged file has."""
    start = 0
    while len(text) - start > LONGEST_LINE:
        end = text.rfind(b"\n", start, start + LONGEST_LINE + 1)
        if end < 0:
            return start
        start = end + 1
    return None


def _copied(stream: IO[bytes]) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the source
    try:
        while piece := stream.read(PIECE):
            copy.write(piece)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _zstd(path: PathLike, raw: IO[bytes]) -> IO[bytes]:
    """Unpacks as it is read; of a line without an end no more than a few pieces."""
    for name in ("compression.zstd", "zstandard"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return cast(IO[bytes], _Zstd(path, module, raw))
    raise InputError(f"{path}: packed by zstd, which needs the package zstandard; install it, or unpack with zstd -d")


class _Zstd:
    """What unpacks zstd, whose errors are of our kind and whose lines end."""

    def __init__(self, path: PathLike, module: Any, raw: IO[bytes]) -> None:
        self.path, self.error = path, module.ZstdError
        if hasattr(module, "ZstdFile"):
            self.stream = module.ZstdFile(raw)
        else:
            self.stream = module.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        self.open_line = 0  # bytes since the last line end

    def read(self, size: int) -> bytes:
        try:
            piece: bytes = self.stream.read(size)
        except (self.error, EOFError) as error:
            raise InputError(f"{self.path}: the zstd file is damaged ({error}); copy or pack it again") from None
        end = piece.rfind(b"\n")
        self.open_line = self.open_line + len(piece) if end < 0 else len(piece) - end - 1
        if self.open_line > 2 * LONGEST_LINE and not piece.startswith(PARQUET):
            raise InputError(f"{self.path}: a line longer than {LONGEST_LINE:,} bytes, the most that a line may have")
        return piece
