"""Puts the measured table and picture into the README: `python -m bench.readme`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bench.report import Results, machine_line, read_results, w1_block, write_text

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- bench:begin, written by python -m bench.readme -->", "<!-- bench:end -->"


def block(results: Results, picture: str) -> str:
    """What stands between the markers."""
    w1 = results["w1"]
    lines = [
        *w1_block(w1, full=False), "", f"![Time by backend, log scale]({picture})", "",
        f"`make bench` measured this on {machine_line(w1['machine'])}; all of it is in "
        f"[{Path(picture).with_name('table.md').name}]({Path(picture).with_name('table.md').as_posix()}).",
    ]  # fmt: skip
    return "\n".join(lines)


def replaced(text: str, inner: str) -> str:
    """The README with a new block between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"the README lacks the lines\n{BEGIN}\n{END}\nput them where the table belongs")
    return f"{before}{BEGIN}\n{inner}\n{END}{after}"


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "results", help="Folder of the JSON files.")
@click.option("--readme", type=click.Path(path_type=Path), default=ROOT / "README.md")
def main(results: Path, readme: Path) -> None:
    """Replaces the block between the markers in the README by the results of the last full run."""
    found = read_results(results)
    if "w1" not in found:
        raise click.ClickException(f"{results}/w1.json is missing; run `make bench` first")
    if found["w1"]["quick"]:
        raise click.ClickException(f"{results}/w1.json is of a quick run; run `make bench` without QUICK first")
    picture = Path(results).resolve() / "time_by_backend.png"
    link = os.path.relpath(picture, readme.resolve().parent).replace(os.sep, "/")
    write_text(readme, replaced(readme.read_text(), block(found, link)))
    click.echo(f"{readme}: table and picture of {results}/w1.json")


if __name__ == "__main__":
    main()
