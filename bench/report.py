"""Results as tables: results/table.md, and the blocks of the README and docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.measure import machine_line

SECTIONS = ("w1", "w2", "w3", "cold", "index", "w3q", "accurate", "losses", "training", "scaling", "ops")
Results = dict[str, dict[str, Any]]  # section -> what its JSON file holds


def write_text(path: Path, text: str) -> None:
    """Replaces the file at once, so that a failure leaves the earlier one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_results(folder: Path) -> Results:
    """The sections that have been run."""
    paths = {section: folder / f"{section}.json" for section in SECTIONS}
    return {section: json.loads(path.read_text()) for section, path in paths.items() if path.exists()}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown; all columns but the first are flush right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def seconds(value: float) -> str:
    for bound, unit, factor in ((1, "ms", 1e3), (120, "s", 1), (7200, "min", 1 / 60), (172_800, "h", 1 / 3600)):
        if value < bound:
            return f"{value * factor:.3g} {unit}"
    return f"{value / 86_400:.3g} days"


def rate(value: float) -> str:
    for bound, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:.3g} {unit}"
    return f"{value:.3g}"


def memory(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value else "-"


def factor(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def name_of(row: dict[str, Any]) -> str:
    return row["method"] + (" \\*" if "scaled" in row else "")


def timed(section: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that have a figure."""
    return [row for row in section["rows"] if "seconds" in row]


def unavailable(section: dict[str, Any]) -> list[str]:
    return [
        f"- {row['method']}: not available ({row['unavailable']})" for row in section["rows"] if "unavailable" in row
    ]


def w1_rows(w1: dict[str, Any], full: bool) -> Iterator[list[str]]:
    for row in timed(w1):
        cells = [name_of(row), seconds(row["seconds"]), rate(row["pairs_per_s"])]
        cells += [factor(row["speed_up"]) if "speed_up" in row else "-", f"{row['plain_limit_share']:.2g}"]
        if full:
            done = f"{row['done_limit_share']:.2f}" if "done_limit_share" in row else "-"
            cells[2:2] = [f"{row['spread']:.0%}", seconds(row["prepare_s"]), rate(row["triples_per_s"])]
            cells += [done, f"{row['error']:.0e}", memory(row["peak_bytes"])]
        yield cells


def w1_block(w1: dict[str, Any], full: bool = True) -> list[str]:
    header = ["method", "time", "pairs/s", "speed-up", "plain limit / time"]
    if full:
        header[2:2] = ["spread", "prepare", "triples/s"]
        header += ["done limit / time", "worst error", "peak memory"]
    lines = [
        f"{w1['train']:,} training x {w1['test']} test triples, all parameters; {w1['graph']}.",
        "",
        *table(header, w1_rows(w1, full)),
        "",
        *unavailable(w1),
        "\\* timed on a subset and scaled: "
        + "; ".join(
            f"{row['method']} {row['scaled'].removeprefix('timed on ')}" for row in timed(w1) if "scaled" in row
        )
        + ". Speed-up is per pair, over sequential.",
    ]
    lines += [ratio for ratio in ratios(w1) if full]
    return lines


def ratios(w1: dict[str, Any]) -> list[str]:
    """What native gains over each of the others."""
    found = {row["method"]: row["seconds"] for row in timed(w1)}
    if "native" not in found:
        return []
    gains = [f"{factor(s / found['native'])} x {name}" for name, s in found.items() if not name.startswith("native")]
    lines = ["", "Native, per pair: " + ", ".join(gains) + "."]
    mixed = next((row for row in timed(w1) if row["precision"] == "mixed"), None)
    if mixed:
        lines += [
            f"Mixed precision: {found['native'] / mixed['seconds']:.2f} x native in float32, error of the worst test "
            f"triple {mixed['error']:.2%}, top-10 overlap {mixed['top_10_overlap']:.3f}."
        ]
    return lines


def w2_block(w2: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["precision"],
            seconds(row["seconds"]),
            seconds(row["prepare_s"]),
            rate(row["pairs_per_s"]),
            f"{row['plain_limit_share']:.2f}",
            f"{row['done_limit_share']:.2f}" if "done_limit_share" in row else "-",
            f"{row['error']:.0e}",
            f"{row['top_10_overlap']:.3f}",
            memory(row["peak_bytes"]),
        ]
        for row in timed(w2)
    ]
    header = [
        "precision",
        "time",
        "prepare",
        "pairs/s",
        "plain limit / time",
        "done limit / time",
        "worst error",
        "top-10 overlap",
        "peak memory",
    ]
    return [
        f"Top 10 of each of {w2['test']:,} test triples over {w2['train']:,} training triples; {w2['graph']}.",
        *[
            f"Error and overlap: {row['checked_tests']} random test triples against all of float64."
            for row in timed(w2)[:1]
        ],
        "",
        *table(header, rows),
        "",
        *unavailable(w2),
    ]


def process_block(section: dict[str, Any]) -> list[str]:
    lines = [f"{section['train']:,} training x {section['test']} test triples; {section['graph']}.", ""]
    for row in timed(section):
        split = ", ".join(f"{part} {seconds(max(0.0, value))}" for part, value in row["split_s"].items())
        limit = f"; plain limit / scoring time {row['plain_limit_share']:.2f}" if "plain_limit_share" in row else ""
        lines += [
            f"{row['method']}: **{seconds(row['seconds'])}**, peak memory {memory(row['peak_bytes'])}{limit}.",
            f"Of this: {split}.",
        ]
    return lines


def index_block(section: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["method"],
            f"{row['questions']:,}" if "questions" in row else "-",
            seconds(row["seconds"]),
            seconds(row["percentile_99_s"]) if row.get("percentile_99_s") else "-",
            seconds(row["open_s"]) if "open_s" in row else "-",
            memory(row["peak_bytes"]),
            f"{row['index_bytes'] / 1e6:,.0f} MB" if "index_bytes" in row else "-",
            f"{row['pairs_scored']:,}" if "pairs_scored" in row else "-",
            f"{row['bounds']:,}" if "bounds" in row else "-",
            f"{row['error']:.0e}" if "error" in row else "-",
        ]
        for row in timed(section)
    ]
    header = ["job", "questions", "time", "99 %", "opening", "peak memory", "index", "pairs scored", "bounds"]
    splits = [
        f"{row['method']}, of which: " + ", ".join(f"{part} {seconds(value)}" for part, value in row["split_s"].items())
        for row in timed(section)
        if "split_s" in row
    ]
    return [
        f"{section['train']:,} training triples; {section['graph']}. Q1: the median of single questions to a process",
        "that has the index open; Q2: one question by `tracin query`, from the start of Python to its end.",
        "",
        *table([*header, "worst error"], rows),
        "",
        *(f"- {split}." for split in splits),
    ]


def accurate_block(section: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["method"],
            seconds(row["first_s"]),
            seconds(row["seconds"]),
            seconds(row["percentile_99_s"]),
            seconds(row["together_s"]),
            memory(row["peak_bytes"]),
            f"{row['error']:.0e}",
        ]
        for row in timed(section)
    ]
    header = ["scores", "first question", "further ones, median", "99 %", f"{section['test']} at once", "peak memory"]
    return [
        f"{section['train']:,} training triples in both directions; {section['graph']}. The first question has to wait",
        "for what all share. Error: of float32 against float64 on a part of the triples.",
        "",
        *table([*header, "worst error"], rows),
    ]


def losses_block(section: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["method"],
            seconds(row["seconds"]),
            f"{row['plain_limit_share']:.2f}",
            memory(row["peak_bytes"]),
            f"{row['error']:.0e}",
        ]
        for row in timed(section)
    ]
    gflop = ", ".join(f"{name} {count / 1e9:,.0f}" for name, count in section["flops"].items())
    return [
        f"W1: {section['train']:,} training x {section['test']} test triples of {section['graph']}, all",
        f"layers, float32. GFLOP of the plain limit's products: {gflop}.",
        "",
        *table(["scores", "time", "plain limit / time", "peak memory", "worst error"], rows),
    ]


def training_block(section: dict[str, Any]) -> list[str]:
    rows = [[row["method"], seconds(row["seconds"]), seconds(row["spread"])] for row in timed(section)]
    return [
        f"An epoch of 1-N training, d = 200, on {section['train']:,} triples and their inverses; {section['graph']}.",
        "",
        *table(["loop", "time", "spread"], rows),
    ]


def scaling_block(scaling: dict[str, Any]) -> list[str]:
    rows = []
    for sweep in scaling["sweeps"]:
        first, last = sweep["points"][0], sweep["points"][-1]
        rows.append(
            [
                f"{sweep['name']} ({sweep['fixed']})",
                f"{first['size']:,} - {last['size']:,}",
                f"{seconds(first['seconds'])} - {seconds(last['seconds'])}",
                f"{sweep['exponent']:.2f}",
                f"{sweep['fixed_share']:.0%}" if "fixed_share" in sweep else "-",
                memory(max(point["peak_bytes"] for point in sweep["points"])),
            ]
        )
    header = ["time against", "range", "time", "exponent", "fixed part", "peak memory"]
    return [
        f"Time ~ size^exponent, fitted over the range; {scaling['graph']}.",
        "Fixed part: a of time = a + b size, as a share of the smallest size's time.",
        "",
        *table(header, rows),
    ]


def ops_block(ops: dict[str, Any]) -> list[str]:
    rows = []
    for one in ops["benchmarks"]:
        extra = one["extra_info"]
        flops = f"{extra['gflop_per_s']:.0f}" if extra["gflop_per_s"] else "-"
        rows.append(
            [
                one["name"].removeprefix("test_"),
                seconds(one["stats"]["median"]),
                flops,
                f"{extra['mm_gflop_per_s']:.0f}",
                f"{extra['gbyte_per_s']:.1f}",
                f"{extra['memory_gbyte_per_s']:.1f}",
            ]
        )
    header = ["op", "time", "GFLOP/s", "torch.mm GFLOP/s", "GB/s", "memory GB/s"]
    return [
        "FLOPs of the undecomposed form and the bytes that must be moved once, beside what torch.mm and a copy reach.",
        "",
        *table(header, rows),
    ]


def limits_block(limits: dict[str, Any]) -> list[str]:
    rows = [
        [
            product,
            *(f"{limits['rates'][kind][product] / 1e9:.0f}" for kind in ("float32", "bfloat16")),
            f"{limits['flops'][product] / 1e9:,.1f}",
        ]
        for product in limits["flops"]
    ]
    bandwidth = ", ".join(f"{kind} {value / 1e9:.1f} GB/s" for kind, value in limits["bandwidth"].items())
    header = ["product", "torch.mm float32, GFLOP/s", "bfloat16, GFLOP/s", "GFLOP of W1"]
    return [f"Memory: {bandwidth}.", "", *table(header, rows)]


def table_md(results: Results) -> str:
    blocks: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
        "w1": ("W1: every method", w1_block),
        "w2": ("W2: every test triple", w2_block),
        "w3": ("W3: a biomedical graph, from text files", process_block),
        "cold": ("Cold start", process_block),
        "index": ("Indexes", index_block),
        "w3q": ("W3q: an index of the biomedical graph", index_block),
        "accurate": ("Accurate scores", accurate_block),
        "losses": ("Losses of all tails", losses_block),
        "training": ("Training", training_block),
        "scaling": ("Scaling", scaling_block),
        "ops": ("Operations", ops_block),
    }
    lines = ["# Benchmark results", ""]
    machines = {machine_line(result["machine"]) for result in results.values()}
    lines += [f"Machine: {line}." for line in sorted(machines)]
    if any(result["quick"] for result in results.values()):
        lines += ["", "**Quick run on small sizes: it shows that everything works, not how fast it is.**"]
    lines += [
        "",
        "Plain limit: the matrix products of the undecomposed factored form at the best rate that torch.mm reached",
        "in the same run, the convolution and the test side left out; done limit: the products really done, at these",
        "rates. Time is that of scoring; prepare is what is done once per model.",
    ]
    for section, (title, block) in blocks.items():
        if section in results:
            lines += ["", f"## {title}", "", *block(results[section])]
        if section == "w1" and section in results:
            lines += ["", "## Limits of the machine", "", *limits_block(results[section]["limits"])]
    return "\n".join(lines) + "\n"
