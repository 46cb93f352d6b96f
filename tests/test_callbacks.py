"""The PyKEEN callback: what it saves is what was trained, with the rate it was trained with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.samples.pykeen_examples import OPTIONS, factory
from tracin import InputError, TracIn, load_checkpoints
from tracin.influence.arguments import own_learning_rates

# PyKEEN 1.11 calls its schedulers in a way that PyTorch means to take away.
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
pipeline = pytest.importorskip("pykeen.pipeline").pipeline


def trained(folder: Path, name: str = "ConvE", inverse: bool = False, epochs: int = 5, **options: Any) -> Any:
    import tracin.callbacks  # noqa: F401  makes "tracin" known

    logging.getLogger("pykeen").setLevel(logging.ERROR)
    triples = factory(inverse, labels=True)
    own = {"output": folder, "every": 2, "triples_factory": triples} | options
    return pipeline(
        model=name,
        model_kwargs=OPTIONS[name],
        training=triples,
        testing=triples,
        lr_scheduler="ExponentialLR",
        lr_scheduler_kwargs={"gamma": 0.5},
        optimizer_kwargs={"lr": 0.01},
        training_kwargs={
            "num_epochs": epochs,
            "callbacks": "tracin",
            "callbacks_kwargs": own,
            "use_tqdm": False,
            "batch_size": 16,
        },
        evaluation_kwargs={"use_tqdm": False},
        random_seed=0,
        device="cpu",
    )


@pytest.mark.slow
@pytest.mark.parametrize("inverse", [False, True])
def test_checkpoints_of_a_training(inverse: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "checkpoints"
    result = trained(folder, inverse=inverse)
    assert sorted(path.name for path in folder.iterdir()) == [f"epoch_000{n}.pt" for n in (2, 4, 5)]
    checkpoints = load_checkpoints(folder)
    assert [checkpoint.epoch for checkpoint in checkpoints] == [2, 4, 5]
    assert own_learning_rates(checkpoints) == pytest.approx([0.005, 0.00125, 0.000625])
    triples = result.training.mapped_triples
    last = checkpoints[-1]
    assert torch.allclose(
        TracIn(last, 1.0, device="cpu").influence(triples, triples[:2]),
        TracIn(result.model, 1.0, device="cpu").influence(triples, triples[:2]),
    )
    assert last.entity_to_id == result.training.entity_to_id
    together = TracIn(checkpoints, precision="float64", device="cpu").influence(triples, triples[:2])
    each = [TracIn(one, precision="float64", device="cpu").influence(triples, triples[:2]) for one in checkpoints]
    assert torch.allclose(together, sum(each), rtol=1e-9)
    assert last.model.relation_step == (2 if inverse else 1)


@pytest.mark.slow
def test_another_model_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="saves a plain ConvE; this is a PyKEEN TransE"):
        trained(tmp_path / "out", name="TransE")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_every(every: Any, tmp_path: Path) -> None:
    from tracin.pykeen import TracInCallback

    with pytest.raises(InputError, match="expected a positive number of epochs"):
        TracInCallback(tmp_path, every)
