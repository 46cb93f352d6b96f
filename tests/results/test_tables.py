"""What the tables of influences show, as text of a terminal 100 columns wide."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from rich.table import Table

from tracin.results.tables import influence_table, self_influence_table
from tracin.results.writers import Influences
from tracin.triples.labels import Labels

LABELS = Labels(
    {0: "CHEBI:1", 1: "[red]x[/red]", 2: "MONDO:3"},
    {0: "predicate:0", 1: json.dumps({"predicate": "biolink:affects", "subject_aspect_qualifier": "activity"})},
    {0: "aspirin", 2: "headache"},
    {"predicate:0": "biolink:treats"},
)
TRAIN = torch.tensor([[0, 0, 2], [1, 1, 2], [0, 1, 1]])
RESULT = Influences(4, (0, 0, 2), 0.1, TRAIN, torch.tensor([0.25, -0.125, 0.0]), torch.tensor([7, 123456, 9]))


def lines(table: Table) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip("─ ")]


def test_influences_by_name_in_their_order() -> None:
    assert lines(influence_table(RESULT, LABELS, remark="a remark")) == [
        ["aspirin", "--biolink:treats->", "headache"],
        ["a", "remark"],
        ["influence", "head", "relation", "tail", "row"],
        ["for", "+2.50e-01", "aspirin", "biolink:treats", "headache", "7"],
        ["against", "-1.25e-01", "[red]x[/red]", "biolink:affects", "headache", "123456"],
        ["+0.00e+00", "aspirin", "biolink:affects", "[red]x[/red]", "9"],
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_only_the_first_are_shown(limit: int) -> None:
    assert len(lines(influence_table(RESULT, LABELS, limit))) == 2 + min(limit, 3)


def test_rows_are_left_out_where_unknown() -> None:
    unknown = Influences(4, (0, 0, 2), None, TRAIN, RESULT.scores)
    assert lines(influence_table(unknown, LABELS))[1:3] == [
        ["influence", "head", "relation", "tail"],
        ["for", "+2.50e-01", "aspirin", "biolink:treats", "headache"],
    ]


def test_self_influence_greatest_first() -> None:
    assert lines(self_influence_table(TRAIN, torch.tensor([1.0, 3.0, 2.0]), LABELS, limit=2)) == [
        ["greatest", "self-influence"],
        ["self-influence", "head", "relation", "tail", "row"],
        ["3.00e+00", "[red]x[/red]", "biolink:affects", "headache", "1"],
        ["2.00e+00", "aspirin", "biolink:affects", "[red]x[/red]", "2"],
    ]


def test_labels_do_not_steer_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    names = Labels({0: "a\x1b[31mb", 1: "c\u202ed", 2: "e\rf"}, {0: "g\x07h", 1: "r"})
    console.print(influence_table(RESULT, names))
    console.print(self_influence_table(TRAIN, torch.tensor([1.0, 3.0, 2.0]), names, limit=2))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert not set(text) & {"\x1b", "\u202e", "\r", "\x07"}
    assert "a\\x1b[31mb" in text and "c\\u202ed" in text and "e\\rf" in text and "g\\x07h" in text


def test_long_labels_are_wrapped_not_cut() -> None:
    label = "/award/award_nominee/award_nominations./award/award_nomination/nominated_for/" * 2
    text = lines(influence_table(RESULT, Labels({0: "a", 1: "b", 2: "c"}, {0: label, 1: "r"})))
    assert label in "".join("".join(line) for line in text[2:]).replace("for+2.50e-01a", "").replace("c7", "")
