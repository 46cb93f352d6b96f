"""PyKEEN models against autograd through PyKEEN's own code in float64; other modules on the autograd backends."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.samples.models import ENTITIES, RELATIONS, pairs_of_triples, random_triples
from tests.samples.pykeen_examples import factory, pykeen_model
from tracin import ConvE, InputError, TracIn, from_pykeen, load_checkpoint, save_checkpoint
from tracin.digests import digest_models
from tracin.pykeen import TripleScorer
from tracin_ext.backends.sequential import SequentialBackend
from tracin_ext.backends.vectorized import VectorizedBackend

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
FOREIGN = ["TransE", "DistMult", "ComplEx", "RotatE", "TuckER"]
NOT_NATIVE = "not native or factored: this model is not a ConvE"


def real(gradient: Tensor) -> Tensor:
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient).flatten()


def reference(
    model: Any, train: Tensor, test: Tensor, step: int = 1, layers: tuple[str, ...] = ("",)
) -> tuple[Tensor, Tensor]:
    """Influences [Q, B] and self-influences [B] by a loop over PyKEEN's score_hrt, learning rate 1e-3."""
    model = copy.deepcopy(model).double().eval()
    parameters = [value for name, value in model.named_parameters() if name.startswith(layers)]

    def gradient(triple: Tensor) -> Tensor:
        score = model.score_hrt((triple * torch.tensor([1, step, 1]))[None])
        found = torch.autograd.grad(functional.softplus(-score).sum(), parameters, allow_unused=True)
        return torch.cat(
            [real(torch.zeros_like(p) if g is None else g) for p, g in zip(parameters, found, strict=True)]
        )

    of_train, of_test = (torch.stack([gradient(triple) for triple in triples]) for triples in (train, test))
    return 1e-3 * of_test @ of_train.T, 1e-3 * of_train.square().sum(1)


def worst_error(result: Tensor, expected: Tensor) -> float:
    difference = torch.atleast_2d(result.double() - expected).norm(dim=1)
    return float((difference / torch.atleast_2d(expected).norm(dim=1)).max())


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_other_models_agree_with_autograd(name: str, inverse: bool) -> None:
    model = pykeen_model(name, inverse)
    test, train = pairs_of_triples(20)
    expected, expected_self = reference(model, train, test, 2 if inverse else 1)
    for precision, tolerance in TOLERANCE.items():
        with pytest.warns(UserWarning, match=f"using the vectorized backend, {NOT_NATIVE}"):
            ti = TracIn(model, precision=precision, device="cpu")
        assert ti.backend == "vectorized"
        assert worst_error(ti.influence(train, test), expected) <= tolerance
        assert worst_error(ti.self_influence(train), expected_self) <= tolerance
    ti = TracIn(model, precision="float64", backend="sequential", device="cpu")
    assert worst_error(ti.influence(train, test), expected) <= TOLERANCE["float64"]
    assert model.training


@pytest.mark.parametrize(
    "options",
    [{}, {"apply_batch_normalization": False}, {"embedding_height": 2}, {"kernel_width": 2, "kernel_height": 3}],
)
@pytest.mark.parametrize("inverse", [False, True])
def test_conve_becomes_ours(inverse: bool, options: dict[str, Any]) -> None:
    model = pykeen_model("ConvE", inverse, **options)
    test, train = pairs_of_triples(20)
    expected, expected_self = reference(model, train, test, 2 if inverse else 1)
    checkpoint = from_pykeen(model)
    ours = checkpoint.model
    assert isinstance(ours, ConvE) and checkpoint.format == "PyKEEN ConvE"
    assert (ours.num_entities, ours.num_relations, ours.relation_step) == (ENTITIES, RELATIONS, 2 if inverse else 1)
    for backend in ("auto", "factored"):
        for precision, tolerance in TOLERANCE.items():
            ti = TracIn(checkpoint, precision=precision, backend=backend, device="cpu")
            assert worst_error(ti.influence(train, test), expected) <= tolerance
            assert worst_error(ti.self_influence(train), expected_self) <= tolerance


