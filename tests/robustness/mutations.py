"""Seeded damage of bytes, of text, and of the zip archives that torch.save writes."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]

HUGE_NUMBERS = (b"9" * 5000, b"18446744073709551616", b"2147483648", b"-1", b"1e400", b"0x10", b"1.0", b"nan", b"00")
ODD_TEXTS = (
    "\u202eCHEBI:1", "CHEBI:1\u0301", "\u2028", "\u0085", "\u00a0", "\ufeff", "\U0001f9ec", "\uff23HEBI:1", "\u0000",
    "\x1b[31m", '"',
)  # fmt: skip


# ---- bytes --------------------------------------------------------------------------------------------------------


def flip_a_bit(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_bits(data: bytes, rng: Random) -> bytes:
    for _ in range(rng.randrange(2, 20)):
        data = flip_a_bit(data, rng)
    return data


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.choice([rng.randrange(len(data)), max(0, len(data) - rng.randrange(1, 9)), rng.randrange(9)])]


def drop_the_start(data: bytes, rng: Random) -> bytes:
    return data[rng.choice([1, 2, 4, rng.randrange(len(data))]) :]


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + round(2 ** rng.uniform(0, 12)))


def splice(data: bytes, rng: Random) -> bytes:
    """A piece of the file over another piece of it."""
    start, stop = _span(data, rng)
    place = rng.randrange(len(data))
    return data[:place] + data[start:stop] + data[place + stop - start :]


def insert(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(round(2 ** rng.uniform(0, 10))) + data[place:]


def cut_out(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def zeros(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def ones(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + b"\xff" * min(8, len(data) - start) + data[start + 8 :]


def appended(data: bytes, rng: Random) -> bytes:
    return data + rng.choice([bytes(100), data, rng.randbytes(50), b"\n"])


BYTES: tuple[Mutation, ...] = (
    flip_a_bit, flip_bits, truncate, drop_the_start, splice, insert, cut_out, zeros, ones, appended,
)  # fmt: skip


# ---- text ---------------------------------------------------------------------------------------------------------


def _on_lines(change: Callable[[list[bytes], Random], None]) -> Mutation:
    def mutate(data: bytes, rng: Random) -> bytes:
        packed = data[:2] == b"\x1f\x8b"
        lines = (gzip.decompress(data) if packed else data).split(b"\n")
        change(lines, rng)
        text = b"\n".join(lines)
        return gzip.compress(text, 1, mtime=0) if packed else text

    mutate.__name__ = change.__name__
    return mutate


def _cell(lines: list[bytes], rng: Random, make: Callable[[bytes], bytes]) -> None:
    row = rng.randrange(len(lines))
    cells = lines[row].split(b"\t")
    column = rng.randrange(len(cells))
    cells[column] = make(cells[column])
    lines[row] = b"\t".join(cells)


@_on_lines
def nul_in_a_cell(lines: list[bytes], rng: Random) -> None:
    _cell(lines, rng, lambda cell: rng.choice([b"\x00", cell + b"\x00", b"\x00" + cell]))


@_on_lines
def byte_order_mark(lines: list[bytes], rng: Random) -> None:
    row = rng.choice([0, 0, rng.randrange(len(lines))])
    lines[row] = rng.choice([b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\xff\xfe"]) + lines[row]


@_on_lines
def other_line_ends(lines: list[bytes], rng: Random) -> None:
    end = rng.choice([b"\r", b"\r\r", b"\x0b", b"\x0c", b" "])
    few = rng.random() < 0.5
    for row in range(len(lines)):
        if not few or rng.random() < 0.1:
            lines[row] += end


@_on_lines
def odd_unicode(lines: list[bytes], rng: Random) -> None:
    text = rng.choice(ODD_TEXTS).encode()
    _cell(lines, rng, lambda cell: rng.choice([text, cell + text, text + cell]))


@_on_lines
def no_utf8(lines: list[bytes], rng: Random) -> None:
    bad = rng.choice([b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\xe9", b"\xf5\x80\x80\x80", b"\x80"])
    _cell(lines, rng, lambda cell: cell + bad)


@_on_lines
def huge_number(lines: list[bytes], rng: Random) -> None:
    _cell(lines, rng, lambda cell: rng.choice(HUGE_NUMBERS))


@_on_lines
def long_line(lines: list[bytes], rng: Random) -> None:
    size = rng.choice([70_000, 1 << 20, 3 << 20])
    _cell(lines, rng, lambda cell: cell + b"x" * size)


@_on_lines
def many_tabs(lines: list[bytes], rng: Random) -> None:
    row = rng.randrange(len(lines))
    lines[row] += b"\t" * rng.choice([1, 3, 1000, 20_000])


@_on_lines
def blanks(lines: list[bytes], rng: Random) -> None:
    _cell(lines, rng, lambda cell: rng.choice([b"", b" ", cell + b" ", b" " + cell, b"\xc2\xa0" + cell]))


@_on_lines
def other_separator(lines: list[bytes], rng: Random) -> None:
    row = rng.randrange(len(lines))
    lines[row] = lines[row].replace(b"\t", rng.choice([b" ", b",", b"\t\t", b";", b"\\t"]))


@_on_lines
def lines_moved(lines: list[bytes], rng: Random) -> None:
    row, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    rng.choice(
        [
            lambda: lines.insert(row, lines[other]),
            lambda: lines.pop(row),
            lambda: lines.insert(row, b""),
            lambda: lines.reverse(),
            lambda: lines.extend([b""] * rng.randrange(1, 300)),
        ]
    )()


@_on_lines
def cells_moved(lines: list[bytes], rng: Random) -> None:
    for row in range(len(lines)) if rng.random() < 0.5 else [rng.randrange(len(lines))]:
        cells = lines[row].split(b"\t")
        cells = rng.choice([cells[::-1], cells[1:], cells + cells, [b'"' + cell + b'"' for cell in cells]])
        lines[row] = b"\t".join(cells)


def packed(data: bytes, rng: Random) -> bytes:
    """As gzip, whole or damaged; text that is packed already, packed twice."""
    whole = gzip.compress(data, 1, mtime=0)
    return rng.choice([whole, whole + whole, truncate(whole, rng), flip_a_bit(whole, rng), whole + b"junk"])


def utf_16(data: bytes, rng: Random) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-16-le", "utf-32"]))


TEXT: tuple[Mutation, ...] = (
    nul_in_a_cell, byte_order_mark, other_line_ends, odd_unicode, no_utf8, huge_number, long_line, many_tabs, blanks,
    other_separator, lines_moved, cells_moved, packed, utf_16,
)  # fmt: skip


# ---- zip archives of torch.save -----------------------------------------------------------------------------------


Members = list[tuple[str, bytes]]


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(member.filename, archive.read(member)) for member in archive.infolist()]


def archive_of(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """With checksums that are right, and the same bytes for the same members."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def _storages(members: Members) -> list[int]:
    found = [i for i, (name, content) in enumerate(members) if "/data/" in name and content]
    assert found, "an archive without storages"
    return found


