"""`tracin batch`: its files against the library and the original scripts, what fails, restarts."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import tracin
from tests.samples.jobs import files
from tests.samples.original import TOLERANCE, compare, expected
from tracin import batch as work
from tracin.cli import main
from tracin.files import locked
from tracin.proximity.filter import ProximityFilter, ProximityOptions

ROOT = Path(__file__).resolve().parents[2]
ENTITIES, RELATIONS, LINES, TESTS = 40, 3, 200, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random model with its dictionaries, and random triples."""
    torch.manual_seed(4)
    model = tracin.ConvE(
        ENTITIES, RELATIONS, 8, embedding_height=4, embedding_width=2, output_channels=3, kernel_width=2
    ).eval()
    entities, relations = ({f"{kind}:{i}": i for i in range(n)} for kind, n in (("e", ENTITIES), ("r", RELATIONS)))
    tracin.save_checkpoint(tmp_path / "model.pt", model, entity_to_id=entities, relation_to_id=relations)
    for name, count in (("train.txt", LINES), ("test.txt", TESTS)):
        columns = [torch.randint(high, (count,)).tolist() for high in (ENTITIES, RELATIONS, ENTITIES)]
        (tmp_path / name).write_text("".join(f"e:{h}\tr:{r}\te:{t}\n" for h, r, t in zip(*columns, strict=True)))
    return tmp_path


def arguments(folder: Path, *more: object, output: str = "out") -> list[str]:
    files = {"--model-path": "model.pt", "--train": "train.txt", "--test-triples": "test.txt", "--output-dir": output}
    return [*(part for flag, name in files.items() for part in (flag, str(folder / name))), *map(str, more)]


def batch(folder: Path, *more: object, output: str = "out") -> Result:
    return CliRunner().invoke(main, ["batch", *arguments(folder, "--device", "cpu", *more, output=output)])


def summary(folder: Path, output: str = "out") -> dict[str, Any]:
    return json.loads((folder / output / "batch_tracin_summary.json").read_text())


def ids(folder: Path, name: str) -> torch.Tensor:
    checkpoint = tracin.load_checkpoint(folder / "model.pt")
    return tracin.read_triples(folder / name, checkpoint.entity_to_id, checkpoint.relation_to_id)


@pytest.mark.parametrize("method", ["pyg", "networkx", "igraph", "none"])
def test_outputs_are_the_library_s(folder: Path, method: str) -> None:
    result = batch(folder, "--filter-method", method, "--top-k", 9)
    assert result.exit_code == 0, result.stderr
    train, test = ids(folder, "train.txt"), ids(folder, "test.txt")
    ti = tracin.TracIn(tracin.load_checkpoint(folder / "model.pt"), 1e-3, device="cpu")
    dense, own = ti.influence(train, test), ti.self_influence(test)
    nearby = ProximityFilter(train, ENTITIES)
    for index, (triple, entry) in enumerate(zip(test.tolist(), summary(folder)["results"], strict=True)):
        base = f"triple_{index:03d}_e_{triple[0]}_e_{triple[2]}"
        assert (entry["index"], entry["base_name"]) == (index, base)
        rows = torch.arange(LINES)
        if method != "none":
            rows = nearby.rows(test[index : index + 1], ProximityOptions(method))
            lines = (folder / "out" / entry["filtered_train_file"]).read_text().splitlines()
            assert lines == [(folder / "train.txt").read_text().splitlines()[row] for row in rows]
        (record,) = json.loads((folder / "out" / f"{base}_tracin.json").read_text())
        assert record["test_triple"] == triple and record["test_triple_index"] == 0
        assert record["self_influence"] == pytest.approx(own[index].item(), rel=1e-5)
        best = dense[index, rows].abs().argsort(descending=True, stable=True)[:9]
        found = [[item[f"train_{name}"] for name in ("head", "relation", "tail")] for item in record["influences"]]
        assert found == train[rows[best]].tolist()
        scores = [item["influence"] for item in record["influences"]]
        assert scores == pytest.approx(dense[index, rows[best]].tolist(), rel=1e-4, abs=1e-9)
        with open(folder / "out" / entry["output_csv"], newline="") as file:
            assert [float(row["TracInScore"]) for row in csv.DictReader(file)] == scores
        assert (folder / "out/temp_triples" / f"{base}.txt").read_text().split() == [
            f"e:{triple[0]}",
            f"r:{triple[1]}",
            f"e:{triple[2]}",
        ]
        assert (entry["filtered_train_file"] is None) == (method == "none")
    assert {
        key: value for key, value in summary(folder).items() if key not in ("results", "run") and "time" not in key
    } == {
        "total_triples": TESTS,
        "successful": TESTS,
        "failed_filtering": 0,
        "failed_tracin": 0,
        "skipped": 0,
        "filter_method": method,
    }


