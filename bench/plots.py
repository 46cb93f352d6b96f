"""Two pictures: time by backend, and the share of the machine's limit that each job reaches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import Results, machine_line, seconds, timed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"baseline": "#8c8c8c", "peer": "#d08c3c", "tracin": "#2a6fb0"}
LEGEND = {"baseline": "dense gradients", "peer": "other libraries", "tracin": "factored form"}


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes the pictures that the results allow."""
    import matplotlib

    matplotlib.use("Agg")
    paths = []
    if "w1" in results and timed(results["w1"]):
        paths.append(save(time_by_backend(results["w1"]), folder / "time_by_backend.png"))
    if jobs := limit_rows(results):
        paths.append(save(roofline(jobs, next(iter(results.values()))["machine"]), folder / "roofline.png"))
    return paths


def save(figure: Figure, path: Path) -> Path:
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=140)
    os.replace(part, path)
    return path


def bars(count: int, title: str, note: str, pad: int = 6) -> tuple[Figure, Any]:
    """A figure for horizontal bars, first on top, with the note under the axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 1.9 + 0.36 * count), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, pad=pad)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.supxlabel(note, fontsize=7, color="#555555", x=0.01, ha="left")
    return figure, axes


def time_by_backend(w1: dict[str, Any]) -> Figure:
    from matplotlib.patches import Patch

    rows = sorted(timed(w1), key=lambda row: -row["seconds"])
    title = f"Influence of {w1['train']:,} training triples on {w1['test']} test triples"
    quick = "; quick run, small sizes" if w1["quick"] else ""
    figure, axes = bars(len(rows), title, f"{w1['graph']}{quick}\n{machine_text(w1['machine'])}")
    names = [row["method"] for row in rows]
    values = [row["seconds"] for row in rows]
    drawn = axes.barh(names, values, color=[COLOURS[row["kind"]] for row in rows], height=0.68)
    for bar, row in zip(drawn, rows, strict=True):
        if "scaled" in row:
            bar.set(hatch="///", edgecolor="white", linewidth=0)
    speed = [f" · {row['speed_up']:,.0f} x" if row.get("speed_up", 0) >= 1.5 else "" for row in rows]
    labels = [f" {seconds(value)}{gain}" for value, gain in zip(values, speed, strict=True)]
    axes.bar_label(drawn, labels, fontsize=9)
    axes.set(
        xscale="log", xlim=(min(values) / 3, max(values) * 30), xlabel="seconds, log scale · speed-up over sequential"
    )
    kinds = [kind for kind in COLOURS if any(row["kind"] == kind for row in rows)]
    handles = [Patch(color=COLOURS[kind], label=LEGEND[kind]) for kind in kinds]
    if any("scaled" in row for row in rows):
        handles.append(Patch(facecolor="#bbbbbb", edgecolor="white", hatch="///", label="timed on a subset, scaled"))
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="lower right")
    return figure


def limit_rows(results: Results) -> list[tuple[str, float, float]]:
    """(job and method, plain limit / time, done limit / time)."""
    return [
        (f"{results[section]['job']}: {row['method']}", row["plain_limit_share"], row["done_limit_share"])
        for section in ("w1", "w2", "w3")
        if section in results
        for row in timed(results[section])
        if "done_limit_share" in row
    ]


def roofline(jobs: list[tuple[str, float, float]], machine: dict[str, Any]) -> Figure:
    title = "Time that the matrix products alone need, as a share of the time taken"
    figure, axes = bars(2 * len(jobs), title, machine_text(machine), pad=22)
    height = 0.36
    places = range(len(jobs))
    for offset, column, colour, label in (
        (-height / 2, 1, COLOURS["tracin"], "products of the undecomposed form"),
        (height / 2, 2, "#9cc3e6", "products really done"),
    ):
        values = [job[column] for job in jobs]
        drawn = axes.barh([place + offset for place in places], values, height, color=colour, label=label)
        axes.bar_label(drawn, [f" {value:.2f}" for value in values], fontsize=9)
    axes.axvline(1, color="#333333", linewidth=1, linestyle="--")
    axes.set_yticks(list(places), [job[0] for job in jobs])
    axes.set(xlim=(0, max(1.15, 1.15 * max(job[1] for job in jobs))), xlabel="limit / time, at torch.mm's best rate")
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    return figure


def machine_text(facts: dict[str, Any]) -> str:
    line = machine_line(facts)
    return line if len(line) < 150 else line.replace(", Python", ",\nPython")
