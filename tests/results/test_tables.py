"""What the tables of influences show, as text of terminals 100 columns wide, and narrower."""

from __future__ import annotations

import io
import json
import re

import pytest
import torch
from rich.console import Console
from rich.text import Text

from tracin.results.tables import BREAKS, LabelTable, broken, fitting, influence_table, self_influence_table
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


def printed(table: LabelTable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def lines(table: LabelTable) -> list[list[str]]:
    return [line.split() for line in printed(table, 100) if line.strip("─ ")]


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


WORDS = Labels(
    {0: "pharmacologic_substance", 1: "therapeutic_or_preventive_procedure", 2: "anti-inflammatory agent"},
    {0: "/award/award_nominee/award_nominations./award/award_nomination/nominated_for", 1: "biolink:treats"},
)
SHOWN = (WORDS.entities[0], WORDS.entities[1], WORDS.entities[2], WORDS.relations[0], WORDS.relations[1])


def rows(table: LabelTable, width: int) -> list[str]:
    """The lines below the head of the table, none of which is too wide."""
    text = printed(table, width)
    assert max(map(len, text)) <= width
    return text[1 + next(number for number, line in enumerate(text) if line.startswith(" ─")) :]


@pytest.mark.parametrize("width", [80, 84, 90, 100])
def test_labels_are_broken_between_words(width: int) -> None:
    whole = set()
    for words in map(BREAKS.split, SHOWN):
        places = range(len(words) + 1)
        whole |= {"".join(words[start:end]).strip() for start in places for end in places if start < end}
    result = Influences(0, (0, 0, 1), None, TRAIN, RESULT.scores, RESULT.indices)
    for table in (influence_table(result, WORDS), self_influence_table(TRAIN, torch.ones(3), WORDS, limit=3)):
        cells = {cell for line in rows(table, width) for cell in re.split(r"\s{3,}", line.strip())}
        found = {cell for cell in cells if cell.strip("+-0123456789.e")} - {"for", "against"}
        assert found <= whole and any(cell.endswith("_") for cell in found)


def test_where_no_word_fits_labels_are_folded() -> None:
    text = "".join(rows(influence_table(RESULT, Labels({0: "x" * 70, 1: "y", 2: "z" * 70}, {0: "r", 1: "s"})), 60))
    assert text.count("x") == text.count("z") == 2 * 70


def test_widths_of_columns() -> None:
    assert fitting([10, 4, 20], [5, 4, 6], 40) == [10, 4, 20]
    assert fitting([10, 4, 20], [5, 4, 6], 24) == [10, 4, 10]
    assert fitting([10, 4, 20], [9, 4, 6], 20) == [9, 4, 7]
    assert fitting([10, 4, 20], [9, 4, 9], 12) == [4, 4, 4]
    assert fitting([10, 4, 20], [9, 4, 9], 0) == [1, 1, 1]


def test_lines_end_after_marks() -> None:
    for text, width, expected in (
        ("a_bb_ccc", 5, "a_bb_\nccc"),
        ("a bb ccc", 4, "a bb\nccc"),
        ("one-two --to-> three", 8, "one-two\n--to->\nthree"),
        ("abcdef_g", 3, "abcdef_\ng"),
        ("first line\nx_y", 5, "first\nline\nx_y"),
        ("", 5, ""),
    ):
        assert broken(Text(text), width).plain == expected
