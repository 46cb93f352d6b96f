"""Pages for people: one HTML text each, with its style and script in it; nothing is fetched, labels are text.

Templates escape what they are given. A policy in the page allows no request and no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

JOINERS = "\u200c\u200d"  # in Persian words, in emoji of several people
BREAKS = re.compile(r"(?<=[/_.:|,;])(?=\w)|(?<=[a-z])(?=[A-Z])")  # in a label: where a line may end
SHORT = 16  # letters of a label that is not broken


def render(template: str, **values: Any) -> str:
    """A page from a template in the folder `templates`."""
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": Markup(_read("page.css")), "script": Markup(script), "script_hash": digest}
    return _environment().get_template(template).render(**own, **values)


def breakable(text: object) -> Markup:
    """A label as text, in whatever direction it reads; lines may end after the marks between its words."""
    shown = visible(str(text))
    parts = (escape(part) for part in (BREAKS.split(shown) if len(shown) > SHORT else [shown]))
    return Markup("<bdi>{}</bdi>").format(Markup("<wbr>").join(parts))


def visible(text: str) -> str:
    """Text whose control characters and marks of direction are shown as escapes: they would reorder the page."""
    return "".join(mark if mark.isprintable() or mark in JOINERS else _escaped(mark) for mark in text)


def _escaped(mark: str) -> str:
    return mark.encode("unicode_escape").decode()


def framed(title: str, page: str) -> str:
    """A page for a notebook: in a frame, so that its style and script touch nothing else."""
    frame = Markup('<iframe title="{}" srcdoc="{}" style="{}" sandbox="allow-scripts"></iframe>')
    return str(frame.format(title, page, "width:100%;height:42rem;border:1px solid #ccc"))


def column(name: str, kind: str = "", ordered: str = "") -> dict[str, str]:
    """Of a table.

    Args:
        name: its heading.
        kind: of its cells: "number" (by `number_cell`), "label", "triples" (each three names), "link", "wide" or ""
            for text.
        ordered: "ascending" or "descending" where the rows come in that order.
    """
    return {"name": name, "kind": kind, "sorted": ordered}


def number_cell(value: float, text: str) -> dict[str, str]:
    """What a column is sorted by, and what is shown."""
    return {"value": repr(value), "text": text}


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, loader=FunctionLoader(_read), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["label"] = breakable
    return environment


@cache
def _read(name: str) -> str:
    return (resources.files("tracin.results") / "templates" / name).read_text(encoding="utf-8")
