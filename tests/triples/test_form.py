"""Triples in other orders, under header lines, of OpenKE, and labels that differ in little."""

from __future__ import annotations

import re
import unicodedata
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tracin.errors import InputError
from tracin.triples.dictionaries import in_id_order
from tracin.triples.read import make_dictionaries, read_triple_lines, read_triples

ENTITIES = {"Gene::9021": 0, "Aspirin": 1, "café": 2, "10280": 3, 'say "x"': 4}
RELATIONS = {"treats": 0, "part of": 1}
ROWS = [[1, 0, 0], [2, 1, 4], [0, 0, 3]]
LINES = [("Aspirin", "treats", "Gene::9021"), ("café", "part of", 'say "x"'), ("Gene::9021", "treats", "10280")]


def file(tmp_path: Path, lines: list[Any], separator: str = "\t") -> Path:
    path = tmp_path / "train.txt"
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_columns_in_every_order(tmp_path: Path, order: tuple[int, int, int]) -> None:
    columns = "".join("hrt"[place] for place in order)
    for rows, dictionaries, numeric in ((LINES, (ENTITIES, RELATIONS), None), (ROWS, (ENTITIES, RELATIONS), True)):
        path = file(tmp_path, [[row[place] for place in order] for row in rows])
        assert read_triples(path, *dictionaries, numeric=numeric, columns=columns).tolist() == ROWS
        lines = read_triple_lines(path, *dictionaries, numeric=numeric, columns=columns)
        assert [list(line.ids) for line in lines] == ROWS
        if "r" != columns[1]:
            with pytest.raises(InputError, match=f"relations look to be in the .* column: --columns .*{columns}"):
                read_triples(path, *dictionaries, numeric=numeric)


def test_wrong_columns() -> None:
    with pytest.raises(InputError, match="columns is 'hhr'; expected one of hrt, htr,") as caught:
        read_triples("train.txt", ENTITIES, RELATIONS, columns="hhr")
    assert caught.value.argument == "columns"


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_openke(tmp_path: Path, separator: str) -> None:
    path = file(tmp_path, [[3], *([h, t, r] for h, r, t in ROWS)], separator)
    with pytest.raises(InputError, match="this looks like a file of OpenKE, .*--columns htr"):
        read_triples(path, ENTITIES, RELATIONS)
    assert read_triples(path, ENTITIES, RELATIONS, columns="htr").tolist() == ROWS
    path = file(tmp_path, [[4], *([h, t, r] for h, r, t in ROWS)], separator)
    with pytest.raises(InputError, match="line 1: 4 triples, but 3 lines follow; is the file complete"):
        read_triples(path, ENTITIES, RELATIONS, columns="htr")


@pytest.mark.parametrize("names", [["subject", "predicate", "object"], ["Head", "Relation", "Tail"], ["h", "r", "t"]])
def test_header_of_labels_and_of_ids(tmp_path: Path, names: list[str]) -> None:
    assert read_triples(file(tmp_path, [names, *LINES]), ENTITIES, RELATIONS).tolist() == ROWS
    entities, relations = make_dictionaries([file(tmp_path, [names, *LINES])])
    assert set(entities) == set(ENTITIES) and set(relations) == set(RELATIONS)
    assert read_triples(file(tmp_path, [names, *ROWS]), ENTITIES, RELATIONS).tolist() == ROWS
    entities, relations = make_dictionaries([file(tmp_path, [names, *ROWS])])
    assert entities == {str(number): number for number in range(5)} and relations == {"0": 0, "1": 1}
    for line in (("Aspirin", "treats", "10280"), ("10280", "treats", "10280")):  # labels that are numbers
        assert len(read_triples(file(tmp_path, [names, line, *LINES]), ENTITIES, RELATIONS)) == 4
    own = dict(zip(names, range(3), strict=True))
    assert read_triples(file(tmp_path, [names]), own, own).tolist() == [[0, 1, 2]]  # labels, if they are known
    swapped = file(tmp_path, [[names[0], names[2], names[1]], *LINES])
    with pytest.raises(InputError, match="line 1: the header names the columns .*--columns htr"):
        read_triples(swapped, ENTITIES, RELATIONS)


def test_files_of_ids_and_of_labels_make_no_dictionaries(tmp_path: Path) -> None:
    labels = file(tmp_path, LINES).rename(tmp_path / "labels.txt")
    with pytest.raises(InputError, match=r"train.txt holds ids and .*labels.txt labels"):
        make_dictionaries([file(tmp_path, [["h", "r", "t"], *ROWS]), labels])


def test_ids_as_floating_point_numbers(tmp_path: Path) -> None:
    path = file(tmp_path, [[float(value) for value in row] for row in ROWS])
    with pytest.raises(InputError, match=r"head '1.0' is not an id .*floating-point numbers: write them as integers"):
        read_triples(path, ENTITIES, RELATIONS, numeric=True)


@pytest.mark.parametrize(
    ("label", "named"),
    [
        ("aspirin", "'Aspirin', which differs in upper and lower case"),
        ("Aspirin ", "'Aspirin', which differs in white space at an end"),
        ("Aspirin\r", "differs in a carriage return"),
        (unicodedata.normalize("NFD", "café"), "'café', which differs in Unicode form (NFD against NFC)"),
        ('Gene::9021"', "'Gene::9021', which differs in quotation marks"),
    ],
)
def test_what_differs_is_said(tmp_path: Path, label: str, named: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(f"{label}\ttreats\t{label}\r\n".encode())
    with pytest.raises(InputError, match=re.escape(named)):
        read_triples(path, ENTITIES, RELATIONS)
    assert named in read_triple_lines(path, ENTITIES, RELATIONS)[0].error


def test_quotation_marks_as_pykeen_reads_them(tmp_path: Path) -> None:
    path = file(tmp_path, [('"Aspirin"', '"treats"', "café"), ('"say ""x"""', "treats", 'say "x"')])
    assert read_triples(path, ENTITIES, RELATIONS).tolist() == [[1, 0, 2], [4, 0, 4]]
    both = ENTITIES | {'"Aspirin"': 5}  # a label that the dictionary has as it is stays
    assert read_triples(path, both, RELATIONS)[0].tolist() == [5, 0, 2]


def test_dictionaries_by_path_and_as_attributes(tmp_path: Path) -> None:
    path = file(tmp_path, LINES)
    entities, relations = tmp_path / "e.txt", tmp_path / "r.txt"
    entities.write_text("".join(f"{label}\t{number}\n" for label, number in ENTITIES.items()))
    relations.write_text("".join(f"{label}\t{number}\n" for label, number in RELATIONS.items()))
    assert read_triples(str(path), str(entities), relations).tolist() == ROWS
    assert in_id_order("entity", entities) == ENTITIES
    factory = SimpleNamespace(entity_to_id=ENTITIES, relation_to_id=RELATIONS)
    assert read_triples(path, factory, factory).tolist() == ROWS
    for wrong, argument in (((None, RELATIONS), "entity_to_id"), ((ENTITIES, 7), "relation_to_id")):
        with pytest.raises(InputError, match=f"{argument} is (None|7); expected label -> id") as caught:
            read_triples(path, *wrong)
        assert caught.value.argument == argument
    with pytest.raises(InputError, match="the relation dictionary is no label -> id"):
        read_triples(path, ENTITIES, {"treats": "x"})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="path is 7; expected the path of a file"):
        read_triples(7, ENTITIES, RELATIONS)  # type: ignore[arg-type]
