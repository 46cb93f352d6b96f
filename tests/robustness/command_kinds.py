"""Inputs and outputs of the command line: what names entities and relations, batch's test triples and its outputs."""

from __future__ import annotations

import csv
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import tracin
from tests.robustness.file_kinds import ANY, Constant, Kind, Number, expected_dictionary, label_of, lines_of
from tests.robustness.mutations import BYTES, TEXT
from tracin.cli import main


def tracin_command(*arguments: object) -> None:
    """`tracin ...`; its one line of error as an InputError, anything else as what it is."""
    result = CliRunner().invoke(main, [str(part) for part in arguments])
    if result.exit_code == 0:
        return
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    errors = [line for line in result.stderr.splitlines() if "error:" in line or " failed: " in line]
    if not errors or "unexpected" in errors[0]:
        raise RuntimeError(result.stderr[-300:])
    raise tracin.InputError(errors[0])


def run_kinds(fixtures: Path) -> list[Kind]:
    inputs = (
        "--model-path", fixtures / "models/pykeen_model_state_dict.pt", "--train", fixtures / "train.txt",
        "--entity-to-id", fixtures / "node_dict.txt", "--relation-to-id", fixtures / "rel_dict.txt",
        "--embedding-height", 8, "--embedding-width", 4, "--device", "cpu", "--threads", 1, "--quiet",
    )  # fmt: skip

    def using(flag: str) -> Callable[[Path], Number]:
        def use(path: Path) -> Number:
            with tempfile.TemporaryDirectory() as folder:
                outputs = ("--output", Path(folder) / "o.json", "--csv-output", Path(folder) / "o.csv")
                tracin_command("run", *inputs, "--test", fixtures / "test.txt", "--top-k", 3, flag, path, *outputs)
                csv.field_size_limit(1 << 30)
                rows = csv.DictReader((Path(folder) / "o.csv").read_text().splitlines())
                return [[row[key] for key in ("TestHead", "TrainHead", "TrainTail", "TracInScore")] for row in rows]

        return use

    def kind(name: str, weight: int, flag: str, file: str) -> Kind:
        original = (fixtures / file).read_bytes()
        use = using(flag)
        return Kind(
            name, weight, Path(file).suffix, original, BYTES + TEXT, use, Constant(original, Path(file).suffix, use)
        )

    batch = (
        "batch",
        *inputs,
        "--test-triples",
        fixtures / "test.txt",
        "--max-triples",
        2,
        "--top-k",
        30,
        "--no-manifest",
    )

    def make_batch() -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            tracin_command(*batch, "--output-dir", folder)
            return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}

    whole = in_child(make_batch)
    outputs = {name: content for name, content in whole.items() if "summary" not in name}

    def use_output(path: Path) -> Number:
        """The damaged file is one of the outputs of a batch that goes on with --skip-existing."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in whole.items():
                (Path(folder) / name).write_bytes(content)
            (Path(folder) / damaged(path.suffix)).write_bytes(path.read_bytes())
            tracin_command(*batch, "--output-dir", folder, "--skip-existing")
            return {name: (Path(folder) / name).read_bytes() for name in outputs}

    def damaged(suffix: str) -> str:
        return next(name for name in outputs if name.startswith("triple_001") and name.endswith(suffix))

    def use_tests(path: Path) -> Number:
        """Lines of the test file that were scored; a bad line is its own failure only."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                tracin_command("batch", *inputs, "--test-triples", path, "--top-k", 3, "--output-dir", folder)
            except tracin.InputError:
                if not (Path(folder) / "batch_tracin_summary.json").exists():
                    raise
            summary = json.loads((Path(folder) / "batch_tracin_summary.json").read_text())
            return [entry["index"] for entry in summary["results"] if entry["tracin_success"]]

    def expected_tests(data: bytes) -> Number:
        lines = lines_of(data)
        if not lines:
            return ANY
        known = (nodes, predicates, nodes)
        good = [
            len(cells) > 2 and all(label_of(c, k) in k for c, k in zip(cells, known, strict=False)) for cells in lines
        ]
        return [index for index, line in enumerate(good) if line]

    nodes, predicates = (dict(expected_dictionary((fixtures / f"{n}_dict.txt").read_bytes())) for n in ("node", "rel"))
    tests = (fixtures / "test.txt").read_bytes()
    return [
        Kind("test triples of batch", 2, ".txt", tests, BYTES + TEXT, use_tests, expected_tests),
        kind("names of nodes", 1, "--node-name-dict", "node_name_dict.txt"),
        kind("edge map", 1, "--edge-map", "edge_map.json"),
        *(
            Kind(f"batch output {s[1:]}", 1, s, outputs[damaged(s)], BYTES, use_output, lambda data: outputs)
            for s in (".json", ".csv")
        ),
    ]


def in_child(make: Callable[[], Any]) -> Any:
    """make() in a forked process, since it may start threads."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(make()))
    child.start()
    theirs.close()
    result = ours.recv()
    child.join()
    return result
