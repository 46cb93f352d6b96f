"""Stackings and shapes that files leave open: never a guess without a word."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tests.samples.foreign_weights import (
    DETTMERS,
    PYKEEN,
    WIDTH,
    R,
    assert_influences,
    ids,
    random_weights,
    rename,
    write,
)
from tracin.checkpoints.images import AmbiguousImage, SeveralImages
from tracin.checkpoints.load import load_checkpoint
from tracin.errors import InputError


@pytest.mark.parametrize(
    "shape, stack", [((10, 20), "height"), ((20, 10), "height"), ((10, 20), "width"), ((20, 10), "width")]
)
def test_names_that_do_not_tell_the_stacking(shape: tuple[int, int], stack: str, tmp_path: Path) -> None:
    weights = random_weights(*shape, stack, skip=["bias"])
    path = write(tmp_path / "m.pt", rename(weights, WIDTH))
    with pytest.raises(AmbiguousImage, match="stacked in height: .*; stacked in width: ") as error:
        load_checkpoint(path)
    assert "x".join(map(str, shape)) in str(error.value).replace(" ", "")
    load_checkpoint(path, *error.value.choices[0], error.value.stack)
    checkpoint = load_checkpoint(path, *shape)
    assert checkpoint.image_reason == "as asked for"
    assert_influences(checkpoint, weights, (1, *shape), stack)
    told = {"model_state_dict": rename(weights, WIDTH), "stack": stack, "embedding_height": shape[0]}
    assert_influences(load_checkpoint(write(tmp_path / "told.pt", told)), weights, (1, *shape), stack)


def test_a_shape_that_fits_in_both_stackings(tmp_path: Path) -> None:
    """A square image with a square kernel."""
    weights = random_weights(6, 6, "width", skip=["bias"])
    path = write(tmp_path / "m.pt", rename(weights, WIDTH))
    with pytest.raises(AmbiguousImage):
        load_checkpoint(path, embedding_height=6, embedding_width=6)
    assert_influences(load_checkpoint(path, stack="width", embedding_height=6), weights, (1, 6, 6), "width")


def test_the_only_one_is_the_only_one(tmp_path: Path) -> None:
    """PyKEEN stacks in height; of the first, 20 x 10 side by side would have as many features."""
    for weights, reason in (
        (random_weights(10, 20, planes=2), "the only one stacked in height that fits the weights"),
        (random_weights(4, 9, planes=2, kernel=(2, 3)), "the only one that fits the weights"),
    ):
        checkpoint = load_checkpoint(write(tmp_path / "m.pt", rename(weights, PYKEEN)), relation_to_id=ids(R))
        assert checkpoint.image_reason == reason
        assert_influences(checkpoint, weights, checkpoint.model.plane, "height")


def test_python_is_warned_of_others_than_the_default(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", rename(random_weights(), DETTMERS))
    with pytest.warns(
        SeveralImages, match=r"m.pt: .* 20 x 10, the default of such files; the weights fit 5 x 40 as well"
    ):
        load_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(path, embedding_height=20)
        single = rename(random_weights(10, 20), PYKEEN)
        load_checkpoint(write(tmp_path / "n.pt", single), relation_to_id=ids(R))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.slow
def test_relations_that_a_state_dict_leaves_open(inverse: bool, tmp_path: Path) -> None:
    """Against PyKEEN's own scores, with what its factory knows."""
    pytest.importorskip("pykeen")
    from pykeen.datasets import Nations
    from pykeen.models import ConvE

    factory = Nations(create_inverse_triples=inverse).training
    model = ConvE(triples_factory=factory, embedding_dim=64, output_channels=4, random_seed=1).eval()
    path = write(tmp_path / "m.pt", model.state_dict())
    triples = factory.mapped_triples[:200]
    internal = triples * torch.tensor([1, 2 if inverse else 1, 1])
    with torch.no_grad():
        expected = model.score_hrt(internal).squeeze(1)
    if inverse:
        with pytest.raises(InputError, match="110 rows of relations, which are 110 relations or 55 and their inverses"):
            load_checkpoint(path)
    for given in (factory, factory.relation_to_id):
        checkpoint = load_checkpoint(path, relation_to_id=given)
        with torch.no_grad():
            assert (checkpoint.model(triples) - expected).abs().max() <= 1e-5 * expected.abs().max()
    if not inverse:  # 55 rows are no twice
        assert load_checkpoint(path).model.relation_step == 1
