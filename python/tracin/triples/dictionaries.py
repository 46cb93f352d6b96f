"""Readers of dictionaries, names and predicates."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import polars as pl

from tracin.errors import InputError, quote
from tracin.safe_pickle import SafeUnpickler, UnsafePickle
from tracin.triples.label_table import MAX_ID
from tracin.triples.likeness import unquoted
from tracin.triples.lines import BYTE_ORDER_MARK, blocks_of, columns_of, decode, first_lines_of, no_lines, pieces_of
from tracin.triples.parquet import dictionary_as_lines
from tracin.triples.source import PathLike, Source, source_of

_HEADER = ("id", "label")  # of PyKEEN's dictionaries
WHOLE_BYTES = 1 << 28  # of JSON and pickles, which are read whole; lines may be as many as memory holds
_ID = re.compile(r"\d{1,10}")
_NUMBERED_LINE = re.compile(rb"[^\n]*\t\d+\r?(\n|$)")


def dictionary_given(given: Any, kind: str) -> Mapping[str, int] | None:
    """A dictionary in whatever form people have it.

    Args:
        given: label -> id; a file of them; what has it, such as a PyKEEN triples factory, a Checkpoint or the result of
            a PyKEEN pipeline; or None.
        kind: "entity" or "relation".

    Raises:
        InputError: for anything else.
    """
    if given is None or isinstance(given, Mapping):
        return given
    if isinstance(given, str | os.PathLike):
        return read_dictionary(given)
    for source in (given, getattr(given, "training", None)):
        found = getattr(source, f"{kind}_to_id", None)
        if isinstance(found, Mapping):
            return found
    raise InputError(
        f"{kind}_to_id is {quote(given)}; expected label -> id, the path of a dictionary, or a PyKEEN triples factory",
        f"{kind}_to_id",
    )


def read_dictionary(path: PathLike) -> dict[str, int]:
    """Reads label -> id. Ids need not be in order; gaps are for the model to judge.

    The content tells the form; text may be packed by gzip or zstd, and the file may be a pipe:

        label<TAB>id        lines without a header
        id<TAB>label        lines under the header line id<TAB>label, as PyKEEN writes them, or without a header, as
                            LibKGE does: then the first column holds the ids 0 to n - 1 and the second does not. Where
                            both do, the name decides (.del: the id comes first), and without that it is an error
        count, label<TAB>id lines under their number, as OpenKE writes them
        JSON                {"label": id, ...}, {"id": "label", ...} or ["label of id 0", ...]; an id may be text
                            where only one side of the entries can be ids
        pickle              of a dict or list as in JSON, or of a list whose first item is such a dict, as spodernet
                            writes vocabularies
        Parquet             a column of text, the labels, and one of integers

    Args:
        path: the file.

    Returns:
        label -> id, in the file's order.

    Raises:
        InputError: if the file cannot be read, has no line or another form, for a line with fewer than two columns, an
            id that is not an integer from 0 on, and a label or an id that comes twice.

    Example:
        >>> read_dictionary("rel_dict.txt")["predicate:1"]
        1
    """
    source = source_of(path)
    if source.is_parquet():
        source = dictionary_as_lines(source)
    start = next(pieces_of(source), b"").removeprefix(BYTE_ORDER_MARK)
    if start.startswith(pickle.PROTO):
        return _checked(source, _entries(source, _read_pickle(source)))
    if start.lstrip().startswith((b"{", b"[")) and not _NUMBERED_LINE.match(start):
        return _checked(source, _entries(source, _read_json(source, _FORMS)))
    texts = _read_columns(source, ("label", "id"))
    stated = _stated_count(source)
    first_line = 1 if stated is None else 2
    header = texts.row(0) == _HEADER
    if header:
        texts = texts[1:].select(pl.col("label").alias("id"), unquoted(texts["id"][1:]).alias("label"))
        if texts.is_empty():
            raise no_lines(source, _HEADER)
    elif stated is None and _id_comes_first(source, texts):
        texts = texts.rename({"label": "id", "id": "label"})
    first_line += header
    table = _numbered(source, texts, first_line)
    ids = dict(zip(table["label"].to_list(), table["id"].to_list(), strict=True))
    if len(ids) < table.height:
        _check_distinct(source, table, "label", "id", first_line)
    return ids


def read_dictionaries(
    entity_to_id: PathLike | None, relation_to_id: PathLike | None
) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    """Reads the dictionaries of entities and of relations by `read_dictionary`; None where no file is named.

    Raises:
        InputError: as `read_dictionary`, saying which of the two it is.

    Example:
        >>> read_dictionaries(None, "rel_dict.txt")
        (None, {'predicate:0': 0, 'predicate:1': 1})
    """

    def read(kind: str, path: PathLike | None) -> dict[str, int] | None:
        try:
            return None if path is None else read_dictionary(path)
        except InputError as error:
            raise InputError(f"the {kind} dictionary {error}") from error

    return read("entity", entity_to_id), read("relation", relation_to_id)


def dictionary_of(kind: str, given: Any) -> Mapping[str, int]:
    """The dictionary that an argument is, names by its path, or has as an attribute.

    Args:
        kind: "entity" or "relation".
        given: label -> id, a path, or an object such as a `tracin.Checkpoint` or a PyKEEN triples factory.

    Raises:
        InputError: as `read_dictionary`, and for anything else.
    """
    argument, called = argument_of(kind)
    if isinstance(given, Mapping):
        return given
    if isinstance(given, (str, os.PathLike)):
        return read_dictionaries(given, None)[0] or {} if kind == "entity" else read_dictionaries(None, given)[1] or {}
    found = getattr(given, argument, None)
    if isinstance(found, Mapping):
        return found
    raise InputError(
        f"{argument} is {quote(given)}; expected label -> id, the path of a dictionary, or an object with an attribute "
        f"{argument}",
        argument,
        called,
    )


def argument_of(kind: str) -> tuple[str, str]:
    """The argument that is the dictionary of a kind, "entity" or "relation", and what errors call it."""
    return f"{kind}_to_id", f"the {kind} dictionary"


def in_id_order(kind: str, dictionary: Any) -> dict[str, int]:
    """The same label -> id in the order of ids, as a model needs it.

    Args:
        kind: what errors call it, "entity" or "relation".
        dictionary: label -> id, in any order, or what `dictionary_of` takes.

    Raises:
        InputError: if it is empty, or the ids are not 0 to n - 1, each once.
    """
    named = argument_of(kind)
    called = named[1]
    dictionary = dictionary_of(kind, dictionary)
    if not dictionary:
        raise InputError(f"{called} is empty; expected the one the model was trained with", *named)
    ids = list(dictionary.values())
    if ids == list(range(len(ids))) and set(map(type, ids)) == {int}:
        return dict(dictionary)
    by_id: dict[int, str] = {}
    for label, number in dictionary.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InputError(f"{called} gives {label!r} the id {number!r}; expected ids 0, 1, 2, ...", *named)
        if number in by_id:
            raise InputError(f"{called} gives {by_id[number]!r} and {label!r} the same id {number}", *named)
        by_id[number] = label
    if max(by_id) != len(by_id) - 1:
        gap = next(number for number in range(len(by_id)) if number not in by_id)
        raise InputError(
            f"{called} has {len(by_id)} entries with ids up to {max(by_id)}, but none has the id {gap}; "
            "expected ids without gaps: is it complete?",
            *named,
        )
    return {by_id[number]: number for number in range(len(by_id))}


def read_names(path: PathLike) -> dict[int, str]:
    """Reads `human name<TAB>id` lines into id -> name; several ids may share a name.

    Raises:
        InputError: as `read_dictionary`, save that a name may come twice.

    Example:
        >>> read_names("node_name_dict.txt")[2]
        'aspirin'
    """
    table = _numbered(path, _read_columns(source_of(path), ("name", "id")), first_line=1)
    return dict(zip(table["id"].to_list(), table["name"].to_list(), strict=True))


def read_edge_map(path: PathLike) -> dict[str, str]:
    """Reads a JSON object {'{"predicate": "biolink:treats", ...}': "predicate:0", ...} into relation -> predicate.

    Each key is itself JSON text, an object of the predicate and its qualifiers; relations may share a predicate.

    Raises:
        InputError: if the file cannot be read or does not have this form, and for a relation that comes twice.

    Example:
        >>> read_edge_map("edge_map.json")["predicate:0"]
        'biolink:treats'
    """
    expected = 'expected a JSON object {\'{"predicate": "biolink:treats", ...}\': "predicate:0", ...}'
    predicates: dict[str, str] = {}
    for key, relation in _read_json_object(path, expected):
        predicate = predicate_of(key)
        if predicate is None or not isinstance(relation, str):
            raise InputError(f"{path}: the entry {quote(key)}: {quote(relation)} has another form; {expected}")
        if relation in predicates:
            raise InputError(f"{path}: relation {quote(relation)} comes twice; {expected}, each relation once")
        predicates[relation] = predicate
    return predicates


def predicate_of(key: str) -> str | None:
    """The "predicate" of a key that is JSON text; None if it has none."""
    try:
        qualifiers = json.loads(key)
    except (RecursionError, ValueError):  # no JSON, nested too deep, or a number of thousands of digits
        return None
    predicate = qualifiers.get("predicate") if isinstance(qualifiers, dict) else None
    return predicate if isinstance(predicate, str) else None


def _read_json_object(path: PathLike, expected: str) -> list[tuple[str, Any]]:
    """The entries of a JSON object, also those whose key comes twice."""
    entries = _read_json(source_of(path), expected)
    if not isinstance(entries, _Entries):
        raise InputError(f"{path}: a JSON {type(entries).__name__}; {expected}")
    return entries


def _read_json(source: Source, expected: str) -> Any:
    """A JSON object is an _Entries."""
    try:
        text = decode(_read_whole(source).removeprefix(BYTE_ORDER_MARK), 1, source)
        return json.loads(text, object_pairs_hook=_Entries)
    except json.JSONDecodeError as error:
        raise InputError(f"{source} line {error.lineno}: not JSON ({error.msg}); {expected}") from None
    except InputError:
        raise
    except (RecursionError, ValueError):  # a number of thousands of digits
        raise InputError(f"{source}: nested too deep or with too large a number; {expected}") from None


def _read_whole(source: Source) -> bytes:
    pieces, size = [], 0
    for piece in pieces_of(source):
        pieces.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            raise InputError(
                f"{source}: more than {WHOLE_BYTES >> 20} MiB of JSON or pickle; write it as lines label<TAB>id"
            )
    return b"".join(pieces)


class _Entries(list[tuple[str, Any]]):
    """A JSON object's."""