@pytest.mark.parametrize("name", ["ConvE", "DistMult"])
def test_the_model_is_taken_as_it_is_now(name: str) -> None:
    model = pykeen_model(name)
    taken = from_pykeen(model).model
    before = [value.clone() for value in taken.state_dict().values()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(map(torch.equal, before, taken.state_dict().values()))
    assert model.training


@pytest.mark.parametrize("name", ["ConvE", "TransE"])
def test_dictionaries_come_from_the_factory(name: str) -> None:
    labelled = factory(inverse=True, labels=True)
    checkpoint = from_pykeen(pykeen_model(name, inverse=True), labelled)
    assert list(checkpoint.entity_to_id.items()) == [(f"e {row}", row) for row in range(ENTITIES)]
    assert list(checkpoint.relation_to_id.items()) == [(f"r {row}", row) for row in range(RELATIONS)]
    unlabelled = from_pykeen(pykeen_model(name), factory())
    assert unlabelled.entity_to_id is unlabelled.relation_to_id is None
    smaller = type(factory())(random_triples(9), ENTITIES + 1, RELATIONS)
    with pytest.raises(InputError, match=f"PyKEEN {name} has 12 entities, its triples factory 13; give the factory"):
        from_pykeen(pykeen_model(name), smaller)
    with pytest.raises(InputError, match="its triples factory None"):
        from_pykeen(pykeen_model(name), "factory")


def test_a_conve_whose_embeddings_are_normalised_on_the_way_is_scored_by_pykeen() -> None:
    model = pykeen_model("ConvE")
    model.entity_representations[0].normalizer = functional.normalize
    test, train = pairs_of_triples(20)
    assert isinstance(from_pykeen(model).model, TripleScorer)
    with pytest.warns(UserWarning, match=NOT_NATIVE):
        result = TracIn(model, precision="float64", device="cpu").influence(train, test)
    assert worst_error(result, reference(model, train, test)[0]) <= TOLERANCE["float64"]


def test_where_vmap_cannot_follow_the_sequential_backend_does() -> None:
    model = pykeen_model("ProjE")
    test, train = pairs_of_triples(20)
    with pytest.warns(UserWarning) as warned:
        ti = TracIn(model, precision="float64", device="cpu")
    texts = [str(item.message) for item in warned if "using the" in str(item.message)]
    assert texts[0] == f"using the sequential backend, {NOT_NATIVE}"
    assert texts[1].startswith("using the sequential backend, not vectorized: vmap cannot follow this model: ")
    assert len(texts) == 2 and ti.backend == "sequential"
    assert worst_error(ti.influence(train, test), reference(model, train, test)[0]) <= TOLERANCE["float64"]
    with pytest.raises(InputError, match="backend 'vectorized' cannot run here: vmap cannot follow this model"):
        TracIn(model, backend="vectorized", device="cpu")


@pytest.mark.parametrize("backend", ["native", "compiled", "factored"])
def test_backends_for_conve_refuse_other_models(backend: str) -> None:
    with pytest.raises(InputError, match=f"backend '{backend}' cannot run here: this model is not a ConvE"):
        TracIn(pykeen_model("TransE"), backend=backend, device="cpu")


def test_a_model_that_caches_its_representations_is_refused() -> None:
    with pytest.raises(InputError, match="autograd cannot follow this model: Trying to backward.* a second time"):
        TracIn(pykeen_model("CompGCN", inverse=True), device="cpu")
    model = pykeen_model("CompGCN", inverse=True)
    model.score_hrt(factory().mapped_triples)
    with pytest.raises(InputError, match="this CompGCN cannot be copied"):
        from_pykeen(model)


def test_a_model_with_parameters_of_its_own_is_refused() -> None:
    model = pykeen_model("TransE")
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match="TransE has parameters outside submodules, which are not handled: scale"):
        from_pykeen(model)


