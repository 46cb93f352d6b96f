"""Test triples of `tracin batch`: read by the rules of `tracin run`, whatever the form of their file."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import tracin
from tracin.batch import Job, Outputs, read_jobs
from tracin.cli import main
from tracin.errors import InputError

ENTITIES = {label: row for row, label in enumerate([" blank before", "blank after ", "b", "c:1", "", "f"])}
RELATIONS = {" treats ": 0, "causes": 1}
TRAIN = torch.tensor([[0, 0, 1], [1, 1, 2], [2, 0, 3], [3, 1, 4], [4, 0, 5], [5, 1, 0], [0, 1, 2], [2, 1, 1]])
TEST = [[0, 0, 2], [1, 1, 0], [4, 0, 1]]
HEADER = "head\trelation\ttail\n"


def labelled(rows: list[list[int]]) -> str:
    entities, relations = list(ENTITIES), list(RELATIONS)
    return "".join(f"{entities[h]}\t{relations[r]}\t{entities[t]}\n" for h, r, t in rows)


def numbered(rows: list[list[int]]) -> str:
    return "".join(f"{h}\t{r}\t{t}\n" for h, r, t in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = tracin.ConvE(
        len(ENTITIES), len(RELATIONS), 9, embedding_height=3, embedding_width=3, output_channels=2
    ).eval()
    tracin.save_checkpoint(tmp_path / "model.pt", model, entity_to_id=ENTITIES, relation_to_id=RELATIONS)
    (tmp_path / "train.txt").write_text(labelled(TRAIN.tolist()))
    return tmp_path


def invoke(folder: Path, command: str, *flags: object) -> Result:
    files = ["--model-path", folder / "model.pt", "--train", folder / "train.txt", "--device", "cpu", "--top-k", 3]
    return CliRunner().invoke(main, [command, *map(str, (*files, *flags))])


def batch(folder: Path, test: Path, *flags: object) -> tuple[Result, list[Any]]:
    """The result, and the object of each JSON file."""
    result = invoke(
        folder, "batch", "--test-triples", test, "--output-dir", folder / "out", "--filter-method", "none", *flags
    )
    return result, [json.loads(path.read_text())[0] for path in sorted((folder / "out").glob("*_tracin.json"))]


MADE = ("run", "files", "checksum")  # what says which command wrote the file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test.txt", labelled(TEST)),
        ("test.txt", "\ufeff" + labelled(TEST).replace("\n", "\r\n") + "\r\n\n"),
        ("test.txt", labelled(TEST).replace("\n", "\t0.5\n")),
        ("test.txt.gz", labelled(TEST)),
        ("numeric_triples.tsv.gz", HEADER + numbered(TEST)),
        ("numeric.tsv", "\ufeff" + HEADER + numbered(TEST)),
        ("test.del", numbered(TEST)),
        ("test.del.gz", numbered(TEST)),
        ("test.del", HEADER + numbered(TEST)),
    ],
)
def test_every_form_is_read_as_run_reads_it(folder: Path, name: str, content: str) -> None:
    raw = content.encode()
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    result, found = batch(folder, path)
    assert result.exit_code == 0, result.stderr
    assert [item["test_triple"] for item in found] == TEST
    labels = [[item[f"test_{side}_label"] for side in ("head", "relation", "tail")] for item in found]
    assert labels == [line.split("\t") for line in labelled(TEST).splitlines()]
    told = json.loads((folder / "out" / "batch_tracin_summary.json").read_text())
    assert [list(entry["triple"].values()) for entry in told["results"]] == labels
    temporary = sorted((folder / "out" / "temp_triples").iterdir())
    assert "".join(file.read_text() for file in temporary) == labelled(TEST)
    indices = [str(index) for index in range(len(TEST))]
    run = invoke(
        folder, "run", "--test", path, "--mode", "single", "--output", folder / "run.json", "--test-indices", *indices
    )
    assert run.exit_code == 0, run.stderr
    expected = [item | {"test_triple_index": 0} for item in json.loads((folder / "run.json").read_text())]
    for ours, theirs in zip(found, expected, strict=True):
        assert [item["train_head"] for item in ours["influences"]] == [
            item["train_head"] for item in theirs["influences"]
        ]
        assert {key: value for key, value in ours.items() if "influence" not in key and key not in MADE} == {
            key: value for key, value in theirs.items() if "influence" not in key and key not in MADE
        }


def test_numeric_triples_of_a_name_that_does_not_tell(folder: Path) -> None:
    path = folder / "test.txt"
    path.write_text(numbered(TEST))
    (folder / "train.txt").write_text(numbered(TRAIN.tolist()))
    result, found = batch(folder, path, "--numeric-triples")
    assert result.exit_code == 0, result.stderr
    assert [item["test_triple"] for item in found] == TEST


def test_lines_that_cannot_be_scored_are_named_and_the_rest_go_on(folder: Path) -> None:
    path = folder / "test.tsv"
    lines = numbered(TEST).splitlines()
    path.write_text(HEADER + "\n".join([lines[0], "0\t0", lines[1], "", "0\t9\t1", "x\t0\t0", lines[2]]))
    result, found = batch(folder, path)
    assert result.exit_code == 1
    assert [item["test_triple"] for item in found] == TEST
    failures = [line for line in result.stderr.splitlines() if line.startswith("triple")]
    for failure, index, named in zip(
        failures,
        (1, 3, 4, 5),
        (
            "line 3: 2 of 3 columns in '0\\t0'; expected head<TAB>relation<TAB>tail",
            "line 5: an empty line; expected head<TAB>relation<TAB>tail",
            "line 6: relation '9' is not an id from 0 to 1 (the relation dictionary has 2 relations); its header line",
            "line 7: head 'x' is not an id from 0 to 5",
        ),
        strict=True,
    ):
        assert failure.startswith(f"triple {index} (") and f"failed: {path} {named}" in failure
    told = json.loads((folder / "out" / "batch_tracin_summary.json").read_text())
    assert [entry["index"] for entry in told["results"] if "error" in entry] == [1, 3, 4, 5]
    assert told["results"][4]["triple"] == {"head": " blank before", "relation": "id 9", "tail": "blank after "}


def test_a_file_that_is_no_text_is_refused_whole(folder: Path) -> None:
    path = folder / "test.txt"
    path.write_bytes(labelled(TEST).encode() + b"\x9c\t\xff\n")
    result, found = batch(folder, path)
    assert result.exit_code == 1 and not found
    assert f"{path} line 4: byte 0x9c is not UTF-8" in result.stderr
    path.write_bytes(b"\n\n")
    result, found = batch(folder, path)
    assert result.exit_code == 1 and f"{path}: the file has no lines" in result.stderr


def test_start_and_count_are_those_of_triples_not_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text(HEADER + numbered(TEST))
    jobs = read_jobs(path, ENTITIES, RELATIONS, 1, 1)
    assert [(job.index, job.triple) for job in jobs] == [(1, tuple(TEST[1]))]
    with pytest.raises(InputError, match=re.escape(f"--start-index 3: {path} has 3 lines; expected 0 to 2")):
        read_jobs(path, ENTITIES, RELATIONS, 3)


def test_names_of_files_keep_to_safe_characters(tmp_path: Path) -> None:
    job = Job(7, ("a b/c:d", "r", " e"), (0, 0, 0))
    assert Outputs(tmp_path).json(job).name == "triple_007_a_b_c_d__e_tracin.json"
    with pytest.raises(InputError, match="wrong"):
        _ = Job(7, ("", "", ""), None, "wrong").ids
