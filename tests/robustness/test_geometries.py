"""The edges of ConvE's geometry and some random models: every backend and precision against float64 autograd."""

from __future__ import annotations

import pytest
import torch

from tests.robustness import geometries, known
from tests.robustness.random_models import edges, exact, in_fresh_memory, model_of, random_geometry, triples_of

RANDOM = [random_geometry(0, number) for number in range(15)]


@pytest.mark.slow
def test_every_backend_and_precision_is_exact() -> None:
    measured = list(geometries.measure_all(edges() + RANDOM))
    assert len(measured) == len(geometries.settings(False)) * (len(edges()) + len(RANDOM))
    difference = known.compare("geometries", geometries.faults(measured))
    assert not difference, difference


def test_the_exact_influences_are_those_of_the_definition() -> None:
    """By finite differences: the reference itself is not taken on trust."""
    one = edges()[9]
    model, (train, test) = model_of(one).double(), triples_of(one, 3, 2)
    expected = exact(model, train, test)

    def losses(triples: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.exp(-model(triples)))

    parameters, step = list(model.parameters()), 1e-6
    gradients = {"train": [], "test": []}  # type: dict[str, list[torch.Tensor]]
    with torch.no_grad():
        for parameter in parameters:
            flat = parameter.view(-1)
            for i in range(len(flat)):
                value = flat[i].item()
                flat[i] = value + step
                above = losses(train), losses(test)
                flat[i] = value - step
                below = losses(train), losses(test)
                flat[i] = value
                for name, high, low in zip(gradients, above, below, strict=True):
                    gradients[name].append((high - low) / (2 * step))
    found = torch.stack(gradients["test"], 1) @ torch.stack(gradients["train"], 1).T
    torch.testing.assert_close(found, expected.influence, rtol=1e-5, atol=1e-6)


def test_fresh_memory_is_poisoned() -> None:
    def uninitialised() -> torch.Tensor:
        return torch.empty(1000)

    assert in_fresh_memory(uninitialised).isnan().all()
