"""The command `tracin explain`: why a model predicts a triple."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tracin.cli.command import Command
from tracin.cli.options import FILE, POSITIVE, Options, TextOptions, argument, flag, group, json_option, option, takes
from tracin.cli.outputs import check_apart, inputs_of, make_folder
from tracin.cli.subject import SubjectOptions, opened_subject, tracin_of
from tracin.errors import InputError
from tracin.explanation import table
from tracin.explanation.answer import FORMS, Explanation, as_json, save_all
from tracin.explanation.ask import ANSWERS, SHOWN, Explainer
from tracin.explanation.question import Question, read_question
from tracin.explanation.small_sets import SetFinder
from tracin.results.saving import check_saved_as
from tracin.sets.smallest import NECESSARY, SUFFICIENT, VERIFICATIONS, SetOptions
from tracin.streams import say, show, show_text
from tracin.subject import Subject

ENDINGS = (".html", ".json", ".csv", ".parquet", ".md")
TAILS_SHOWN = 5


DEFAULTS = SetOptions()


def _number(flag: str, name: str, help: str) -> Any:
    return option(flag, type=POSITIVE, default=getattr(DEFAULTS, name), show_default=True, help=help)


@dataclass(frozen=True, kw_only=True)
class SetFlags(Options):
    """The fields of `tracin.sets.SetOptions`."""

    necessary: bool = flag(
        "--necessary", help="Look for the smallest set of facts without which the answer is no longer first."
    )
    sufficient: bool = flag(
        "--sufficient", help="Look for the smallest set that, added to other entities, makes the answer theirs."
    )
    max_size: int = _number("--max-size", "max_size", "Facts of a set, at most.")
    verify: str = option(
        "--verify",
        type=click.Choice(VERIFICATIONS),
        default=DEFAULTS.verify,
        show_default=True,
        help="How a set is tried: the one entity's embedding is trained anew, or the whole model.",
    )
    candidates: int = _number("--candidates", "candidates", "Facts of the entity, by score, of which sets are made.")
    tries: int = _number("--tries", "tries", "Sets tried of each size.")
    copies: int = _number("--copies", "copies", "Trainings, of different random numbers, of each set.")
    entities: int = _number("--entities", "entities", "Others, to which a sufficient set is added.")
    runs: Path | None = option(
        "--runs", type=FILE, help="Folder that keeps what retrained models said, for the next time (--verify retrain)."
    )

    @property
    def kinds(self) -> tuple[str, ...]:
        asked = ((NECESSARY, self.necessary), (SUFFICIENT, self.sufficient))
        return tuple(kind for kind, wanted in asked if wanted)

    def options(self) -> SetOptions:
        fields = dataclasses.fields(SetOptions)
        return SetOptions(**{field.name: getattr(self, field.name) for field in fields if field.name != "seed"})


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    model: Path = argument(type=FILE)
    triple: tuple[str, ...] = argument(nargs=-1, metavar="[HEAD RELATION TAIL]")
    questions: Path | None = option(
        "--questions",
        type=FILE,
        help="Lines head<TAB>relation<TAB>tail, instead of one triple; ? is what is asked for.",
    )
    against: str | None = option("--against", metavar="TAIL", help="Why the tail, rather than this one?")
    subject: SubjectOptions = group(SubjectOptions)
    top_k: int = option(
        "--top-k", type=POSITIVE, default=SHOWN, show_default=True, help="Training triples of each side."
    )
    tails: int = option(
        "--answers", type=POSITIVE, default=ANSWERS, show_default=True, help="Of the model's own answers."
    )
    sets: SetFlags = group(SetFlags)
    output: tuple[Path, ...] = option(
        "--output",
        "-o",
        type=FILE,
        multiple=True,
        help="File to write, by its ending: .html (a page), .json, .csv, .parquet or .md; may be given several times.",
    )
    as_json: bool = json_option()
    form: str = option(
        "--format",
        type=click.Choice(FORMS),
        default="tracin",
        show_default=True,
        help="Of JSON: ours, or the rows of the GRainsaCK benchmark.",
    )
    text: TextOptions = group(TextOptions)


@click.command("explain", cls=Command, context_settings={"max_content_width": 120})
@takes(ExplainOptions)
def explain(options: ExplainOptions) -> None:
    """Why does MODEL predict this triple? The training triples that speak for it and against it, by name.

    HEAD, RELATION and TAIL are labels, names or ids. With ? for HEAD or TAIL the model is asked for it, and its first
    answer that is not known to be true is explained. MODEL is a checkpoint, a folder of PyKEEN's
    save_to_directory, or an index.
    """
    check(options)
    subject = opened_subject(options.model, options.subject)
    asked = list(questions(options, subject))
    kinds = options.sets.kinds
    progress = False if options.subject.quiet else None
    finder = SetFinder(subject, options.sets.options(), progress) if kinds else None
    explainer = Explainer(subject, tracin_of(subject, options.subject), finder)
    found: list[Explanation] = []
    for question in asked:
        found.append(explainer.ask(question, options.top_k, options.tails, kinds))
        if not options.as_json:
            if len(found) > 1:
                show()
            show(table.drawn(found[-1], min(options.tails, TAILS_SHOWN)))
    if options.as_json:
        show_text(as_json(found, options.form, always_list=options.questions is not None))
    for path in options.output:
        save_all(found, path, options.text.csv_safe, options.form)
        if not options.subject.quiet:
            say(f"wrote {path}")


def check(options: ExplainOptions) -> None:
    """Finds out before the work what is missing, and whether the outputs can be written."""
    if options.questions is None and len(options.triple) != 3:
        raise click.UsageError(
            f"expected HEAD RELATION TAIL after MODEL, or --questions FILE, but {len(options.triple)} came; put a "
            "label of several words in quotation marks"
        )
    if options.questions is not None and (options.triple or options.against is not None):
        raise click.UsageError("--questions and a triple both say what to explain; leave one out")
    if options.sets.kinds and options.against is not None:
        raise click.UsageError(
            "--against compares two answers, --necessary and --sufficient explain one; leave one out"
        )
    if options.form != FORMS[0] and not (options.as_json or any(_is_json(path) for path in options.output)):
        raise click.UsageError(f"--format {options.form} is a form of JSON; ask for it by --json or -o NAME.json")
    if len({path.resolve() for path in options.output}) < len(options.output):
        raise click.UsageError("--output names the same file twice")
    check_apart(options.output, (*inputs_of(options), *(("--known", path) for path in options.subject.known_paths)))
    for path in options.output:
        if not path.is_dir():
            make_folder(path)
        check_saved_as(path, ENDINGS, "--output")


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def questions(options: ExplainOptions, subject: Subject) -> Iterator[Question]:
    if options.questions is None:
        yield read_question(subject, options.triple, options.against, "the question")
        return
    empty = True
    text = options.questions.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            empty = False
            parts = line.rstrip("\r").split("\t")
            yield read_question(subject, parts, None, f"{options.questions} line {number}")
    if empty:
        raise InputError(f"{options.questions} holds no questions; expected lines head<TAB>relation<TAB>tail")
