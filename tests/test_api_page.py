"""docs/api.md is what the public docstrings say, and these say what a reader needs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import tracin
from docs.api import PAGE, divided, entries, named, names, page, public_members


def documented() -> Iterator[tuple[str, Any]]:
    """Public functions, classes and methods, by the name a user calls them."""
    for name in names():
        item = named(name)
        yield name.removeprefix("tracin."), item
        if inspect.isclass(item):
            for own, member in public_members(item):
                yield f"{item.__name__}.{own}", member


CASES = dict(documented())


def section(name: str, heading: str) -> list[str] | None:
    return dict(divided(inspect.getdoc(CASES[name]) or "")[1]).get(heading)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m docs.api"


def test_every_public_name_has_a_section() -> None:
    text = PAGE.read_text()
    assert all(f"\n## tracin.{name}\n" in text for name in tracin.__all__)


def test_links_to_sections_lead_there() -> None:
    text = PAGE.read_text()
    anchors = {title.lower().replace(".", "") for title in re.findall(r"^#+ (.+)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@pytest.mark.parametrize("name", CASES)
def test_every_public_thing_is_explained(name: str) -> None:
    doc = inspect.getdoc(CASES[name])
    assert doc and doc.split("\n\n")[0].rstrip().endswith("."), "its docstring begins with a sentence"


@pytest.mark.parametrize("name", [name for name in CASES if section(name, "Args") is not None])
def test_arguments_are_explained_all_and_in_order(name: str) -> None:
    explained = [
        argument for entry in entries(section(name, "Args") or []) for argument in entry.split("`")[1].split(", ")
    ]
    assert explained == [argument for argument in inspect.signature(CASES[name]).parameters if argument != "self"]
