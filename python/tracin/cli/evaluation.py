"""What the commands of `tracin evaluate` share: their options, what they read, the model, and how they end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from tracin import streams
from tracin.cli.options import FILE, POSITIVE, Options, columns_option, flag, group, json_option, option, valued
from tracin.cli.outputs import check_apart, check_ending
from tracin.cli.train import TrainingFlags
from tracin.errors import InputError
from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.models import trained
from tracin.evaluation.plots import check_plot, plot
from tracin.evaluation.scores import Model, Score
from tracin.evaluation.statistics import LEVEL, Estimate
from tracin.files import check_writable, replacing
from tracin.machine import version
from tracin.streams import say
from tracin.training.loop import DEFAULT_EPOCHS, TrainingOptions
from tracin.triples.read import make_dictionaries, read_triples
from tracin.triples.source import Source

MODELS = "models"  # folder, in that of the runs
FILES = ("train_path", "valid_path", "test_path", "output", "plot", "runs")
HOW = ("processes", "quiet", "resume", "as_json")  # options that change no result


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """What the four commands have in common."""

    train_path: Path | None = option(
        "--train", type=FILE, help="Training triples: head, relation, tail labels.  [default: UMLS, which is packaged]"
    )
    test_path: Path | None = option("--test", type=FILE, help="Triples whose predictions are explained.")
    valid_path: Path | None = option("--valid", type=FILE, help="Further true triples, for the filter of rankings.")
    columns: str = columns_option()
    output: Path = option("--output", "-o", type=FILE, required=True, help="JSON file of the results.")
    plot: Path | None = option("--plot", type=FILE, help="Picture of them, .png, .svg or .pdf; needs matplotlib.")
    runs: Path | None = option(
        "--runs", type=FILE, help="Folder of what the trained models said.  [default: OUTPUT with .runs for .json]"
    )
    resume: bool = flag("--resume", help="Go on with what the folder of --runs holds.")
    processes: int = option(
        "--processes", type=POSITIVE, default=1, show_default=True, help="Models trained at a time, each on a thread."
    )
    bootstrap: int = option(
        "--bootstrap", type=POSITIVE, default=1000, show_default=True, help="Samples drawn for the intervals of 95 %."
    )
    epochs: int = option("--epochs", type=POSITIVE, default=DEFAULT_EPOCHS, show_default=True, help="Of each model.")
    training: TrainingFlags = group(TrainingFlags)
    quiet: bool = flag("--quiet", help="Print warnings and errors only.")
    as_json: bool = json_option("Print the results as JSON instead of tables.")


def scores_option(default: Sequence[str]) -> Any:
    return option(
        "--score",
        multiple=True,
        default=default,
        help="NAME or NAME:SETTING=VALUE,...; tracin and accurate take settings of tracin.TracIn (layers=entity/bias), "
        'checkpoints=NUMBER and weights=random; "A + B" adds z-scored ones.  [default: ' + ", ".join(default) + "]",
    )


def queries_option(default: int | None, help: str) -> Any:
    return option("--queries", type=POSITIVE, default=default, show_default=default is not None, help=help)


def checkpoints_option() -> Any:
    return option(
        "--checkpoints",
        type=POSITIVE,
        default=1,
        show_default=True,
        help="Kept of the model of all triples, evenly spread over its epochs, for scores that ask for several.",
    )


def named_scores(texts: Iterable[str]) -> dict[str, Score]:
    """By their texts, each once, in order."""
    return {text: Score.named(text) for text in dict.fromkeys(texts)}


def decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class Work:
    """What a command works with, from its options to its outputs."""

    command: str
    options: Options
    evaluation: EvaluationOptions
    files: dict[str, str]  # names, for the output
    graph: Graph
    recipe: Recipe
    runs: Path

    @classmethod
    def begun(cls, command: str, options: Options, evaluation: EvaluationOptions) -> Work:
        """Reads the triples, and checks every output before the work."""
        runs = evaluation.runs or evaluation.output.with_suffix(".runs")
        check_outputs(evaluation, runs)
        paths = paths_of(evaluation)
        graph = read_graph(paths, evaluation.columns)
        training = dataclasses.asdict(evaluation.training)
        fields = {field.name for field in dataclasses.fields(TrainingOptions)} - {"seed"}
        recipe = Recipe(evaluation.epochs, {name: training[name] for name in sorted(fields)})
        made = cls(command, options, evaluation, {name: path.name for name, path in paths.items()}, graph, recipe, runs)
        made.say(
            f"{graph.num_entities} entities, {graph.num_relations} relations, {len(graph.train)} training triples, "
            f"{len(graph.test)} test triples; models are kept in {runs}"
        )
        return made

    def questions(self) -> Tensor:  # [q, 3]
        """The test triples, without those that ask nothing, which is said."""
        questions = self.graph.questions()
        if left_out := len(self.graph.test) - len(questions):
            self.say(f"note: {left_out} test triples are left out, for whose head and relation every tail is known")
        return questions

    @property
    def seed(self) -> int:
        return self.evaluation.training.seed

    @property
    def progress(self) -> bool | None:
        return False if self.evaluation.quiet else None

    def say(self, line: str) -> None:
        if not self.evaluation.quiet:
            say(line)

    def model(self, checkpoints: int) -> Model:
        """That of all training triples, on which scores are computed."""
        folder = self.runs / MODELS
        some = trained(self.graph, self.recipe, folder, seed=self.seed, checkpoints=checkpoints, progress=self.progress)
        return Model(some, self.seed)

    def show(self, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
        if self.evaluation.as_json:
            return
        table = Table(box=box.SIMPLE_HEAD)
        for column in columns:
            table.add_column(column, justify="left" if column == columns[0] else "right")
        for name, cells in rows.items():
            table.add_row(name, *cells)
        streams.show(table)

    def write(self, results: Any, panels: Mapping[str, Mapping[str, Estimate]]) -> None:
        """The results with all that they depend on, and the picture."""
        settings = {
            str(field.metadata.get("flag")): list(value) if isinstance(value, tuple) else value
            for field, value in valued(self.options)
            if field.name not in (*FILES, *HOW)
        }
        content = {
            "command": f"tracin evaluate {self.command}",
            "tracin": version(),
            "torch": torch.__version__,
            "files": self.files,
            "triples": {name: len(getattr(self.graph, name)) for name in ("train", "test", "others")},
            "digest": self.graph.digest,
            "settings": settings,
            "interval": LEVEL,
            "results": plain(results),
        }
        with replacing(self.evaluation.output) as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        if self.evaluation.as_json:
            streams.show_text(json.dumps(content, indent=1))
        if self.evaluation.plot is not None:
            plot(self.evaluation.plot, f"tracin evaluate {self.command}, {self.files['train']}", panels)


def plain(value: Any) -> Any:
    """Dataclasses and dicts of them as JSON has them; an estimate as [value, low, high]."""
    if isinstance(value, Estimate):
        return [round(number, 5) for number in (value.value, value.low, value.high)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def paths_of(options: EvaluationOptions) -> dict[str, Path]:
    """The files of triples; without any, those of the packaged UMLS."""
    given = {"train": options.train_path, "test": options.test_path, "valid": options.valid_path}
    if not any(given.values()):
        folder = Path(str(resources.files("tracin") / "data" / "umls"))
        return {name: folder / f"{name}.txt.gz" for name in given}
    for name in ("train", "test"):
        if given[name] is None:
            raise InputError(f"--{name} is missing; name both --train and --test, or none of the files for UMLS")
    return {name: path for name, path in given.items() if path is not None}


def read_graph(paths: Mapping[str, Path], columns: str) -> Graph:
    sources = {name: Source(path) for name, path in paths.items()}  # read twice: for the labels, then for the triples
    entities, relations = make_dictionaries(list(sources.values()), columns=columns)
    triples = {name: read_triples(source, entities, relations, columns=columns) for name, source in sources.items()}
    others = triples.get("valid", torch.empty(0, 3, dtype=torch.int64))
    return Graph(triples["train"], triples["test"], others, len(entities), len(relations))


def check_outputs(options: EvaluationOptions, runs: Path) -> None:
    """Raises InputError if an output cannot be written, or the runs' folder holds what was not asked for."""
    outputs = [options.output, *([] if options.plot is None else [options.plot])]
    given = (("--train", options.train_path), ("--test", options.test_path), ("--valid", options.valid_path))
    check_apart(outputs, [(name, path) for name, path in given if path is not None])
    check_ending("--output", options.output, "JSON")
    for path in outputs:
        check_writable(path)
    if options.plot is not None:
        check_plot(options.plot)
    if runs.exists() and not runs.is_dir():
        raise InputError(f"--runs {runs} is a file; name a folder")
    if runs.is_dir() and not options.resume and any(not path.name.startswith(".") for path in runs.iterdir()):
        raise InputError(f"{runs} holds runs already; --resume goes on with them, or name another folder with --runs")
    runs.mkdir(parents=True, exist_ok=True)
