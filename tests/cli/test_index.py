"""`tracin index`, `tracin query` and `tracin run --index`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import tracin
import tracin_ext
from tests.samples.small_graph import LINES, Graph, triples_and_scores, write_graph
from tracin.cli import main
from tracin.index.folder import MANIFEST

STATUS = tracin_ext.status()
pytestmark = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    made = write_graph(tmp_path_factory.mktemp("graph"))
    result = build(made, made.folder / "index")
    assert result.exit_code == 0, result.stderr
    assert f"{LINES} training triples" in result.stderr
    return made


def tracin_(*arguments: object, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), input=text)


def build(graph: Graph, output: Path, *arguments: object) -> Result:
    return tracin_(
        "index", "build", graph.folder / "model.pt", "--train", graph.folder / "train.txt", "-o", output, *arguments
    )


def query(graph: Graph, *arguments: object, text: str | bytes | None = None) -> list[Any]:
    result = tracin_("query", graph.folder / "index", *arguments, "--json", text=text)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(answer: Any, graph: Graph, triple: list[int], k: int = 10, order: str = "absolute") -> None:
    expected = graph.tracin().top_k(graph.train, [triple], k, order)
    assert [answer[f"test_{place}"] for place in ("head", "relation", "tail")] == triple
    assert answer["test_head_label"] == f"entity {triple[0]}"
    triples, scores = triples_and_scores(answer["influences"])
    torch.testing.assert_close(scores, expected.scores[0], rtol=1e-4, atol=1e-9)
    assert torch.equal(triples, graph.train[torch.tensor([each["index"] for each in answer["influences"]])])
    assert all(each["train_tail_label"] == f"entity {each['train_tail']}" for each in answer["influences"])


def test_a_question_by_labels_and_ids(graph: Graph) -> None:
    (by_labels,) = query(graph, "entity 3", "relation:1", "entity 5")
    check(by_labels, graph, [3, 1, 5])
    (by_ids,) = query(graph, 3, 1, 5, "--numeric-triples")
    assert by_ids == by_labels
    (few,) = query(graph, 3, 1, 5, "--top-k", 2, "--order", "opponents")
    check(few, graph, [3, 1, 5], 2, "opponents")


def test_several_questions(graph: Graph) -> None:
    first, second = query(graph, 3, 1, 5, "entity 0", 0, "entity 11")
    check(first, graph, [3, 1, 5])
    check(second, graph, [0, 0, 11])


def test_tables_are_for_people(graph: Graph) -> None:
    result = tracin_("query", graph.folder / "index", 3, 1, 5, "--top-k", 3)
    assert "entity 3 --relation:1-> entity 5" in result.stdout
    assert result.stdout.count("entity") == 8
    assert "opening the index" in result.stderr
    assert tracin_("query", graph.folder / "index", 3, 1, 5, "--quiet").stderr == ""


def test_questions_from_standard_input(graph: Graph) -> None:
    lines = "entity 3\trelation:1\tentity 5\n\n  \r\n0 0 11\r\nentity 3\trelation:1\tentity 5"
    first, second, third = query(graph, "-", text=lines)
    check(first, graph, [3, 1, 5])
    check(second, graph, [0, 0, 11])
    assert third == first
    assert query(graph, "-", text="") == []


def test_bad_lines_are_said_and_passed_over(graph: Graph) -> None:
    lines = b"Entity 3\trelation:1\tentity 5\n3 1\n\xff\t1\t5\na\tb\tc\td\n\x00\n3 1 5\n"
    result = tracin_("query", graph.folder / "index", "-", "--json", "--quiet", text=lines)
    assert result.exit_code == 1
    (answer,) = map(json.loads, result.stdout.splitlines())
    check(answer, graph, [3, 1, 5])
    told = result.stderr.splitlines()
    assert [line[:36] for line in told] == [f"tracin: error: standard input line {i}" for i in range(1, 6)]
    assert "it has 'entity 3', which differs in upper and lower case" in told[0]
    assert "line 2 has 2 columns" in told[1]
    assert "line 4 has 4 columns" in told[3]


@pytest.mark.slow
def test_answers_come_as_questions_do(graph: Graph) -> None:
    command = [sys.executable, "-m", "tracin", "query", str(graph.folder / "index"), "-", "--json", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for triple in ([3, 1, 5], [0, 0, 11]):
            process.stdin.write("\t".join(map(str, triple)) + "\n")
            process.stdin.flush()
            check(json.loads(process.stdout.readline()), graph, triple)
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.slow
def test_polars_is_not_loaded_for_a_question(graph: Graph) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tracin", "query", str(graph.folder / "index"), "3", "1", "5"]
    result = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=True)
    for library in ("polars.dataframe", "scipy", "matplotlib", "pandas", "torch._dynamo"):
        assert f" {library}\n" not in result.stderr, library
    assert "debug: importing PyTorch" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "0 words are no questions; expected HEAD RELATION TAIL"),
        ((1, 2), "2 words are no questions"),
        (("-", 1, 2, 3), "4 words are no questions"),
        ((1, 2, 99), "question: tail '99' is not in the entity dictionary (12 labels), nor the name of one, nor an id"),
        ((1, 2, 3, 1, "relation 2", 3), "question 2: relation 'relation 2' is not in the relation dictionary"),
        (("entity 3 ", 1, 2), "it has 'entity 3', which differs in white space at an end"),
    ],
)
def test_questions_that_are_refused(arguments: tuple[object, ...], told: str, graph: Graph) -> None:
    result = tracin_("query", graph.folder / "index", *arguments)
    assert result.exit_code != 0
    assert told.replace(", nor the name of one", "") in result.stderr or told in result.stderr
    assert result.stdout == ""


def test_labels_may_be_odd(tmp_path: Path) -> None:
    odd = ["-", "--help", "a b", "\u00e9", "e\u0301", "\u202e", "\x1b[31m", "'", '"', "0", "1", "\U0001f9ec"]
    relations = ["r 1", "=1+1", "-"]
    torch.manual_seed(0)
    model = tracin.ConvE(12, 3, 8, embedding_height=4, embedding_width=2, output_channels=3, kernel_width=2).eval()
    checkpoint = tracin.Checkpoint(
        model,
        entity_to_id={label: i for i, label in enumerate(odd)},
        relation_to_id={label: i for i, label in enumerate(relations)},
    )
    tracin.index.build(checkpoint, [(i, i % 3, 11 - i) for i in range(12)], tmp_path / "index")
    for i, label in enumerate(odd):
        asked = tracin_("query", tmp_path / "index", "--json", "--", label, relations[i % 3], odd[11 - i])
        piped = tracin_(
            "query", tmp_path / "index", "--json", "-", text=f"{label}\t{relations[i % 3]}\t{odd[11 - i]}\n".encode()
        )
        assert asked.exit_code == 0, asked.stderr
        assert json.loads(asked.stdout) == json.loads(piped.stdout)
        answer = json.loads(asked.stdout)
        assert (answer["test_head"], answer["test_head_label"]) == (i, label)
    shown = tracin_("query", tmp_path / "index", "--", "\x1b[31m", "r 1", "\u202e").stdout
    assert "\x1b" not in shown and "\u202e" not in shown


def test_an_index_without_labels_is_asked_by_ids(tmp_path: Path, graph: Graph) -> None:
    tracin.index.build(graph.checkpoint.model, graph.train, tmp_path / "index", learning_rates=1e-3)
    result = tracin_("query", tmp_path / "index", 3, 1, 5, "--json")
    assert json.loads(result.stdout)["influences"][0]["train_head_label"].isdecimal()
    assert "expected" not in tracin_("query", tmp_path / "index", 3, 1, 5).stderr
    assert "is not an id from 0 to 11" in tracin_("query", tmp_path / "index", "entity 3", 1, 5).stderr
    ran = tracin_("run", "--index", tmp_path / "index", "--triple", 3, 1, 5, "-o", tmp_path / "o.json")
    assert "was built without dictionaries of labels" in ran.stderr


def test_info_says_what_an_index_is_of(graph: Graph) -> None:
    result = tracin_("index", "info", graph.folder / "index", "--verify")
    assert result.exit_code == 0, result.stderr
    for part in ("version 3", "compact", f"{LINES}, sha256:", "12 entities", "checksums and digests are right"):
        assert part in result.stdout
    assert "does not exist" in tracin_("index", "info", graph.folder / "nowhere").stderr
    assert "has no manifest.json" in tracin_("index", "info", graph.folder).stderr


def test_what_build_refuses(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert "has other files in it" in build(graph, tmp_path).stderr
    assert "--memory-limit is 1M" in build(graph, tmp_path / "index", "--memory-limit", "1M").stderr
    assert "neither entity nor relation" in build(graph, tmp_path / "index", "--last-layer-names", "fc").stderr
    assert os.listdir(tmp_path) == ["notes.txt"]


def run_index(graph: Graph, index: Path, *arguments: object) -> Result:
    return tracin_("run", "--index", index, "--output", graph.folder / "out.json", *arguments)


@pytest.mark.parametrize(
    "mode", [("--mode", "test"), ("--test-indices", "1", "4", "--mode", "single"), ("--mode", "self")]
)
@pytest.mark.parametrize("top_k", [(), ("--top-k", "3")])
def test_run_with_an_index_writes_what_run_writes(mode: tuple[str, ...], top_k: tuple[str, ...], graph: Graph) -> None:
    csv = graph.folder / "out.csv"
    test = () if mode[-1] == "self" else ("--test", graph.folder / "test.txt")
    result = run_index(graph, graph.folder / "index", *test, *mode, *top_k, "--csv-output", csv)
    assert result.exit_code == 0, result.stderr
    with_index, rows = json.loads((graph.folder / "out.json").read_text()), csv.read_text().splitlines()
    assert graph.run(*mode, *top_k, "--csv-output", str(csv)).exit_code == 0
    alone = json.loads((graph.folder / "out.json").read_text())
    assert flat(with_index) == pytest.approx(flat(alone), rel=1e-4, abs=1e-8)
    assert len(csv.read_text().splitlines()) == len(rows)


def flat(value: Any) -> list[float]:
    """All numbers of what JSON holds, in order."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in flat(item)]
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [value] if isinstance(value, int | float) else []


