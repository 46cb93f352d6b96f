"""Results that are no numbers are refused, and influences that vanish are said."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.samples.models import ENTITIES, RELATIONS, pairs_of_triples, random_model, random_triples
from tests.tracin_ext.test_backends import needs, worst_error
from tracin import InputError, TracIn
from tracin.influence.outcomes import check_finite

BACKENDS = ["sequential", "vectorized", "factored", "native", pytest.param("compiled", marks=pytest.mark.slow)]
FEW = tuple(triples[:8] for triples in pairs_of_triples())  # test, train
NO_NUMBER = r"the influence of training triple \(\d+, \d+, \d+\) on test triple \(\d+, \d+, \d+\) is -?(nan|inf)"


def scaled(factor: float, *layers: str) -> nn.Module:
    model = random_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[0] in layers:
                parameter *= factor
    return model


@pytest.mark.parametrize("backend", BACKENDS)
def test_overflow_is_refused(backend: str) -> None:
    needs(backend)
    test, train = pairs_of_triples()
    ti = TracIn(random_model(), 1e300, backend=backend, device="cpu")
    for call in (ti.influence, ti.top_k):
        with pytest.raises(InputError, match=NO_NUMBER + ".*take float64 .*, a smaller learning rate"):
            call(train, test)
    with pytest.raises(InputError, match=r"the self-influence of training triple \(\d+, \d+, \d+\) is (nan|inf)"):
        ti.self_influence(train)


@functools.cache
def autograd(factor: float, layers: tuple[str, ...]) -> Tensor:  # [Q, B]
    test, train = FEW
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradients that vanish
        return TracIn(scaled(factor, *layers), 1.0, backend="sequential", precision="float64", device="cpu").influence(
            train, test
        )


@pytest.mark.parametrize(
    "layers", [("conv",), ("fc",), ("entity",), ("relation",), ("entity", "relation", "fc", "conv")]
)
@pytest.mark.parametrize("factor", [1e5, 1e10, 1e15])
@pytest.mark.parametrize("backend", ["vectorized", "factored", "native"])
def test_huge_weights_give_the_right_numbers_or_none(backend: str, factor: float, layers: tuple[str, ...]) -> None:
    needs(backend)
    test, train = FEW
    model = scaled(factor, *layers)
    expected = autograd(factor, layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gradients that vanish
        try:
            found = TracIn(model, 1.0, backend=backend, device="cpu").influence(train, test)
        except InputError as error:
            assert "not a finite number" in str(error)
            return
    assert found.isfinite().all()
    tiny = torch.finfo(torch.float32).tiny
    rows = expected.abs().amax(1) > tiny  # below, float32 has zeros
    if rows.any():
        assert worst_error(found[rows], expected[rows]) <= 1e-3
    assert (found[~rows].abs() <= tiny).all()


def test_the_first_pair_that_is_no_number_is_named() -> None:
    train, test = torch.arange(12).view(4, 3), torch.arange(6).view(2, 3)
    scores = torch.zeros(2, 4)
    check_finite(scores, train, test, "float32")
    check_finite(scores[:, :0], train[:0], test, "float32")
    scores[1, 2] = float("-inf")
    with pytest.raises(InputError, match=r"triple \(6, 7, 8\) on test triple \(3, 4, 5\) is -inf.*--precision float64"):
        check_finite(scores, train, test, "float32")
    with pytest.raises(InputError, match=r"self-influence of training triple \(6, 7, 8\) is -inf.*: a smaller"):
        check_finite(scores[1], train, None, "float64")


class OfBatch(nn.Module):
    """Scores that are changed by those of the other triples of a batch."""

    def __init__(self, standardise: bool) -> None:
        super().__init__()
        self.base, self.standardise = random_model(), standardise
        self.num_entities, self.num_relations = ENTITIES, RELATIONS

    def forward(self, triples: Tensor) -> Tensor:
        scores = self.base(triples)
        centred = scores - scores.mean()
        return centred / (scores.std() + 1e-5) if self.standardise else centred


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("backend", ["auto", "sequential", "vectorized"])
@pytest.mark.parametrize("standardise", [True, False])
def test_scores_that_depend_on_the_batch_are_refused(standardise: bool, backend: str) -> None:
    with pytest.raises(InputError, match="depends on the other triples of the batch"):
        TracIn(OfBatch(standardise), backend=backend, device="cpu")


class AtTimesNoNumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.entity = nn.Embedding(ENTITIES, 3)
        self.num_entities, self.num_relations = ENTITIES, RELATIONS

    def forward(self, triples: Tensor) -> Tensor:
        heads, _, tails = triples.unbind(1)
        return (self.entity(heads) * self.entity(tails)).sum(1) / (heads != 7)


@pytest.mark.parametrize("backend", ["sequential", "vectorized"])
def test_a_model_of_ones_own_that_gives_no_number_is_refused(backend: str) -> None:
    train, test = torch.tensor([[0, 0, 1], [7, 0, 3]]), torch.tensor([[1, 0, 2]])
    ti = TracIn(AtTimesNoNumber(), backend=backend, device="cpu")
    with pytest.raises(InputError, match=r"training triple \(7, 0, 3\) on test triple \(1, 0, 2\) is nan"):
        ti.top_k(train, test)
    assert ti.influence(train[:1], test).isfinite().all()


def saturated(by: float = 200.0) -> Any:
    """A model that is sure of tail 3."""
    model = random_model()
    with torch.no_grad():
        model.bias[3] += by
    return model


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saturated_test_triple_is_said(backend: str) -> None:
    needs(backend)
    train, test = random_triples(40), torch.tensor([[0, 1, 2], [0, 1, 3], [4, 2, 3]])
    ti = TracIn(saturated(), backend=backend, device="cpu")
    told = r"all influences on test row 1 \(0, 1, 3\) and 1 more are 0: .* is 0 in float32, .* above 104.*float64"
    with pytest.warns(UserWarning, match=told) as caught:
        scores = ti.influence(train, test)
    assert len(caught) == 1
    assert not scores[1:].any() and scores[0].any()
    with pytest.warns(UserWarning, match=told) as caught:
        top = ti.top_k(train, test, 4)
    assert len(caught) == 1
    assert top.indices.shape == (3, 4)
    assert top.indices[1].tolist() == [0, 1, 2, 3] and not top.scores[1].any()


def test_the_remedy_holds() -> None:
    train, test = random_triples(40), torch.tensor([[0, 1, 3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = TracIn(saturated(), precision="float64", device="cpu").influence(train, test)
    assert scores.any()
    with pytest.warns(UserWarning, match="is 0 in float64, nothing can influence it"):
        TracIn(saturated(2000), precision="float64", device="cpu").influence(train, test)


@pytest.mark.parametrize(("order", "told"), [("absolute", "has any influence on it"), ("proponents", "its proponent")])
def test_a_list_of_zeros_only_is_said(order: str, told: str) -> None:
    train, test = torch.tensor([[0, 0, 1], [1, 1, 2]]), torch.tensor([[3, 2, 4]])
    ti = TracIn(random_model(), layers="bias", device="cpu")
    with pytest.warns(UserWarning, match=rf"list of test row 0 \(3, 2, 4\) holds influences of 0 only: .*bias.*{told}"):
        ti.top_k(train, test, order=order)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not ti.influence(train, test).any()
