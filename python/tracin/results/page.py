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


def render(template: str, **values: Any) -> str:
    """A page from a template in the folder `templates`."""
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": Markup(_read("page.css")), "script": Markup(script), "script_hash": digest}
    return _environment().get_template(template).render(**own, **values)


def breakable(text: object) -> Markup:
    """A label as text, in whatever direction it reads; lines may end after the marks between its words."""
    parts = (escape(part) for part in BREAKS.split(visible(str(text))))
    return Markup("<bdi>{}</bdi>").format(Markup("<wbr>").join(parts))


def visible(text: str) -> str:
    """Text whose control characters and marks of direction are shown as escapes: they would reorder the page."""
    return "".join(mark if mark.isprintable() or mark in JOINERS else _escaped(mark) for mark in text)


def _escaped(mark: str) -> str:
    return mark.encode("unicode_escape").decode()


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
