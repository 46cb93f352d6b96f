"""A question's surroundings as a picture: head, tail, and what joins them, as SVG for wide and for narrow screens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from markupsafe import Markup
from rich.cells import cell_len, set_cell_size

HEIGHT = 30  # of a chip, in units of the picture
LETTER = 7.2  # width of a cell of text
ROOM = 13  # from a chip's text to its side
BADGE = 10  # radius


@dataclass(frozen=True)
class Edge:
    """A training triple in the picture."""

    source: int
    target: int
    number: int  # in the lists beside the picture; 0: in none of them
    side: str  # "for" or "against"; "way": it only leads from one entity to another
    weight: float  # 0 to 1
    title: str


@dataclass(frozen=True)
class Shape:
    """Where things go: all sizes in units of the picture."""

    width: int
    columns: tuple[float, float, float]  # middle of the chips of the head, of those between, and of the tail
    row: float  # from one chip to the next
    chip: float  # greatest width
    tall: bool  # the head is above and the tail below, not left and right
    pairs: int  # of triples elsewhere, in a row


WIDE = Shape(960, (130, 480, 830), 48, 256, False, 2)
TALL = Shape(360, (180, 180, 180), 58, 214, True, 1)


@dataclass(frozen=True)
class _Chip:
    x: float
    y: float
    width: float
    text: str
    whole: str
    role: str

    def side(self, direction: int) -> tuple[float, float]:
        return self.x + direction * self.width / 2, self.y


_Curve = tuple[tuple[float, float], ...]  # four points


def picture(
    head: int, tail: int, labels: Mapping[int, str], edges: Sequence[Edge], shape: Shape, name: str, told: str
) -> Markup:
    """The SVG.

    Args:
        head, tail: the question's entities.
        labels: of all entities of the edges.
        edges: what is drawn.
        shape: WIDE or TALL.
        name: begins the ids in the picture; different for each picture of a page.
        told: what a screen reader says of it.
    """
    ends = {head, tail}
    beside = list(
        dict.fromkeys(
            other
            for edge in edges
            for one, other in ((edge.source, edge.target), (edge.target, edge.source))
            if one in ends and other not in ends
        )
    )
    direct = [edge for edge in edges if {edge.source, edge.target} <= ends]
    around = [edge for edge in edges if edge not in direct and {edge.source, edge.target} <= ends | set(beside)]
    elsewhere = [edge for edge in edges if edge not in direct and edge not in around]
    loops = any(edge.source == edge.target for edge in edges)
    top: float = 24 + 24 * loops + (0 if shape.tall else 34 * len(direct))
    chips = _placed(head, tail, beside, labels, shape, top)
    lines, badges = [], []
    seen: dict[frozenset[int], Iterator[int]] = {}
    for edge in (*direct, *around):
        turn = next(seen.setdefault(frozenset((edge.source, edge.target)), count()))
        curve = _curve(edge, chips, head, tail, shape, turn)
        lines.append(_line(edge, curve, name))
        badges.append(_badge(edge, _point(curve, _along(edge, edge in direct, ends, shape, turn))))
    drawn = [*lines, *badges]
    bottom: float = max(chip.y for chip in chips.values()) + HEIGHT / 2 + 16
    if elsewhere:
        drawn.append(_elsewhere(elsewhere, labels, shape, bottom, name))
        bottom += 44 + -(-len(elsewhere) // shape.pairs) * 44
    drawn += [_drawn_chip(chip) for chip in chips.values()]
    arrows = Markup("").join(
        Markup(
            '<marker id="{0}-{1}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="10" markerHeight="10" '
            'markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path class="arrow {1}" d="M0 0 8 4 0 8z"/>'
            "</marker>"
        ).format(name, side)
        for side in ("for", "against", "way")
    )
    return Markup('<svg class="{}" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}"><defs>{}</defs>{}</svg>').format(
        "tall" if shape.tall else "wide", shape.width, bottom, told, arrows, Markup("").join(drawn)
    )


def _placed(
    head: int, tail: int, beside: Sequence[int], labels: Mapping[int, str], shape: Shape, top: float
) -> dict[int, _Chip]:
    """The chips of head, tail and the entities beside them, the first of which begins at `top`."""
    first, rows = top + HEIGHT / 2, len(beside)
    if shape.tall:
        ends = first, first + (rows + 1) * shape.row
        first += shape.row
    else:
        middle = first + max(0, rows - 1) * shape.row / 2
        ends = middle, middle
    chips = {head: _chip(shape.columns[0], ends[0], labels[head], shape, "head")}
    for place, entity in enumerate(beside):
        chips[entity] = _chip(shape.columns[1], first + place * shape.row, labels[entity], shape, "")
    if tail != head:
        chips[tail] = _chip(shape.columns[2], ends[1], labels[tail], shape, "tail")
    return chips


def _chip(x: float, y: float, label: str, shape: Shape, role: str, most: float | None = None) -> _Chip:
    text = fitted(label, most or shape.chip)
    return _Chip(x, y, cell_len(text) * LETTER + 2 * ROOM, text, label, role)


def fitted(label: str, width: float) -> str:
    """A label cut in the middle to what fits into a chip of that width."""
    cells = int((width - 2 * ROOM) / LETTER)
    if cell_len(label) <= cells:
        return label
    front = (cells - 1) * 2 // 3
    back = label[len(label) - (cells - 1 - front) :]
    return set_cell_size(label, front).rstrip() + "…" + back.lstrip()


def _curve(edge: Edge, chips: Mapping[int, _Chip], head: int, tail: int, shape: Shape, turn: int) -> _Curve:
    a, b = chips[edge.source], chips[edge.target]
    if edge.source == edge.target:
        x, y = a.x, a.y - HEIGHT / 2
        return (x - 14, y), (x - 40, y - 40), (x + 40, y - 40), (x + 14, y)
    if not shape.tall and {edge.source, edge.target} == {head, tail}:
        peak = 18 + 34 * turn
        control = (peak - 0.25 * (a.y - HEIGHT / 2)) / 0.75
        inward = 1 if a.x < b.x else -1
        return (
            (a.x, a.y - HEIGHT / 2),
            (a.x + 60 * inward, control),
            (b.x - 60 * inward, control),
            (b.x, b.y - HEIGHT / 2),
        )
    if not shape.tall and a.x != b.x:
        direction = 1 if a.x < b.x else -1
        p, q = a.side(direction), b.side(-direction)
        bend = (q[0] - p[0]) / 2
        lift = 14 * turn
        return p, (p[0] + bend, p[1] - lift), (q[0] - bend, q[1] - lift), q
    left = shape.tall and tail not in (edge.source, edge.target)
    direction = -1 if left else 1
    p, q = a.side(direction), b.side(direction)
    rows = abs(a.y - b.y) / shape.row
    bulge = min(18 + 11 * rows + 16 * turn, 76 if shape.tall else 90)
    x = min(p[0], q[0]) - bulge if left else max(p[0], q[0]) + bulge
    x = min(max(x, 4), shape.width - 4)
    return p, (x, p[1]), (x, q[1]), q


def _point(curve: _Curve, t: float) -> tuple[float, float]:
    s = 1 - t
    weights = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
    return (
        sum(w * x for w, (x, _) in zip(weights, curve, strict=True)),
        sum(w * y for w, (_, y) in zip(weights, curve, strict=True)),
    )


def _along(edge: Edge, direct: bool, ends: set[int], shape: Shape, turn: int) -> float:
    """Where on its curve an edge has its number: near the entity that it alone leads to, away from other numbers."""
    if direct:
        return 0.3 + 0.13 * (turn % 4) if shape.tall else 0.5
    near = (0.84 if shape.tall else 0.7) - 0.16 * turn
    return near if edge.source in ends else 1 - near


def _line(edge: Edge, curve: _Curve, name: str) -> Markup:
    points = " ".join(f"{x:.1f} {y:.1f}" for x, y in curve[1:])
    return Markup(
        '<g class="edge {}"><title>{}</title><path d="M{:.1f} {:.1f}C{}" stroke-width="{:.1f}" '
        'marker-end="url(#{}-{})"/></g>'
    ).format(edge.side, edge.title, *curve[0], points, 1.5 + 4 * edge.weight**0.5, name, edge.side)


def _badge(edge: Edge, place: tuple[float, float]) -> Markup:
    if not edge.number:
        return Markup("")
    x, y = place
    return Markup(
        '<g class="edge {}"><title>{}</title><circle cx="{:.1f}" cy="{:.1f}" r="{}"/>'
        '<text x="{:.1f}" y="{:.1f}" dy=".36em">{}</text></g>'
    ).format(edge.side, edge.title, x, y, BADGE, x, y, edge.number)


def _elsewhere(edges: Sequence[Edge], labels: Mapping[int, str], shape: Shape, top: float, name: str) -> Markup:
    """Triples that touch neither head nor tail, each by itself."""
    drawn = [
        Markup('<text class="heading" x="{:.0f}" y="{:.0f}">elsewhere in the graph</text>').format(
            shape.width / 2, top + 22
        )
    ]
    cell = shape.width / shape.pairs
    most = cell / 2 - 34
    for place, edge in enumerate(edges):
        x, y = (place % shape.pairs) * cell, top + 62 + (place // shape.pairs) * 44
        a = _chip(x + 8 + most / 2, y, labels[edge.source], shape, "", most)
        b = _chip(x + cell - 8 - most / 2, y, labels[edge.target], shape, "", most)
        p, q = a.side(1), b.side(-1)
        third = (q[0] - p[0]) / 3
        curve = p, (p[0] + third, y), (q[0] - third, y), q
        drawn += [_line(edge, curve, name), _badge(edge, _point(curve, 0.45))]
        drawn += [_drawn_chip(a), _drawn_chip(b)]
    return Markup("").join(drawn)


def _drawn_chip(chip: _Chip) -> Markup:
    return Markup(
        '<g class="chip {role}"><title>{whole}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        'height="{height}" rx="15"/><text x="{cx:.1f}" y="{cy:.1f}" dy=".36em">{text}</text></g>'
    ).format(
        role=chip.role,
        whole=chip.whole,
        x=chip.x - chip.width / 2,
        y=chip.y - HEIGHT / 2,
        width=chip.width,
        height=HEIGHT,
        cx=chip.x,
        cy=chip.y,
        text=chip.text,
    )
