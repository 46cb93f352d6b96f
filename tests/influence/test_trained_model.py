"""Random weights are not enough: the trained FB15k-237 model, native float32 against autograd in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tracin
import tracin_ext
from tracin import TracIn


@pytest.fixture(scope="module")
def trained(checkpoints_dir: Path, fb15k237: Path) -> tuple[tracin.Checkpoint, Tensor, Tensor]:
    """Checkpoint, training triples, test triples."""
    folder = checkpoints_dir / "fb15k-237"
    entities = tracin.read_dictionary(folder / "node_dict.txt")
    relations = tracin.read_dictionary(folder / "rel_dict.txt")
    checkpoint = tracin.load_checkpoint(folder / "epoch_14.pt")
    return checkpoint, *(
        tracin.read_triples(fb15k237 / name, entities, relations) for name in ("train.txt", "test.txt")
    )


def related_and_random(train: Tensor, test: Tensor, each: int) -> Tensor:  # [2 * each, 3]
    """Random training triples, and triples that share an entity or a relation with a test triple."""
    generator = torch.Generator().manual_seed(0)
    related = torch.isin(train[:, [0, 2]], test[:, [0, 2]]).any(1) | torch.isin(train[:, 1], test[:, 1])
    rows = related.nonzero()[:, 0]
    chosen = rows[torch.randperm(len(rows), generator=generator)[:each]]
    return torch.cat([train[torch.randperm(len(train), generator=generator)[:each]], train[chosen]])


@pytest.mark.parametrize("backend", ["factored", "native"])
@pytest.mark.slow
def test_float32_error_of_every_test_triple(
    trained: tuple[tracin.Checkpoint, Tensor, Tensor], backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if backend == "native" and not tracin_ext.status()["available"]:
        pytest.skip(f"no native extension: {tracin_ext.status()['reason']}")
    checkpoint, train, test = trained
    tests = test[:3]
    some = related_and_random(train, tests, 40)
    expected = TracIn(checkpoint, backend="sequential", precision="float64", device="cpu").influence(some, tests)
    result = TracIn(checkpoint, backend=backend, device="cpu").influence(some, tests).double()
    error = float(((result - expected).norm(dim=1) / expected.norm(dim=1)).max())
    with capsys.disabled():
        print(f"\n{backend} float32: worst relative error of a test triple {error:.1e}")
    assert error <= 1e-5


@pytest.mark.slow
def test_accurate_scores_in_float32(
    trained: tuple[tracin.Checkpoint, Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """Native float32 against the factored form in float64; what these are is tested on small models."""
    if not tracin_ext.status()["available"]:
        pytest.skip(f"no native extension: {tracin_ext.status()['reason']}")
    checkpoint, train, test = trained
    tests = test[:3]
    some = related_and_random(train, tests, 400)
    expected = TracIn(checkpoint, method="accurate", backend="factored", precision="float64", device="cpu").influence(
        some, tests
    )
    result = TracIn(checkpoint, method="accurate", device="cpu").influence(some, tests).double()
    error = float(((result - expected).norm(dim=1) / expected.norm(dim=1)).max())
    with capsys.disabled():
        print(f"\naccurate scores in float32: worst relative error of a test triple {error:.1e}")
    assert error <= 1e-4


@pytest.mark.parametrize("loss", ["ce", "kvsall", "margin"])
@pytest.mark.slow
def test_losses_over_all_tails_in_float32(
    trained: tuple[tracin.Checkpoint, Tensor, Tensor], loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against autograd in float64, one triple at a time."""
    checkpoint, train, test = trained
    tests = test[:3]
    some = related_and_random(train, tests, 10)

    def influence(**options: str) -> Tensor:
        ti = TracIn(checkpoint, loss=loss, margin=20.0, known=test[3:], **options)
        return ti.influence(torch.cat([some, train[train[:, 0] == tests[0, 0]]]), tests).double()

    expected, result = influence(backend="sequential", precision="float64"), influence()
    error = float(((result - expected).norm(dim=1) / expected.norm(dim=1)).max())
    with capsys.disabled():
        print(f"\n{loss} in float32: worst relative error of a test triple {error:.1e}")
    assert error <= 1e-5
