"""What commands share: what every flag does, what the start says, and how errors speak of flags."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import tracin
import tracin_ext
from tests.samples.small_graph import ENTITIES, LINES, RELATIONS, Graph, triples_and_scores
from tracin.cli.batch import BatchOptions
from tracin.cli.command import FLAGS
from tracin.cli.options import ComputingOptions, fields_of
from tracin.cli.run import RunOptions
from tracin.cli.session import chosen_backend
from tracin.influence.layers import layers_named
from tracin_ext.backends.factored import has_bfloat16

# Flags of the original script that are switches or have values that do not change what comes out.
ACCEPTED = (
    ("--device", "cpu"),
    ("--device", "auto"),
    ("--batch-size", "7"),
    ("--embedding-dim", "8"),
    ("--output-channels", "3"),
    ("--use-gradient-checkpointing",),
    ("--disable-memory-cleanup",),
    ("--use-vectorized-gradients",),
    ("--disable-vectorized-gradients",),
    ("--cache-test-gradients",),
    ("--disable-test-gradient-caching",),
    ("--enable-multi-gpu",),
    ("--use-optimized-tracin",),
    ("--num-last-layers", "5"),
    ("--test-indices", "3"),
    ("--learning-rate", "0.001"),
    ("--mode", "test"),
    ("--threads", "1"),
    ("--skip-unknown",),
    ("--backend", "factored"),
    ("--order", "absolute"),
    ("--precision", "float32"),
    ("--embedding-height", "4", "--embedding-width", "2", "--stack", "height"),
)


@pytest.mark.parametrize("flags", ACCEPTED, ids=" ".join)
def test_flags_that_leave_the_result_as_it_is(graph: Graph, flags: tuple[str, ...]) -> None:
    expected = graph.json("--top-k", "4")
    result = graph.run("--top-k", "4", *flags)
    assert result.exit_code == 0, result.stderr
    found = json.loads((graph.folder / "out.json").read_text())
    for ours, theirs in zip(found["results"], expected["results"], strict=True):
        torch.testing.assert_close(
            triples_and_scores(ours["top_influences"])[1],
            triples_and_scores(theirs["top_influences"])[1],
            rtol=1e-4,
            atol=1e-9,
        )


def test_mixed_precision_runs_or_says_why_not(graph: Graph) -> None:
    available = has_bfloat16(torch.device("cpu"))
    for flag in ("--use-mixed-precision", "--precision mixed"):
        result = graph.run(*flag.split())
        told = "  mixed precision: " + ("backward and pair products in bfloat16" if available else "off")
        assert result.exit_code == 0 and told in result.stderr.splitlines()
        assert ("mixed precision needs products in bfloat16" in result.stderr) == (not available)
    wrong = graph.run("--use-mixed-precision", "--precision", "float64")
    assert wrong.exit_code == 2 and "disagree" in wrong.stderr


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ("", {}),
        ("--backend factored", {}),
        ("--backend factored --use-optimized-tracin --cache-test-gradients", {}),
        pytest.param("--use-torch-compile", {"torch.compile": "on"}, marks=pytest.mark.slow),
        (
            "--backend factored --disable-test-gradient-caching",
            {"test gradient caching": "off, computed anew for every block"},
        ),
        ("--backend factored --disable-memory-cleanup", {"memory cleanup": "off"}),
        ("--disable-vectorized-gradients", {"vectorized gradients": "off, one backward pass per triple"}),
        (
            "--disable-vectorized-gradients --use-gradient-checkpointing",
            {"vectorized gradients": "off, one backward pass per triple", "gradient checkpointing": "on"},
        ),
        ("--backend vectorized", {"vectorized gradients": "torch.func.vmap, dense gradients"}),
    ],
)
def test_the_start_says_what_is_not_as_by_default(graph: Graph, flags: str, changed: dict[str, str]) -> None:
    lines = graph.run(*flags.split(), "--top-k", "1").stderr.splitlines()
    said = dict(line.strip().split(": ", 1) for line in lines if line.startswith("  "))
    assert said == changed


def test_native_is_named_with_its_instructions(graph: Graph) -> None:
    if not tracin_ext.status()["available"]:
        pytest.skip(f"no native extension: {tracin_ext.status()['reason']}")
    expected = f"running: native backend, native extension ({tracin_ext.status()['isa']}), float32, all layers, "
    assert any(line.startswith(expected) for line in graph.run("--top-k", "1").stderr.splitlines())


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ("--use-gradient-checkpointing --backend factored", "the factored backend keeps no activations beyond a block"),
        ("--enable-multi-gpu", "--enable-multi-gpu: 0 GPUs are visible here; going on on one device"),
    ],
)
def test_a_flag_that_cannot_do_more_here_says_so(graph: Graph, flags: str, note: str) -> None:
    if "gpu" in flags and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    result = graph.run(*flags.split(), "--top-k", "1")
    assert result.exit_code == 0
    assert sum(note in line for line in result.stderr.splitlines() if line.startswith("note: ")) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_is_an_error_with_a_remedy(graph: Graph) -> None:
    result = graph.run("--device", "cuda")
    assert result.exit_code == 1 and "this PyTorch sees no CUDA device; take --device cpu or auto" in result.stderr


def argument_of(graph: Graph, monkeypatch: pytest.MonkeyPatch, *flags: str) -> dict[str, Any]:
    """What `tracin run` with these flags gives to TracIn."""
    given: dict[str, Any] = {}

    class Spy(tracin.TracIn):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            given.update(named)
            super().__init__(*arguments, **named)

    monkeypatch.setattr("tracin.cli.session.TracIn", Spy)
    result = graph.run("--top-k", "1", *flags)
    assert result.exit_code == 0, result.stderr
    return given


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ("", "cache_test_factors", True),
        ("--disable-test-gradient-caching", "cache_test_factors", False),
        ("--cache-test-gradients", "cache_test_factors", True),
        ("", "recompute_activations", False),
        ("--use-gradient-checkpointing", "recompute_activations", True),
        ("", "memory_cleanup", True),
        ("--disable-memory-cleanup", "memory_cleanup", False),
        ("", "batch_size", "auto"),
        ("--batch-size 7", "batch_size", 7),
        ("--memory-limit 8G", "memory_limit", 8 << 30),
        ("--quiet", "progress", False),
    ],
)
def test_flags_reach_the_library(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, flags: str, name: str, value: object
) -> None:
    """What each argument does is tested with the library: tests/test_influence.py, test_backends.py, test_memory.py."""
    assert argument_of(graph, monkeypatch, *flags.split())[name] == value


@pytest.mark.parametrize(
    ("flags", "layers"),
    [
        ("--use-last-layers-only", 2),
        ("--use-last-layers-only --num-last-layers 1", ["fc"]),
        ("--use-last-layers-only --num-last-layers 4", 4),
        ("--last-layer-names fc.weight interaction.hr1d.2.bias", ["fc", "bn2"]),
        ("--use-last-layers-only --last-layer-names entity", ["entity"]),
    ],
)
def test_layers(graph: Graph, flags: str, layers: int | list[str]) -> None:
    dense = graph.tracin(layers=layers).influence(graph.train, graph.test)
    for record, scores in zip(graph.json(*flags.split())["results"], dense, strict=True):
        _, values = triples_and_scores(record["top_influences"])
        torch.testing.assert_close(values, scores[scores.abs().argsort(descending=True, stable=True)])


def test_layer_names_of_frameworks() -> None:
    model = tracin.ConvE(5, 2, 8, embedding_height=4, embedding_width=2, kernel_width=2, bn0=False)
    names = (
        "emb_e.weight",
        "relation_representations.0._embeddings.weight",
        "conv1.bias",
        "batch_norm_2.weight",
        "fc",
        "interaction.hr1d.2.weight",
        "b",
    )
    assert layers_named(names, model) == ["entity", "relation", "conv", "bn1", "fc", "bn2", "bias"]
    for name in ("bn0.weight", "fc2", "weight", ""):
        with pytest.raises(tracin.InputError, match="its layers are entity, relation, conv, bn1, fc, bn2, bias"):
            layers_named([name], model)


def test_learning_rate_and_precision_reach_the_result(graph: Graph) -> None:
    tracin_64 = tracin.TracIn(graph.checkpoint, 0.5, precision="float64", backend="sequential", device="cpu")
    expected = tracin_64.influence(graph.train, graph.test[:1])[0]
    flags = "--learning-rate 0.5 --precision float64 --max-test-triples 1 --order proponents"
    result = graph.json(*flags.split())
    assert result["learning_rate"] == 0.5
    _, values = triples_and_scores(result["results"][0]["top_influences"])
    torch.testing.assert_close(values.double(), expected.sort(descending=True).values, rtol=1e-6, atol=1e-9)


def test_backends_of_the_flags(graph: Graph) -> None:
    for flags, name in (
        (ComputingOptions(), "auto"),
        (ComputingOptions(use_torch_compile=True), "compiled"),
        (ComputingOptions(use_vectorized_gradients=False), "sequential"),
        (ComputingOptions(backend="compiled", use_torch_compile=True), "compiled"),
        (ComputingOptions(backend="native"), "native"),
    ):
        assert chosen_backend(flags) == name
    assert "running: sequential backend" in graph.run("--disable-vectorized-gradients", "--top-k", "1").stderr
    both = graph.run("--disable-vectorized-gradients", "--use-torch-compile")
    assert both.exit_code == 2 and "ask for different backends; choose one" in both.stderr


def test_dictionaries_from_files_and_names(graph: Graph) -> None:
    (graph.folder / "names.txt").write_text("".join(f"name {i}\t{i}\n" for i in range(ENTITIES)))
    edges = {json.dumps({"predicate": f"biolink:{i}"}): f"relation:{i}" for i in range(RELATIONS)}
    (graph.folder / "edges.json").write_text(json.dumps(edges))
    files = {"--entity-to-id": "entities.txt", "--relation-to-id": "relations.txt"}
    files |= {"--node-name-dict": "names.txt", "--edge-map": "edges.json"}
    paths = [part for name, file in files.items() for part in (name, str(graph.folder / file))]
    (record,) = graph.json("--mode", "single", "--top-k", "1", *paths)
    head, relation, tail = graph.test[0].tolist()
    assert (record["test_head_name"], record["test_tail_name"]) == (f"name {head}", f"name {tail}")
    assert record["test_relation_name"] == f"biolink:{relation}"
    assert record["influences"][0]["train_relation_name"].startswith("biolink:")


def test_skip_unknown(graph: Graph) -> None:
    with open(graph.folder / "train.txt", "a") as file:
        file.write("entity 1\trelation:0\tentity 99\n")
    assert "entity 99" in graph.run().stderr
    result = graph.run("--skip-unknown", "--top-k", "1")
    assert result.exit_code == 0
    assert f"tracin: warning: {graph.folder / 'train.txt'}: 1 of {LINES + 1} lines left out" in result.stderr


def test_triples_as_ids(graph: Graph) -> None:
    expected = graph.json("--top-k", "3")
    for name, rows in (("train.txt", graph.train), ("test.txt", graph.test)):
        (graph.folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows.tolist()))
    told = graph.run("--top-k", "3")
    assert told.exit_code == 1 and "--numeric-triples" in told.stderr
    assert graph.json("--top-k", "3", "--numeric-triples") == expected


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "100000", "99999999999"])
def test_a_number_of_threads_that_cannot_be_started(graph: Graph, threads: str) -> None:
    result = graph.run("--threads", threads)
    assert result.exit_code == 2
    assert f"Invalid value for '--threads': {threads} is not in the range 1<=x<=1024" in result.stderr


def test_threads(graph: Graph) -> None:
    before = torch.get_num_threads()
    try:
        assert ", 1 threads" in graph.run("--threads", "1", "--top-k", "1").stderr
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", ["4X", "0", "-1", "G", "1e9"])
def test_sizes_that_are_none(graph: Graph, size: str) -> None:
    result = graph.run("--memory-limit", size)
    assert result.exit_code == 2
    assert f"Invalid value for '--memory-limit': '{size}'; expected a number of bytes, or a size such" in (
        result.stderr.replace(f": {size};", f": '{size}';")
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--use-last-layers-only", "--num-last-layers", "9"),
            "--num-last-layers is 9; expected 1 to 5, the last n of",
        ),
        (("--learning-rate", "nan"), "--learning-rate is nan; expected positive numbers"),
    ],
)
def test_errors_speak_of_flags(graph: Graph, options: tuple[str, ...], message: str) -> None:
    assert f"tracin: error: {message}" in graph.run(*options).stderr


def test_arguments_of_the_library_have_flags(graph: Graph) -> None:
    flags = {field.metadata["flag"] for field in fields_of(RunOptions)} & {
        field.metadata["flag"] for field in fields_of(BatchOptions)
    }
    assert set(FLAGS.values()) - {"--accurate"} <= flags  # which is of `tracin index build`
    for arguments in ({"layers": 9}, {"batch_size": 0}, {"memory_limit": "1X"}, {"device": "disk"}):
        (argument,) = arguments
        with pytest.raises(tracin.InputError) as caught:
            graph.tracin(**arguments)
        assert caught.value.argument == argument
        assert caught.value.calling_it(FLAGS[argument]).startswith(f"{FLAGS[argument]} is ")
    assert tracin.InputError("no argument is at fault").calling_it("--flag") == "no argument is at fault"


def test_errors_about_a_dictionary_name_its_file(graph: Graph) -> None:
    entities, relations = graph.folder / "entities.txt", graph.folder / "relations.txt"
    all_entities, all_relations = entities.read_text(), relations.read_text()
    files = ("--entity-to-id", str(entities), "--relation-to-id", str(relations))
    assert graph.run(*files).exit_code == 0
    entities.write_text(all_entities + f"one more\t{ENTITIES}\n")
    expected = f"the model has {ENTITIES} entities, but the entity dictionary {entities} has {ENTITIES + 1} entries"
    assert expected in graph.run(*files).stderr
    entities.write_text(all_entities)
    relations.write_text(all_relations.replace("\t2\n", "\t3\n"))
    told = f"error: the relation dictionary {relations} has 3 entries with ids up to 3"
    assert told in graph.run(*files).stderr
    relations.write_text(all_relations.replace("relation:2\t", "x\t"))
    for more in ((), ("--skip-unknown", "--train", str(graph.folder / "two.txt"))):
        (graph.folder / "two.txt").write_text("entity 0\trelation:2\tentity 1\n")
        told = f"'relation:2' is not in the relation dictionary {relations} (3 relations)"
        assert told in graph.run(*files, *more).stderr
