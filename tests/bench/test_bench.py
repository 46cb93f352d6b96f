"""The benchmark harness: its graphs, its arithmetic, that a wrong result is never timed, and what it writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from bench import jobs, limits, methods, processes, proximity, readme, report, scaling
from bench.graphs import FB15K237, Graph, Shape, generate, load_fb15k237, synthetic, write
from bench.measure import machine, machine_line, measure
from bench.peers import PEERS, hooks, missing
from bench.verify import Mismatch, Reference, reference_of, top_overlap, verify_top_k, worst_test_error
from tracin import ConvE, InputError, TracIn, load_checkpoint, read_dictionary, read_triples
from tracin.proximity.filter import ProximityFilter

TINY = Shape("tiny", 60, 5, 300, 12, dim=12, height=4, width=3, channels=3)
RATES = {"float32": dict.fromkeys(("forward", "backward", "features", "linear"), 1e9)}
RATES |= {"bfloat16": dict.fromkeys(RATES["float32"], 4e9)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make tiny operations a thousand times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return synthetic(TINY)


@pytest.fixture(scope="module")
def reference(graph: Graph) -> Reference:
    return reference_of(graph.model, graph.train, graph.test)


@pytest.mark.slow
def test_synthetic_graph_has_the_sizes_and_degrees_of_fb15k237() -> None:
    triples = generate(FB15K237)
    assert triples.shape == (FB15K237.train + FB15K237.test, 3)
    assert len(np.unique(triples, axis=0)) == len(triples)
    assert triples.min() == 0 and (triples.max(0) < [FB15K237.entities, FB15K237.relations, FB15K237.entities]).all()
    train = triples[: FB15K237.train]
    assert len(np.unique(train[:, :2], axis=0)) / len(train) == pytest.approx(0.343, abs=0.01)
    assert len(np.unique(train[:32_768, :2], axis=0)) / 32_768 == pytest.approx(0.645, abs=0.05)
    degrees = np.sort(np.bincount(train[:, [0, 2]].ravel(), minlength=FB15K237.entities))[::-1]
    ranks = np.arange(10, 1000)
    slope = np.polyfit(np.log(ranks), np.log(degrees[ranks]), 1)[0]  # FB15k-237: -0.6
    assert -0.9 < slope < -0.4
    assert degrees[0] > 100 * np.median(degrees)


def test_synthetic_graph_is_reproducible_and_its_files_say_the_same(tmp_path: Path, graph: Graph) -> None:
    files = write(TINY, tmp_path)
    entities, relations = read_dictionary(files.entity_to_id), read_dictionary(files.relation_to_id)
    assert torch.equal(read_triples(files.train, entities, relations), graph.train)
    assert torch.equal(read_triples(files.test, entities, relations), graph.test)
    checkpoint = load_checkpoint(files.model, entity_to_id=entities, relation_to_id=relations)
    with torch.no_grad():
        assert torch.equal(checkpoint.model(graph.test), graph.model(graph.test))
        assert 0.3 < (graph.model.hidden(graph.train[:, 0], graph.train[:, 1]) > 0).float().mean() < 0.7
    assert write(TINY, tmp_path) == files and [path.name for path in tmp_path.iterdir()] == ["synthetic-tiny-0"]


def test_one_folder_of_fb15k237_without_the_other_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--checkpoints names the other"):
        load_fb15k237(tmp_path, None, tmp_path)


def test_plain_limit_counts_the_products_of_the_undecomposed_form() -> None:
    train = torch.tensor([[0, 0, 1], [0, 0, 2], [0, 1, 1], [2, 1, 1]])  # 3 distinct (head, relation), 2 heads
    test = torch.tensor([[0, 0, 1], [0, 0, 2]])
    model = ConvE(10, 4, 200, embedding_height=20, embedding_width=10)
    work = limits.work_of(model, train, test)
    assert (work.train, work.test, work.pairs, work.heads, work.test_pairs) == (4, 2, 3, 2, 1)
    assert (work.features, work.mixed_features, work.half, work.statistics) == (9728, 512, 4608, 320)
    flops = limits.plain_flops(work)
    assert flops == {
        "forward": 2 * 200 * 9728 * 3,
        "backward": 2 * 200 * 9728 * 4,
        "features": 2 * 9728 * 3 * 2,
        "linear": 1840 * 4 * 2,
    }
    assert limits.seconds_at(flops, RATES, "float32") == pytest.approx(sum(flops.values()) / 1e9)
    low = flops["backward"] + flops["features"] + flops["linear"]
    assert limits.seconds_at(flops, RATES, "mixed") == pytest.approx(flops["forward"] / 1e9 + low / 4e9)
    done = limits.native_flops(work)
    assert done["forward"] == 2 * 200 * (4608 * 2 + 512 * 3)
    assert done["features"] == 2 * (4608 * 2 * 1 + 512 * 3 * 1)
    assert done["backward"] == 2 * 200 * (512 * 4 + 4608 * 4 + 320 * 4)  # no head has 12 triples


@pytest.mark.parametrize(("stack", "kernel", "mixed"), [("width", 3, 2 * 18 * 32), ("height", 50, None)])
def test_features_that_see_head_and_relation(stack: str, kernel: int, mixed: int | None) -> None:
    if mixed is None:  # a kernel taller than an embedding: every feature sees both
        model = ConvE(10, 4, 200, embedding_height=40, embedding_width=5, kernel_height=kernel, kernel_width=1)
        mixed = model.fc.in_features
    else:
        model = ConvE(10, 4, 200, embedding_height=20, embedding_width=10, stack=stack)
    assert limits.work_of(model, torch.zeros(1, 3).long(), torch.zeros(1, 3).long()).mixed_features == mixed


def test_rates_are_of_the_products_that_are_run(graph: Graph) -> None:
    work = limits.work_of(graph.model, graph.train, graph.test)
    rates = limits.measure_rates(work, quick=True)
    assert set(rates) == {"float32", "bfloat16"}
    assert all(set(kind) == set(limits.plain_flops(work)) and min(kind.values()) > 0 for kind in rates.values())


def test_a_wrong_result_is_not_timed(graph: Graph, reference: Reference) -> None:
    def slightly_wrong(model: ConvE) -> tuple[methods.Score, str]:
        score, runs = methods.tracin("factored")(model)

        def spoiled(train: Tensor, test: Tensor) -> Tensor:
            scores = score(train, test)
            scores[-1] *= 1.0001
            return scores

        return spoiled, runs

    for subset in (None, 64):
        method = methods.Method("spoiled", slightly_wrong, train=subset)
        with pytest.raises(Mismatch, match="spoiled: error .* not timed"):
            jobs.compare(method, graph, graph.train, graph.test, reference, jobs.Sizes(), {})


def test_nan_and_wrong_shapes_do_not_pass(reference: Reference) -> None:
    spoiled = reference.scores.clone()
    spoiled[3, 5] = torch.nan
    assert worst_test_error(spoiled, reference.scores) == float("inf")
    with pytest.raises(Mismatch, match="exceeds"):
        reference.verify("NaN", spoiled, 1e-5)
    with pytest.raises(Mismatch, match="the reference is"):
        reference.verify("transposed", reference.scores.T, 1e-5)


def test_a_reference_that_autograd_denies_is_not_used(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TracIn.influence

    def wrong(self: TracIn, train: Tensor, test: Tensor) -> Tensor:
        return right(self, train, test) * (1 + 1e-6 * (self.backend == "factored"))

    monkeypatch.setattr(TracIn, "influence", wrong)
    with pytest.raises(Mismatch, match="against autograd"):
        reference_of(graph.model, graph.train, graph.test)


def test_wrong_top_k_does_not_pass(reference: Reference) -> None:
    exact = reference.scores
    best = exact.abs().topk(4, 1).indices
    assert verify_top_k("right", best, exact.gather(1, best), exact, 1e-6) == (0, 1)
    left_out = torch.cat([best[:, 1:], exact.abs().argmin(1, keepdim=True)], 1)
    with pytest.raises(Mismatch, match="left out"):
        verify_top_k("not the best", left_out, exact.gather(1, left_out), exact, 1e-6)
    with pytest.raises(Mismatch, match="error"):
        verify_top_k("other scores", best, exact.gather(1, best) * 1.001, exact, 1e-6)
    assert top_overlap(exact, exact, 4) == 1 and top_overlap(-1 / exact, exact, 4) < 0.5


@pytest.mark.slow
def test_scaled_time_does_not_charge_the_test_side_to_training_triples(graph: Graph, reference: Reference) -> None:
    clock = {"seconds": 0.0}
    method = methods.Method("counted", methods.tracin("factored"), train=64)
    score, _ = method.make(graph.model)

    def counted(train: Tensor, test: Tensor) -> Tensor:
        clock["seconds"] = len(test) + 0.5 * len(train)
        return score(train, test)

    def measured(function: Any, repeats: int, warmup: int) -> tuple[Any, Tensor]:
        scores = function()
        return replace(measure(lambda: None, 1)[0], seconds=(clock["seconds"],) * repeats), scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "measure", measured)
        row = jobs.on_subset(method, counted, graph.train, graph.test, reference, jobs.Sizes())
    assert row["seconds"] == pytest.approx(len(graph.test) + 0.5 * len(graph.train))
    assert row["scaled"] == "timed on 64 training x 12 test triples"


def test_hooks_give_the_influences_of_autograd(graph: Graph, reference: Reference) -> None:
    score, _ = hooks(graph.model)
    reference.verify("hooks", score(graph.train[:40], graph.test), 1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # as they are imported
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.make is not hooks], ids=lambda peer: peer.name)
def test_peers_give_the_influences_of_autograd(peer: methods.Method, graph: Graph, reference: Reference) -> None:
    pytest.importorskip(peer.make.__name__)
    score, runs = peer.make(graph.model)
    reference.verify(runs, score(graph.train[:40], graph.test), 1e-5)


def test_fitted_exponents() -> None:
    sizes = scaling.sweep(30_000)
    assert sizes[0] == 1000 and sizes[-1] == 30_000 and len(sizes) == scaling.POINTS
    assert scaling.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert scaling.fixed_share(sizes, [1 + 0.001 * size for size in sizes]) == pytest.approx(0.5)


def test_lines_of_a_process_give_its_parts_and_a_failure_what_it_printed() -> None:
    run = processes.run_process(
        ["-c", """import time; print('{"part": "start"}'); time.sleep(0.3); print('{"part": "nap"}')"""]
    )
    parts = run.parts()
    assert parts["nap"] >= 0.29 and sum(parts.values()) == pytest.approx(run.seconds)
    assert run.peak_bytes > 1 << 20
    with pytest.raises(RuntimeError, match="does not split its time"):
        run.stages()
    run = replace(run, lines=((1.0, "wrote x"), (2.0, "1.50 s: reading 0.25 s, test factors 1.00 s, writing 0.25 s")))
    assert run.stages() == {
        "start and end of Python, imports": run.seconds - 1.5,
        "reading": 0.25,
        "test factors": 1,
        "writing": 0.25,
    }
    with pytest.raises(RuntimeError, match="(?s)failed .*no such number"):
        processes.run_process(["-c", "raise SystemExit('no such number')"])


def test_rows_of_reported_triples(graph: Graph) -> None:
    rows = torch.tensor([[5, 200], [0, 299]])
    assert torch.equal(processes.rows_of(graph.train, graph.train[rows]), rows)
    with pytest.raises(Mismatch, match="not in the training file"):
        processes.rows_of(graph.train, torch.full((1, 1, 3), 3) + graph.train.max())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run: W1 with some methods, W2."""
    pytest.importorskip("matplotlib", reason="the pictures need matplotlib, which the extra `bench` installs")
    from bench import run

    folder = tmp_path_factory.mktemp("results")

    sizes = jobs.Sizes(256, 6, 300, 12, w2_checked=4, repeats=2)
    graph = synthetic(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.jobs, "QUICK", sizes)
        patch.setattr(run, "loaded", lambda *_: (graph, None))
        names = "sequential,vectorized-test-cache,factored,native,hooks-as-Opacus"
        arguments = ["--quick", "--only", "w1,w2", "--methods", names, "--output", str(folder)]
        result = CliRunner().invoke(run.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "plain limit / time" in result.output
    return folder


@pytest.mark.slow
def test_run_writes_json_table_and_pictures(written: Path) -> None:
    names = {"w1.json", "w2.json", "table.md", "time_by_backend.png", "roofline.png"}
    assert {path.name for path in written.iterdir()} == names
    w1 = json.loads((written / "w1.json").read_text())
    rows = {row["method"]: row for row in w1["rows"]}
    assert rows["sequential"]["speed_up"] == 1 and rows["sequential"]["timed_test"] == 1
    factored = rows["factored"]
    assert factored["pairs_per_s"] == pytest.approx(256 * 6 / factored["seconds"])
    plain = limits.seconds_at(w1["limits"]["flops"], w1["limits"]["rates"], "float32")
    assert factored["plain_limit_share"] == pytest.approx(plain / factored["seconds"])
    assert factored["error"] <= 1e-5 and factored["peak_bytes"] > 0 and factored["top_10_overlap"] == 1
    text = (written / "table.md").read_text()
    assert "| sequential \\* |" in text and "| factored |" in text and "Quick run" in text
    for name in ("time_by_backend.png", "roofline.png"):
        content = (written / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_a_method_that_cannot_run_gives_a_row_that_says_why(graph: Graph, reference: Reference) -> None:
    def missing(model: ConvE) -> tuple[methods.Score, str]:
        raise ImportError("No module named 'peer'")

    row = jobs.compare(methods.Method("peer", missing), graph, graph.train, graph.test, reference, jobs.Sizes(), {})
    assert row["unavailable"] == "No module named 'peer'" and "seconds" not in row


def test_peers_that_are_not_installed_are_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.peers.find_spec", lambda name: None)
    assert list(missing((*methods.METHODS, *PEERS))) == [
        "Captum TracInCP is left out: captum is not installed; pip install captum==0.9.0 gets it",
        "dattri TracIn is left out: dattri is not installed; pip install dattri==0.3.0 gets it",
    ]
    monkeypatch.setattr("bench.peers.find_spec", lambda name: name)
    assert not list(missing(PEERS))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_the_memory_of_a_process_that_ends_is_watched_to_its_end() -> None:
    """What has ended and is not yet waited for has a status without memory; afterwards there is none."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "VmHWM" not in Path(f"/proc/{process.pid}/status").read_text()

    class Ending:
        pid = process.pid
        polls = 0

        def poll(self) -> int | None:
            self.polls += 1
            if self.polls == 2:
                process.wait()
            return 0 if self.polls == 3 else None

    peak = [7]
    processes.watch_peak(Ending(), peak)  # type: ignore[arg-type]
    assert peak == [7]


def test_unknown_sections_and_methods_are_named() -> None:
    from bench.run import main

    for option, known in (("--only", "scaling"), ("--methods", "native-mixed-precision")):
        result = CliRunner().invoke(main, [option, "nonsense"])
        assert result.exit_code == 2 and "nonsense" in result.output and known in result.output


@pytest.mark.slow
def test_measured_blocks_are_replaced_and_only_by_a_full_run(written: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"]
    results = tmp_path / "results"
    for folder in (results, tmp_path / "docs"):
        folder.mkdir()
    for path in paths:
        path.write_text(f"# before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    content = json.loads((written / "w1.json").read_text())
    arguments = ["--results", str(results), "--readme", str(paths[0]), "--page", str(paths[1])]
    report.write_json(results / "w1.json", content)
    refused = CliRunner().invoke(readme.main, arguments)
    assert refused.exit_code == 1 and "quick run" in refused.output
    report.write_json(results / "w1.json", content | {"quick": False})
    for _ in range(2):
        assert CliRunner().invoke(readme.main, arguments).exit_code == 0
    for path in paths:
        text = path.read_text()
        assert text.startswith(f"# before\n{readme.BEGIN}\n") and text.endswith(f"\n{readme.END}\nafter\n")
        assert "old" not in text and "| factored |" in text
    whole = paths[1].read_text()
    assert "](../results/time_by_backend.png)" in whole and "](../results/table.md)" in whole
    assert {*methods_in(paths[0].read_text())} < {*methods_in(whole)} == {row["method"] for row in content["rows"]}
    paths[1].write_text("no markers")
    before = paths[0].read_text()
    assert "lacks the lines" in CliRunner().invoke(readme.main, arguments).output
    assert paths[0].read_text() == before


def methods_in(text: str) -> list[str]:
    """The first column of its table."""
    return [cell.removesuffix(" \\*") for cell in re.findall(r"^\| ([a-zA-Z].*?) \|", text, re.M) if cell != "method"]


@pytest.mark.slow
def test_proximity_is_verified_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--edges", "1000", "--tests", "3"]
    shown = CliRunner().invoke(proximity.main, arguments)
    assert shown.exit_code == 0 and shown.output.count("path filtering") == 3 and shown.output.count("median") == 6
    rows = ProximityFilter.rows
    monkeypatch.setattr(ProximityFilter, "rows", lambda *given: rows(*given)[1:])
    assert isinstance(CliRunner().invoke(proximity.main, arguments).exception, Mismatch)


def test_machine_names_no_host() -> None:
    import platform

    line = machine_line(machine())
    assert torch.__version__ in line and "cores" in line
    assert not platform.node() or platform.node() not in line


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is reset by Linux only")
@pytest.mark.slow
def test_peak_memory_is_that_of_the_measured_function() -> None:
    large, _ = measure(lambda: torch.ones(64 << 20, dtype=torch.uint8).sum(), 1)
    small, _ = measure(lambda: None, 1)
    assert large.peak_bytes - small.peak_bytes > 48 << 20
