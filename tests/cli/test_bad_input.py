"""Bad input to `tracin run`: exit code not 0, one line with the remedy, no output file, no traceback."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import tracin
from tracin.cli import main, outputs
from tracin.files import locked

ENTITIES = {f"e{i}": i for i in range(6)}
RELATIONS = {"r0": 0, "r1": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, its dictionaries and triples; outputs go to its folder `out`."""
    torch.manual_seed(1)
    model = tracin.ConvE(6, 2, 8, embedding_height=4, embedding_width=2, output_channels=3, kernel_width=2).eval()
    tracin.save_checkpoint(tmp_path / "model.pt", model)
    (tmp_path / "entities.txt").write_text(numbered_lines(ENTITIES))
    (tmp_path / "relations.txt").write_text(numbered_lines(RELATIONS))
    (tmp_path / "train.txt").write_text("e0\tr0\te1\ne1\tr1\te2\ne5\tr0\te0\n")
    (tmp_path / "test.txt").write_text("e0\tr0\te2\ne3\tr1\te4\n")
    (tmp_path / "out").mkdir()
    return tmp_path


def numbered_lines(labels: dict[str, int]) -> str:
    return "".join(f"{label}\t{index}\n" for label, index in labels.items())


def run(folder: Path, *arguments: str, output: str = "out/result.json") -> Result:
    files = {
        "--model-path": "model.pt",
        "--train": "train.txt",
        "--test": "test.txt",
        "--entity-to-id": "entities.txt",
        "--relation-to-id": "relations.txt",
        "--output": output,
    }
    paths = [part for flag, name in files.items() for part in (flag, str(folder / name))]
    paths += ["--csv-output", str((folder / output).with_suffix(".csv"))]
    return CliRunner().invoke(main, ["run", *paths, *arguments])


def refused(folder: Path, result: Result, message: str, code: int = 1) -> None:
    """One error line with this in it, nothing written."""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("tracin: error: ")]
    assert result.exit_code == code, result.stderr
    assert len(errors) == 1 and errors[0] == lines[-1], result.stderr
    assert message in errors[0], result.stderr
    told = ("tracin: ", "note: ", "running: ", "  ", str(folder))
    assert all(line.startswith(told) for line in lines if line), result.stderr  # a blank line follows ^C
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert not any(path.is_file() for path in (folder / "out").rglob("*"))


def change_model(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def mutate(folder: Path) -> None:
        state = torch.load(folder / "model.pt", weights_only=True)
        del state["checksum"]
        change(state["state_dict"])
        state["version"] = 1  # without a checksum
        torch.save(state, folder / "model.pt")

    return mutate


def truncate(folder: Path) -> None:
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])


def other_family(folder: Path) -> None:
    torch.save({"entity.weight": torch.zeros(6, 8), "relation.weight": torch.zeros(2, 8)}, folder / "model.pt")


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


BAD_FILES = {
    "truncated checkpoint": (truncate, "model.pt"),
    "empty checkpoint": (lambda folder: (folder / "model.pt").write_bytes(b"") and None, "model.pt"),
    "missing checkpoint": (lambda folder: (folder / "model.pt").unlink(), "model.pt"),
    "text for a checkpoint": (write("model.pt", "hello"), "model.pt"),
    "another model family": (other_family, "model.pt"),
    "NaN weights": (change_model(lambda state: state["fc.weight"].fill_(float("nan"))), "NaN"),
    "infinite weights": (change_model(lambda state: state["entity.weight"][2].fill_(float("inf"))), "infinite"),
    "dictionary of another data set": (
        write("entities.txt", numbered_lines({f"x{i}": i for i in range(6)})),
        "train.txt line 1: head 'e0' is not in",
    ),
    "dictionary of another size": (write("entities.txt", numbered_lines(ENTITIES | {"e6": 6})), "entities"),
    "dictionary with a gap": (
        write("entities.txt", numbered_lines({k: i + (i > 3) for k, i in ENTITIES.items()})),
        "entit",
    ),
    "relation ids beyond the model": (
        write("relations.txt", numbered_lines({f"r{i}": i for i in range(5)})),
        "relation",
    ),
    "duplicate id": (write("relations.txt", "r0\t0\nr1\t0\n"), "relations.txt line 2"),
    "empty train": (write("train.txt", ""), "train.txt: the file has no lines"),
    "empty test": (write("test.txt", "\n"), "test.txt: the file has no lines"),
    "too few columns": (write("train.txt", "e0\tr0\te1\ne0\tr0\n"), "train.txt line 2"),
    "missing train": (lambda folder: (folder / "train.txt").unlink(), "train.txt: there is no such file"),
}