@pytest.mark.parametrize(
    "layers", [["entity_representations"], ["interaction.core_tensor", "relation_representations.0"]]
)
def test_layers_of_other_models_are_beginnings_of_names(layers: list[str]) -> None:
    model = pykeen_model("TuckER")
    test, train = pairs_of_triples(20)
    expected = reference(model, train, test, layers=tuple(layers))[0]
    for backend in ("vectorized", "sequential"):
        ti = TracIn(model, layers=layers, precision="float64", backend=backend, device="cpu")
        assert worst_error(ti.influence(train, test), expected) <= TOLERANCE["float64"]
        assert "layers " + ", ".join(layers) in ti.description
    present = "this model has interaction, entity_representations, relation_representations"
    for wrong in (["fc"], ["entity"], ["interaction.core"], []):
        with pytest.raises(InputError, match=f"layers has .*{present}"):
            TracIn(model, layers=wrong, backend="sequential", device="cpu")
    with pytest.raises(InputError, match=f"layers is 2; only a ConvE has last layers; {present}"):
        TracIn(model, layers=2, backend="sequential", device="cpu")


def test_triples_of_a_factory_and_ids_outside_the_model() -> None:
    model, triples = pykeen_model("DistMult", inverse=True), factory(inverse=True)
    ti = TracIn(model, backend="vectorized", device="cpu")
    assert torch.equal(ti.influence(triples, triples), ti.influence(triples.mapped_triples, triples.mapped_triples))
    with pytest.raises(InputError, match=rf"train row 0: relation id {RELATIONS} is outside 0\.\.3"):
        ti.self_influence(torch.tensor([[0, RELATIONS, 1]]))


def test_several_checkpoints_of_another_model_add_up() -> None:
    first, second = pykeen_model("DistMult"), pykeen_model("DistMult")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.5)
    test, train = pairs_of_triples(20)
    both = TracIn([first, second], [1e-3, 0.5], backend="vectorized", precision="float64", device="cpu")
    expected = reference(first, train, test)[0] + 500 * reference(second, train, test)[0]
    assert worst_error(both.influence(train, test), expected) <= TOLERANCE["float64"]


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(InputError, match="model is a Linear; expected a PyKEEN model"):
        from_pykeen(nn.Linear(2, 2))
    for wrong in (nn.Linear(2, 2), 3):
        with pytest.raises(InputError, match="expected a ConvE, a Checkpoint, a PyKEEN model"):
            TracIn(wrong, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="missing.pt: there is no such file; expected a checkpoint"):
        TracIn("missing.pt", device="cpu")


def test_our_format_holds_conve_only(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="the model is a TripleScorer; the format holds a ConvE"):
        save_checkpoint(tmp_path / "model.pt", from_pykeen(pykeen_model("TransE")).model)
    save_checkpoint(tmp_path / "model.pt", from_pykeen(pykeen_model("ConvE")).model)


def test_partial_results_tell_models_of_equal_weights_apart() -> None:
    one, same, other = (from_pykeen(pykeen_model("TransE", scoring_fct_norm=norm)).model for norm in (1, 1, 2))
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert digest_models([one]) == digest_models([same]) != digest_models([other])


@pytest.mark.slow
def test_tracin_does_not_import_pykeen() -> None:
    code = "import sys, tracin, tracin_optimized; sys.exit('pykeen' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


class ComplexModel(nn.Module):
    """A bilinear form of complex tables."""

    num_entities, num_relations = ENTITIES, RELATIONS

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.entity = nn.Parameter(torch.randn(ENTITIES, 3, dtype=torch.complex128))
        self.relation = nn.Parameter(torch.randn(RELATIONS, 3, dtype=torch.complex128))
        self.register_buffer("phase", torch.randn(3, dtype=torch.complex128))

    def forward(self, triples: Tensor) -> Tensor:  # [B, 3] -> [B]
        h, r, t = triples.unbind(1)
        return (self.entity[h] * self.relation[r] * self.phase * self.entity[t].conj()).real.sum(1)


