"""Puts the tables of results/accuracy into the pages whose marks name them: python -m docs.accuracy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PAGES = tuple(Path(__file__).with_name(f"{name}.md") for name in ("accuracy", "explain-and-audit"))
RESULTS = PAGES[0].parents[1] / "results" / "accuracy"
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def page(text: str) -> str:
    """The page's text with every table made anew."""
    return BLOCK.sub(lambda match: match[1] + "\n".join(table(match[2])) + "\n" + match[3], text)


def table(name: str) -> Iterator[str]:
    """The lines of the table of a result file."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    yield from TABLES[content["command"].rpartition(" ")[2]](content)


def lds(content: dict[str, Any]) -> Iterator[str]:
    control = content["settings"]["--control"]
    by_outcome = content["results"]["outcomes"]
    head = [f"{column}{outcome}" for outcome in by_outcome for column in ("", f"minus {control}, ")]
    yield from header(["score", *head])
    for score in next(iter(by_outcome.values()))["scores"]:
        cells = [
            "" if score not in some[part] else estimate(some[part][score])
            for some in by_outcome.values()
            for part in ("scores", "beyond")
        ]
        yield row([f"`{score}`", *cells])
    told = f"{content['results']['queries']} test triples, {content['settings']['--subsets']} subsets"
    ceilings = [f"{some['ceiling']:.2f} ({name})" for name, some in by_outcome.items() if some["ceiling"] is not None]
    yield f"\n{told}{'; ceiling ' + ', '.join(ceilings) if ceilings else ''}."


def noise(content: dict[str, Any]) -> Iterator[str]:
    results = content["results"]
    ks = list(next(iter(results.values()))["precision"])
    yield from header(["score", "AUC", *(f"precision at {k}" for k in ks)])
    for name, found in results.items():
        yield row([name, estimate(found["auc"]), *(f"{found['precision'][k]:.2f}" for k in ks)])


def audit(content: dict[str, Any]) -> Iterator[str]:
    names = {"audit": "", "loss": ", by loss alone", "self-influence": ", by self-influence"}
    ks = content["settings"]["--at"]
    columns = [f"of the first {k} wrong{told}" for k in ks for told in names.values()]
    yield from header(["wrong", *columns, "AUC", "estimated wrong"])
    for share, found in content["results"].items():
        scores = found["scores"]
        cells = [f"{k * scores[name]['precision'][str(k)]:.0f}" if scores else "" for k in ks for name in names]
        wrong = f"{float(share):.0%}: {found['wrong']:,}" if scores else "none"
        yield row([wrong, *cells, estimate(scores["audit"]["auc"]) if scores else "", f"{found['estimated']:,}"])
    reached = ", ".join(f"{found['mrr']:.2f}" for found in content["results"].values())
    epochs, triples = content["settings"]["--epochs"], content["triples"]["train"]
    yield f"\n{triples:,} training triples; {epochs} epochs; MRR of the test triples {reached}."


def deletion(content: dict[str, Any]) -> Iterator[str]:
    names = {"margin": "margin", "-ce": "-ce", "mrr": "MRR", "hits@1": "Hits@1"}
    yield from header(["score", "top", "left out", *names.values()])
    for score, by_k in content["results"]["scores"].items():
        for k, found in by_k.items():
            cells = [estimate(found["changes"][name]) for name in names]
            yield row([f"`{score}`", k, f"{found['removed']:.0f}", *cells])
    repeats = content["settings"]["--repeats"]
    yield f"\n{content['results']['predictions']} predictions, {repeats} model{'s' * (repeats > 1)} of each deletion."


def necessary(content: dict[str, Any]) -> Iterator[str]:
    yield from header(["score", "facts", "size", "fall by post-training", "left out", "MRR", "Hits@1"])
    for score, by_way in content["results"]["scores"].items():
        for way, by_k in by_way.items():
            for k, found in by_k.items():
                facts = f"first {k}" if way == "first" else f"smallest, up to {k}"
                falls = "" if found["found"] is None else str(found["found"])
                cells = [estimate(found["changes"][name]) for name in ("mrr", "hits@1")]
                yield row([f"`{score}`", facts, f"{found['size']:.1f}", falls, f"{found['removed']:.0f}", *cells])
    repeats = content["settings"]["--repeats"]
    yield f"\n{content['results']['predictions']} predictions, {repeats} model{'s' * (repeats > 1)} of each removal."


def sanity(content: dict[str, Any]) -> Iterator[str]:
    yield from header(["score", "distinct", "most used", "correlation", "overlap"])
    for score, found in content["results"]["scores"].items():
        rest = (
            "" if found[name] is None else f"{found[name]:.2f}" for name in ("random_correlation", "random_overlap")
        )
        yield row([f"`{score}`", f"{found['distinct']:,}", f"{found['most']:.0%}", *rest])


TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "lds": lds, "noise": noise, "audit": audit, "deletion": deletion, "necessary": necessary, "sanity": sanity,
}  # fmt: skip


def header(names: Sequence[str]) -> Iterator[str]:
    yield row(names)
    yield row([":--", *("--:" for _ in names[1:])])


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def estimate(some: Sequence[float]) -> str:
    """.54 [.52, .56]"""
    value, low, high = (f"{number:.2f}".replace("0.", ".", 1) for number in some)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path.read_text()))