@pytest.mark.parametrize(("mutate", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(folder: Path, mutate: Callable[[Path], None], message: str) -> None:
    mutate(folder)
    refused(folder, run(folder), message)


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ("--top-k 0", "Invalid value for '--top-k': 0 is not in the range x>=1.", 2),
        ("--top-k -3", "Invalid value for '--top-k': -3 is not in the range x>=1.", 2),
        ("--top-k many", "Invalid value for '--top-k'", 2),
        ("--mode single --test-indices 2", "test.txt has 2 test triples; expected an index from 0 to 1", 1),
        ("--mode single --test-indices 0 -1", "--test-indices -1", 1),
        ("--mode single --test-indices", "'--test-indices' requires an argument", 2),
        ("--mode all", "Invalid value for '--mode'", 2),
        ("--learning-rate 0", "Invalid value for '--learning-rate'", 2),
        ("--learning-rate nan", "expected positive numbers", 1),
        ("--embedding-dim 200", "--embedding-dim is 200, but", 1),
        ("--output-channels 32", "--output-channels is 32, but", 1),
        ("--use-last-layers-only --num-last-layers 9", "expected 1 to 5", 1),
        ("--last-layer-names fc3", "this model has no 'fc3'; its layers are entity", 1),
        ("--backend sequential --use-torch-compile", "ask for different backends; choose one", 2),
        ("--embedding-height 3", "embedding", 1),
        ("--no-such-flag", "No such option", 2),
    ],
)
def test_bad_arguments(folder: Path, arguments: str, message: str, code: int) -> None:
    refused(folder, run(folder, *arguments.split()), message, code)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda(folder: Path) -> None:
    refused(folder, run(folder, "--device", "cuda"), "--device cpu")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out/result.xlsx", "result.xlsx: .xlsx promises another form, but JSON is written, or Parquet under .parquet"),
        ("out/result.json.gz", ".gz promises a compressed form, but JSON is written"),
        ("out/result.csv", "--output and --csv-output name the same file"),
        ("train.txt", "train.txt is the file of --train, which would be overwritten; name another"),
        ("out/../out/../test.txt", "test.txt is the file of --test, which would be overwritten"),
        ("link.json", "link.json is the file of --model-path, which would be overwritten"),
        ("hard.json", "hard.json is the file of --entity-to-id, which would be overwritten"),
        ("train.txt/result.json", "is a file, not a folder"),
        ("out", "is a folder; name a file in it"),
    ],
)
def test_bad_output_is_found_before_the_work(folder: Path, output: str, message: str) -> None:
    (folder / "model.pt").write_text("")  # would be the error if reading came first
    (folder / "link.json").symlink_to(folder / "model.pt")
    os.link(folder / "entities.txt", folder / "hard.json")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    refused(folder, run(folder, output=output), message, 2 if output == "out/result.csv" else 1)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_partial_results_and_files_per_triple_are_outputs_too(folder: Path) -> None:
    (folder / "test.txt").rename(folder / "tracin_test_1.json")
    result = run(folder, "--output-per-triple", "--test", str(folder / "tracin_test_1.json"), output="result.json")
    refused(folder, result, "tracin_test_1.json is the file of --test")
    (folder / "train.txt").rename(folder / "result.json.partial")
    result = run(folder, "--top-k", "1", "--train", str(folder / "result.json.partial"), output="result.json")
    refused(folder, result, "result.json.partial is the file of --train")


