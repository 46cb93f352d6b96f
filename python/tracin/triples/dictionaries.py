"""Readers of dictionaries, names and predicates."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import polars as pl

from tracin.errors import InputError, quote
from tracin.safe_pickle import SafeUnpickler, UnsafePickle
from tracin.triples.label_table import MAX_ID
from tracin.triples.lines import BYTE_ORDER_MARK, PathLike, blocks_of, columns_of, decode, no_lines, pieces_of

_HEADER = ("id", "label")  # of PyKEEN's dictionaries
_NUMBERED_LINE = re.compile(rb"[^\n]*\t\d+\r?(\n|$)")


def read_dictionary(path: PathLike) -> dict[str, int]:
    """Reads label -> id. Ids need not be in order; gaps are for the model to judge.

    The content tells the form; text may be packed by gzip:

        label<TAB>id        lines without a header
        id<TAB>label        lines under the header line id<TAB>label, as PyKEEN writes them, or without a header, as
                            LibKGE does: then the first column holds the ids 0 to n - 1 and the second does not. Where
                            both do, the name decides (.del: the id comes first), and without that it is an error
        {"label": id, ...}  a JSON object
        pickle              of a list whose first item is the dict label -> id, as spodernet writes vocabularies

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
    start = next(pieces_of(path), b"").removeprefix(BYTE_ORDER_MARK)
    if start.startswith(pickle.PROTO):
        return _checked(path, _read_vocabulary(path))
    if start.lstrip().startswith(b"{") and not _NUMBERED_LINE.match(start):
        return _checked(path, _read_json_object(path, 'expected a JSON object {"label": id, ...}'))
    texts = _read_columns(path, ("label", "id"))
    header = texts.row(0) == _HEADER
    if header:
        texts = _unquoted(texts[1:].rename({"label": "id", "id": "label"}))
        if texts.is_empty():
            raise no_lines(path, _HEADER)
    elif _id_comes_first(path, texts):
        texts = texts.rename({"label": "id", "id": "label"})
    first_line = 2 if header else 1
    table = _numbered(path, texts, first_line)
    ids = dict(zip(table["label"].to_list(), table["id"].to_list(), strict=True))
    if len(ids) < table.height:
        _check_distinct(path, table, "label", "id", first_line)
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


def argument_of(kind: str) -> tuple[str, str]:
    """The argument that is the dictionary of a kind, "entity" or "relation", and what errors call it."""
    return f"{kind}_to_id", f"the {kind} dictionary"


def in_id_order(kind: str, dictionary: Mapping[str, int]) -> dict[str, int]:
    """The same label -> id in the order of ids, as a model needs it.

    Args:
        kind: what errors call it, "entity" or "relation".
        dictionary: label -> id, in any order.

    Raises:
        InputError: if it is empty, or the ids are not 0 to n - 1, each once.
    """
    named = argument_of(kind)
    called = named[1]
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
    table = _numbered(path, _read_columns(path, ("name", "id")), first_line=1)
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
    except json.JSONDecodeError:
        return None
    predicate = qualifiers.get("predicate") if isinstance(qualifiers, dict) else None
    return predicate if isinstance(predicate, str) else None


def _read_json_object(path: PathLike, expected: str) -> list[tuple[str, Any]]:
    """The entries of a JSON object, also those whose key comes twice."""
    content = b"".join(pieces_of(path)).removeprefix(BYTE_ORDER_MARK)
    try:
        entries = json.loads(decode(content, 1, path), object_pairs_hook=_Entries)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON ({error.msg}); {expected}") from None
    except InputError:
        raise
    except (RecursionError, ValueError):  # a number of thousands of digits
        raise InputError(f"{path}: nested too deep or with too large a number; {expected}") from None
    if not isinstance(entries, _Entries):
        raise InputError(f"{path}: a JSON {type(entries).__name__}; {expected}")
    return entries


class _Entries(list[tuple[str, Any]]):
    """A JSON object's."""


def _read_vocabulary(path: PathLike) -> Iterable[tuple[Any, Any]]:
    try:
        content = SafeUnpickler(io.BytesIO(b"".join(pieces_of(path)))).load()
    except UnsafePickle as error:
        raise InputError(f"{path} is not safe: {error}; nothing of it was run, and nothing of it is read") from error
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise InputError(f"{path}: the pickle is damaged or is no dictionary; copy or write it again") from error
    if not isinstance(content, (list, tuple)) or not content or not isinstance(content[0], dict):
        raise InputError(f"{path}: a pickle of something else; expected a list whose first item is a dict label -> id")
    entries: dict[Any, Any] = content[0]
    return entries.items()


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


def _read_columns(path: PathLike, columns: tuple[str, str]) -> pl.DataFrame:  # two String columns
    blocks = [columns_of(block, first_line, path, columns) for block, first_line in blocks_of(path)]
    if not blocks:
        raise no_lines(path, columns)
    return pl.concat(blocks)


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


def _unquoted(texts: pl.DataFrame) -> pl.DataFrame:  # columns id, label
    """pandas, with which PyKEEN writes, puts labels that contain a quotation mark in quotation marks."""
    label = pl.col("label")
    quoted = label.str.len_chars().ge(2) & label.str.starts_with('"') & label.str.ends_with('"')
    inner = label.str.strip_prefix('"').str.strip_suffix('"').str.replace_all('""', '"', literal=True)
    return texts.with_columns(pl.when(quoted).then(inner).otherwise(label).alias("label"))


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
