"""`tracin explain`, `tracin audit` and `tracin explore`: what they print and write, and what they refuse."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import polars as pl
import pytest
import torch
from click.testing import CliRunner, Result

import tracin
from tests.samples.pykeen_examples import factory, pykeen_model
from tests.samples.small_graph import Graph
from tracin.cli import main
from tracin.training.check import doubt

TRIPLE = ("entity 1", "relation:0", "entity 2")


def run(graph: Graph, command: str, *arguments: str, train: bool = True) -> Result:
    given = ["--train", str(graph.folder / "train.txt")] if train else []
    return CliRunner().invoke(main, [command, str(graph.folder / "model.pt"), *arguments, *given])


def test_tables_and_files(graph: Graph) -> None:
    outputs = [graph.folder / f"out/why.{ending}" for ending in ("html", "json", "csv", "parquet", "md")]
    named = [part for path in outputs for part in ("-o", str(path))]
    result = run(graph, "explain", *TRIPLE, "--known", str(graph.folder / "test.txt"), *named)
    assert result.exit_code == 0, result.stderr
    why = tracin.explain(graph.checkpoint, *TRIPLE, train=graph.train, known=[graph.test])
    assert json.loads(outputs[1].read_text())["for"]["reasons"] == why.to_dict()["for"]["reasons"]
    assert "entity 1 --relation:0-> entity 2" in result.stdout
    assert "what the model answers, of 12" in result.stdout
    assert [line for line in result.stderr.splitlines() if line.startswith("wrote")] == [f"wrote {p}" for p in outputs]
    assert pl.read_parquet(outputs[3]).height == len(why.reasons)


def test_json_alone_on_stdout(graph: Graph) -> None:
    result = run(graph, "explain", *TRIPLE, "--json", "--top-k", "2", "--answers", "3", "--quiet")
    found = json.loads(result.stdout)
    assert (len(found["answers"]), found["triple"]["tail_label"]) == (3, "entity 2")
    assert result.stderr == ""


def first_tail(graph: Graph) -> tuple[str, str, str]:
    """A question whose answer the model puts first."""
    why = tracin.explain(graph.checkpoint, 1, 0, "?", train=graph.train)
    head, relation, tail = why.names((1, 0, why.answers.first[0].entity))
    return head, relation, tail


def test_smallest_sets_in_every_output(graph: Graph) -> None:
    outputs = {ending: graph.folder / f"why.{ending}" for ending in ("html", "json", "csv", "md")}
    named = [part for path in outputs.values() for part in ("-o", str(path))]
    few = "--necessary --sufficient --max-size 2 --candidates 3 --tries 2 --copies 1 --entities 2".split()
    result = run(graph, "explain", *first_tail(graph), *few, *named)
    assert result.exit_code == 0, result.stderr
    found = json.loads(outputs["json"].read_text())["sets"]
    assert [each["kind"] for each in found] == ["necessary", "sufficient"]
    texts = (outputs["html"].read_text(), result.stdout.replace("\n", " "), outputs["md"].read_text())
    for heading in ("Without which facts does it fall?", "Which facts carry it over to others?"):
        assert all(heading in text for text in texts)
    frame = pl.read_csv(outputs["csv"])
    rows = frame.filter(pl.col("side") == "necessary")
    assert rows["train_index"].to_list() == [fact["train_index"] for fact in found[0]["facts"]]
    assert frame.columns[-3:] == ["found", "rank_before", "rank_after"]
    plain = graph.folder / "plain.json"
    assert run(graph, "explain", *first_tail(graph), "-o", str(plain)).exit_code == 0
    assert "sets" not in json.loads(plain.read_text())


def test_rows_of_grainsack(graph: Graph) -> None:
    result = run(graph, "explain", *TRIPLE, "--json", "--format", "grainsack", "--quiet", "--top-k", "2")
    (row,) = json.loads(result.stdout)
    why = tracin.explain(graph.checkpoint, *TRIPLE, train=graph.train, k=2)
    assert list(row) == ["prediction", "explanation", "time"]
    assert row["prediction"] == list(TRIPLE)
    assert row["explanation"] == [list(why.names(reason.triple)) for reason in why.pro.reasons]
    assert row["time"] > 0
    path = graph.folder / "rows.json"
    run(graph, "explain", *TRIPLE, "-o", str(path), "--format", "grainsack", "--top-k", "2")
    assert [each["explanation"] for each in json.loads(path.read_text())] == [row["explanation"]]


@pytest.mark.slow
def test_sets_verified_by_training_again(graph: Graph) -> None:
    small = {"embedding_dim": 12, "embedding_height": 4, "embedding_width": 3, "output_channels": 2, "batch_size": 8}
    labels = {"entity_to_id": graph.checkpoint.entity_to_id, "relation_to_id": graph.checkpoint.relation_to_id}
    checkpoint = tracin.train(
        graph.train, num_entities=12, num_relations=3, epochs=2, output=graph.folder / "own", device="cpu", **labels,
        **small,
    )  # fmt: skip
    few = "--necessary --verify retrain --max-size 1 --tries 2 --copies 1 --json --quiet".split()
    why = tracin.explain(checkpoint, "entity 1", "relation:0", "?", train=graph.train)
    first = why.labels.entity(why.answers.first[0].entity)
    asked = [checkpoint.path, "entity 1", "relation:0", first, "--train", str(graph.folder / "train.txt")]
    runs = graph.folder / "runs"
    for _ in range(2):
        result = CliRunner().invoke(main, ["explain", *asked, *few, "--runs", str(runs)])
        assert result.exit_code == 0, result.stderr
        (found,) = json.loads(result.stdout)["sets"]
        assert found["ranks_before"] == [1.0], "the same seed trains the same model"
        assert found["verified"] == "retraining the whole model, 1 seed"
    assert 2 <= len(list(runs.glob("set_*.json"))) <= 3
    other = run(graph, "explain", *TRIPLE, "--necessary", "--verify", "retrain")
    assert "does not tell how it was trained" in other.stderr


def test_questions_from_a_file(graph: Graph) -> None:
    questions = graph.folder / "questions.txt"
    questions.write_text("\n".join(["\t".join(TRIPLE), "", "entity 3\trelation:1\t?\r", "?\trelation:2\tentity 0"]))
    result = run(graph, "explain", "--questions", str(questions), "--json")
    assert result.exit_code == 0, result.stderr
    assert [each["open"] for each in json.loads(result.stdout)] == [None, "tail", "head"]
    page = graph.folder / "why.html"
    assert run(graph, "explain", "--questions", str(questions), "-o", str(page)).exit_code == 0
    assert page.read_text().count("<article") == 3
    questions.write_text("\n")
    assert "holds no questions" in run(graph, "explain", "--questions", str(questions)).stderr
    questions.write_text("entity 1\trelation:0\n")
    assert "line 1 has 2 parts" in run(graph, "explain", "--questions", str(questions)).stderr
    questions.write_text("entity 1\trelation:0\tentity 99\n")
    assert "line 1: tail 'entity 99' is not in" in run(graph, "explain", "--questions", str(questions)).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("entity 1", "relation:0"), "expected HEAD RELATION TAIL after MODEL"),
        ((*TRIPLE, "--questions", "q.txt"), "leave one out"),
        ((*TRIPLE, "-o", "a.xlsx"), "the ending .xlsx"),
        ((*TRIPLE, "-o", "same.html", "-o", "./same.html"), "names the same file twice"),
        ((*TRIPLE, "--against", "entity 2"), "is the tail itself"),
        (("?", "relation:0", "?"), "leaves head and tail open"),
        (("entity 1", "relation:0", "entity 22"), "is not in the entity dictionary"),
        ((*TRIPLE, "--top-k", "0"), "--top-k"),
        ((*TRIPLE, "--necessary", "--against", "entity 3"), "leave one out"),
        ((*TRIPLE, "--necessary", "--max-size", "0"), "--max-size"),
        (("?", *TRIPLE[1:], "--necessary"), "ask for the tail"),
        ((*TRIPLE, "--format", "grainsack"), "a form of JSON"),
        ((*TRIPLE, "--questions", "missing.txt"), "leave one out"),
        (("--questions", "missing.txt"), "missing.txt: No such file"),
    ],
)
def test_what_is_refused_is_one_line(
    graph: Graph, arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(graph.folder)
    result = run(graph, "explain", *arguments)
    assert result.exit_code != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("tracin: error:")]
    assert told in line


def test_an_input_is_never_an_output(graph: Graph) -> None:
    train = graph.folder / "train.csv"
    shutil.copy(graph.folder / "train.txt", train)
    before = train.read_bytes()
    for command, asked in (("explain", TRIPLE), ("audit", ())):
        arguments = [command, str(graph.folder / "model.pt"), *asked, "--train", str(train), "-o", str(train)]
        result = CliRunner().invoke(main, arguments)
        assert "would be overwritten" in result.stderr
        known = run(graph, command, *asked, "--known", str(train), "-o", str(train))
        assert "would be overwritten" in known.stderr
    assert train.read_bytes() == before


def test_missing_training_triples_name_the_flag(graph: Graph) -> None:
    result = run(graph, "explain", *TRIPLE, train=False)
    assert "name them with --train" in result.stderr


def test_a_pykeen_folder_needs_nothing_else(tmp_path: Path) -> None:
    """As PipelineResult.save_to_directory writes it."""
    triples, folder = factory(labels=True), tmp_path / "my_model"
    inside = folder / "training_triples"
    inside.mkdir(parents=True)
    torch.save(pykeen_model("ConvE"), folder / "trained_model.pkl")
    for kind, labels in (("entity", triples.entity_to_id), ("relation", triples.relation_to_id)):
        lines = [f"{number}\t{label}\n" for label, number in sorted(labels.items(), key=lambda item: item[1])]
        (inside / f"{kind}_to_id.tsv.gz").write_bytes(gzip.compress("".join(["id\tlabel\n", *lines]).encode()))
    rows = ["head\trelation\ttail\n", *("\t".join(map(str, row)) + "\n" for row in triples.mapped_triples.tolist())]
    (inside / "numeric_triples.tsv.gz").write_bytes(gzip.compress("".join(rows).encode()))
    for arguments in (["explain", str(folder), "e 1", "r 0", "?"], ["audit", str(folder)]):
        result = CliRunner().invoke(main, [*arguments, "--json"])
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["training_triples"] == len(triples.mapped_triples)
    page = inside / "why.html"
    page.write_text("not ours")
    result = CliRunner().invoke(main, ["explain", str(folder), "e 1", "r 0", "?", "-o", str(page)])
    assert "would be overwritten" in result.stderr


def test_audit_prints_and_writes(graph: Graph) -> None:
    outputs = [graph.folder / f"audit.{ending}" for ending in ("html", "json", "csv", "parquet")]
    named = [part for path in outputs for part in ("-o", str(path))]
    result = run(graph, "audit", "--test", str(graph.folder / "test.txt"), "--show", "3", *named)
    assert result.exit_code == 0, result.stderr
    assert "of 6 test triples are told by training ones" in result.stdout
    found = json.loads(outputs[1].read_text())
    rows = graph.train.tolist()
    copies = [(row, rows.index(triple)) for row, triple in enumerate(rows) if rows.index(triple) < row]
    assert [(each["train_index"], each["first"]) for each in found["copies"]] == copies
    assert f"{len(copies)} exact cop" in result.stdout
    assert len(found["suspects"]) == len(graph.train) == pl.read_csv(outputs[2]).height
    same = run(graph, "audit", "--test", str(graph.folder / "test.txt"), "--json", "--quiet")
    assert json.loads(same.stdout) == found


@pytest.mark.slow
def test_explore_serves_until_it_is_ended(graph: Graph) -> None:
    command = [sys.executable, "-m", "tracin", "explore", str(graph.folder / "model.pt"), "--quiet"]
    process = subprocess.Popen(
        [*command, "--train", str(graph.folder / "train.txt")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(address, timeout=30) as response:
            assert "Look around" in response.read().decode()
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def test_an_audit_by_a_model_of_other_triples_is_doubted(graph: Graph) -> None:
    """Random weights tell nothing of 60 triples."""
    lines = (graph.folder / "train.txt").read_text()
    more = "".join(f"entity {row % 12}\trelation:{row % 3}\tentity {row * 5 % 12}\n" for row in range(40))
    (graph.folder / "train.txt").write_text(lines + more)
    result = run(graph, "audit", "--quiet")
    assert result.exit_code == 0
    told = "tracin check says more, and what looks wrong means little"
    assert (told in result.stderr) == (doubt(graph.checkpoint.model, read(graph)) is not None)
    assert told in result.stderr


def read(graph: Graph) -> torch.Tensor:
    dictionaries = graph.checkpoint.entity_to_id or {}, graph.checkpoint.relation_to_id or {}
    return tracin.read_triples(graph.folder / "train.txt", *dictionaries)


def test_a_checkpoint_without_labels_says_how_to_ask(graph: Graph) -> None:
    tracin.save_checkpoint(graph.folder / "model.pt", graph.checkpoint.model)
    (graph.folder / "train.txt").write_text("".join("\t".join(map(str, row)) + "\n" for row in graph.train.tolist()))
    told = run(graph, "explain", *TRIPLE).stderr
    assert (
        "is not an id from 0 to 11 of the entity dictionary; model.pt comes without labels: give its dictionar" in told
    )
    assert run(graph, "explain", "1", "0", "2", "--numeric-triples").exit_code == 0
    given = [
        part for name in ("entity", "relation") for part in (f"--{name}-to-id", str(graph.folder / f"{name}s.txt"))
    ]
    given = [part.replace("entitys", "entities") for part in given]
    assert run(graph, "explain", *TRIPLE, "--numeric-triples", *given).exit_code == 0


def test_a_folder_of_pykeen_is_named_by_its_file(graph: Graph) -> None:
    folder = graph.folder / "my_model/training_triples"
    folder.mkdir(parents=True)
    (folder / "numeric_triples.tsv.gz").write_bytes(b"")
    for given in (folder, folder.parent):
        result = run(graph, "explain", *TRIPLE, "--train", str(given), train=False)
        assert f"name a file inside it, such as {folder / 'numeric_triples.tsv.gz'}" in result.stderr
