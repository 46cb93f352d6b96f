"""The command `tracin audit`: what looks wrong in a training set."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import click

from tracin.auditing import table
from tracin.auditing.audit import FLAGGED, OPPONENTS, audit_subject
from tracin.cli.command import Command
from tracin.cli.options import FILE, POSITIVE, Options, TextOptions, argument, group, json_option, option, takes
from tracin.cli.outputs import check_apart, inputs_of, make_folder
from tracin.cli.subject import SubjectOptions, opened_subject, tracin_of
from tracin.model import ConvE
from tracin.results.saving import check_saved_as
from tracin.streams import say, show, show_text
from tracin.training.check import doubt

ENDINGS = (".html", ".json", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class AuditOptions(Options):
    model: Path = argument(type=FILE)
    test_path: Path | None = option("--test", type=FILE, help="Test triples: does the training set tell them?")
    subject: SubjectOptions = group(SubjectOptions)
    top_k: int = option("--top-k", type=POSITIVE, default=FLAGGED, show_default=True, help="Triples that are flagged.")
    opponents: int = option(
        "--opponents",
        type=click.IntRange(min=0),
        default=OPPONENTS,
        show_default=True,
        help="Training triples that speak against a flagged one; 0 leaves them out, which saves time.",
    )
    show: int = option("--show", type=POSITIVE, default=10, show_default=True, metavar="N", help="Rows to print.")
    output: tuple[Path, ...] = option(
        "--output",
        "-o",
        type=FILE,
        multiple=True,
        help="File to write, by its ending: .html (a page), .json, .csv or .parquet; may be given several times.",
    )
    as_json: bool = json_option()
    text: TextOptions = group(TextOptions)


@click.command("audit", cls=Command, context_settings={"max_content_width": 120})
@takes(AuditOptions)
def audit(options: AuditOptions) -> None:
    """Which training triples look wrong to MODEL, which was trained on them, and what do they say twice?

    By the loss of each triple, set against what is usual for its relation; with copies, relations that say the same,
    test triples that the training set tells, odd self-loops, and what is seen once. No file is changed.
    """
    if len({path.resolve() for path in options.output}) < len(options.output):
        raise click.UsageError("--output names the same file twice")
    check_apart(options.output, (*inputs_of(options), *(("--known", path) for path in options.subject.known_paths)))
    for path in options.output:
        if not path.is_dir():
            make_folder(path)
        check_saved_as(path, ENDINGS, "--output")
    tests = () if options.test_path is None else (options.test_path,)
    subject = opened_subject(
        options.model, replace(options.subject, known_paths=(*options.subject.known_paths, *tests))
    )
    if isinstance(subject.model, ConvE) and (doubted := doubt(subject.model, subject.train)) is not None:
        warnings.warn(f"{doubted}; tracin check says more, and what looks wrong means little", stacklevel=1)
    report = audit_subject(subject, tracin_of(subject, options.subject), options.top_k, options.opponents)
    if options.as_json:
        show_text(json.dumps(report.to_dict(), indent=2))
    else:
        show(table.drawn(report, options.show))
    for path in options.output:
        report.save(path, options.text.csv_safe)
        if not options.subject.quiet:
            say(f"wrote {path}")
