"""Results as pictures by matplotlib, where it is installed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from tracin.errors import InputError, printable

FOR, AGAINST = "#0f5c9e", "#a8430a"
LONGEST = 60  # letters of a label


def diverging_bars(title: str, bars: Sequence[tuple[str, float]]) -> Any:
    """A matplotlib Figure of labelled bars, those below 0 in another colour and hatched.

    Raises:
        InputError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "plot() draws with matplotlib, which is not installed: pip install matplotlib, or take to_frame()"
        ) from error

    class Shown(Figure):
        """In a notebook, where a plain one is shown only once pyplot has been imported."""

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png", dpi=100)
            return picture.getvalue()

    figure = Shown(figsize=(9, 1.2 + 0.32 * max(1, len(bars))), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars))
    drawn = axes.barh(places, [value for _, value in bars])
    for bar, (_, value) in zip(drawn, bars, strict=True):
        bar.set(facecolor=FOR if value >= 0 else AGAINST, edgecolor="white", hatch=None if value >= 0 else "//")
    axes.set_yticks(places, [_plain(label) for label, _ in bars])
    axes.invert_yaxis()
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_title(_plain(title), loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _plain(label: str) -> str:
    """No formula to matplotlib, and nothing that steers."""
    label = printable(label)
    short = label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
    return short.replace("$", r"\$")
