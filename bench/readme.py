"""Puts the measured tables and the picture into the README and docs/benchmarks.md: `python -m bench.readme`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bench.report import Results, machine_line, read_results, table, w1_block, w1_rows, write_text

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- bench:begin, written by python -m bench.readme -->", "<!-- bench:end -->"
IN_BRIEF = ("sequential", "vectorized", "Captum TracInCP", "factored", "native", "native, mixed precision")


def short_block(results: Results) -> str:
    """What stands between the README's markers: some of the methods."""
    w1 = results["w1"]
    some = w1 | {"rows": [row for row in w1["rows"] if row["method"] in IN_BRIEF]}
    rows = [cells[:4] for cells in w1_rows(some, full=False)]
    lines = [
        f"{w1['train']:,} training x {w1['test']} test triples, all parameters; {w1['graph']}; "
        f"{machine_line(w1['machine'])}.", "",
        *table(["method", "time", "pairs/s", "speed-up"], rows), "",
        "\\* timed on a subset and scaled. Speed-up is per pair, over sequential. `make bench` measures this.",
    ]  # fmt: skip
    return "\n".join(lines)


def whole_block(results: Results, picture: str) -> str:
    """What stands between the markers of docs/benchmarks.md."""
    w1 = results["w1"]
    lines = [
        *w1_block(w1, full=False), "", f"![Time by backend, log scale]({picture})", "",
        f"`make bench` measured this on {machine_line(w1['machine'])}; all of it is in "
        f"[{Path(picture).with_name('table.md').name}]({Path(picture).with_name('table.md').as_posix()}).",
    ]  # fmt: skip
    return "\n".join(lines)


def replaced(path: Path, inner: str) -> str:
    """The text of a page with a new block between its markers."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"{path} lacks the lines\n{BEGIN}\n{END}\nput them where the table belongs")
    return f"{before}{BEGIN}\n{inner}\n{END}{after}"


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "results", help="Folder of the JSON files.")
@click.option("--readme", type=click.Path(path_type=Path), default=ROOT / "README.md")
@click.option("--page", type=click.Path(path_type=Path), default=ROOT / "docs" / "benchmarks.md")
def main(results: Path, readme: Path, page: Path) -> None:
    """Replaces the blocks between the markers in the README and on the page by the results of the last full run."""
    found = read_results(results)
    if "w1" not in found:
        raise click.ClickException(f"{results}/w1.json is missing; run `make bench` first")
    if found["w1"]["quick"]:
        raise click.ClickException(f"{results}/w1.json is of a quick run; run `make bench` without QUICK first")
    picture = Path(results).resolve() / "time_by_backend.png"
    link = os.path.relpath(picture, page.resolve().parent).replace(os.sep, "/")
    texts = {readme: replaced(readme, short_block(found)), page: replaced(page, whole_block(found, link))}
    for path, text in texts.items():
        write_text(path, text)
        click.echo(f"{path}: from {results}/w1.json")


if __name__ == "__main__":
    main()
