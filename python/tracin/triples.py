"""Readers for triples, dictionaries and names: tab-separated UTF-8 text, plain or gzip, read in blocks of lines.

The same rules hold for every such file: no header, no quoting, no comments; columns are separated by one tab, further
columns are ignored; lines end in LF or CRLF; empty lines are allowed at the end of the file only.
"""

from __future__ import annotations

import gzip
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError

PathLike = str | os.PathLike[str]

# 1.4 million lines of a biomedical graph. Smaller blocks pay more often for building the join's hash table (0.1 s for
# 1.45 million entities), larger ones only take more memory.
BLOCK_BYTES = 1 << 26

# Ids are int32 until the final copy: half the memory of int64.
MAX_ID = 2**31 - 1

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TRIPLE_COLUMNS = ("head", "relation", "tail")


def read_triples(
    path: PathLike,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    skip_unknown: bool = False,
) -> Tensor:  # [n, 3] int64
    """Reads `head<TAB>relation<TAB>tail` lines of labels, in file order with duplicates kept: row i is line i + 1.

    Args:
        path: text file without header, plain or gzip.
        entity_to_id: label -> row of the model's entity table.
        relation_to_id: label -> number of the relation.
        skip_unknown: leave out lines with a label that is in neither dictionary, with one warning that counts them;
            a row number is then no longer a line number.

    Returns:
        [n, 3] int64: head, relation, tail.

    Raises:
        InputError: if the file cannot be read, has no line, a line with fewer than three columns, or an unknown label
            (with `skip_unknown`: only such lines).

    Example:
        >>> entities, relations = read_dictionary("node_dict.txt"), read_dictionary("rel_dict.txt")
        >>> read_triples("train.txt", entities, relations)[0].tolist()
        [20, 3, 17]
    """
    entities = _id_table(entity_to_id)
    relations = _id_table(relation_to_id)
    blocks: list[np.ndarray] = []  # each [lines, 3] int32
    lines = 0
    skipped = 0
    first_unknown = ""
    for block, first_line in _blocks(path):
        labels = _columns(block, first_line, path, _TRIPLE_COLUMNS)
        ids = _map_labels(labels, entities, relations)
        known = ids.drop_nulls()
        if known.height < ids.height and not first_unknown:
            first_unknown = _describe_unknown(path, first_line, labels, ids, entities.height, relations.height)
            if not skip_unknown:
                raise InputError(
                    f"{first_unknown}; is this the dictionary the model was trained with? "
                    "--skip-unknown leaves such lines out"
                )
        lines += ids.height
        skipped += ids.height - known.height
        blocks.append(known.to_numpy())
    if not lines:
        raise _empty(path, _TRIPLE_COLUMNS)
    if skipped == lines:
        raise InputError(
            f"{path}: each of the {lines} lines has an unknown label, the first: {first_unknown}; "
            "are these the dictionaries the model was trained with?"
        )
    if skipped:
        warnings.warn(
            f"{path}: {skipped} of {lines} lines left out for unknown labels, the first: {first_unknown}", stacklevel=2
        )
    triples = np.empty((lines - skipped, 3), dtype=np.int64)
    np.concatenate(blocks, out=triples)
    return torch.from_numpy(triples)


def read_dictionary(path: PathLike) -> dict[str, int]:
    """Reads `label<TAB>id` lines. Ids need not be in order; gaps are for the model to judge.

    Raises:
        InputError: if the file cannot be read or has no line, for a line with fewer than two columns, an id that is not
            an integer from 0 on, and a label or an id that comes twice.

    Example:
        >>> read_dictionary("rel_dict.txt")["predicate:1"]
        1
    """
    table = _read_numbered(path, "label")
    _check_distinct(path, table, "label", "id")
    return dict(zip(table["label"].to_list(), table["id"].to_list(), strict=True))


