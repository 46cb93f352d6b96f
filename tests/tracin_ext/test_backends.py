"""Every backend against autograd in float64, one sample at a time."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import VARIANTS, pairs_of_triples, random_model, random_triples
from tracin import ConvE, InputError, TracIn, info, losses
from tracin.influence.layers import layers_of, select_layers
from tracin.machine import format_info
from tracin_ext import backends
from tracin_ext.backends.factored import has_bfloat16
from tracin_ext.backends.native import reason_against
from tracin_ext.losses import bce, bce_by_score

DEVICES = ["cpu", "cuda"]
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
SIZES = [0, 1, 7, 15, 16, 17]  # one chunk of lanes is 16 samples in float32, 8 in float64


def needs(backend: str, device: str = "cpu") -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if backend == "native" and (reason := reason_against(torch.device(device))):
        pytest.skip(f"no native backend: {reason}")
    if backend == "compiled" and not compiler_works():
        pytest.skip("torch.compile does not work here")


@functools.cache
def compiler_works() -> bool:
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))
    except Exception:
        return False
    return True


@functools.cache
def reference(variant: str, layers: str | int | tuple[str, ...] = "all") -> tuple[Tensor, Tensor]:
    """Influences [Q, B] and self-influences [B] by sequential autograd in float64."""
    test, train = pairs_of_triples()
    ti = TracIn(random_model(variant), device="cpu", backend="sequential", precision="float64", layers=layers)
    return ti.influence(train, test), ti.self_influence(train)


def worst_error(result: Tensor, expected: Tensor) -> float:
    """Largest relative error of a row: norm of the difference over the norm."""
    difference = torch.atleast_2d(result.double() - expected).norm(dim=1)
    return float((difference / torch.atleast_2d(expected).norm(dim=1)).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", ["vectorized", "factored", "native"])
def test_agrees_with_autograd(backend: str, variant: str, precision: str, device: str) -> None:
    needs(backend, device)
    test, train = pairs_of_triples()
    expected, expected_self = reference(variant)
    ti = TracIn(random_model(variant), backend=backend, precision=precision, device=device, batch_size=17)
    assert ti.backend == backend
    assert worst_error(ti.influence(train, test), expected) <= TOLERANCE[precision]
    assert worst_error(ti.self_influence(train), expected_self) <= TOLERANCE[precision]


@pytest.mark.parametrize("variant", ["plain", "everything odd"])
@pytest.mark.slow
def test_compiled_agrees_with_autograd(variant: str) -> None:
    needs("compiled")
    test, train = pairs_of_triples()
    expected, expected_self = reference(variant)
    for precision, tolerance in TOLERANCE.items():
        ti = TracIn(random_model(variant), backend="compiled", precision=precision, device="cpu")
        assert worst_error(ti.influence(train, test), expected) <= tolerance
        assert worst_error(ti.self_influence(train), expected_self) <= tolerance


@pytest.mark.parametrize("products", ["own", "torch"])
@pytest.mark.parametrize("backend", ["vectorized", "factored", "native"])
@pytest.mark.slow
def test_filters_one_row_high_see_no_pair_of_halves(
    backend: str, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every window lies in one half of the image: there is no middle."""
    needs(backend)
    monkeypatch.setenv("TRACIN_PRODUCTS", products)
    torch.manual_seed(0)
    model = ConvE(12, 4, 32, embedding_height=4, embedding_width=8, kernel_height=1).eval()
    test, train = pairs_of_triples()
    exact = TracIn(model, device="cpu", backend="sequential", precision="float64")
    for precision, tolerance in TOLERANCE.items():
        ti = TracIn(model, backend=backend, precision=precision, device="cpu")
        assert worst_error(ti.influence(train, test), exact.influence(train, test)) <= tolerance
        assert worst_error(ti.self_influence(train), exact.self_influence(train)) <= tolerance


