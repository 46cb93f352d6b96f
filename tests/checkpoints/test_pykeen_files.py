"""Files in every way that PyKEEN writes them, of models trained by PyKEEN: its scores, and influences by its module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn import functional as F

from tracin import Checkpoint, InputError, TracIn, load_checkpoint, read_triples
from tracin.checkpoints.torch_files import read_torch_file
from tracin.cli import main

pykeen = pytest.importorskip("pykeen")

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"embedding_dim": 32},
    "two planes": {"embedding_dim": 36, "input_channels": 2, "embedding_height": 3},
    "no batch norm": {"embedding_dim": 32, "apply_batch_normalization": False},
}
NAMES = {  # file or folder -> what the checkpoint calls itself, whether it has dictionaries, whether it has the image
    "state.pt": ("PyKEEN state dict", False, False),
    "state_dict.pt": ("PyKEEN callback checkpoint", False, False),
    "callback.pt": ("PyKEEN callback checkpoint", False, False),
    "loop.pt": ("PyKEEN training-loop checkpoint", True, False),
    "model.pkl": ("whole pickled PyKEEN model", False, True),
    "folder": ("PyKEEN save_to_directory folder", True, True),
}


@dataclass
class Trained:
    folder: Path
    model: Any  # of PyKEEN, in float64
    factory: Any
    image: dict[str, int]
    inverse: bool

    def internal(self, triples: Tensor) -> Tensor:
        """Relations as the model's table numbers them."""
        triples = triples.clone()
        triples[:, 1] *= 2 if self.inverse else 1
        return triples

    def load(self, name: str) -> Checkpoint:
        """Loads a file with what it lacks, and nothing else."""
        _, dictionaries, image = NAMES[name]
        ids = (
            {}
            if dictionaries
            else {"entity_to_id": self.factory.entity_to_id, "relation_to_id": self.factory.relation_to_id}
        )
        return load_checkpoint(self.folder / name, **({} if image else self.image), **ids)


ALWAYS = [("plain", False), ("two planes", True)]  # the others take a second each to train and to read
TRAININGS = [
    pytest.param(kind, id=str(kind), marks=() if kind in ALWAYS else pytest.mark.slow)
    for kind in [(name, inverse) for name in MODELS for inverse in (False, True)]
]


