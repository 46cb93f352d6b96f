"""`tracin run`: its outputs against the library, its own flags, the drop-in script."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.samples.small_graph import ENTITIES, LINES, TESTS, Graph, triples_and_scores
from tracin.cli import main
from tracin.results.writers import CSV_HEADER

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {
    "--model-path",
    "--train",
    "--test",
    "--entity-to-id",
    "--relation-to-id",
    "--edge-map",
    "--node-name-dict",
    "--output",
    "-o",
    "--csv-output",
    "--mode",
    "--test-indices",
    "--max-test-triples",
    "--top-k",
    "--learning-rate",
    "--embedding-dim",
    "--output-channels",
    "--device",
    "--output-per-triple",
    "--batch-size",
    "--use-last-layers-only",
    "--num-last-layers",
    "--last-layer-names",
    "--use-mixed-precision",
    "--use-gradient-checkpointing",
    "--disable-memory-cleanup",
    "--use-vectorized-gradients",
    "--disable-vectorized-gradients",
    "--cache-test-gradients",
    "--disable-test-gradient-caching",
    "--use-torch-compile",
    "--enable-multi-gpu",
    "--use-optimized-tracin",
}


def test_help_names_every_flag_of_the_original() -> None:
    text = CliRunner().invoke(main, ["run", "--help"]).stdout
    assert FLAGS - set(text.replace(",", " ").replace("/", " ").split()) == set()


def test_mode_test_writes_all_influences_ordered(graph: Graph) -> None:
    result = graph.json()
    assert {key: value for key, value in result.items() if key not in ("results", "run")} == {
        "num_test_triples": TESTS,
        "num_training_triples": LINES,
        "top_k": None,
        "learning_rate": 0.001,
    }
    dense = graph.tracin().influence(graph.train, graph.test)
    for record, scores, triple in zip(result["results"], dense, graph.test.tolist(), strict=True):
        assert [record[key] for key in ("test_head", "test_relation", "test_tail")] == triple
        rows = scores.abs().argsort(descending=True, stable=True)
        found, values = triples_and_scores(record["top_influences"])
        assert torch.equal(found, graph.train[rows])
        torch.testing.assert_close(values, scores[rows])


@pytest.mark.parametrize("order", ["absolute", "proponents", "opponents"])
@pytest.mark.parametrize("top_k", [1, 5, LINES, LINES + 9])
def test_top_k_is_the_start_of_all(graph: Graph, order: str, top_k: int) -> None:
    all_of_them = graph.json("--order", order)["results"]
    best = graph.json("--order", order, "--top-k", str(top_k))["results"]
    for full, cut in zip(all_of_them, best, strict=True):
        _, expected = triples_and_scores(full["top_influences"][:top_k])
        _, found = triples_and_scores(cut["top_influences"])
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("--loss ce", {"loss": "ce"}),
        ("--loss kvsall --label-smoothing pykeen:0.1", {"loss": "kvsall", "label_smoothing": "pykeen:0.1"}),
        ("--loss margin --margin 2.5 --query score", {"loss": "margin", "margin": 2.5, "query": "score"}),
        ("--loss ce --method accurate --samples 20", {"loss": "ce", "method": "accurate", "samples": 20}),
    ],
)
def test_losses_over_all_tails(flags: str, arguments: dict[str, object], graph: Graph) -> None:
    found = graph.json(*flags.split(), "--top-k", "4")
    ti = graph.tracin(**arguments)
    top = ti.top_k(graph.train, graph.test, k=4)
    for record, index, scores in zip(found["results"], top.indices, top.scores, strict=True):
        triples, values = triples_and_scores(record["top_influences"])
        assert torch.equal(triples, graph.train[index])
        torch.testing.assert_close(values, scores)
    assert found["run"]["loss"] == arguments["loss"]
    asked = found["run"]["question"]
    assert (asked["margin"], asked["label_smoothing"]) == (ti.loss_options.margin, ti.loss_options.label_smoothing)


def test_a_wrong_label_smoothing_is_named_by_its_flag(graph: Graph) -> None:
    result = graph.run("--loss", "kvsall", "--label-smoothing", "much")
    assert result.exit_code != 0
    assert "--label-smoothing is 'much'; expected a number" in result.stderr


def test_top_k_beyond_the_training_set_is_noted(graph: Graph) -> None:
    result = graph.run("--top-k", "1000")
    assert result.exit_code == 0
    assert f"--top-k 1000 exceeds the {LINES} training triples: all are written" in result.stderr


@pytest.mark.parametrize("spelling", ["--test-indices 0 3 5", "--test-indices 0 --test-indices 3 --test-indices 5"])
def test_mode_single_takes_lines_of_the_file(graph: Graph, spelling: str) -> None:
    csv_path = graph.folder / "c.csv"
    records = graph.json("--mode", "single", "--top-k", "2", *spelling.split(), "--csv-output", str(csv_path))
    assert [record["test_triple_index"] for record in records] == [0, 3, 5]
    own = graph.tracin().self_influence(graph.test)
    for record, index in zip(records, (0, 3, 5), strict=True):
        assert record["test_triple"] == graph.test[index].tolist()
        assert record["test_head_label"] == f"entity {graph.test[index, 0]}"
        assert record["self_influence"] == pytest.approx(own[index].item())
        with open(graph.folder / f"c_test_{index}.csv", newline="") as file:
            header, *rows = csv.reader(file)
        assert tuple(header) == CSV_HEADER
        assert [float(row[12]) for row in rows] == [item["influence"] for item in record["influences"]]
    assert not csv_path.exists()


def asked(graph: Graph, *arguments: str) -> Result:
    """`tracin run` without a file of test triples."""
    files = ["--model-path", str(graph.folder / "model.pt"), "--train", str(graph.folder / "train.txt")]
    return CliRunner().invoke(main, ["run", *files, "-o", str(graph.folder / "asked.json"), *arguments])


def test_a_triple_on_the_command_line(graph: Graph) -> None:
    """By labels, and by ids: as the lines of the file are explained in mode single."""
    csv_path = graph.folder / "c.csv"
    triples = graph.test[[2, 4]].tolist()
    named = [(f"entity {h}", f"relation:{r}", f"entity {t}") for h, r, t in triples]
    expected = graph.json("--mode", "single", "--test-indices", "2", "4", "--top-k", "3")
    for forms in (named, [tuple(map(str, triple)) for triple in triples]):
        flags = [word for form in forms for word in ("--triple", *form)]
        result = asked(
            graph, "--backend", "factored", "--top-k", "3", "--csv-output", str(csv_path), "--show", "1", *flags
        )
        assert result.exit_code == 0, result.stderr
        assert all(f"{h} --{r}-> {t}" in result.stdout for h, r, t in named)
        found = json.loads((graph.folder / "asked.json").read_text())
        assert [record.pop("test_triple_index") for record in found] == [0, 1]
        assert found == [{k: v for k, v in record.items() if k != "test_triple_index"} for record in expected]
        assert (graph.folder / "c_test_1.csv").exists() and not csv_path.exists()


def test_one_triple_has_one_csv_file_and_mode_test_takes_triples_too(graph: Graph) -> None:
    triple = ("--triple", "entity 1", "relation:0", "entity 2", "--top-k", "2")
    assert asked(graph, *triple, "--csv-output", str(graph.folder / "c.csv")).exit_code == 0
    assert (graph.folder / "c.csv").exists()
    assert asked(graph, *triple, "--mode", "test").exit_code == 0
    (record,) = json.loads((graph.folder / "asked.json").read_text())["results"]
    assert [record[f"test_{place}"] for place in ("head", "relation", "tail")] == [1, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--test", "test.txt"), "--triple and --test both say what to explain; leave one out"),
        (("--mode", "single", "--test-indices", "0"), "--triple and --test-indices both say what to explain"),
        (
            ("--triple", "Entity 1", "relation:0", "entity 2"),
            "it has 'entity 1', which differs in upper and lower case",
        ),
        (("--triple", "entity 1", "relation:0"), "'--triple' requires 3 arguments"),
        (("--numeric-triples",), "head 'entity 1' is not an id from 0 to 11 of the entity dictionary"),
    ],
)
def test_triples_that_cannot_be_asked_for(graph: Graph, arguments: tuple[str, ...], message: str) -> None:
    result = asked(graph, "--triple", "entity 1", "relation:0", "entity 2", *arguments)
    assert result.exit_code != 0 and message in result.stderr, result.stderr


def test_without_a_question(graph: Graph) -> None:
    assert "mode test needs --test or --triple" in asked(graph).stderr
    result = asked(graph, "--mode", "self", "--triple", "a", "b", "c")
    assert result.exit_code == 0 and "note: --triple has no effect in mode self" in result.stderr


def test_mode_self(graph: Graph) -> None:
    records = graph.json("--mode", "self")
    own = graph.tracin().self_influence(graph.train)
    rows = own.argsort(descending=True, stable=True)
    assert [[record[key] for key in ("head", "relation", "tail")] for record in records] == graph.train[rows].tolist()
    torch.testing.assert_close(torch.tensor([record["self_influence"] for record in records]), own[rows])
    assert [record["head_label"] for record in records] == [f"entity {head}" for head in graph.train[rows, 0].tolist()]


def test_mode_self_by_name_with_top_k_and_csv(graph: Graph) -> None:
    (graph.folder / "names.txt").write_text("".join(f"name {i}\t{i}\n" for i in range(ENTITIES)))
    names = ("--node-name-dict", str(graph.folder / "names.txt"))
    everything = graph.json("--mode", "self", *names)
    csv_path = graph.folder / "new" / "c.csv"
    result = graph.run("--mode", "self", "--backend", "factored", "--top-k", "3", "--csv-output", str(csv_path), *names)
    assert result.exit_code == 0 and f"wrote {graph.folder / 'out.json'}, {csv_path}" in result.stderr
    records = json.loads((graph.folder / "out.json").read_text())
    assert records[0]["run"] == everything[0]["run"] | {"top_k": 3}
    assert [record | {"run": 0} for record in records] == [record | {"run": 0} for record in everything[:3]]
    assert records[0]["head_name"] == f"name {records[0]['head']}"
    with open(csv_path, newline="") as file:
        _, *rows = csv.reader(file)
    for row, record in zip(rows, records, strict=True):
        assert row[:2] == [record["head_label"], record["head_name"]]
        assert (float(row[6]), int(row[7])) == (record["self_influence"], record["index"])
    shown = graph.run("--mode", "self", "--top-k", "2", "--show", "9", *names).stdout
    assert f"name {records[0]['head']}" in shown and shown.count("e-") + shown.count("e+") == 2


def test_a_file_per_triple_makes_its_folder(graph: Graph) -> None:
    folder = graph.folder / "new"
    arguments = ("--output-per-triple", "--max-test-triples", "2", "--top-k", "1")
    result = graph.run(*arguments, "--csv-output", str(folder / "c.csv"), output=folder / "any.json")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "c_test_0.csv",
        "c_test_1.csv",
        "tracin_test_0.json",
        "tracin_test_1.json",
    ]


def test_csv_of_all_test_triples(graph: Graph) -> None:
    result = graph.run("--csv-output", str(graph.folder / "c.csv"), "--top-k", "3")
    assert result.exit_code == 0 and "one file of all test triples" in result.stderr
    with open(graph.folder / "c.csv", newline="") as file:
        _, *rows = csv.reader(file)
    assert [row[:6:2] for row in rows[::3]] == [
        [f"entity {h}", f"relation:{r}", f"entity {t}"] for h, r, t in graph.test.tolist()
    ]
    assert len(rows) == 3 * TESTS


def test_show_prints_tables_of_the_first_test_triples(graph: Graph) -> None:
    result = graph.run("--show", "2", "--top-k", "3", "--backend", "factored")
    assert result.exit_code == 0, result.stderr
    top = graph.tracin().top_k(graph.train, graph.test, k=2)
    assert result.stdout.count(" --relation:") == 5  # of 6
    for h, r, t in graph.test[:5].tolist():
        assert f"entity {h} --relation:{r}-> entity {t}" in result.stdout
    for score in top.scores[:5].flatten().tolist():
        assert f"{score:+.2e}" in result.stdout
    assert result.stdout.count("for ") + result.stdout.count("against ") == 10
    own = graph.run("--mode", "self", "--show", "3").stdout
    for score in graph.tracin().self_influence(graph.train).sort(descending=True).values[:3].tolist():
        assert f"{score:.2e}" in own


@pytest.mark.parametrize("how", ["module", "script"])
@pytest.mark.slow
def test_drop_in(graph: Graph, how: str) -> None:
    start, folder = (["-m", "run_tracin"], ROOT) if how == "module" else (["run_tracin.py"], ROOT / "python")
    path = os.pathsep.join([str(ROOT / "python"), str(ROOT)]) if how == "module" else ""
    command = [
        sys.executable,
        *start,
        "--model-path",
        graph.folder / "model.pt",
        "--train",
        graph.folder / "train.txt",
        "--test",
        graph.folder / "test.txt",
        "-o",
        graph.folder / "out.json",
        "--mode",
        "single",
        "--top-k",
        "3",
        "--use-optimized-tracin",
        "--test-indices",
        "0",
        "4",
    ]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [record["test_triple_index"] for record in json.loads((graph.folder / "out.json").read_text())] == [0, 4]
    failed = subprocess.run([*command, "99"], cwd=folder, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("tracin: error: --test-indices 99")
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ("--num-last-layers 1", "--num-last-layers has no effect: --use-last-layers-only was not given"),
        ("--test-indices 1 2", "--test-indices has no effect in mode test"),
        ("--mode self --order opponents", "--order has no effect in mode self"),
        ("--mode self", "--test has no effect in mode self"),
        ("--mode single --max-test-triples 2", "--max-test-triples has no effect in mode single"),
        ("--top-k 2", "--learning-rate 0.001 is used, not the checkpoint's 0.01"),
    ],
)
def test_a_flag_without_effect_is_noted(graph: Graph, flags: str, note: str) -> None:
    result = graph.run(*flags.split())
    assert result.exit_code == 0, result.stderr
    assert sum(line.startswith(f"note: {note}") for line in result.stderr.splitlines()) == 1
    assert graph.run(*flags.split(), "--backend", "factored", "--quiet").stderr == ""
