"""Checkpoints of every layout against an independent float64 forward; image shapes; PyKEEN itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.samples.foreign_weights import (
    BN,
    DETTMERS,
    KELPIE,
    PYKEEN,
    PYKEEN_10,
    PYKEEN_14,
    PYKEEN_PLAIN,
    WIDTH,
    C,
    N,
    R,
    assert_scores,
    expected_scores,
    ids,
    random_weights,
    rename,
    write,
)
from tracin.checkpoints.load import load_checkpoint, load_model
from tracin.errors import InputError
from tracin.model import ConvE

FORMATS = {  # keys, what is stored beside the state dict and under which key, the weights, words of the format's name
    "dettmers": (DETTMERS, None, {}, dict(skip=["conv.bias"]), "Dettmers"),
    "dettmers with conv bias": (DETTMERS, None, {}, {}, "Dettmers"),
    "dettmers, d = 60": (DETTMERS, None, {}, dict(height=20, width=3), "Dettmers"),
    "dettmers, another shape stored": (
        DETTMERS,
        "state_dict",
        {"args": {"embedding_shape1": 5}},
        dict(height=5, width=40),
        "Dettmers",
    ),
    "attribution attack": (
        DETTMERS,
        "state_dict",
        {"optimizer": {}, "args": {"stack_width": 20, "stack_height": 10, "lr": 0.005}},
        dict(skip=["conv.bias"]),
        "AttributionAttack",
    ),
    "attribution attack, 5 rows": (
        DETTMERS,
        "state_dict",
        {"args": {"stack_width": 5, "lr": 0.005}},
        dict(height=5, width=40),
        "AttributionAttack",
    ),
    "kelpie": (KELPIE, None, {}, dict(skip=["bias"]), "Kelpie"),
    "pykeen": (PYKEEN, None, {}, dict(height=10, width=20), "PyKEEN"),
    "pykeen, d = 32": (PYKEEN, "state_dict", {"version": 1}, dict(height=4, width=8), "PyKEEN"),
    "pykeen, shape stored": (
        PYKEEN,
        "model_state_dict",
        {"config": {"embedding_height": 8, "embedding_width": 4}},
        dict(height=8, width=4),
        "PyKEEN",
    ),
    "pykeen without batch norm": (PYKEEN_PLAIN, None, {}, dict(height=10, width=20, skip=BN), "without batch norm"),
    "pykeen 1.0": (PYKEEN_10, "model_state_dict", {}, dict(height=10, width=20), "PyKEEN 1.0 to 1.3"),
    "pykeen 1.8": (PYKEEN_14, None, {}, dict(height=10, width=20), "PyKEEN 1.4 to 1.8"),
    "pykeen 1.8 without batch norm": (PYKEEN_14, None, {}, dict(height=10, width=20, skip=BN), "PyKEEN 1.4 to 1.8"),
    "pykeen, two planes, one shape fits": (
        PYKEEN,
        None,
        {},
        dict(height=4, width=9, planes=2, kernel=(2, 3)),
        "PyKEEN",
    ),
    "width-stacked": (
        WIDTH,
        "model_state_dict",
        {"epoch": 3, "model_config": {"embedding_height": 8, "embedding_width": 4}},
        dict(height=8, width=4, stack="width", skip=["bias"]),
        "width-stacked",
    ),
    "width-stacked, default shape": (
        WIDTH,
        "model_state_dict",
        {"model_config": {}},
        dict(height=10, width=20, stack="width", skip=["bias"]),
        "width-stacked",
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_scores_of_every_layout(case: str, tmp_path: Path) -> None:
    keys, wrapped, beside, options, name = FORMATS[case]
    weights = random_weights(**options)
    state = rename(weights, keys)
    path = write(tmp_path / "model.pt", state if wrapped is None else {wrapped: state, **beside})
    inverse = keys in (PYKEEN, PYKEEN_PLAIN, PYKEEN_10, PYKEEN_14)  # the file does not tell whether there are any
    checkpoint = load_checkpoint(path, relation_to_id=ids(R) if inverse else None)
    plane = options.get("planes", 1), options.get("height", 20), options.get("width", 10)
    assert_scores(checkpoint.model, weights, plane, options.get("stack", "height"))
    assert name in checkpoint.format and checkpoint.path == str(path)
    assert checkpoint.epoch == beside.get("epoch")
    assert checkpoint.learning_rate == beside.get("args", {}).get("lr")
    assert not checkpoint.model.training and all(p.requires_grad for p in checkpoint.model.parameters())
    assert not any(tensor.is_meta for tensor in checkpoint.model.state_dict().values())


@pytest.mark.parametrize("keys, step", [(PYKEEN, 2), (PYKEEN_10, 2), (PYKEEN_14, 2), (DETTMERS, 1)])
def test_dictionary_of_half_the_rows(keys: dict[str, str], step: int, tmp_path: Path) -> None:
    height, width = (20, 10) if keys is DETTMERS else (10, 20)
    weights = random_weights(height, width)
    path = write(tmp_path / "model.pt", rename(weights, keys))
    half = load_checkpoint(path, entity_to_id=ids(N), relation_to_id=ids(R // 2))
    assert half.model.relation_step == half.model.config["relation_step"] == step
    assert half.relation_to_id == ids(R // 2) and half.entity_to_id == ids(N)
    assert_scores(half.model, weights, (1, height, width), "height", step)
    assert load_model(path, relation_to_id=ids(R)).relation_step == 1


def test_float64_stays_and_half_becomes_float32(tmp_path: Path) -> None:
    weights = random_weights()
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        state = {key: value.to(dtype) for key, value in rename(weights, DETTMERS).items()}
        model = load_model(write(tmp_path / "model.pt", state))
        assert {p.dtype for p in model.parameters()} == {kept}
        assert model.bn1 is not None and model.bn1.num_batches_tracked.dtype == torch.int64
        assert model(torch.tensor([[0, 0, 1]])).dtype == kept


def test_old_torch_file_without_batch_counters(tmp_path: Path) -> None:
    weights = {name: value for name, value in random_weights().items() if "num_batches" not in name}
    torch.save(rename(weights, DETTMERS), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_scores(load_model(tmp_path / "old.pt"), weights, (1, 20, 10), "height")


def test_ignores_losses_and_regularizers(tmp_path: Path) -> None:
    weights = random_weights(10, 20)
    extra = {"loss.pos_weight": torch.ones(1), "entity_representations.0.regularizer.weight": torch.ones(())}
    path = write(tmp_path / "m.pt", rename(weights, PYKEEN) | extra)
    assert_scores(load_model(path, relation_to_id=ids(R)), weights, (1, 10, 20), "height")


def test_arguments_win_over_stored_shape_and_default(tmp_path: Path) -> None:
    weights = random_weights(5, 40)
    for beside in ({}, {"model_config": {"embedding_height": 20, "embedding_width": 10}}):
        path = write(tmp_path / "m.pt", {"state_dict": rename(weights, DETTMERS), **beside})
        assert load_model(path).plane == (1, 20, 10)
        for arguments in ({"embedding_height": 5}, {"embedding_width": 40}, {"embedding_height": 5, "stack": "height"}):
            assert_scores(load_model(path, **arguments), weights, (1, 5, 40), "height")
    assert load_model(path, 10, 20, "width").image == (1, 10, 40)


def test_own_weights_without_their_metadata_need_a_shape(tmp_path: Path) -> None:
    model = ConvE(N, R, 32, embedding_height=8, embedding_width=4, output_channels=C)
    path = write(tmp_path / "m.pt", dict(model.state_dict()))
    assert load_model(path, embedding_height=8).plane == (1, 8, 4)
    assert load_model(path, embedding_height=4).image == (1, 4, 16)
    with pytest.raises(InputError, match="stacked in height: 2 x 16, 8 x 4; stacked in width: 4 x 8, 16 x 2"):
        load_checkpoint(path)


@pytest.mark.parametrize("stack", ["height", "width"])
@pytest.mark.parametrize("zipped", [True, False])
def test_own_state_dict_carries_its_shape(stack: str, zipped: bool, tmp_path: Path) -> None:
    options = dict(embedding_height=4, embedding_width=5, kernel_height=2, output_channels=C, fc_bias=False)
    torch.manual_seed(1)
    model = ConvE(N, 2 * R, 40, **options, stack=stack, relation_step=2).eval()
    whole = nn.DataParallel(model)
    triples = torch.stack([torch.arange(N), torch.arange(N) % R, torch.arange(N).flip(0)], 1)
    for name, state, note in (
        ("own.pt", model.state_dict(), ""),
        ("wrapped.pt", {"epoch": 2, "state_dict": model.state_dict()}, ""),
        ("parallel.pt", whole.state_dict(), "; keys without their beginning 'module.'"),
    ):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
        checkpoint = load_checkpoint(tmp_path / name)
        assert checkpoint.model.config == model.config
        assert torch.equal(checkpoint.model(triples), model(triples))
        assert checkpoint.format == "tracin checkpoint" + note
    assert set(model.state_dict()) == set(ConvE(N, 2 * R, 40, **options).state_dict())
    again = torch.load(tmp_path / "own.pt", weights_only=True)
    assert not any(ConvE(N, 2 * R, 40, **options, stack=stack).load_state_dict(again))  # no key missing or unexpected


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            {},
            [
                "does not tell",
                "2 x 16, 8 x 4",
                "--embedding-height",
                "--embedding-width",
                "--stack",
                "embedding_width,",
            ],
        ),
        ({"embedding_height": 4}, ["the arguments ask for an image of 4 x any", "2 x 16, 8 x 4"]),
        ({"embedding_height": 8, "embedding_width": 5}, ["8 x 5", "8 x 4"]),
        ({"embedding_height": 8, "embedding_width": 4, "stack": "width"}, ["8 x 4 stacked in width"]),
        ({"stack": "diagonal"}, ["'diagonal'", "'height' or 'width'"]),
        ({"embedding_height": 0}, ["embedding_height is 0"]),
    ],
)
def test_open_and_wrong_shapes(arguments: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", rename(random_weights(8, 4), PYKEEN))
    with pytest.raises(InputError) as error:
        load_checkpoint(path, **arguments, relation_to_id=ids(R))
    assert all(word in str(error.value) for word in words), error.value


def test_two_planes_with_several_shapes_have_no_default(tmp_path: Path) -> None:
    weights = random_weights(4, 4, planes=2)
    path = write(tmp_path / "m.pt", rename(weights, PYKEEN))
    with pytest.raises(InputError, match="2 x 8, 4 x 4"):
        load_checkpoint(path, relation_to_id=ids(R))
    assert_scores(load_model(path, embedding_width=4, relation_to_id=ids(R)), weights, (2, 4, 4), "height")


def test_stored_shape_that_does_not_fit(tmp_path: Path) -> None:
    stored = {"config": {"embedding_height": 4, "embedding_width": 8}}
    path = write(tmp_path / "m.pt", {"model_state_dict": rename(random_weights(8, 4), PYKEEN), **stored})
    with pytest.raises(InputError, match="the file itself says an image of 4 x 8 .*8 x 4"):
        load_checkpoint(path)
    assert load_model(path, embedding_height=8, relation_to_id=ids(R)).plane == (1, 8, 4)


def test_no_shape_fits(tmp_path: Path) -> None:
    state = rename(random_weights(), DETTMERS)
    state["fc.weight"] = torch.randn(200, 609)
    with pytest.raises(InputError, match="no shape fits: fc takes 609 inputs"):
        load_checkpoint(write(tmp_path / "m.pt", state))


@pytest.mark.parametrize(
    "name, arguments, stack, expected",
    [
        ("pykeen_model_state_dict.pt", {}, "height", ("PyKEEN state dict", None)),
        ("pykeen_callback.pt", {"embedding_height": 8}, "height", ("PyKEEN callback checkpoint", None)),
        ("width_stacked.pt", {}, "width", ("width-stacked PyTorch state dict", 3)),
    ],
)
def test_fixtures_load(
    name: str, arguments: dict[str, Any], stack: str, expected: tuple[str, int | None], fixtures_dir: Path
) -> None:
    path = fixtures_dir / "models" / name
    if stack == "height":
        with pytest.raises(InputError, match="4 rows of relations, which are 4 relations or 2 and their inverses"):
            load_checkpoint(path, **arguments)
        arguments = {**arguments, "relation_to_id": ids(4)}
    checkpoint = load_checkpoint(path, **arguments)
    config = checkpoint.model.config
    assert (checkpoint.format, checkpoint.epoch) == expected
    sizes = ("num_entities", "num_relations", "embedding_dim", "output_channels")
    assert [config[size] for size in sizes] == [30, 4, 32, 4]
    assert (checkpoint.model.plane, config["stack"], config["relation_step"]) == ((1, 8, 4), stack, 1)
    content = torch.load(path, weights_only=True)
    state = content.get("model_state_dict", content.get("state_dict"))
    keys = WIDTH if stack == "width" else PYKEEN
    weights = {
        layer + key[len(prefix) :]: value
        for layer, prefix in keys.items()
        for key, value in state.items()
        if key.startswith(prefix)
    }
    weights["bias"] = weights["bias"].squeeze(1) if "bias" in weights else torch.zeros(30)
    heads, relations = torch.arange(30), torch.arange(30) % 4
    wanted = expected_scores(weights, (1, 8, 4), stack, relations, heads)
    with torch.no_grad():
        assert (checkpoint.model.score_tails(heads, relations) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_trained_model_prefers_true_triples(checkpoints_dir: Path, fb15k237: Path) -> None:
    folder = checkpoints_dir / "fb15k-237"
    entities, relations = (
        {label: int(row) for label, row in (line.split("\t") for line in (folder / name).read_text().splitlines())}
        for name in ("node_dict.txt", "rel_dict.txt")
    )
    checkpoint = load_checkpoint(folder / "epoch_14.pt", entity_to_id=entities, relation_to_id=relations)
    assert checkpoint.epoch == 14 and checkpoint.learning_rate == pytest.approx(0.003 * 0.9**13)
    model = checkpoint.model
    assert (model.plane, model.stack, model.relation_step) == ((1, 20, 10), "height", 1)
    lines = [line.split("\t") for line in (fb15k237 / "test.txt").read_text().splitlines()[:2000]]
    true = torch.tensor([[entities[h], relations[r], entities[t]] for h, r, t in lines])
    random = true.clone()
    random[:, 2] = torch.randint(len(entities), (len(true),), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wins = (model(true) > model(random)).double().mean()
    assert wins > 0.9  # 0.99; read as 5 x 40 it is 0.75, read side by side 0.5


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"apply_batch_normalization": False},
        {"embedding_dim": 36, "input_channels": 2, "embedding_height": 3, "embedding_width": None},
        {"embedding_dim": 64, "embedding_height": 16, "embedding_width": 4, "kernel_height": 2, "kernel_width": 3},
    ],
)
def test_agrees_with_pykeen(options: dict[str, Any], inverse: bool, tmp_path: Path) -> None:
    pytest.importorskip("pykeen")
    import numpy
    from pykeen.models import ConvE as PykeenConvE
    from pykeen.triples import TriplesFactory

    labelled = numpy.array([[f"e{i}", f"r{i % 3}", f"e{(5 * i + 1) % 9}"] for i in range(9)])
    factory = TriplesFactory.from_labeled_triples(labelled, create_inverse_triples=inverse)
    theirs = PykeenConvE(triples_factory=factory, random_seed=1, output_channels=4, **{"embedding_dim": 200, **options})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if value.is_floating_point():
                noise = 0.3 * torch.randn(value.shape, generator=generator)
                value.add_(noise.abs() if name.endswith("running_var") else noise)
    theirs.eval()
    shape = theirs.interaction.shape_info
    path = write(tmp_path / "m.pt", {"state_dict": theirs.state_dict(), "version": 1})
    arguments = {"embedding_height": shape.image_height, "embedding_width": shape.image_width} if options else {}
    checkpoint = load_checkpoint(
        path, **arguments, entity_to_id=factory.entity_to_id, relation_to_id=factory.relation_to_id
    )
    assert checkpoint.model.relation_step == (2 if inverse else 1)
    triples = factory.mapped_triples
    internal = triples.clone()
    internal[:, 1] *= 2 if inverse else 1
    with torch.no_grad():
        wanted = theirs.score_hrt(internal).squeeze(1)
        assert torch.allclose(wanted, theirs.predict_hrt(triples).squeeze(1))
        assert (checkpoint.model(triples) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
