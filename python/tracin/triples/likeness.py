"""Labels that look the same and are not: what tells an unknown label from one that a dictionary has."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from itertools import islice

import polars as pl

MARK = '"'
COMPARED = 100_000  # labels, which take about a second


def folded(label: str) -> str:
    """The same for labels that differ in Unicode form, letter case, white space at the ends or quotation marks."""
    return unicodedata.normalize("NFKC", label).casefold().strip().strip(MARK).strip()


def folded_labels(labels: Iterable[str]) -> dict[str, str]:
    """A label of each folded one."""
    return {folded(label): label for label in labels}


def difference(label: str, other: str) -> str:
    """In what two labels differ that fold to the same; the label's own first."""
    normal = [unicodedata.normalize("NFC", text) for text in (label, other)]
    if normal[0] == normal[1]:
        forms = [next((f for f in ("NFC", "NFD") if unicodedata.is_normalized(f, t)), "mixed") for t in (label, other)]
        return f"in Unicode form ({forms[0]} against {forms[1]})"
    if normal[0].strip() == normal[1].strip():
        carriage = any(text.endswith("\r") for text in normal)
        return "in a carriage return (\\r) at the end" if carriage else "in white space at an end"
    if normal[0].casefold() == normal[1].casefold():
        return "in upper and lower case"
    if normal[0].strip(MARK) == normal[1].strip(MARK):
        return "in quotation marks"
    return "in case, white space, quotation marks or Unicode form"


def near_misses(label: str, labels: Iterable[str], count: int = 3) -> list[str]:
    """The labels that an unknown one may be a slip of, most alike first."""
    start, long = folded(label), len(label)
    forms: dict[str, str] = {}
    for other in islice(labels, COMPARED):
        if abs(len(other) - long) <= max(2, long // 2) or start in other.casefold():
            forms.setdefault(folded(other), other)
    found = [forms[form] for form in difflib.get_close_matches(start, forms, count, 0.7)]
    parts = (other for form, other in forms.items() if len(start) >= 3 and start in form)
    return list(dict.fromkeys([*found, *islice(parts, count)]))[:count]


def unquoted(
    labels: pl.Series,  # [n] String
) -> pl.Series:  # [n]
    """pandas, with which PyKEEN reads and writes, puts labels that hold a quotation mark in quotation marks."""
    label = pl.col(labels.name)
    quoted = label.str.len_chars().ge(2) & label.str.starts_with(MARK) & label.str.ends_with(MARK)
    inner = label.str.strip_prefix(MARK).str.strip_suffix(MARK).str.replace_all(2 * MARK, MARK, literal=True)
    return labels.to_frame().select(pl.when(quoted).then(inner).otherwise(label).alias(labels.name)).to_series()
