"""The picture of a question's surroundings: every triple in it once, within its frame, whatever its shape."""

from __future__ import annotations

import re
from itertools import product
from xml.etree import ElementTree

import pytest

from tests.samples.odd_labels import LABELS
from tracin.results.neighbourhood import TALL, WIDE, Edge, Shape, fitted, picture
from tracin.results.page import breakable, visible

NODES = {number: visible(label) for number, label in enumerate(LABELS)}
CASES = {
    "nothing beside": [(0, 1)],
    "both ways and twice": [(0, 1), (1, 0), (0, 1)],
    "head alone": [(0, 2), (3, 0)],
    "tail alone": [(2, 1), (1, 3)],
    "both": [(0, 2), (2, 1), (3, 1), (0, 3)],
    "between those beside": [(0, 2), (3, 1), (2, 3), (3, 2)],
    "loops": [(0, 0), (1, 1), (0, 2), (2, 2), (5, 5)],
    "elsewhere": [(4, 5), (6, 7), (5, 4)],
    "many": [(a, b) for a, b in product(range(6), repeat=2) if a != b],
}


@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tail", [1, 0])
def test_every_triple_is_drawn_once_and_in_the_frame(shape: Shape, case: str, tail: int) -> None:
    edges = [
        Edge(source, target, number, "for" if number % 2 else "against", 1 / number, f"title {number} <&>")
        for number, (source, target) in enumerate(CASES[case], 1)
    ]
    drawn = ElementTree.fromstring(picture(0, tail, NODES, edges, shape, "p", 'what is "told"'))
    groups = [group for group in drawn.iter("g") if group.find("circle") is not None]
    assert sorted(int(group.findtext("text") or 0) for group in groups) == list(range(1, len(edges) + 1))
    assert len(list(drawn.iter("path"))) == len(edges) + 3  # and three arrow heads
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    for group in groups:
        circle = group.find("circle")
        assert circle is not None
        assert 0 <= float(circle.attrib["cx"]) <= width
        assert 0 <= float(circle.attrib["cy"]) <= height
    for box in drawn.iter("rect"):
        assert float(box.attrib["x"]) >= 0
        assert float(box.attrib["x"]) + float(box.attrib["width"]) <= width
        assert float(box.attrib["y"]) + float(box.attrib["height"]) <= height


def test_chips_of_one_column_do_not_touch() -> None:
    edges = [Edge(0, node, node, "for", 0.5, "") for node in range(2, 12)]
    for shape in (WIDE, TALL):
        drawn = ElementTree.fromstring(picture(0, 1, NODES, edges, shape, "p", ""))
        tops = sorted(
            float(box.attrib["y"]) for box in drawn.iter("rect") if shape.tall or 300 < float(box.attrib["x"]) < 600
        )
        assert all(low + 30 <= high for low, high in zip(tops, tops[1:], strict=False))


def test_a_way_has_no_number() -> None:
    drawn = picture(0, 1, NODES, [Edge(0, 2, 0, "way", 0, "way"), Edge(0, 1, 1, "for", 1, "")], WIDE, "p", "")
    assert len(re.findall("<circle", drawn)) == 1


def test_labels_are_cut_in_the_middle() -> None:
    assert fitted("short", 200) == "short"
    cut = fitted("the beginning of a label that is long and its end", 150)
    assert cut.startswith("the beg")
    assert cut.endswith("end")
    assert "…" in cut
    assert len(fitted("ラベル" * 50, 150)) < 20  # wide letters


def test_labels_break_after_marks_and_stay_text() -> None:
    assert breakable("/m/01q99h") == "<bdi>/m/01q99h</bdi>"
    assert breakable("disease_or_syndrome") == "<bdi>disease_<wbr>or_<wbr>syndrome</bdi>"
    assert breakable("<b>_and_more_of_it") == "<bdi>&lt;b&gt;_<wbr>and_<wbr>more_<wbr>of_<wbr>it</bdi>"
    assert visible("a\u202eb\x00\n\ud800") == "a\\u202eb\\x00\\n\\ud800"
    assert visible("👩‍👩‍👧") == "👩‍👩‍👧"