@pytest.mark.parametrize(
    "layers", ["entity", "relation", "bn0", "conv", "bn1", "fc", "bn2", "bias", 1, 2, 3, ("fc", "bias")]
)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["vectorized", "factored", "native"])
def test_layers_agree_with_autograd(backend: str, layers: str | int | tuple[str, ...], device: str) -> None:
    needs(backend, device)
    test, train = pairs_of_triples()
    expected, expected_self = reference("plain", layers)
    ti = TracIn(random_model(), backend=backend, precision="float64", layers=layers, device=device)
    error = (ti.influence(train, test) - expected).abs().max()
    assert error <= 1e-9 * expected.abs().max()
    assert worst_error(ti.self_influence(train), expected_self) <= 1e-9


def test_layers_sum_to_the_whole() -> None:
    test, train = pairs_of_triples()
    model = random_model()
    parts = sum(
        TracIn(model, backend="factored", precision="float64", layers=[layer], device="cpu").influence(train, test)
        for layer in layers_of(model)
    )
    assert worst_error(torch.as_tensor(parts), reference("plain")[0]) <= 1e-9


def test_last_layers_count_from_fc() -> None:
    model = random_model()
    assert [select_layers(model, n) for n in (1, 2, 3)] == [("fc",), ("bn2", "fc"), ("bn1", "bn2", "fc")]
    assert select_layers(random_model("no batch norm"), 2) == ("conv", "fc")
    for wrong in (0, 6, "dropout", [], ["fc", "bn7"]):
        with pytest.raises(InputError, match="layers"):
            select_layers(model, wrong)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["sequential", "vectorized", "factored", "native"])
@pytest.mark.parametrize("size", SIZES)
def test_odd_sizes_of_blocks(backend: str, size: int, device: str) -> None:
    needs(backend, device)
    train, test = random_triples(size, seed=3), random_triples(5, seed=4)
    model = random_model()
    expected = TracIn(model, device="cpu", backend="sequential", precision="float64").influence(train, test)
    ti = TracIn(model, backend=backend, precision="float64", device=device)
    assert ti.influence(train, test).shape == (5, size)
    assert torch.allclose(ti.influence(train, test), expected, rtol=1e-9, atol=1e-12)
    assert ti.influence(test, train).shape == (size, 5)
    assert torch.allclose(ti.influence(test, train), expected.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["factored", "native"])
def test_float32_takes_float64s_side_of_the_kink(backend: str, device: str) -> None:
    """BN2's shift puts unit 0 of one pair a hair above zero: float32 alone would drop its whole gradient."""
    needs(backend, device)
    model = random_model()
    triple = torch.tensor([[2, 1, 5]])
    train = torch.cat([triple, random_triples(40)])
    captured: list[Tensor] = []
    double = random_model().double()
    double.bn2.register_forward_hook(lambda module, inputs, output: captured.append(output))
    for unit in range(32):
        captured.clear()
        double(triple)
        with torch.no_grad():
            double.bn2.bias[unit] = (double.bn2.bias[unit] - captured[0][0, unit]).float().double()
    model.load_state_dict(double.float().state_dict())
    captured.clear()
    double.double()(triple)
    assert (captured[0].abs() < 1e-6).all() and len(captured[0].sign().unique()) >= 2
    expected = TracIn(model, device="cpu", backend="sequential", precision="float64").influence(train, triple)
    result = TracIn(model, backend=backend, device=device).influence(train, triple)
    assert worst_error(result, expected) <= 1e-5


@pytest.mark.parametrize("backend", ["native", "factored"])
@pytest.mark.parametrize("variant", ["plain", "two image planes", "everything odd", "kernel larger than an embedding"])
@pytest.mark.parametrize("device", DEVICES)
def test_mixed_precision_is_close_to_float64(variant: str, backend: str, device: str) -> None:
    """bfloat16 has 8 bits: each factor of a product is off by up to 2^-9."""
    needs(backend, device)
    if not has_bfloat16(torch.device(device)):
        pytest.skip("this processor has no products in bfloat16")
    test, train = pairs_of_triples(200)
    expected = TracIn(random_model(variant), device="cpu", backend="factored", precision="float64").influence(
        train, test
    )
    ti = TracIn(random_model(variant), backend=backend, precision="mixed", device=device)
    assert "mixed" in ti.description
    assert 1e-6 < worst_error(ti.influence(train, test), expected) <= 1e-2
    own = TracIn(random_model(variant), device="cpu", backend="factored", precision="float64").self_influence(train)
    assert worst_error(ti.self_influence(train), own) <= 1e-2