def make_dictionaries(paths: Sequence[PathLike]) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of the entities and of the relations that occur in files of triples, in the order of their labels."""
    distinct = [pl.Series("label", [], dtype=pl.String)] * 2
    for path in paths:
        for block, first_line in _blocks(path):
            head, relation, tail = _columns(block, first_line, path, _TRIPLE_COLUMNS).get_columns()
            distinct = [
                pl.concat([before, *(labels.rename("label") for labels in new)]).unique()
                for before, new in zip(distinct, ((head, tail), (relation,)), strict=True)
            ]
    entities, relations = ({label: number for number, label in enumerate(labels.sort())} for labels in distinct)
    return entities, relations


def read_names(path: PathLike) -> dict[int, str]:
    """Reads `human name<TAB>id` lines into id -> name; several ids may share a name.

    Raises:
        InputError: as `read_dictionary`, save that a name may come twice.

    Example:
        >>> read_names("node_name_dict.txt")[2]
        'aspirin'
    """
    table = _read_numbered(path, "name")
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
    content = b"".join(_pieces(path)).removeprefix(_BYTE_ORDER_MARK)
    try:
        edge_map = json.loads(_decode(content, 1, path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON ({error.msg}); {expected}") from None
    if not isinstance(edge_map, dict):
        raise InputError(f"{path}: a JSON {type(edge_map).__name__}; {expected}")
    predicates: dict[str, str] = {}
    for key, relation in edge_map.items():
        predicate = _predicate(key)
        if predicate is None or not isinstance(relation, str):
            raise InputError(f"{path}: the entry {_quote(key)}: {_quote(relation)} has another form; {expected}")
        if relation in predicates:
            raise InputError(f"{path}: relation {_quote(relation)} comes twice; {expected}, each relation once")
        predicates[relation] = predicate
    return predicates


def _predicate(key: str) -> str | None:
    """The "predicate" of a key that is JSON text; None if it has none."""
    try:
        qualifiers = json.loads(key)
    except json.JSONDecodeError:
        return None
    predicate = qualifiers.get("predicate") if isinstance(qualifiers, dict) else None
    return predicate if isinstance(predicate, str) else None


def _id_table(
    label_to_id: Mapping[str, int],
) -> pl.DataFrame:  # label: String, id: Int32
    """A dictionary as the right side of a join."""
    ids = np.fromiter(label_to_id.values(), dtype=np.int32, count=len(label_to_id))
    return pl.DataFrame({"label": pl.Series(list(label_to_id), dtype=pl.String), "id": ids})


def _map_labels(
    labels: pl.DataFrame,  # [n] head, relation, tail: String
    entities: pl.DataFrame,  # [N] label, id
    relations: pl.DataFrame,  # [R] label, id
) -> pl.DataFrame:  # [n] head, relation, tail: Int32, null where unknown
    """Looks the labels up.

    Heads and tails share one join, so its hash table is built once per block. Measured per 2 million lines with
    1.45 million entities and 2 threads: this join 0.6 s, a join per column 1.0 s, a cast to Enum 1.2 s,
    replace_strict 2.8 s.
    """
    both = pl.concat([labels["head"], labels["tail"]])
    entity_ids = _look_up(both, entities)
    return pl.DataFrame(
        {
            "head": entity_ids.slice(0, labels.height),
            "relation": _look_up(labels["relation"], relations),
            "tail": entity_ids.slice(labels.height),
        }
    )


def _look_up(labels: pl.Series, table: pl.DataFrame) -> pl.Series:
    """The id of each label, null where unknown."""
    return labels.to_frame("label").join(table, on="label", how="left", maintain_order="left")["id"]


def _describe_unknown(
    path: PathLike, first_line: int, labels: pl.DataFrame, ids: pl.DataFrame, num_entities: int, num_relations: int
) -> str:
    """Names the first label of a block that has no id."""
    row = _first(ids.select(pl.any_horizontal(pl.all().is_null())).to_series())
    column = next(name for name in _TRIPLE_COLUMNS if ids[name][row] is None)
    kind, size = ("relation", num_relations) if column == "relation" else ("entity", num_entities)
    entries = "relations" if column == "relation" else "entities"
    return (
        f"{path} line {first_line + row}: {column} {_quote(labels[column][row])} is not in the {kind} dictionary "
        f"({size} {entries})"
    )


def _read_numbered(
    path: PathLike, first_column: str
) -> pl.DataFrame:  # first_column: String, id: Int64, distinct, 0 <= id <= MAX_ID
    """Reads `first_column<TAB>id` lines; row i is line i + 1."""
    columns = (first_column, "id")
    blocks = [_columns(block, first_line, path, columns) for block, first_line in _blocks(path)]
    if not blocks:
        raise _empty(path, columns)
    texts = pl.concat(blocks)
    table = texts.with_columns(pl.col("id").cast(pl.Int64, strict=False))
    wrong = table["id"].is_null() | ~table["id"].is_between(0, MAX_ID)
    if wrong.any():
        row = _first(wrong)
        raise InputError(
            f"{path} line {row + 1}: id {_quote(texts['id'][row])} is not an integer from 0 to {MAX_ID}; "
            f"expected are lines {first_column}<TAB>id, without a header line"
        )
    _check_distinct(path, table, "id", first_column)
    return table


def _check_distinct(path: PathLike, table: pl.DataFrame, column: str, other: str) -> None:
    """Raises for a value of `column` that comes twice; `other` is the column that tells the two lines apart."""
    distinct = table[column].is_first_distinct()
    if distinct.all():
        return
    row = _first(~distinct)
    value = table[column][row]
    earlier = _first(table[column] == value)
    raise InputError(
        f"{path} line {row + 1}: {column} {_quote(value)} (of {other} {_quote(table[other][row])}) was already on line "
        f"{earlier + 1} (of {other} {_quote(table[other][earlier])}); each {column} may come once"
    )


def _blocks(path: PathLike) -> Iterator[tuple[bytes, int]]:
    """Yields (whole lines, number of the first line), without the empty lines at the end of the file.

    Every block ends in LF. The last line that is not empty is held back until more text or the end of the file comes,
    so that empty lines after it can be told from empty lines in the middle.
    """
    rest = b""
    line = 1
    for piece in _pieces(path):
        text = rest + piece
        cut = text.rfind(b"\n", 0, len(text.rstrip(b"\r\n"))) + 1
        rest = text[cut:]
        if cut:
            yield text[:cut], line
            line += text.count(b"\n", 0, cut)
    content = len(rest.rstrip(b"\r\n"))
    if content:
        end = rest.find(b"\n", content)
        yield (rest + b"\n" if end < 0 else rest[: end + 1]), line


def _pieces(path: PathLike) -> Iterator[bytes]:
    """Yields the content of a plain or gzip file (told by its first bytes, not by its name), BLOCK_BYTES at a time."""
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
            while piece := stream.read(BLOCK_BYTES):
                yield piece
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: this is a folder, expected a text file; name a file inside it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); copy or pack it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path and its rights") from None


def _columns(
    block: bytes,  # whole lines, the last one ends in LF
    first_line: int,
    path: PathLike,
    columns: Sequence[str],
) -> pl.DataFrame:  # one String column per name, one row per line, no nulls
    """Splits lines at tabs and keeps the first columns.

    polars splits 2 million lines in 0.4 s. Where its result may differ from the rules of this module (an empty label
    or a missing column, both null to polars; a start that it takes for a byte order mark or a packed file), and to
    find the line of an error, the plain split below decides.
    """
    if first_line == 1:
        block = block.removeprefix(_BYTE_ORDER_MARK)
    if block.startswith(_BYTE_ORDER_MARK):
        return _split_lines(block, first_line, path, columns)
    try:
        frame = pl.read_csv(
            block,
            has_header=False,
            separator="\t",
            quote_char=None,
            columns=list(range(len(columns))),
            infer_schema_length=0,
            truncate_ragged_lines=True,
        )
    except (pl.exceptions.PolarsError, OSError):
        return _split_lines(block, first_line, path, columns)
    if frame.height != block.count(b"\n") or sum(frame.null_count().row(0)):
        return _split_lines(block, first_line, path, columns)
    frame.columns = list(columns)
    return frame


def _split_lines(block: bytes, first_line: int, path: PathLike, columns: Sequence[str]) -> pl.DataFrame:
    """The plain definition of `_columns`; names the first line with too few columns."""
    width = len(columns)
    cells: list[list[str]] = [[] for _ in columns]
    for number, line in enumerate(_decode(block, first_line, path).removesuffix("\n").split("\n"), first_line):
        text = line.removesuffix("\r")
        fields = text.split("\t")
        if len(fields) < width:
            found = f"{len(fields)} of {width} columns in {_quote(text)}" if text.strip() else "an empty line"
            raise InputError(
                f"{path} line {number}: {found}; expected {'<TAB>'.join(columns)}, separated by tabs; "
                "mend or remove this line"
            )
        for column, field in zip(cells, fields, strict=False):
            column.append(field)
    return pl.DataFrame(dict(zip(columns, cells, strict=True)), schema=dict.fromkeys(columns, pl.String))


def _decode(content: bytes, first_line: int, path: PathLike) -> str:
    """The text of UTF-8 bytes; an error names the line of the first byte that is not."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise InputError(
            f"{path} line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8 text, "
            "and check that it is a text file"
        ) from None


def _empty(path: PathLike, columns: Sequence[str]) -> InputError:
    return InputError(f"{path}: the file has no lines; expected lines {'<TAB>'.join(columns)}")


def _first(mask: pl.Series) -> int:
    """The row of the first true value."""
    return cast(int, mask.arg_true()[0])


def _quote(value: object) -> str:
    """The value as it would be written in Python, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"