def _read_pickle(source: Source) -> Any:
    """What a pickle of labels and ids holds; of several parts, the first that is a dict."""
    try:
        content = SafeUnpickler(io.BytesIO(_read_whole(source))).load()
    except UnsafePickle as error:
        raise InputError(f"{source} is not safe: {error}; nothing of it was run, and nothing of it is read") from error
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise InputError(f"{source}: the pickle is damaged or is no dictionary; copy or write it again") from error
    vocabulary = isinstance(content, (list, tuple)) and content and isinstance(content[0], dict)
    found = content[0] if vocabulary else content
    return _Entries(found.items()) if isinstance(found, dict) else found


_FORMS = 'expected {"label": id, ...}, {"id": "label", ...} or ["label of id 0", ...]'


def _entries(source: Source, content: Any) -> Iterable[tuple[Any, Any]]:
    """Labels with their ids, whichever comes first, where only one side can be the ids."""
    if isinstance(content, (list, tuple)) and not isinstance(content, _Entries):
        if not all(isinstance(label, str) for label in content):
            raise InputError(f"{source}: a list of {_types(content)}; {_FORMS}")
        return ((label, number) for number, label in enumerate(content))
    if not isinstance(content, _Entries):
        raise InputError(f"{source}: a {type(content).__name__}; {_FORMS}")
    sides: list[list[Any]] = [[entry[side] for entry in content] for side in (0, 1)]
    if not content or all(type(value) is int for value in sides[1]):
        return content
    numbers = [_as_ids(side) for side in sides]
    complete = [side is not None and sorted(side) == list(range(len(side))) for side in numbers]
    if complete[0] and complete[1] and numbers[0] != numbers[1]:
        raise InputError(
            f"{source}: both sides of the entries hold the ids 0 to {len(content) - 1}, as text; "
            "write the ids as numbers"
        )
    first, second = numbers
    if second is not None and (complete[1] or first is None):
        return zip(sides[0], second, strict=True)
    if first is not None and all(type(value) is str for value in sides[1]):
        return zip(sides[1], first, strict=True)
    return content