def test_reproduces_the_original_scripts(fixtures_dir: Path, tmp_path: Path) -> None:
    named = {
        "--test-triples": "test.txt",
        "--model-path": "models/pykeen_model_state_dict.pt",
        "--train": "train.txt",
        "--entity-to-id": "node_dict.txt",
        "--relation-to-id": "rel_dict.txt",
        "--node-name-dict": "node_name_dict.txt",
        "--edge-map": "edge_map.json",
    }
    paths = [part for flag, name in named.items() for part in (flag, str(fixtures_dir / name))]
    chosen = "--embedding-height 8 --embedding-width 4 --filter-method networkx --start-index 1 --max-triples 2"
    result = CliRunner().invoke(main, ["batch", *paths, *chosen.split(), "--output-dir", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    theirs = {path.name for path in (fixtures_dir / "expected/batch").rglob("*") if path.is_file()}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == theirs
    for kind in ("filtered_training", "temp_triples"):
        assert files(tmp_path / kind) == files(fixtures_dir / "expected/batch" / kind)
    for path in tmp_path.glob("*_tracin.json"):
        (ours,), (original,) = json.loads(path.read_text()), expected(fixtures_dir, f"batch/{path.name}")
        compare(ours.pop("influences"), original.pop("influences"), "train_", "influence")
        assert ours.pop("self_influence") == pytest.approx(original.pop("self_influence"), rel=TOLERANCE)
        assert ours.pop("run")["mode"] == "batch"
        assert ours == original
        sample = (fixtures_dir / "expected/batch" / path.with_suffix(".csv").name).read_text().splitlines()
        with open(path.with_suffix(".csv"), newline="") as file:
            rows = {tuple(row[:12]): row[12:] for row in csv.reader(file)}
        for cells in csv.reader(sample[1:]):
            assert [float(cell) for cell in rows[tuple(cells[:12])]] == pytest.approx(
                [float(cell) for cell in cells[12:]], rel=1e-4, abs=1e-9
            )
    (one, _), (original, _) = (
        summary(tmp_path, "")["results"],
        expected(fixtures_dir, "batch/batch_tracin_summary.json")["results"],
    )
    same = ("index", "triple", "base_name", "filtering_success", "tracin_success", "filtered_train_file", "output_csv")
    assert {key: one[key] for key in same} == {key: original[key] for key in same}


def test_a_bad_triple_is_reported_and_the_rest_go_on(folder: Path) -> None:
    lines = (folder / "test.txt").read_text().splitlines()
    lines[2], lines[4] = "e:1\tr:0\te:99", "e:1\tr:0"
    (folder / "test.txt").write_text("\n".join(lines))
    result = batch(folder, "--top-k", "3")
    assert result.exit_code == 1
    failures = [line for line in result.stderr.splitlines() if "failed" in line]
    assert failures[0] == (
        f"triple 2 (e:1, r:0, e:99) failed: {folder / 'test.txt'} line 3: tail 'e:99' is not in the entity "
        f"dictionary ({ENTITIES} entities); is this the dictionary the model was trained with?"
    )
    assert "line 5: 2 of 3 columns in 'e:1\\tr:0'; expected head<TAB>relation<TAB>tail" in failures[1]
    told = summary(folder)
    assert (told["successful"], told["failed_filtering"], told["failed_tracin"]) == (TESTS - 2, 2, 0)
    assert [entry["index"] for entry in told["results"] if not entry["tracin_success"]] == [2, 4]
    assert len(list((folder / "out").glob("*_tracin.json"))) == TESTS - 2


def test_a_filter_that_keeps_nothing_fails_that_triple(folder: Path) -> None:
    with open(folder / "train.txt", "a") as file:
        file.write("e:38\tr:0\te:38\n")
    train = [line for line in (folder / "train.txt").read_text().splitlines() if "e:39" not in line]
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "test.txt").write_text("e:1\tr:0\te:39\ne:1\tr:0\te:2\n")
    result = batch(folder, "--filter-method", "igraph")
    assert result.exit_code == 1
    assert "igraph filter keeps no training triple within 2 hops of both ends; raise --n-hops" in result.stderr
    assert [entry["filtering_success"] for entry in summary(folder)["results"]] == [False, True]


def test_the_summary_is_kept_up_to_date(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "SUMMARY_SECONDS", 0)
    write, seen = work.Batch.write, []

    def stopped(self: work.Batch, job: work.Job, *rest: Any) -> None:
        if job.index:
            seen.append(summary(folder)["successful"])
        if job.index == 3:
            raise KeyboardInterrupt
        write(self, job, *rest)

    monkeypatch.setattr(work.Batch, "write", stopped)
    assert batch(folder).exit_code == 130
    assert seen == [1, 2, 3]
    assert [entry["index"] for entry in summary(folder)["results"]] == [0, 1, 2]


@pytest.mark.slow
def test_an_output_that_cannot_be_written_fails_that_triple(folder: Path) -> None:
    assert batch(folder).exit_code == 0
    before = files(folder / "out")
    blocked = next((folder / "out").glob("triple_003*.json"))
    blocked.unlink()
    blocked.mkdir()
    result = batch(folder)
    assert result.exit_code == 1 and "triple 3" in result.stderr
    told = summary(folder)
    assert (told["successful"], told["failed_filtering"], told["failed_tracin"]) == (TESTS - 1, 0, 1)
    assert {name: text for name, text in before.items() if name in files(folder / "out")} == files(folder / "out")


def test_packed_test_triples_and_separators_within_labels(folder: Path) -> None:
    """Lines end at LF only, as those of the training triples do."""
    lines = (folder / "test.txt").read_text().splitlines()
    (folder / "test.txt").write_bytes(gzip.compress("\r\n".join(["x\u2028y\tr:0\te:1", *lines]).encode()))
    result = batch(folder)
    assert result.exit_code == 1 and "line 1: head 'x\\u2028y' is not in the entity dictionary" in result.stderr
    assert summary(folder)["successful"] == TESTS


def test_start_index_and_max_triples_are_lines_of_the_file(folder: Path) -> None:
    assert batch(folder, "--start-index", 3, "--max-triples", 2).exit_code == 0
    assert [entry["index"] for entry in summary(folder)["results"]] == [3, 4]
    wrong = batch(folder, "--start-index", 8)
    assert wrong.exit_code == 1 and "test.txt has 8 lines; expected 0 to 7" in wrong.stderr


@pytest.mark.slow
def test_skip_tracin_filters_only_and_skip_filtering_takes_its_files(folder: Path) -> None:
    assert batch(folder, output="whole").exit_code == 0
    assert batch(folder, "--skip-tracin").exit_code == 0
    assert not list((folder / "out").glob("*_tracin.*"))
    told = summary(folder)
    assert (told["skipped"], told["successful"]) == (TESTS, 0)
    assert {entry["tracin_success"] for entry in told["results"]} == {None}
    assert batch(folder, "--skip-filtering").exit_code == 0
    assert files(folder / "out") == files(folder / "whole")
    (folder / "out/filtered_training").rename(folder / "moved")
    missing = batch(folder, "--skip-filtering")
    assert missing.exit_code == 1 and "there is no such file" in missing.stderr


def test_a_filtered_file_of_another_graph_is_refused(folder: Path) -> None:
    assert batch(folder, "--skip-tracin", "--max-triples", 1).exit_code == 0
    (path,) = (folder / "out/filtered_training").iterdir()
    known = (folder / "train.txt").read_text().splitlines()
    foreign = next(line for i in range(ENTITIES) if (line := f"e:{i}\tr:0\te:{i}") not in known)
    path.write_text(path.read_text() + foreign + "\n")
    result = batch(folder, "--skip-filtering", "--max-triples", 1)
    assert result.exit_code == 1 and "this triple is not in the training file; filter again" in result.stderr


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def other_relation(path: Path) -> None:
    path.write_text(re.sub(r'"test_relation_label": "[^"]*"', '"test_relation_label": "other"', path.read_text()))


@pytest.mark.parametrize(
    ("ending", "damage"),
    [("json", cut), ("csv", cut), ("json", Path.unlink), ("csv", Path.unlink), ("json", other_relation)],
)
@pytest.mark.slow
def test_skip_existing_trusts_complete_outputs_only(folder: Path, ending: str, damage: Any) -> None:
    assert batch(folder).exit_code == 0
    whole = files(folder / "out")
    damaged = next((folder / "out").glob(f"triple_005*_tracin.{ending}"))
    damage(damaged)
    times = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*_tracin.*")}
    assert batch(folder, "--skip-existing").exit_code == 0
    assert files(folder / "out") == whole
    touched = {path.name[:10] for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert touched | {"triple_005"} == {"triple_005"}
    told = summary(folder)
    assert (told["skipped"], told["successful"]) == (TESTS - 1, 1)
    assert [entry["index"] for entry in told["results"] if entry.get("reason") != "output_exists"] == [5]


# Forks a run and kills it after a random time, then lets a second run end the work; the modules are imported once.
KILLER = """
import os, random, signal, sys, time
from tracin.cli.batch import batch

def run(arguments, seconds):
    child = os.fork()
    if not child:
        sys.stderr = open(os.devnull, "w")
        batch(arguments)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None

whole, rounds = sys.argv[1], int(sys.argv[2])
common = sys.argv[3:]
start = time.monotonic()
assert run([*common, "--output-dir", whole], 600) == 0
duration = time.monotonic() - start
random.seed(1)
killed = 0
for index in range(rounds):
    more = ["--skip-existing"] if index % 2 else []
    arguments = [*common, "--output-dir", f"{whole}-{index}"]
    killed += run(arguments, random.uniform(0, duration)) is None
    assert run([*arguments, *more], 600) == 0
print(killed)
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_files(folder: Path) -> None:
    rounds = 20
    common = arguments(folder, "--device", "cpu", "--threads", 1, "--quiet")
    place = common.index("--output-dir")
    del common[place : place + 2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", KILLER, str(folder / "whole"), str(rounds), *common]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= rounds // 2  # the others had ended before their moment came
    whole = files(folder / "whole")
    assert len(whole) == 4 * TESTS
    for index in range(rounds):
        assert files(folder / f"whole-{index}") == whole


def test_the_bits_do_not_depend_on_what_is_done_already(folder: Path) -> None:
    """Half of a group is there: the rest is scored together with it, as in an undisturbed run."""
    assert batch(folder).exit_code == 0
    whole = files(folder / "out")
    for path in (folder / "out").glob("triple_00[0-3]*"):
        path.unlink()
    assert batch(folder, "--skip-existing").exit_code == 0
    assert files(folder / "out") == whole


def test_test_and_o_are_understood_as_in_run(folder: Path) -> None:
    assert batch(folder).exit_code == 0
    short = {"--test-triples": "--test", "--output-dir": "-o"}
    words = [short.get(word, word) for word in arguments(folder, output="other")]
    result = CliRunner().invoke(main, ["batch", *words])
    assert result.exit_code == 0, result.stderr
    assert files(folder / "other") == files(folder / "out")


def test_triples_as_ids(folder: Path) -> None:
    assert batch(folder, output="labels").exit_code == 0
    for name in ("train.txt", "test.txt"):
        rows = ids(folder, name).tolist()
        (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    (folder / "test.txt").write_text((folder / "test.txt").read_text() + "0\t0\t40\n")
    result = batch(folder, "--numeric-triples", output="ids")
    assert result.exit_code == 1 and "tail '40' is not an id from 0 to 39" in result.stderr
    assert files(folder / "ids") == files(folder / "labels")


@pytest.mark.parametrize("order", ["proponents", "opponents"])
def test_order(folder: Path, order: str) -> None:
    assert batch(folder, "--order", order, "--max-triples", 1).exit_code == 0
    (record,) = json.loads(next((folder / "out").glob("*_tracin.json")).read_text())
    scores = [item["influence"] for item in record["influences"]]
    assert scores == sorted(scores, reverse=order == "proponents") and min(scores) < 0 < max(scores)


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ("--filter-method none --n-hops 3", "--n-hops has no effect with --filter-method none"),
        ("--strict-path-filtering", "--strict-path-filtering has no effect with --filter-method pyg"),
        ("--max-total-path-length 3", "--max-total-path-length has no effect without --path-filtering"),
        ("--strict-hop-constraint", "--strict-hop-constraint changes nothing"),
        ("--cache graph.pkl", "--cache has no effect: the graph is built anew"),
        ("--num-last-layers 1", "--num-last-layers has no effect: --use-last-layers-only was not given"),
    ],
)
def test_a_flag_without_effect_is_noted(folder: Path, flags: str, note: str) -> None:
    result = batch(folder, *flags.split(), "--max-triples", 1)
    assert result.exit_code == 0, result.stderr
    assert sum(line.startswith(f"note: {note}") for line in result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--n-hops 1", {"n_hops": 1}),
        ("--min-degree 9 --no-preserve-test-edges", {"min_degree": 9, "preserve_test_edges": False}),
        ("--path-filtering", {"path_filtering": True}),
        ("--path-filtering --max-total-path-length 2", {"path_filtering": True, "max_total_path_length": 2}),
        (
            "--filter-method igraph --path-filtering --strict-path-filtering",
            {"method": "igraph", "path_filtering": True, "strict_path_filtering": True},
        ),
    ],
)
def test_filter_flags_reach_the_filter(folder: Path, flags: str, options: dict[str, Any]) -> None:
    batch(folder, *flags.split(), "--skip-tracin")
    train, test = ids(folder, "train.txt"), ids(folder, "test.txt")
    nearby, differ = ProximityFilter(train, ENTITIES), 0
    for index, entry in enumerate(summary(folder)["results"]):
        rows = nearby.rows(test[index : index + 1], ProximityOptions(**options))
        differ += not torch.equal(rows, nearby.rows(test[index : index + 1], ProximityOptions()))
        path = folder / "out" / entry["filtered_train_file"]
        assert (path.read_text().splitlines() if path.exists() else []) == [
            (folder / "train.txt").read_text().splitlines()[row] for row in rows
        ]
    assert differ


@pytest.mark.parametrize("how", ["module", "script"])
@pytest.mark.slow
def test_drop_in(folder: Path, how: str) -> None:
    name = "batch_tracin_with_filtering"
    start, place = (["-m", name], ROOT) if how == "module" else ([f"{name}.py"], ROOT / "python")
    path = os.pathsep.join([str(ROOT / "python"), str(ROOT)]) if how == "module" else ""
    flags = ["--use-optimized-tracin", "--use-mixed-precision", "--batch-size", "256", "--max-triples", "2"]
    command = [sys.executable, *start, *arguments(folder, *flags)]
    done = subprocess.run(command, cwd=place, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert summary(folder)["successful"] == 2


def test_help_names_every_flag_of_the_original() -> None:
    flags = (
        "--test-triples --model-path --train --entity-to-id --relation-to-id --output-dir --edge-map --node-name-dict "
        "--filter-method --n-hops --min-degree --cache --no-preserve-test-edges --strict-hop-constraint "
        "--path-filtering --max-total-path-length --strict-path-filtering --top-k --device --batch-size "
        "--use-last-layers-only --num-last-layers --use-mixed-precision --use-gradient-checkpointing "
        "--disable-memory-cleanup --use-optimized-tracin --disable-vectorized-gradients "
        "--disable-test-gradient-caching --use-torch-compile --enable-multi-gpu --start-index --max-triples "
        "--skip-filtering --skip-tracin --skip-existing"
    )
    text = CliRunner().invoke(main, ["batch", "--help"]).stdout
    assert set(flags.split()) - set(text.replace(",", " ").replace("/", " ").split()) == set()


@pytest.mark.slow
def test_skip_existing_notices_every_byte(folder: Path) -> None:
    """Each file of a triple with its middle destroyed, one after the other: the triple is done anew."""
    assert batch(folder, "--max-triples", 2).exit_code == 0
    whole = files(folder / "out")
    for name in [name for name in whole if "triple_001" in name]:
        path = folder / "out" / name
        for place in (0, len(whole[name]) // 3, len(whole[name]) // 2, len(whole[name]) - 1):
            content = bytearray(whole[name])
            content[place] ^= 1
            path.write_bytes(content)
            assert batch(folder, "--max-triples", 2, "--skip-existing").exit_code == 0
            assert files(folder / "out") == whole
            assert [entry.get("reason") for entry in summary(folder)["results"]] == ["output_exists", None]


@pytest.mark.parametrize(
    "changed",
    [
        "--top-k 3",
        "--order opponents",
        "--learning-rate 0.1",
        "--filter-method none",
        "--n-hops 3",
        "--use-last-layers-only",
        "--precision float64",
        "--csv-safe",
        "model",
        "train",
    ],
)
def test_skip_existing_keeps_outputs_of_the_same_run_only(folder: Path, changed: str) -> None:
    assert batch(folder, "--max-triples", 2).exit_code == 0
    if changed == "model":
        checkpoint = tracin.load_checkpoint(folder / "model.pt")
        checkpoint.model.fc.weight.data[0, 0] += 1
        labels = {"entity_to_id": checkpoint.entity_to_id, "relation_to_id": checkpoint.relation_to_id}
        tracin.save_checkpoint(folder / "model.pt", checkpoint.model, **labels)
    elif changed == "train":
        (folder / "train.txt").write_text((folder / "train.txt").read_text() + "e:0\tr:0\te:1\n")
    more = changed.split() if changed.startswith("-") else []
    assert batch(folder, "--max-triples", 2, "--skip-existing", *more).exit_code == 0
    assert summary(folder)["skipped"] == 0
    assert batch(folder, "--max-triples", 2, *more, output="anew").exit_code == 0
    left = files(folder / "out")
    assert all(left[name] == content for name, content in files(folder / "anew").items())
    assert batch(folder, "--max-triples", 2, "--skip-existing", *more).exit_code == 0
    assert summary(folder)["skipped"] == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--filter-method", "none"),
        ("--filter-method", "none", "--top-k", "3"),
        (),
        ("--top-k", "3"),
        ("--skip-tracin",),
        ("--filter-method", "networkx", "--path-filtering", "--max-total-path-length", "9"),
        ("--filter-method", "igraph"),
    ],
    ids=" ".join,
)
def test_the_size_of_the_outputs_is_said_before_the_work(
    folder: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracin.cli.outputs.MENTIONED", 1000)
    result = batch(folder, *flags)
    assert result.exit_code == 0, result.stderr
    written = [path for path in (folder / "out").rglob("*") if path.is_file() and "temp_triples" not in str(path)]
    seal = 0 if "--skip-tracin" in flags else 1000  # bytes of `run` in each JSON file, which large ones do not notice
    size = sum(path.stat().st_size for path in written if "summary" not in path.name) - TESTS * seal
    told = re.search(r"note: the outputs take about ([\d.e-]+) MB \(8 test triples x (\d+) training", result.stderr)
    assert told is not None and float(told[1]) * 1e6 == pytest.approx(size, rel=0.25)
    shutil.rmtree(folder / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    refused = batch(folder, *flags)
    assert refused.exit_code == 1 and "training triples), but 0.001 MB are free in" in refused.stderr
    assert not list((folder / "out").glob("triple_*"))


def test_no_size_is_said_of_what_an_earlier_run_filtered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch(folder, "--skip-tracin").exit_code == 0
    monkeypatch.setattr("tracin.cli.outputs.MENTIONED", 1)
    result = batch(folder, "--skip-filtering")
    assert result.exit_code == 0 and "outputs take about" not in result.stderr


def test_odd_labels_end_no_test_triple_but_their_own(folder: Path) -> None:
    """Labels with a NUL or what steers a terminal, relations that are JSON of all kinds."""
    model = tracin.load_checkpoint(folder / "model.pt").model
    heads = ["a\0b", '"\x1b[31m"', "\u202e", *(f"e:{i}" for i in range(3, ENTITIES))]
    names = ['{"predicate": ["treats"]}', "{" * 5000, '{"predicate": {"\0": ' + "9" * 5000 + "}}"]
    dictionaries = [{label: i for i, label in enumerate(labels)} for labels in (heads, names)]
    tracin.save_checkpoint(folder / "model.pt", model, entity_to_id=dictionaries[0], relation_to_id=dictionaries[1])
    rows = [(0, 0, 1), (1, 1, 2), (2, 2, 0)]
    lines = ["\t".join((heads[h], names[r], heads[t])) for h, r, t in rows]
    (folder / "train.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "test.txt").write_text("".join(f"{line}\n" for line in ["no\0body\t{\te:3", *lines]))
    for method in ("pyg", "networkx", "igraph", "none"):
        result = batch(folder, "--filter-method", method, "--quiet", output=method)
        assert result.exit_code == 1 and result.stderr.count(" failed: ") == 1, result.stderr
        assert "triple 0 ('no\\x00body', {, e:3) failed: " in result.stderr
        assert [entry["tracin_success"] for entry in summary(folder, method)["results"]] == [False, True, True, True]
        for place, (head, relation, tail) in enumerate(rows, 1):
            (path,) = (folder / method).glob(f"triple_{place:03d}_*_tracin.json")
            (record,) = json.loads(path.read_text())
            labels = [record[f"test_{name}_label"] for name in ("head", "relation", "tail")]
            assert labels == [heads[head], names[relation], heads[tail]]


def test_long_and_odd_labels_in_names_of_files(folder: Path) -> None:
    checkpoint = tracin.load_checkpoint(folder / "model.pt")
    labels = [*("é" * 150 + ending for ending in "ab"), "x\x1b[31m\u202e", *(f"e:{i}" for i in range(3, ENTITIES))]
    relations = checkpoint.relation_to_id
    entities = {label: row for row, label in enumerate(labels)}
    tracin.save_checkpoint(folder / "model.pt", checkpoint.model, entity_to_id=entities, relation_to_id=relations)
    for name in ("train.txt", "test.txt"):
        lines = [line.split("\t") for line in (folder / name).read_text().splitlines()]
        named = [[labels[int(h[2:])], r, labels[int(t[2:])]] for h, r, t in lines]
        (folder / name).write_text("".join("\t".join(line) + "\n" for line in named))
    tests = [[labels[0], "r:0", labels[1]], [labels[1], "r:0", labels[0]], [labels[2], "r:1", labels[3]]]
    lines = ["\t".join(line) for line in [*tests, ["no\x1b[31m", "r:0", "e:4"]]]
    (folder / "test.txt").write_text("\n".join(lines))
    result = batch(folder, "--filter-method", "none", "--top-k", 2)
    assert result.exit_code == 1 and summary(folder)["successful"] == 3
    assert "\x1b" not in result.stderr and "triple 3 ('no\\x1b[31m', r:0, e:4) failed" in result.stderr
    for path in (folder / "out").rglob("*"):
        assert path.name.isprintable() and len(os.fsencode(path.name)) <= 255
    for index, test in enumerate(tests):
        (path,) = (folder / "out").glob(f"triple_{index:03d}_*.json")
        (record,) = json.loads(path.read_text())
        assert [record[f"test_{name}_label"] for name in ("head", "relation", "tail")] == test


def test_two_batches_in_one_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/.mine.part").write_text("the user's")
    with locked(folder / "out"):
        result = batch(folder)
    assert result.exit_code == 1 and "another run (process" in result.stderr
    assert [path.name for path in (folder / "out").iterdir() if path.is_file()] == [".mine.part"]
    assert batch(folder).exit_code == 0
    assert (folder / "out/.mine.part").read_text() == "the user's" and not list((folder / "out").glob("*lock*"))


def test_outputs_are_not_the_inputs(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/batch_tracin_summary.json").symlink_to(folder / "test.txt")
    before = (folder / "test.txt").read_bytes()
    result = batch(folder)
    assert result.exit_code == 1 and "summary.json is the file of --test-triples, which would be" in result.stderr
    assert (folder / "test.txt").read_bytes() == before


def test_outputs_that_do_not_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    result = batch(folder, "--filter-method", "none")
    assert result.exit_code == 1 and f"({TESTS} test triples x {LINES} training triples)" in result.stderr
    assert batch(folder, "--filter-method", "none", "--top-k", 1, "--max-triples", 1).exit_code == 0
