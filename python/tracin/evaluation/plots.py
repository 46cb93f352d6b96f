"""Estimates as a picture; needs matplotlib, which nothing else here does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tracin.errors import InputError
from tracin.evaluation.statistics import Estimate
from tracin.files import replacing_path

UNDATED = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # the same picture, the same bytes
ENDINGS = tuple(UNDATED)


def check_plot(path: Path) -> None:
    """Raises InputError if no picture can be drawn, before the work and not after it."""
    if path.suffix not in ENDINGS:
        raise InputError(f"plot {path}: expected a name that ends in {', '.join(ENDINGS)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError(f"plot {path} needs matplotlib; pip install matplotlib, or leave --plot out") from None


def plot(path: Path, title: str, panels: Mapping[str, Mapping[str, Estimate]]) -> None:
    """A panel for each measure, in it a bar with its interval for each score, the first at the top."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = list(next(iter(panels.values())))
    figure = Figure(figsize=(3 + 3.2 * len(panels), 1.2 + 0.32 * len(rows)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, estimates) in zip(axes, panels.items(), strict=True):
        values = [estimates[row] for row in rows]
        ends = [[one.value - one.low for one in values], [one.high - one.value for one in values]]
        axis.barh(range(len(rows)), [one.value for one in values], color="#7a9cc6")
        axis.errorbar(
            [one.value for one in values], range(len(rows)), xerr=[[max(0.0, x) for x in end] for end in ends],
            fmt="none", ecolor="#333333", capsize=2,
        )  # fmt: skip
        axis.set_title(name)
        axis.axvline(0, color="#333333", linewidth=0.8)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].invert_yaxis()
    with replacing_path(path) as part, rc_context({"svg.hashsalt": title}):
        figure.savefig(part, format=path.suffix[1:], dpi=120, metadata=UNDATED[path.suffix])