def _as_ids(values: list[Any]) -> list[int] | None:
    """Integers, and text of such; None if one of the values is another."""
    if not all(type(value) is int or (type(value) is str and _ID.fullmatch(value)) for value in values):
        return None
    return [int(value) for value in values]


def _types(values: Iterable[Any]) -> str:
    return ", ".join(sorted({type(value).__name__ for value in values})) or "nothing"


def _stated_count(source: Source) -> int | None:
    """The number of lines in line 1, as OpenKE writes it."""
    (first,) = first_lines_of(source, 1)
    return int(first) if _ID.fullmatch(first.decode("utf-8", "replace").strip()) and len(first) < 12 else None


def _checked(path: PathLike, entries: Iterable[tuple[Any, Any]]) -> dict[str, int]:
    ids: dict[str, int] = {}
    labels: dict[int, str] = {}
    for label, number in entries:
        if type(label) is not str or type(number) is not int or not 0 <= number <= MAX_ID:
            raise InputError(
                f"{path}: the entry {quote(label)}: {quote(number)} is not a label with an integer from 0 to {MAX_ID}"
            )
        if label in ids or number in labels:
            what, earlier = (label, (label, ids[label])) if label in ids else (number, (labels[number], number))
            raise InputError(
                f"{path}: {quote(what)} comes twice, in {quote(earlier)} and {quote((label, number))}; each label and "
                "each id may come once"
            )
        ids[label], labels[number] = number, label
    if not ids:
        raise InputError(f"{path}: the dictionary is empty; expected a label and an id at least")
    return ids


