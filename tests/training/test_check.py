"""Right models pass; wrong images, foreign dictionaries and untrained models are told, each by its own sentence."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import tracin
from tracin.checkpoints.images import AmbiguousImage
from tracin.cli import main
from tracin.cli.demo import one_thread
from tracin.errors import InputError
from tracin.model import ConvE
from tracin.training.check import (
    SAMPLE,
    choose,
    compare_scores,
    doubt,
    examine,
    read_as,
    renumbered,
    separation,
    shapes,
)
from tracin.training.ranking import evaluate

SHAPE, WRONG = (8, 4, "height"), (2, 16, "height")


@pytest.fixture(scope="module")
def small(fixtures_dir: Path) -> tuple[ConvE, Tensor, dict[str, int], dict[str, int]]:
    """A ConvE of 8 x 4 images trained on the small graph, its 123 triples, and the dictionaries."""
    entities, relations = (tracin.read_dictionary(fixtures_dir / f"{name}_dict.txt") for name in ("node", "rel"))
    train = tracin.read_triples(fixtures_dir / "train.txt", entities, relations)
    with one_thread():
        result = tracin.train(
            train,
            num_entities=len(entities),
            num_relations=len(relations),
            epochs=30,
            embedding_dim=32,
            embedding_height=8,
            embedding_width=4,
            output_channels=8,
            batch_size=16,
            progress=False,
        )
    return result.model, train, entities, relations


def permutations(model: ConvE, relations: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randperm(size, generator=generator) for size in (model.entity.num_embeddings, relations))  # type: ignore[return-value]


# ---- separation -------------------------------------------------------------------------------------------------


def test_separation_is_the_mean_of_all_comparisons() -> None:
    torch.manual_seed(0)
    model = ConvE(9, 3, 12, embedding_height=4, embedding_width=3, output_channels=2).train()
    triples = torch.stack([torch.randint(size, (20,)) for size in (9, 3, 9)], 1)
    with torch.no_grad():
        model.entity.weight[7] = model.entity.weight[2]  # equal scores
    found = separation(model, triples)
    assert model.training
    model.eval()
    with torch.no_grad():
        scores = model.score_tails(triples[:, 0], triples[:, 1]).tolist()
    shares = []
    for row, (_, _, tail) in enumerate(triples.tolist()):
        own, others = scores[row][tail], [scores[row][other] for other in triples[:, 2].tolist() if other != tail]
        shares.append(sum((own > other) + (own == other) / 2 for other in others) / len(others))
    assert found == pytest.approx(sum(shares) / len(shares), abs=1e-6)


def test_separation_takes_a_seeded_sample_and_refuses_wrong_ids() -> None:
    torch.manual_seed(0)
    model = ConvE(50, 3, 12, embedding_height=4, embedding_width=3, output_channels=2).eval()
    triples = torch.stack([torch.randint(size, (3000,)) for size in (50, 3, 50)], 1)
    assert separation(model, triples, 1) == separation(model, triples, 1) != separation(model, triples, 2)
    assert separation(model, triples, 1) == separation(model, choose(triples, SAMPLE, 1), 5)
    assert torch.tensor(separation(model, torch.tensor([[0, 0, 1], [2, 0, 1]]))).isnan()
    with pytest.raises(InputError, match="head id 50"):
        separation(model, torch.tensor([[50, 0, 1]]))


def test_untrained_models_are_doubted_and_few_triples_are_not() -> None:
    torch.manual_seed(0)
    model = ConvE(50, 3, 32, embedding_height=8, embedding_width=4, output_channels=2).eval()
    triples = torch.stack([torch.randint(size, (300,)) for size in (50, 3, 50)], 1)
    text = doubt(model, triples)
    assert text is not None and "no better than random ones" in text and "2 x 16 stacked in height" in text
    assert doubt(model, triples[:49]) is None
    report = examine(model, triples[:49], triples[:10], [triples], both_directions=False)
    assert not report.ok and report.verdict == "undecided: 49 training triples are too few to tell"
    same_tail = triples * torch.tensor([1, 1, 0])
    assert doubt(model, same_tail) is None
    report = examine(model, same_tail, triples[:10], [triples], both_directions=False)
    assert not report.ok and report.verdict == "undecided: with one tail there is nothing to tell"
    assert report.readings[0].separation is None


# ---- images -----------------------------------------------------------------------------------------------------


def test_shapes_are_those_that_load() -> None:
    model = ConvE(5, 2, 32, embedding_height=2, embedding_width=16, output_channels=3)
    assert shapes(model) == [WRONG, SHAPE, (4, 8, "width"), (16, 2, "width")]
    for shape in shapes(model):
        other = read_as(model, shape)
        assert (other.config["embedding_height"], other.config["embedding_width"], other.stack) == shape
        assert other.entity.weight.data_ptr() == model.entity.weight.data_ptr()
    assert shapes(ConvE(5, 2, 200, embedding_height=10, embedding_width=20))[0] == (10, 20, "height")


def test_a_small_model_passes_and_its_misreadings_do_not(
    small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]],
) -> None:
    model, train, _, relations = small
    arguments = dict(both_directions=True)
    report = examine(model, train, train[:40], [train], **arguments)
    assert report.ok and doubt(model, train) is None, report.verdict
    assert [reading.name for reading in report.readings[:4]] == [
        "8 x 4 stacked in height",
        "random entity ids",
        "random relation ids",
        "2 x 16 stacked in height",
    ]
    assert report.readings[0].ranking == evaluate(model, train[:40], train, both_directions=True)
    wrong = examine(read_as(model, WRONG), train, train[:40], [train], **arguments)
    assert not wrong.ok and wrong.verdict.startswith("the image is likely 8 x 4 stacked in height, not 2 x 16")
    assert wrong.verdict == doubt(read_as(model, WRONG), train)
    ids = permutations(model, len(relations))
    foreign = renumbered(train, ids[0], torch.arange(len(relations)))
    text = examine(model, foreign, foreign[:40], [foreign], **arguments).verdict
    assert "no better than random ones" in text or "the entity dictionary is not that" in text


def test_swapped_columns_and_permuted_relations_are_told(
    small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]],
) -> None:
    model, train, _, relations = small
    swapped = train[:, [2, 1, 0]]
    for text in (doubt(model, swapped), examine(model, swapped, swapped[:40], [swapped], both_directions=True).verdict):
        assert text is not None and text.startswith("heads and tails of the triples are likely swapped"), text
    count = len(relations)
    for shift in range(1, count):
        permuted = renumbered(train, torch.arange(model.entity.num_embeddings), torch.arange(count).roll(shift))
        text = doubt(model, permuted)
        assert text is not None and text.startswith("the relation dictionary is not that of the model"), text


@pytest.mark.slow
def test_one_and_two_relations_are_no_reason_to_doubt() -> None:
    generator = torch.Generator().manual_seed(0)
    tails = torch.randint(40, (2, 40), generator=generator)
    every = torch.tensor([[h, r, int(tails[r, h])] for h in range(40) for r in range(2)])
    for count in (1, 2):
        train = torch.cat([every[every[:, 1] < count]] * 2)
        with one_thread():
            model = tracin.train(
                train, num_entities=40, num_relations=count, epochs=60, batch_size=16, progress=False
            ).model
        assert doubt(model, train) is None
        report = examine(model, train, train[:40], [train], both_directions=True)
        assert report.ok, report.verdict


def test_scores_of_another_program(small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]]) -> None:
    model, train, *_ = small
    with torch.no_grad():
        scores = model.eval()(train).double()
    assert compare_scores(model, train, scores + 1e-5).same
    found = compare_scores(model, train, scores.sigmoid())
    assert found.same and found.kind == "probabilities" and found.count == len(train)
    other = scores.clone()
    other[7] += 0.5
    found = compare_scores(model, train, other)
    assert not found.same and (found.row, found.kind) == (7, "scores") and found.largest == pytest.approx(0.5)
    assert not compare_scores(read_as(model, WRONG), train, scores).same


# ---- tracin check -----------------------------------------------------------------------------------------------


def run(model: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(main, ["check", str(model), *arguments])


def dictionaries(folder: Path, **paths: Path) -> list[str]:
    given = {"entity": folder / "node_dict.txt", "relation": folder / "rel_dict.txt"} | paths
    return [part for kind, path in given.items() for part in (f"--{kind}-to-id", str(path))]


def test_command_on_a_small_model(
    small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]], fixtures_dir: Path, tmp_path: Path
) -> None:
    model, train, entities, relations = small
    path = tmp_path / "model.pt"
    tracin.save_checkpoint(path, model, epoch=60, entity_to_id=entities, relation_to_id=relations)
    files = ["--train", str(fixtures_dir / "train.txt"), "--test", str(tmp_path / "test.txt")]
    lines = (fixtures_dir / "test.txt").read_text().splitlines()
    (tmp_path / "test.txt").write_text("\n".join([*lines, "CHEBI:1\tpredicate:9\tCHEBI:2"]))
    good = run(path, *files)
    assert good.exit_code == 0, good.output
    assert "8 x 4 stacked in height: as the file says" in good.stdout
    assert f"{sum(p.numel() for p in model.parameters()):,}: entity 960" in good.stdout
    assert "'predicate:9' is not in the" in good.stdout and "ok: training triples" in good.stdout
    assert max(map(len, good.stdout.splitlines())) <= 100
    facts = json.loads(run(path, *files, "--json").stdout)
    assert facts["report"]["ok"] and facts["parameters"]["entity"] == 30 * 32
    assert [(file["kind"], file["triples"], file["unknown"]) for file in facts["files"]] == [
        ("train", len(train), 0),
        ("test", len(lines), 1),
    ]
    bad = run(path, *files, "--embedding-height", "2")
    assert bad.exit_code == 1 and "2 x 16 stacked in height: as asked for" in bad.stdout
    assert "not ok: the image is likely 8 x 4 stacked in height" in bad.stdout


def test_command_names_carriage_returns_and_swapped_columns(
    small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]], fixtures_dir: Path, tmp_path: Path
) -> None:
    """The dictionaries, which are the right ones, are not blamed."""
    model, _, entities, relations = small
    path, train = tmp_path / "model.pt", tmp_path / "train.txt"
    tracin.save_checkpoint(path, model, entity_to_id=entities, relation_to_id=relations)
    cells = [line.split("\t") for line in (fixtures_dir / "train.txt").read_text().splitlines()]
    train.write_bytes("".join(f"{h}\t{r}\t{t}\r\r\n" for h, r, t in cells).encode())
    told = run(path, "--train", str(train))
    assert told.exit_code == 1 and "which differs in a carriage return (\\r) at the end" in told.stderr
    assert "trained with" not in told.stderr
    train.write_text("".join(f"{t}\t{r}\t{h}\n" for h, r, t in cells))
    told = run(path, "--train", str(train))
    assert told.exit_code == 1 and "not ok: heads and tails of the triples are likely swapped" in told.stdout
    assert "--columns trh" in told.stdout and "not that of the model" not in told.stdout


def test_command_compares_scores(
    small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]], fixtures_dir: Path, tmp_path: Path
) -> None:
    model, train, entities, relations = small
    path = tmp_path / "model.pt"
    tracin.save_checkpoint(path, model, entity_to_id=entities, relation_to_id=relations)
    with torch.no_grad():
        scores = model.eval()(train[:20]).tolist()
    lines = (fixtures_dir / "train.txt").read_text().splitlines()
    own = tmp_path / "scores.tsv"
    own.write_text("".join(f"{line}\t{score}\n" for line, score in zip(lines, scores, strict=False)))
    files = ["--train", str(fixtures_dir / "train.txt"), "--scores", str(own)]
    good = run(path, *files)
    assert good.exit_code == 0 and "the same model: of 20 scores the largest difference is" in good.stdout
    facts = json.loads(run(path, *files, "--json").stdout)
    assert facts["scores"]["same"] and facts["scores"]["count"] == 20
    own.write_text(own.read_text() + f"{lines[20]}\t77\n")
    bad = run(path, *files)
    told = " ".join(bad.stdout.split())
    assert bad.exit_code == 1 and "not ok: not the same model, or not read as it was trained: of 21 scores" in told
    assert "of triple 20: 77 in the file" in told
    own.write_text(own.read_text() + f"{lines[20]}\tnan\n")
    assert "line 22: score 'nan' is not a finite number" in run(path, *files).stderr
    own.write_text(f"{lines[0]}\n")
    assert "3 of 4 columns" in run(path, *files).stderr


def test_columns_of_the_commands(
    small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]], fixtures_dir: Path, tmp_path: Path
) -> None:
    model, _, entities, relations = small
    path, train = tmp_path / "model.pt", tmp_path / "train.txt"
    tracin.save_checkpoint(path, model, entity_to_id=entities, relation_to_id=relations)
    cells = [line.split("\t") for line in (fixtures_dir / "train.txt").read_text().splitlines()]
    train.write_text("".join(f"{h}\t{t}\t{r}\n" for h, r, t in cells))
    right = run(path, "--train", str(fixtures_dir / "train.txt"), "--json")
    wrong = run(path, "--train", str(train), "--json")
    assert wrong.exit_code == 1 and "--columns htr" in wrong.stderr
    told = json.loads(run(path, "--train", str(train), "--columns", "htr", "--json").stdout)
    assert told["report"] == json.loads(right.stdout)["report"]


def test_command_where_the_file_leaves_the_image_open(
    small: tuple[ConvE, Tensor, dict[str, int], dict[str, int]], fixtures_dir: Path, tmp_path: Path
) -> None:
    model, *_ = small
    keys = {"entity.weight": "entity_embeddings", "relation.weight": "relation_embeddings", "fc": "hidden_layer"}
    keys |= {"bn0": "batch_norm_1", "conv": "convolutional_layer", "bn1": "batch_norm_2", "bn2": "batch_norm_3"}
    state = {}
    for name, value in model.state_dict().items():
        layer, _, end = name.partition(".")
        if name != "bias":
            state[keys.get(name) or f"{keys[layer]}.{end}"] = value
    torch.save(state, tmp_path / "kelpie.pt")
    with pytest.raises(AmbiguousImage, match="does not tell the shape"):
        tracin.load_checkpoint(tmp_path / "kelpie.pt")
    files = ["--train", str(fixtures_dir / "train.txt"), *dictionaries(fixtures_dir)]
    result = run(tmp_path / "kelpie.pt", *files)
    assert result.exit_code == 1
    assert "not told by the file, the first that fits the weights" in result.stdout
    assert "--embedding-height 8 --embedding-width 4 --stack height" in " ".join(result.stdout.split())
    image = ["--embedding-height", "8", "--embedding-width", "4"]
    assert run(tmp_path / "kelpie.pt", *files, *image).exit_code == 0


@pytest.mark.slow
def test_command_on_the_trained_model(checkpoints_dir: Path, fb15k237: Path, tmp_path: Path) -> None:
    folder = checkpoints_dir / "fb15k-237"
    files = ["--train", str(fb15k237 / "train.txt"), "--test", str(fb15k237 / "test.txt"), "--sample", "50"]
    labels = [line.split("\t")[0] for line in (folder / "rel_dict.txt").read_text().splitlines()]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1)).tolist()
    permuted = tmp_path / "relations.txt"
    permuted.write_text("".join(f"{labels[row]}\t{number}\n" for number, row in enumerate(order)))
    for arguments, words, code in (
        (dictionaries(folder), "ok: training triples are told from wrong ones, separation 0.9", 0),
        (dictionaries(folder, relation=permuted), "not ok: the relation dictionary is not that of the model", 1),
    ):
        result = run(folder / "epoch_14.pt", *files, *arguments)
        assert words in " ".join(result.stdout.split())
        assert result.exit_code == code


def test_doubts_about_the_trained_model(checkpoints_dir: Path, fb15k237: Path) -> None:
    folder = checkpoints_dir / "fb15k-237"
    entities, relations = (tracin.read_dictionary(folder / f"{name}_dict.txt") for name in ("node", "rel"))
    train = tracin.read_triples(fb15k237 / "train.txt", entities, relations)
    model = tracin.load_model(folder / "epoch_14.pt", relation_to_id=relations)
    assert doubt(model, train) is None
    text = doubt(read_as(model, (5, 40, "height")), train)
    assert text is not None and text.startswith("the image is likely 20 x 10 stacked in height, not 5 x 40")
    text = doubt(model, renumbered(train, permutations(model, 1)[0], torch.arange(len(relations))))
    assert text is not None and text.startswith("training triples score no better than random ones")


def test_run_warns_of_a_wrong_image(checkpoints_dir: Path, fb15k237: Path, tmp_path: Path) -> None:
    folder = checkpoints_dir / "fb15k-237"
    lines = (fb15k237 / "train.txt").read_text().splitlines()[:2000]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    arguments = [
        "run",
        "--model-path",
        str(folder / "epoch_14.pt"),
        "--train",
        str(tmp_path / "train.txt"),
        "--quiet",
        "--mode",
        "self",
        "--output",
        str(tmp_path / "out.json"),
        *dictionaries(folder),
    ]
    assert CliRunner().invoke(main, arguments).stderr == ""
    wrong = CliRunner().invoke(main, [*arguments, "--embedding-height", "5"])
    assert wrong.exit_code == 0
    assert "warning: the image is likely 20 x 10 stacked in height, not 5 x 40" in wrong.stderr
    assert wrong.stderr.rstrip().endswith("tracin check says more")


def test_train_reads_headers_and_pipes_as_run_does(fixtures_dir: Path, tmp_path: Path) -> None:
    lines = (fixtures_dir / "train.txt").read_text()
    (tmp_path / "header.txt").write_text("subject\tpredicate\tobject\n" + lines)
    os.mkfifo(tmp_path / "pipe")
    feeder = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(lines))
    feeder.start()
    found = []
    for name in ("header.txt", "pipe"):
        arguments = [
            "train",
            "--train",
            str(tmp_path / name),
            "--epochs",
            "1",
            "--quiet",
            "--output",
            str(tmp_path / "o"),
        ]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        found.append(tracin.load_checkpoint(tmp_path / "o" / "epoch_001.pt").entity_to_id)
    feeder.join()
    assert found[0] == found[1] and "subject" not in found[0] and len(found[0]) == 30
    for flag in ("--kernel-height", "--embedding-dim", "--output-channels"):
        result = CliRunner().invoke(main, [*arguments, flag, "0"])
        assert result.exit_code == 2 and f"'{flag}': 0 is not in the range" in result.stderr
