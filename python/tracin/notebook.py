"""What objects show of themselves in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def as_html(title: str, facts: Mapping[str, object]) -> str:
    """A table of two columns; values are text, never markup."""
    rows = "".join(
        f"<tr style='text-align: left'><th>{escape(name)}</th><td>{escape(str(fact))}</td></tr>"
        for name, fact in facts.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"