def test_run_with_an_index_by_triple(graph: Graph) -> None:
    triple = ("--triple", "entity 3", "relation:1", "entity 5")
    assert run_index(graph, graph.folder / "index", *triple, "--top-k", 4).exit_code == 0
    (answer,) = json.loads((graph.folder / "out.json").read_text())
    check(answer, graph, [3, 1, 5], 4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model-path", "m.pt"), "--model-path is decided by --index"),
        (("--train", "t.txt"), "--train is decided by --index"),
        (("--entity-to-id", "e.txt"), "--entity-to-id is decided by --index"),
        (("--use-last-layers-only",), "--use-last-layers-only is decided by --index"),
        (("--method", "accurate"), "--method is decided by --index"),
        (("--query", "ce"), "--query is decided by --index"),
        (("--backend", "factored"), "--index needs the native backend"),
        (("--precision", "float64"), "is of precision float32, not float64"),
        (("--learning-rate", "1"), "is of learning rate 0.001, not 1"),
    ],
)
def test_flags_that_an_index_decides(arguments: tuple[str, ...], told: str, graph: Graph) -> None:
    result = run_index(graph, graph.folder / "index", "--test", graph.folder / "test.txt", *arguments)
    assert result.exit_code != 0
    assert told in result.stderr


def test_without_an_index_run_needs_a_model(graph: Graph) -> None:
    result = tracin_("run", "--train", "t.txt", "--test", "t.txt", "-o", graph.folder / "out.json")
    assert "Missing option '--model-path'" in result.stderr


def test_a_damaged_index_is_refused_by_every_command(graph: Graph, tmp_path: Path) -> None:
    assert build(graph, tmp_path / "index", "--store", "norms", "--quiet").stderr == ""
    (norms,) = tmp_path.rglob("factors.0.norms.bin")
    norms.write_bytes(norms.read_bytes()[:-4] + b"abcd")
    for result in (
        tracin_("query", tmp_path / "index", 3, 1, 5),
        tracin_("index", "info", tmp_path / "index"),
        run_index(graph, tmp_path / "index", "--triple", 3, 1, 5),
    ):
        assert result.exit_code == 1
        assert "factors.0.norms.bin is not as it was written: the index is damaged; build it again" in result.stderr
    assert build(graph, tmp_path / "index").exit_code == 0
    assert tracin_("query", tmp_path / "index", 3, 1, 5).exit_code == 0
    assert (tmp_path / "index" / MANIFEST).exists()
