"""Manifests beside outputs: what stands in them, when there is none, and what `tracin replay` makes of them."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import tracin
from tests.samples.small_graph import Graph
from tracin.cli import main
from tracin.digests import digest_file, sealed

TRIPLE = ("entity 1", "relation:0", "entity 2")
FILES = ("--train", "train.txt")


@pytest.fixture
def folder(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(graph.folder)
    return graph.folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def good(*arguments: object) -> Result:
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def explained(*outputs: str) -> Result:
    return good("explain", "model.pt", *TRIPLE, *FILES, *(part for path in outputs for part in ("-o", path)))


def manifest(name: str) -> Any:
    return json.loads(Path(f"{name}.manifest.json").read_text())


def replayed(name: str, *more: object, code: int = 0) -> Any:
    result = call("replay", f"{name}.manifest.json", "--json", *more)
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def refused(name: str, told: str, *more: object) -> None:
    result = call("replay", f"{name}.manifest.json", *more)
    assert result.exit_code == 1 and result.stdout == ""
    assert told in result.stderr and len(result.stderr.splitlines()) == 1


def edited(name: str, **changes: Any) -> None:
    """The same manifest with other content, sealed."""
    content = {key: value for key, value in manifest(name).items() if key != "checksum"} | changes
    Path(f"{name}.manifest.json").write_text(json.dumps(sealed(content)))


def test_what_stands_in_a_manifest(folder: Path) -> None:
    explained("why.html", "out/why.json")
    first, second = manifest("why.html"), manifest("out/why.json")
    assert first == second
    assert first["arguments"][:5] == ["explain", "model.pt", *TRIPLE]
    assert first["command"].startswith("tracin explain model.pt 'entity 1' relation:0 'entity 2' --train train.txt")
    assert first["folder"] == str(folder)
    assert first["versions"] == {
        "tracin": tracin.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    assert first["inputs"] == {name: digest_file(Path(name)) for name in ("model.pt", "train.txt")}
    assert first["outputs"] == {name: digest_file(Path(name)) for name in ("why.html", "out/why.json")}
    assert first["seconds"] > 0 and first["started"].endswith("+00:00")
    assert first["threads"] >= 1 and first["ranks"] == 1


COMMANDS: dict[str, tuple[tuple[str, ...], str, set[str]]] = {
    "run": (
        ("run", "--model-path", "model.pt", "--test", "test.txt", *FILES, "-o", "o/a.json", "--csv-output", "p/a.csv"),
        "o/a.json",
        {"o/a.json", "p/a.csv"},
    ),
    "per triple": (
        ("run", "--model-path", "model.pt", "--test", "test.txt", *FILES, "--max-test-triples", "2")
        + ("--output-per-triple", "-o", "o/a.json"),
        "o/a.json",
        {"o/tracin_test_0.json", "o/tracin_test_1.json"},
    ),
    "batch": (
        ("batch", "--model-path", "model.pt", "--test", "test.txt", *FILES, "-o", "o", "--max-triples", "1")
        + ("--filter-method", "none"),
        "o",
        {"o/batch_tracin_summary.json"}
        | {f"o/triple_000_entity_0_entity_5_tracin.{ending}" for ending in ("csv", "json")}
        | {"o/temp_triples/triple_000_entity_0_entity_5.txt"},
    ),
    "audit": (("audit", "model.pt", *FILES, "-o", "a.csv", "-o", "a.html"), "a.csv", {"a.csv", "a.html"}),
    "index": (("index", "build", "model.pt", *FILES, "-o", "o"), "o", {"o/manifest.json"}),
    "train": (
        ("train", *FILES, "-o", "o", "--epochs", "2", "--every", "1", "--seed", "5"),
        "o",
        {"o/epoch_001.pt", "o/epoch_002.pt"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_replayed(folder: Path, name: str) -> None:
    arguments, output, files = COMMANDS[name]
    good(*arguments)
    assert set(manifest(output)["outputs"]) == files
    before = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    found = replayed(output)
    assert found["same"] and {each["path"] for each in found["outputs"]} == files
    after = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    assert {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in after.items()} == {
        path: (stat.st_ino, stat.st_mtime_ns) for path, stat in before.items()
    }


@pytest.mark.slow
def test_an_evaluation_is_replayed_with_models_of_its_own(folder: Path) -> None:
    good("evaluate", "noise", "--train", "train.txt", "--test", "test.txt", "--share", "0.1", "--epochs", "1", "-o",
         "e.json", "--runs", "kept", "--plot", "e.svg", "--bootstrap", "5")  # fmt: skip
    assert manifest("e.json")["seeds"] == {"seed": 0}
    found = replayed("e.svg")
    assert found["same"] and {each["path"] for each in found["outputs"]} > {"e.json", "e.svg"}


def test_a_folder_as_input_is_known_by_its_files(folder: Path) -> None:
    good("train", *FILES, "-o", "models", "--epochs", "2", "--every", "1")
    arguments = ("run", "--checkpoints", "models", *FILES, "--triple", *TRIPLE, "-o", "models/out.json")
    good(*arguments)
    assert set(manifest("models/out.json")["inputs"]["models"]) == {"epoch_001.pt", "epoch_002.pt"}
    assert replayed("models/out.json")["same"]
    Path("models/epoch_001.pt").unlink()
    refused("models/out.json", "epoch_001.pt of the input models is missing; --allow-changed runs it all the same")


def test_an_index_as_input_is_known_by_its_manifest(folder: Path) -> None:
    good("index", "build", "model.pt", *FILES, "-o", "my_index")
    good("explain", "my_index", *TRIPLE, "-o", "why.json")
    assert set(manifest("why.json")["inputs"]["my_index"]) == {"manifest.json"}
    assert replayed("why.json")["same"]
    result = call("replay", "my_index/manifest.json")
    assert "is not the manifest of an output; name the file NAME.manifest.json beside" in result.stderr


def test_a_changed_input_is_named(folder: Path) -> None:
    explained("why.json")
    with open("train.txt", "a") as file:
        file.write("entity 1\trelation:0\tentity 5\n")
    refused("why.json", "the input train.txt is not as it was; --allow-changed runs it all the same")
    found = replayed("why.json", "--allow-changed", code=1)
    assert found["changed"] == ["the input train.txt is not as it was"]
    (output,) = found["outputs"]
    assert not output["same"] and output["told"].startswith("differs, first in /")
    Path("why.json").unlink()
    (output,) = replayed("why.json", "--allow-changed", code=1)["outputs"]
    assert output["told"].startswith("differs; the file that was written then is gone")


def test_a_missing_input_is_named(folder: Path) -> None:
    explained("why.json")
    Path("train.txt").rename("other.txt")
    refused("why.json", f"the input train.txt is missing in {folder}; put it back", "--allow-changed")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "tracin-index"}', "[" * 100_000])
def test_what_is_no_manifest(folder: Path, content: str) -> None:
    Path("a.manifest.json").write_text(content)
    refused("a", "a.manifest.json is not the manifest of an output; name the file NAME.manifest.json beside")


def test_a_manifest_that_was_edited_or_is_another_versions(folder: Path) -> None:
    explained("why.json")
    whole = Path("why.json.manifest.json").read_text()
    Path("why.json.manifest.json").write_text(whole.replace("entity 2", "entity 3"))
    refused("why.json", "is not as it was written; run its command by hand")
    Path("why.json.manifest.json").write_text(whole.replace('"version": 1', '"version": 2'))
    refused("why.json", "is a manifest of version 2, this program reads 1")
    Path("why.json.manifest.json").write_text(whole)
    edited("why.json", arguments=["explore", "model.pt"])
    refused("why.json", "the manifest is of 'explore'; expected one of")
    edited("why.json", arguments=["evaluate", "nothing"])
    refused("why.json", "has no command 'nothing'")
    assert "missing.json: No such file" in call("replay", "missing.json").stderr


def test_other_versions_and_ranks_are_said(folder: Path) -> None:
    explained("why.json")
    edited("why.json", versions=manifest("why.json")["versions"] | {"torch": "1.0"}, ranks=2, threads=512)
    result = good("replay", "why.json.manifest.json")
    assert f"note: it was written with torch 1.0, now {torch.__version__}" in result.stderr
    assert "note: it was written by 512 threads, now" in result.stderr
    assert "note: it was written by 2 ranks, and runs in one process now" in result.stderr


@pytest.mark.slow
def test_a_stream_cannot_be_read_again(folder: Path) -> None:
    command = [sys.executable, "-m", "tracin", "audit", "model.pt", "--train", "/dev/stdin", "-o", "a.csv"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, input=Path("train.txt").read_bytes(), capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert manifest("a.csv")["inputs"]["/dev/stdin"] is None
    refused("a.csv", "the input /dev/stdin was a stream, which cannot be read again", "--allow-changed")


def test_another_working_folder_and_a_moved_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("work").mkdir()
    for name in ("model.pt", "train.txt"):
        Path(name).rename(Path("work") / name)
    monkeypatch.chdir("work")
    explained("out/why.json")
    monkeypatch.chdir(folder)
    assert replayed("work/out/why.json")["same"]
    Path("work").rename("moved")
    refused("moved/out/why.json", f"the input train.txt is missing in {folder}; put it back, or name the folder")
    found = replayed("moved/out/why.json", "--folder", "moved")
    assert found["same"]
    assert Path.cwd() == folder
    refused("moved/out/why.json", "--folder nowhere is no folder", "--folder", "nowhere")


def test_a_moved_output_is_compared_by_its_digest(folder: Path) -> None:
    explained("why.json")
    Path("elsewhere").mkdir()
    for name in ("why.json", "why.json.manifest.json"):
        shutil.move(name, "elsewhere")
    assert replayed("elsewhere/why.json")["same"]


def test_what_is_written_can_be_kept(folder: Path) -> None:
    explained("why.json", "out/why.html")
    result = good("replay", "why.json.manifest.json", "-o", "again")
    assert "what was written now is in again" in result.stdout
    kept = {str(path.relative_to("again")) for path in Path("again").rglob("*") if path.is_file()}
    assert kept == {"0/why.json", "1/why.html"}
    assert Path("again/0/why.json").read_bytes() == Path("why.json").read_bytes()
    refused("why.json", "--output again has files in it; name a new or an empty folder", "-o", "again")
    refused("why.json", "--output train.txt is a file", "-o", "train.txt")


def test_no_manifest(folder: Path) -> None:
    explained("why.json")
    good("explain", "model.pt", *TRIPLE, *FILES, "-o", "why.json", "--no-manifest")
    assert not Path("why.json.manifest.json").exists()  # the earlier one is of another file
    assert good("explain", "model.pt", *TRIPLE, *FILES, "--json").exit_code == 0
    good("run", "--model-path", "model.pt", *FILES, "--triple", *TRIPLE, "-o", os.devnull)
    assert not list(folder.glob("*.manifest.json")) and not Path(f"{os.devnull}.manifest.json").exists()


def test_a_command_that_fails_leaves_no_manifest_of_what_it_wrote(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explained("why.json", "why.html")
    save = tracin.explanation.answer.save_all  # type: ignore[attr-defined]

    def failing(found: Any, path: Path, *rest: Any) -> None:
        if path.suffix == ".html":
            raise KeyboardInterrupt
        save(found, path, *rest)

    monkeypatch.setattr("tracin.cli.explain.save_all", failing)
    arguments = ("explain", "model.pt", *TRIPLE, *FILES, "--top-k", "1", "-o", "why.json", "-o", "why.html")
    assert call(*arguments).exit_code == 130
    monkeypatch.setattr("tracin.cli.explain.save_all", save)
    assert sorted(path.name for path in folder.glob("why*")) == ["why.html", "why.json"]
    call("explain", "missing.pt", *TRIPLE, *FILES, "-o", "why.json")
    explained("why.html")
    before = Path("why.html.manifest.json").read_bytes()
    assert call("explain", "missing.pt", *TRIPLE, *FILES, "-o", "why.html").exit_code == 1
    assert Path("why.html.manifest.json").read_bytes() == before  # nothing was written


def test_an_input_that_would_be_overwritten_is_refused(folder: Path) -> None:
    Path("train.txt").rename("a.csv.manifest.json")
    result = call("audit", "model.pt", "--train", "a.csv.manifest.json", "-o", "a.csv")
    assert (
        result.exit_code == 1 and "is an input, and the manifest of an output would be written there" in result.stderr
    )
    assert Path("a.csv.manifest.json").read_text().startswith("entity")


def test_a_manifest_that_cannot_be_written_is_said(folder: Path) -> None:
    Path("why.json.manifest.json").mkdir()
    result = call("explain", "model.pt", *TRIPLE, *FILES, "-o", "why.json")
    assert result.exit_code == 0 and "note: there is no manifest" in result.stderr
    name = "n" * 245 + ".json"
    result = explained(name)
    assert Path(name).exists() and "note: there is no manifest" in result.stderr


def test_an_input_that_changes_meanwhile_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show = tracin.cli.explain.show  # type: ignore[attr-defined]

    def meanwhile(*things: Any) -> None:
        with open("train.txt", "a") as file:
            file.write("entity 1\trelation:0\tentity 5\n")
        show(*things)

    monkeypatch.setattr("tracin.cli.explain.show", meanwhile)
    assert "note: train.txt changed while the command ran" in explained("why.json").stderr


def test_scripts_with_other_defaults(folder: Path) -> None:
    from tracin.__main__ import start

    arguments = ["--model-path", "model.pt", *FILES, "--triple", *TRIPLE, "-o", "out.json", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run_tracin.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            start("tracin.cli.run", "run", "run_tracin.py", device="cpu")
    assert ended.value.code == 0
    assert (manifest("out.json")["arguments"][0], manifest("out.json")["defaults"]) == ("run", {"device": "cpu"})
    assert replayed("out.json")["same"]


def test_odd_names(folder: Path) -> None:
    name = os.fsdecode(b"odd \xff\n'name'.txt")
    Path("train.txt").rename(name)
    good("audit", "model.pt", "--train", name, "-o", "a.csv")
    assert set(manifest("a.csv")["inputs"]) == {"model.pt", name}
    assert replayed("a.csv")["same"]
