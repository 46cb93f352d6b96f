"""What a file is that is no checkpoint of torch.save, told from its first bytes, and what to do about it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

from tracin.checkpoints.layouts import listing
from tracin.errors import quote

HEAD = 1 << 16  # bytes that are looked at
GZIP = b"\x1f\x8b"
ZIP = b"PK"
RESAVE = "load it where it was made and write its weights with torch.save(model.state_dict(), ...)"
UNPACK = "unpack it and name the checkpoint in it"

BEGINNINGS = (  # first bytes, what such a file is, the remedy
    (b"version https://git-lfs", "a pointer of Git LFS, which stands for the file", "fetch it with `git lfs pull`"),
    (b"\x93NUMPY", "a NumPy array (.npy)", RESAVE),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", RESAVE),
    (b"BZh", "compressed with bzip2", "unpack it with `bunzip2`"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it with `unxz`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with `unzstd`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"PAR1", "a Parquet file", "name the checkpoint"),
    (b"GGUF", "a GGUF file", RESAVE),
    (b"%PDF", "a PDF document", "name the checkpoint"),
    *(
        (start, "compressed with zlib, as joblib.dump does", RESAVE)
        for start in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
    ),
)
PAGES = (b"<!doctype html", b"<html", b"<?xml")
TAR_MAGIC = slice(257, 262), b"ustar"
SAFETENSORS = slice(8, 9), b"{"  # the length of a JSON object in 8 bytes, then the object
MAX_SAFETENSORS_HEADER = 100_000_000


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as those of safetensors do."""
    place, brace = SAFETENSORS
    return head[place] == brace and 2 <= int.from_bytes(head[:8], "little") <= MAX_SAFETENSORS_HEADER


def kind_of(head: bytes) -> str | None:
    """The end of a sentence that begins with the file's name; None for what may be a checkpoint.

    Args:
        head: the first HEAD bytes.
    """
    if not head:
        return "is empty (0 bytes); was the download or copy interrupted?"
    for beginning, what, remedy in BEGINNINGS:
        if head.startswith(beginning):
            return f"is {what}, not a torch checkpoint; {remedy}"
    place, magic = TAR_MAGIC
    if head[place] == magic:
        return f"is a tar archive, not a torch checkpoint; {UNPACK}"
    if head.lstrip().lower().startswith(PAGES):
        return (
            "is a web page, not a torch checkpoint; download the file itself: the link needs the raw file, or a log-in"
        )
    if is_text(head):
        return f"is text that begins with {quote(head[:40].decode())}, not a torch checkpoint; name the checkpoint"
    return None


def is_text(head: bytes) -> bool:
    try:
        text = head[:1000].decode()
    except UnicodeDecodeError as error:
        if error.end < min(len(head), 1000) - 3:
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character in "\t\r\n" for character in text)


def kind_of_pickle(head: bytes) -> str:
    """The same for a pickle that torch.save did not write."""
    if b"joblib" in head:
        return f"is a file of joblib, not a torch checkpoint; {RESAVE}"
    return f"is a pickle, but not a torch checkpoint: torch.save did not write it; {RESAVE}"


def kind_of_archive(members: Sequence[zipfile.ZipInfo]) -> str:
    """The same for a zip archive without what torch.save puts into one."""
    names = [member.filename for member in members]
    if names and all(name.endswith(".npy") for name in names):
        return f"is an archive of NumPy arrays (.npz: {listing(names)}), not a torch checkpoint; {RESAVE}"
    inside = f" of {listing(names)}" if names else " of nothing"
    return f"is a zip archive{inside}, not a torch checkpoint; {UNPACK}"