@pytest.mark.parametrize("backend", ["vectorized", "sequential"])
def test_complex_parameters_count_as_pairs_of_real_ones(backend: str) -> None:
    model = ComplexModel()
    test, train = pairs_of_triples(20)

    def gradient(triple: Tensor) -> Tensor:
        h, r, t = triple.tolist()
        values = {n: torch.view_as_real(p.detach()).clone().requires_grad_() for n, p in model.named_parameters()}
        e, q = (torch.view_as_complex(values[name]) for name in ("entity", "relation"))
        score = (e[h] * q[r] * model.phase * e[t].conj()).real.sum()
        found = torch.autograd.grad(functional.softplus(-score), list(values.values()))
        return torch.cat([g.flatten() for g in found])

    expected = 1e-3 * torch.stack([gradient(x) for x in test]) @ torch.stack([gradient(x) for x in train]).T
    for precision, tolerance in TOLERANCE.items():
        ti = TracIn(model, backend=backend, precision=precision, device="cpu")
        assert worst_error(ti.influence(train, test), expected) <= tolerance


class Counting(nn.Module):
    """Scores that depend on how often they were asked for."""

    num_entities, num_relations = ENTITIES, RELATIONS

    def __init__(self) -> None:
        super().__init__()
        self.entity = nn.Parameter(torch.ones(ENTITIES))
        self.calls = 0

    def forward(self, triples: Tensor) -> Tensor:  # [B, 3] -> [B]
        self.calls += 1
        return self.calls * self.entity[triples[:, 0]]


@pytest.mark.parametrize("backend", ["auto", "vectorized", "sequential"])
def test_gradients_that_differ_from_call_to_call_are_refused(backend: str) -> None:
    with pytest.raises(InputError, match=f"backend '{backend}' cannot run here.*differ from call to call"):
        TracIn(Counting(), backend=backend, device="cpu")


@pytest.mark.filterwarnings("ignore:using the sequential backend, not native")
def test_vmap_that_gives_other_gradients_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = VectorizedBackend.gradients
    monkeypatch.setattr(VectorizedBackend, "gradients", lambda self, triples: 1.01 * right(self, triples))
    with pytest.warns(UserWarning, match="not vectorized: vmap gives other gradients of this model than autograd"):
        ti = TracIn(ComplexModel(), device="cpu")
    assert ti.backend == "sequential"


def test_copies_keep_integers_and_leave_the_model_alone() -> None:
    model = ComplexModel()
    model.register_buffer("order", torch.arange(3))
    copied = SequentialBackend(model, ("entity",), torch.float32, torch.device("cpu"), functional.softplus).model
    kinds = {name: value.dtype for name, value in copied.state_dict().items()}
    assert kinds == {
        "entity": torch.complex64,
        "relation": torch.complex64,
        "phase": torch.complex64,
        "order": torch.int64,
    }
    assert model.entity.dtype == torch.complex128 and model.training


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.slow
def test_the_result_of_a_pipeline_is_its_model_and_factory(inverse: bool, tmp_path: Any) -> None:
    from pykeen.pipeline import pipeline

    result = pipeline(
        training=factory(inverse=inverse, labels=True),
        testing=factory(labels=True),
        model="ConvE",
        model_kwargs={"embedding_dim": 32, "output_channels": 4},
        training_kwargs={"num_epochs": 1, "batch_size": 4, "use_tqdm": False},
        evaluation_kwargs={"use_tqdm": False},
        optimizer_kwargs={"lr": 0.05},
        random_seed=1,
        device="cpu",
    )
    test, train = pairs_of_triples(20)
    expected = 1000 * reference(result.model, train, test, 2 if inverse else 1)[0]
    torch.save(result, tmp_path / "result.pkl")
    stored = load_checkpoint(tmp_path / "result.pkl")
    assert stored.format.startswith("PyKEEN pipeline result") and stored.learning_rate == 0.05
    for given in (result, from_pykeen(result), stored):
        ti = TracIn(given, learning_rates=1.0, precision="float64", device="cpu")
        assert worst_error(ti.influence(train, test), expected) <= TOLERANCE["float64"]
    assert stored.relation_to_id == from_pykeen(result).relation_to_id == {f"r {row}": row for row in range(RELATIONS)}
