"""On which device things run: a GPU that is not the first, blocks of one row or column, tests that name theirs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.samples.models import pairs_of_triples, random_model
from tracin import InputError, TracIn
from tracin.machine import resolve_device
from tracin_ext.backends.factored import has_bfloat16
from tracin_ext.backends.native import reason_against

TESTS = Path(__file__).resolve().parents[1]
TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "mixed": 2e-2}
GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0


def needs(backend: str, device: str, precision: str = "float32") -> None:
    if device.startswith("cuda") and not GPUS:
        pytest.skip("no CUDA device")
    if backend == "native" and (reason := reason_against(torch.device(device))):
        pytest.skip(f"no native backend: {reason}")
    if precision == "mixed" and not has_bfloat16(torch.device(device)):
        pytest.skip("this processor has no products in bfloat16")


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.skipif(GPUS < 2, reason=f"needs two CUDA devices, there are {GPUS}")
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("backend", ["native", "factored"])
@pytest.mark.parametrize("device", ["cuda:1"])
def test_the_second_gpu_does_all_of_it(device: str, backend: str, precision: str) -> None:
    """And the first one stays the current device, without a byte of it."""
    needs(backend, device, precision)
    model = random_model()
    test, train = pairs_of_triples(70)
    exact = TracIn(model, device="cpu", backend="factored", precision="float64")
    expected, own = exact.influence(train, test), exact.self_influence(train)
    first = torch.cuda.memory_allocated(0)
    ti = TracIn(model, device=device, backend=backend, precision=precision, batch_size=33)
    assert device in ti.description
    tolerance = TOLERANCES[precision]
    assert error(ti.influence(train, test), expected) <= tolerance
    assert error(ti.self_influence(train), own) <= tolerance
    top = ti.top_k(train, test, k=5)
    assert error(top.scores, expected.gather(1, top.indices)) <= tolerance
    assert torch.cuda.current_device() == 0 and torch.cuda.memory_allocated(0) == first


@pytest.mark.parametrize(("tests", "triples"), [(1, 1), (1, 70), (3, 1)])
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("backend", ["native", "factored"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_products_of_one_row_or_column(device: str, backend: str, precision: str, tests: int, triples: int) -> None:
    """Whose leading dimensions libraries of products take differently."""
    needs(backend, device, precision)
    model = random_model("everything odd")
    test, train = pairs_of_triples(70)
    test, train = test[:tests], train[:triples]
    exact = TracIn(model, device="cpu", backend="factored", precision="float64")
    ti = TracIn(model, device=device, backend=backend, precision=precision)
    assert precision in ti.description
    assert error(ti.influence(train, test), exact.influence(train, test)) <= TOLERANCES[precision]
    assert error(ti.self_influence(train), exact.self_influence(train)) <= TOLERANCES[precision]


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cuda") == torch.device("cuda")
    with pytest.raises(InputError, match=r"device is 'cuda:2'; the last one that this PyTorch sees is cuda:1"):
        resolve_device("cuda:2")


def unnamed(path: Path) -> list[str]:
    """Where a TracIn is made that would run on whatever is there."""

    def makes_one(call: ast.Call) -> bool:
        return (call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")) == "TracIn"

    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and makes_one(node)]
    names = [{keyword.arg for keyword in call.keywords} for call in calls]  # None: of **
    return [
        f"{path.relative_to(TESTS)}:{call.lineno}"
        for call, given in zip(calls, names, strict=True)
        if not given & {"device", None}
    ]


def test_every_test_names_its_device() -> None:
    """What is not about a GPU runs on the CPU where there is one too: references do, before all."""
    assert [place for path in sorted(TESTS.rglob("*.py")) for place in unnamed(path)] == []