def test_mixed_precision_without_bfloat16_says_so_and_is_float32() -> None:
    with pytest.warns(UserWarning, match="which the sequential backend does not have: using float32"):
        ti = TracIn(random_model(), backend="sequential", precision="mixed", device="cpu")
    test, train = pairs_of_triples()
    assert ti.precision == "float32"
    assert worst_error(ti.influence(train, test), reference("plain")[0]) <= 1e-5


def test_recomputed_activations_run_the_model_twice() -> None:
    test, train = pairs_of_triples()
    for recompute, calls in ((False, 1), (True, 2)):
        ti = TracIn(
            random_model(), backend="sequential", precision="float64", recompute_activations=recompute, device="cpu"
        )
        counted: list[int] = []
        ti._backends[0].model.conv.register_forward_hook(lambda *_, into=counted: into.append(1))
        assert worst_error(ti.influence(train, test), reference("plain")[0]) <= 1e-12
        assert len(counted) == calls * (len(train) + len(test))


@pytest.mark.parametrize("products", ["own", "torch"])
def test_both_kinds_of_products_agree_with_autograd(products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("native")
    monkeypatch.setenv("TRACIN_PRODUCTS", products)
    test, train = pairs_of_triples()
    for precision, tolerance in TOLERANCE.items():
        ti = TracIn(random_model(), backend="native", precision=precision, device="cpu")
        assert ("torch products" in ti.description) == (products == "torch")
        assert worst_error(ti.influence(train, test), reference("plain")[0]) <= tolerance
        assert worst_error(ti.self_influence(train), reference("plain")[1]) <= tolerance
    monkeypatch.setenv("TRACIN_PRODUCTS", "magic")
    with pytest.raises(InputError, match="TRACIN_PRODUCTS=magic is not one of own, torch"):
        TracIn(random_model(), backend="native", device="cpu")


def test_native_needs_the_extension_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    status = tracin_ext.status() | {"available": False, "reason": "the native extension was not built: no compiler"}
    monkeypatch.setattr(tracin_ext, "status", lambda: status)
    with pytest.raises(InputError, match="'native' cannot run here.*no compiler"):
        TracIn(random_model(), backend="native", device="cpu")
    with pytest.warns(UserWarning, match="factored.*no compiler"):
        assert TracIn(random_model(), device="cpu").backend == "factored"


def test_without_the_extension_info_names_the_backend_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    status = tracin_ext.status() | {"available": False, "reason": "the native extension was not built: no compiler"}
    monkeypatch.setattr(tracin_ext, "status", lambda: status)
    facts = info()
    assert (facts["backend"], facts["reason"]) == ("factored", status["reason"])
    assert f"not faster because {status['reason']}" in format_info(facts)


def test_info_has_no_reason_where_native_runs() -> None:
    needs("native")
    assert (info()["backend"], info()["reason"]) == ("native", None)


def broken_compile(fails: str) -> Callable[..., Any]:
    """A torch.compile that raises when it is called ("construction"), or what it returns when that is first called, or
    what it returns when that is called with other sizes than before."""

    def compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        calls = 0

        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if fails == "first call" or calls > 2:
                raise RuntimeError("no code today\n\nand a long trace")
            return function(*arguments)

        if fails == "construction":
            raise RuntimeError("no code today\n\nand a long trace")
        return call

    return compile


@pytest.mark.parametrize("fails", ["construction", "first call", "later call"])
def test_a_failed_compilation_goes_on_with_the_factored_form(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    test, train = pairs_of_triples()
    expected = TracIn(random_model(), backend="factored", batch_size=20, device="cpu")
    monkeypatch.setattr(torch, "compile", broken_compile(fails))
    with pytest.warns(UserWarning) as warned:
        ti = TracIn(random_model(), backend="compiled", batch_size=20, device="cpu")
        early = ti.description
        influence = ti.influence(train, test)
    texts = [str(item.message) for item in warned if "torch.compile" in str(item.message)]
    assert texts == ["torch.compile failed, going on with the factored form in PyTorch: no code today"]
    assert ("not compiled" in early) == (fails != "later call")
    assert ti.description.startswith("factored form in PyTorch, not compiled, float32")
    assert torch.equal(influence, expected.influence(train, test))
    assert torch.equal(ti.self_influence(train), expected.self_influence(train))


@pytest.mark.slow
def test_without_a_compiler_torch_compile_is_one_warning(tmp_path: Path) -> None:
    """In a process of its own with an empty cache: torch looks for the compiler once, never for what it has cached."""
    code = (
        "import torch, warnings; from tests.samples import models; from tracin import TracIn;"
        "warnings.simplefilter('always');"
        "test, train = models.pairs_of_triples(); model = models.random_model();"
        "a, b = (TracIn(model, backend=name).influence(train, test) for name in ('compiled', 'factored'));"
        "print(torch.equal(a, b))"
    )
    folders = {"PYTHONPATH": os.pathsep.join(sys.path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, **folders, "CXX": "/nonexistent/c++"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout == "True\n", result.stderr
    assert result.stderr.count("torch.compile failed, going on with the factored form in PyTorch: ") == 1
    assert "/nonexistent/c++" in result.stderr


def test_auto_is_native_without_a_warning() -> None:
    needs("native")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ti = TracIn(random_model(), device="cpu")
    assert ti.backend == "native"
    assert tracin_ext.status()["isa"] in ti.description


def squared(
    scores: Tensor,  # [B]
) -> Tensor:  # [B]
    return (1 - scores).square()


NO_SQUARED = "it has no gradients of the loss squared, only of bce; take the vectorized or sequential backend"


@pytest.mark.parametrize("backend", ["native", "compiled", "factored"])
def test_a_loss_that_a_backend_lacks_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOSSES, "squared", squared)
    with pytest.raises(InputError, match=f"backend '{backend}' cannot run here: {NO_SQUARED}"):
        TracIn(random_model(), loss="squared", backend=backend, device="cpu")
    model = random_model()
    with pytest.raises(RuntimeError, match=f"the {backend} backend cannot run here: {NO_SQUARED}"):
        backends.create(backend, model, tuple(layers_of(model)), torch.float32, torch.device("cpu"), squared)


def test_auto_skips_backends_that_lack_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOSSES, "squared", squared)
    test, train = pairs_of_triples()
    with pytest.warns(UserWarning, match=f"using the vectorized backend, not native or factored: {NO_SQUARED}"):
        ti = TracIn(random_model(), loss="squared", precision="float64", device="cpu")
    assert ti.backend == "vectorized"
    expected = TracIn(
        random_model(), device="cpu", loss="squared", backend="sequential", precision="float64"
    ).influence(train, test)
    assert worst_error(ti.influence(train, test), expected) <= 1e-9
    assert worst_error(reference("plain")[0], expected) > 0.1


def test_the_derivative_of_bce_is_that_of_autograd() -> None:
    scores = torch.linspace(-50, 50, 101, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(bce(scores).sum(), scores)
    close = {"rtol": 1e-8, "atol": 0.0}  # softplus is linear from 20 on
    torch.testing.assert_close(bce_by_score(scores.detach()), derivative, **close)


def test_names_are_the_backends_own_names() -> None:
    for name in backends.NAMES:
        if name not in ("native", "compiled"):
            assert TracIn(random_model(), backend=name, device="cpu").backend == name