@pytest.fixture(scope="module", params=TRAININGS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from pykeen.checkpoints import save_model
    from pykeen.pipeline import pipeline
    from pykeen.triples import TriplesFactory

    name, inverse = request.param
    folder = tmp_path_factory.mktemp("pykeen")
    labelled = np.array([[f'e"{i}"', f"r{i % 3}", f'e"{(5 * i + 1) % 11}"'] for i in range(11)])
    factory = TriplesFactory.from_labeled_triples(labelled, create_inverse_triples=inverse)
    result = pipeline(
        training=factory,
        testing=factory,
        model="ConvE",
        model_kwargs={"output_channels": 4, **MODELS[name]},
        training_loop="sLCWA",
        device="cpu",
        random_seed=3,
        optimizer_kwargs={"lr": 0.05},
        training_kwargs={
            "num_epochs": 1,
            "batch_size": 4,
            "use_tqdm": False,
            "checkpoint_name": "loop.pt",
            "checkpoint_directory": folder,
            "checkpoint_frequency": 0,
            "callbacks": "checkpoint",
            "callbacks_kwargs": {
                "schedule": "every",
                "schedule_kwargs": {"frequency": 1},
                "root": folder,
                "name_template": "callback.pt",
            },
        },
        evaluation_kwargs={"use_tqdm": False},
    )
    result.save_to_directory(folder / "folder", save_replicates=True, save_training=True)
    model = result.model.eval()
    model.save_state(folder / "state.pt")
    save_model(model, folder / "state_dict.pt")
    torch.save(model, folder / "model.pkl")
    shape = model.interaction.shape_info
    image = {"embedding_height": shape.image_height, "embedding_width": shape.image_width}
    return Trained(folder, model.double(), factory, image, inverse)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_pykeens(name: str, trained: Trained) -> None:
    checkpoint = trained.load(name)
    assert checkpoint.format.startswith(NAMES[name][0])
    assert checkpoint.entity_to_id == trained.factory.entity_to_id
    assert checkpoint.relation_to_id == trained.factory.relation_to_id
    assert checkpoint.model.relation_step == (2 if trained.inverse else 1)
    assert checkpoint.epoch == (1 if name == "loop.pt" else None)
    triples = trained.factory.mapped_triples
    with torch.no_grad():
        wanted = trained.model.score_hrt(trained.internal(triples)).squeeze(1)
        assert wanted.std() > 1e-4
        assert (checkpoint.model(triples) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        tails = trained.model.score_t(trained.internal(triples)[:, :2])
        ours = checkpoint.model.score_tails(triples[:, 0], triples[:, 1])
        assert (ours - tails).abs().max() <= 1e-5 * tails.abs().max()


@pytest.mark.parametrize("name", ["loop.pt", "folder"])
@pytest.mark.slow
def test_influence_is_autograd_through_pykeens_module(name: str, trained: Trained) -> None:
    def gradients(triples: Tensor) -> Tensor:  # [n, number of parameters]
        rows = []
        for triple in trained.internal(triples):
            trained.model.zero_grad()
            F.softplus(-trained.model.score_hrt(triple[None])).sum().backward()
            rows.append(torch.cat([parameter.grad.flatten() for parameter in trained.model.parameters()]))
        return torch.stack(rows)

    train, test = trained.factory.mapped_triples, trained.factory.mapped_triples[:4].flip(0)
    wanted = gradients(test) @ gradients(train).T
    ours = TracIn(trained.load(name), learning_rates=1.0, device="cpu").influence(train, test).double()
    assert ((ours - wanted).abs().amax(1) <= 1e-5 * wanted.abs().amax(1)).all()


def test_triples_of_the_folder_are_ids(trained: Trained) -> None:
    checkpoint = trained.load("folder")
    file = trained.folder / "folder" / "training_triples" / "numeric_triples.tsv.gz"
    triples = read_triples(file, checkpoint.entity_to_id or {}, checkpoint.relation_to_id or {})
    assert torch.equal(triples, trained.factory.mapped_triples)


def test_command_needs_nothing_but_the_folder(trained: Trained, tmp_path: Path) -> None:
    triples = str(trained.folder / "folder" / "training_triples" / "numeric_triples.tsv.gz")
    output = tmp_path / "out.json"
    model = str(trained.folder / "folder")
    arguments = ["--model-path", model, "--train", triples, "--test", triples, "--mode", "single", "--top-k", "1"]
    result = CliRunner().invoke(main, ["run", *arguments, "--output", str(output)])
    assert result.exit_code == 0, result.stderr
    assert "PyKEEN save_to_directory folder, 11 entities, 3 relations" in result.stderr
    (written,) = json.loads(output.read_text())
    first = trained.factory.mapped_triples[0].tolist()
    assert written["test_triple"] == first
    assert trained.factory.entity_to_id[written["test_head_label"]] == first[0]


def test_batch_takes_the_folders_triples(trained: Trained, tmp_path: Path) -> None:
    triples = str(trained.folder / "folder" / "training_triples" / "numeric_triples.tsv.gz")
    arguments = ["--model-path", str(trained.folder / "folder"), "--train", triples, "--test-triples", triples]
    more = ["--filter-method", "none", "--max-triples", "2", "--top-k", "1", "--output-dir", str(tmp_path)]
    result = CliRunner().invoke(main, ["batch", *arguments, *more])
    assert result.exit_code == 0, result.stderr
    written = [json.loads(path.read_text())[0] for path in sorted(tmp_path.glob("triple_*.json"))]
    assert [item["test_triple"] for item in written] == trained.factory.mapped_triples[:2].tolist()


def test_folder_with_another_runs_triples(trained: Trained, tmp_path: Path) -> None:
    source = trained.folder / "folder"
    (tmp_path / "training_triples").mkdir()
    (tmp_path / "trained_model.pkl").write_bytes((source / "trained_model.pkl").read_bytes())
    given = {"entity_to_id": trained.factory.entity_to_id, "relation_to_id": trained.factory.relation_to_id}
    assert load_checkpoint(tmp_path).entity_to_id is None
    base = read_torch_file(str(source / "training_triples" / "base.pth"))
    other = {"num_relations": base["num_relations"], "create_inverse_triples": not base["create_inverse_triples"]}
    torch.save(other, tmp_path / "training_triples" / "base.pth")
    with pytest.raises(InputError, match="disagree on inverse triples"):
        load_checkpoint(tmp_path, **given)


def test_dictionary_that_denies_the_inverse_triples(trained: Trained) -> None:
    rows = trained.factory.num_relations
    other = rows if trained.inverse else 2 * rows
    with pytest.raises(InputError, match="relations.* but the relation dictionary has"):
        load_checkpoint(trained.folder / "model.pkl", relation_to_id={f"r{row}": row for row in range(other)})


WITHOUT_FRAMEWORKS = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pykeen", "kge"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocker())
import tracin
relations = {"r0": 0, "r1": 1, "r2": 2}
for path in sys.argv[1:]:
    print(tracin.load_checkpoint(path, relation_to_id=relations).format)
try:
    import pykeen
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("trained", [("plain", True)], indirect=True, ids=str)
@pytest.mark.slow
def test_pykeen_need_not_be_installed(trained: Trained) -> None:
    arguments = [sys.executable, "-c", WITHOUT_FRAMEWORKS, *(str(trained.folder / name) for name in NAMES)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*(kind for kind, _, _ in NAMES.values()), "pykeen is blocked"]


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("pykeen_trained_model.pkl", {}),
        ("pykeen_directory", {}),
        ("pykeen_training_loop.pt", None),
    ],
)
def test_fixtures_agree_with_pykeen(name: str, arguments: dict[str, int] | None, fixtures_dir: Path) -> None:
    """The training loop's file holds the weights of the folder's model, whose image it does not tell."""
    path = fixtures_dir / "models" / name
    whole = fixtures_dir / "models" / ("pykeen_trained_model.pkl" if name.endswith("pkl") else "pykeen_directory")
    module = torch.load(whole / "trained_model.pkl" if whole.is_dir() else whole, weights_only=False).eval()
    shape = module.interaction.shape_info
    if arguments is None:
        arguments = {"embedding_height": shape.image_height, "embedding_width": shape.image_width}
        module.load_state_dict(torch.load(path, weights_only=False)["model_state_dict"])
    checkpoint = load_checkpoint(path, **arguments)
    assert checkpoint.model.relation_step == (2 if module.use_inverse_triples else 1)
    entities, relations = torch.arange(module.num_entities), torch.arange(module.num_entities) % module.num_relations
    with torch.no_grad():
        rows = relations * checkpoint.model.relation_step
        wanted = module.double().score_t(torch.stack([entities, rows], 1))
        assert (checkpoint.model.score_tails(entities, relations) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