@pytest.mark.parametrize("more", [(), ("--mode", "single"), ("--mode", "self"), ("--output-per-triple",)])
def test_folders_are_made_in_every_mode(folder: Path, more: tuple[str, ...]) -> None:
    result = run(folder, *more, output="out/a/b/result.json")
    assert result.exit_code == 0, result.stderr
    assert list((folder / "out/a/b").iterdir())


def test_a_second_run_with_the_same_output_is_refused(folder: Path) -> None:
    with locked(folder / "out/result.json"):
        result = run(folder)
    refused(folder, result, "is working on")
    assert run(folder).exit_code == 0
    left = {path.name for path in (folder / "out").iterdir()}
    assert left == {f"result.{form}{more}" for form in ("csv", "json") for more in ("", ".manifest.json")}


def test_outputs_that_do_not_fit_are_refused_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MENTIONED", 1000)
    assert "note: the outputs take about 0.00" in run(folder).stderr
    size = sum((folder / "out" / name).stat().st_size for name in ("result.json", "result.csv"))
    told = re.search(r"take about ([\d.e-]+) MB", run(folder).stderr)
    assert told is not None and float(told[1]) * 1e6 == pytest.approx(size, rel=0.5)
    for path in (folder / "out").iterdir():
        path.unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    told_off = "(2 test triples x 3 training triples), but 0.001 MB are free in"
    refused(folder, run(folder), told_off)
    assert run(folder, "--top-k", "1", "--max-test-triples", "1").exit_code == 0


def test_no_dictionary(folder: Path) -> None:
    paths = {"--model-path": "model.pt", "--train": "train.txt", "--output": "out/result.json"}
    arguments = [part for flag, name in paths.items() for part in (flag, str(folder / name))]
    result = CliRunner().invoke(main, ["run", *arguments, "--mode", "self"])
    refused(folder, result, "holds no dictionary of labels; name one with --entity-to-id")


def test_mode_test_needs_test_triples(folder: Path) -> None:
    paths = {"--model-path": "model.pt", "--train": "train.txt", "--output": "out/result.json"}
    arguments = [part for flag, name in paths.items() for part in (flag, str(folder / name))]
    refused(folder, CliRunner().invoke(main, ["run", *arguments]), "mode test needs --test", 2)


def test_one_file_for_both_outputs(folder: Path) -> None:
    result = run(folder, "--csv-output", str(folder / "out/../out/result.json"))
    refused(folder, result, "--output and --csv-output name the same file", 2)


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "out of memory; take a smaller --memory-limit", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory", 1),
        (PermissionError(13, "Permission denied", "secret.txt"), "secret.txt: Permission denied", 1),
        (KeyError("fc"), "unexpected KeyError: 'fc'; --debug shows the traceback", 1),
    ],
)
def test_what_else_can_happen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str, code: int
) -> None:
    (folder / "out/result.json").write_text("earlier")
    seen: list[str] = []

    def lose(*_: object) -> torch.Tensor:
        seen.append("self_influence")
        raise error

    monkeypatch.setattr(tracin.TracIn, "self_influence", lose)  # called when the output is already open
    result = run(folder)
    assert seen and (folder / "out/result.json").read_text() == "earlier"
    (folder / "out/result.json").unlink()
    refused(folder, result, message, code)


def test_debug_shows_the_traceback(folder: Path) -> None:
    result = run(folder, "--debug", "--device", "cpu", "--mode", "single", "--test-indices", "7")
    assert result.exit_code == 1
    *_, error, imports = result.stderr.splitlines()
    assert "Traceback" in result.stderr and error.startswith("tracin: error: --test-indices 7")
    assert imports.startswith("debug: importing ")