def _pickle(members: Members) -> int:
    return next(i for i, (name, _) in enumerate(members) if name.endswith("data.pkl"))


def _on_members(change: Callable[[Members, Random], None]) -> Mutation:
    def mutate(data: bytes, rng: Random) -> bytes:
        members = members_of(data)
        change(members, rng)
        return archive_of(members)

    mutate.__name__ = change.__name__
    return mutate


@_on_members
def storages_swapped(members: Members, rng: Random) -> None:
    first = rng.choice(_storages(members))
    alike = [i for i in _storages(members) if i != first and len(members[i][1]) == len(members[first][1])]
    other = rng.choice(alike or _storages(members))
    (a, one), (b, two) = members[first], members[other]
    members[first], members[other] = (a, two), (b, one)


@_on_members
def storage_changed(members: Members, rng: Random) -> None:
    """With a checksum of the archive that fits the changed values."""
    place = rng.choice(_storages(members))
    members[place] = members[place][0], flip_a_bit(members[place][1], rng)


@_on_members
def member_twice(members: Members, rng: Random) -> None:
    place = rng.choice([*_storages(members), _pickle(members)])
    name, content = members[place]
    members.insert(rng.choice([place, len(members)]), (name, flip_a_bit(content, rng)))


@_on_members
def member_missing(members: Members, rng: Random) -> None:
    members.pop(rng.randrange(len(members)))


@_on_members
def member_renamed(members: Members, rng: Random) -> None:
    place = rng.randrange(len(members))
    name, content = members[place]
    members[place] = rng.choice([name.upper(), "../" + name, name + "\x00", "/" + name, "x", name[:-1]]), content


@_on_members
def storage_of_other_size(members: Members, rng: Random) -> None:
    place = rng.choice(_storages(members))
    name, content = members[place]
    members[place] = name, rng.choice([content[:-4], content + bytes(4), b"", content * 2])


@_on_members
def pickle_changed(members: Members, rng: Random) -> None:
    place = _pickle(members)
    change = rng.choice([flip_a_bit, splice, insert, cut_out, truncate, ones])
    members[place] = members[place][0], change(members[place][1], rng)


@_on_members
def sizes_lie(members: Members, rng: Random) -> None:
    """A number in the pickle is another: of a size, a stride, an offset, a count, a version."""
    place = _pickle(members)
    content = members[place][1]
    spots = [i for i in range(len(content) - 3) if content[i : i + 1] in (b"K", b"M")]
    spot = rng.choice(spots)
    length = 2 if content[spot : spot + 1] == b"K" else 3
    number = rng.choice([0, 1, 255, -1, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)])
    lie = b"\x8a\x08" + struct.pack("<q", number)
    members[place] = members[place][0], content[:spot] + lie + content[spot + length :]


def compressed(data: bytes, rng: Random) -> bytes:
    return archive_of(members_of(data), zipfile.ZIP_DEFLATED)


def order_of_members(data: bytes, rng: Random) -> bytes:
    members = members_of(data)
    rng.shuffle(members)
    return archive_of(members)


ARRAYS: tuple[Mutation, ...] = (storages_swapped, storage_changed)  # well-formed archives with other values
SAID: tuple[Mutation, ...] = (pickle_changed, sizes_lie)  # well-formed archives whose pickle says something else
ZIP: tuple[Mutation, ...] = (
    *ARRAYS, *SAID, member_twice, member_missing, member_renamed, storage_of_other_size, compressed, order_of_members,
)  # fmt: skip