def _read_columns(source: Source, columns: tuple[str, str]) -> pl.DataFrame:  # two String columns
    """All lines but the first where that is their number."""
    stated = _stated_count(source)
    frames = []
    for block, first_line in blocks_of(source):
        if stated is not None and first_line == 1:
            block, first_line = block.partition(b"\n")[2], 2
        if block:
            frames.append(columns_of(block, first_line, source, columns))
    if not frames:
        raise no_lines(source, columns)
    texts = pl.concat(frames)
    if stated not in (None, texts.height):
        raise InputError(f"{source} line 1: {stated} entries, but {texts.height} lines follow; is the file complete?")
    return texts


def _id_comes_first(path: PathLike, texts: pl.DataFrame) -> bool:
    numbers = [column.cast(pl.Int64, strict=False) for column in texts.get_columns()]
    whole = [not column.has_nulls() for column in numbers]
    complete = [
        no_null and column.min() == 0 and column.max() == len(column) - 1 and column.n_unique() == len(column)
        for column, no_null in zip(numbers, whole, strict=True)
    ]
    named = str(path).removesuffix(".gz").endswith(".del")
    if all(complete):
        if not named and not numbers[0].equals(numbers[1]):
            raise InputError(
                f"{path}: both columns hold the ids 0 to {len(texts) - 1} in different orders; write it as a JSON "
                'object {"label": id, ...}, or name it *.del if the id comes first'
            )
        return named
    if any(complete):
        return complete[0]
    return whole[0] if whole[0] != whole[1] else named


def _numbered(
    path: PathLike,
    texts: pl.DataFrame,  # String columns, "id" and another, in the file's order
    first_line: int,
) -> pl.DataFrame:  # the other: String; id: Int64, distinct, 0 <= id <= MAX_ID
    (other,) = (name for name in texts.columns if name != "id")
    table = texts.with_columns(pl.col("id").cast(pl.Int64, strict=False))
    wrong = table["id"].is_null() | ~table["id"].is_between(0, MAX_ID)
    if wrong.any():
        row = _first(wrong)
        raise InputError(
            f"{path} line {row + first_line}: id {quote(texts['id'][row])} is not an integer from 0 to {MAX_ID}; "
            f"expected are lines {'<TAB>'.join(texts.columns)}" + (", without a header line" if first_line == 1 else "")
        )
    _check_distinct(path, table, "id", other, first_line)
    return table


def _check_distinct(path: PathLike, table: pl.DataFrame, column: str, other: str, first_line: int) -> None:
    """Raises for a value of `column` that comes twice; `other` is the column that tells the two lines apart."""
    distinct = table[column].is_first_distinct()
    if distinct.all():
        return
    row = _first(~distinct)
    value = table[column][row]
    earlier = _first(table[column] == value)
    raise InputError(
        f"{path} line {row + first_line}: {column} {quote(value)} (of {other} {quote(table[other][row])}) was already "
        f"on line {earlier + first_line} (of {other} {quote(table[other][earlier])}); each {column} may come once"
    )


def _first(mask: pl.Series) -> int:
    """The row of the first true value."""
    return cast(int, mask.arg_true()[0])
