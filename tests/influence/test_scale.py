"""Results do not depend on memory limits, batch sizes or threads, nor on memory running out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import pairs_of_triples, random_model, random_triples
from tracin import Checkpoint, InputError, TracIn
from tracin.influence import memory

BACKENDS = ["factored", "native"] if tracin_ext.status()["available"] else ["factored"]
TRAIN, TESTS = 130, 12
OUT_OF_MEMORY = {
    "Python": MemoryError(),
    "CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "GPU": torch.OutOfMemoryError("CUDA out of memory."),
    "native": RuntimeError("out of memory: can't allocate"),
}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def checkpoints() -> list[Checkpoint]:
    return [Checkpoint(random_model(seed=1), 0.5), Checkpoint(random_model(seed=2), 0.25)]


def close(found: Tensor, expected: Tensor) -> bool:
    """Within 1e-5 of the largest value of each test triple."""
    return bool(((found - expected).abs().amax(-1) <= 1e-5 * expected.abs().amax(-1)).all())


def triples() -> tuple[Tensor, Tensor]:  # [TRAIN, 3], [TESTS, 3]
    return random_triples(TRAIN), random_triples(TESTS, seed=1)


@cache
def exact() -> tuple[Tensor, Tensor]:  # [TESTS, TRAIN], [TRAIN]
    train, test = triples()
    ti = TracIn(checkpoints(), backend="sequential", precision="float64", device="cpu")
    return ti.influence(train, test).float(), ti.self_influence(train).float()


def watched(ti: TracIn, monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """Collects the sizes (tests, training triples) that the first checkpoint's backend is given."""
    sizes: set[tuple[int, int]] = set()
    backend: Any = ti._backends[0]
    scores = backend.scores

    def spy(tests: Any, block: Tensor, rate: float) -> Tensor:
        result = scores(tests, block, rate)
        sizes.add(tuple(result.shape))
        return result

    monkeypatch.setattr(backend, "scores", spy)
    return sizes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("tests_held", "batch_size", "count"),
    [
        (None, "auto", 1),
        (None, "auto", 2),
        (None, 1, 1),
        (None, 7, 1),
        (None, TRAIN - 1, 2),
        (None, TRAIN, 1),
        (None, 5000, 2),
        (1, "auto", 1),
        (1, 7, 1),
        (1, 5000, 1),
        (5, "auto", 1),
        (5, 1, 1),
        (5, TRAIN - 1, 1),
    ],
)
@pytest.mark.slow
def test_limits_batch_sizes_and_threads_change_nothing(
    tests_held: int | None,
    batch_size: int | str,
    count: int,
    backend: str,
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads(count)
    train, test = triples()
    whole, own = exact()
    limit = None
    if tests_held is not None:
        monkeypatch.setattr(memory, "used_bytes", lambda device: 0)
        one = TracIn(checkpoints(), backend=backend, device="cpu")._backends
        block = TRAIN * 64 if batch_size == "auto" else batch_size * max(b.triple_bytes + 8 * 64 for b in one)
        fixed = 4 * TESTS * TRAIN + sum(b.fixed_bytes for b in one)
        limit = fixed + sum(b.test_bytes for b in one) * (tests_held + 1) + block
    ti = TracIn(checkpoints(), backend=backend, batch_size=batch_size, memory_limit=limit, device="cpu")
    sizes = watched(ti, monkeypatch)
    assert close(ti.influence(train, test), whole)
    if batch_size != "auto":
        assert max(block for _, block in sizes) == min(batch_size, TRAIN)
    if tests_held is not None and batch_size in ("auto", 1, 7):
        assert max(tests for tests, _ in sizes) < TESTS
    top = ti.top_k(train, test, 5)
    assert close(top.scores.abs(), whole.abs().topk(5).values)
    assert close(top.scores, whole.gather(1, top.indices))
    assert close(ti.self_influence(train), own)


def test_a_limit_too_small_names_one_that_works() -> None:
    train, test = triples()
    for call in ("influence", "top_k", "self_influence"):
        arguments = (train,) if call == "self_influence" else (train, test)
        with pytest.raises(InputError, match="memory_limit is 1M; this run needs at least") as caught:
            getattr(TracIn(random_model(), memory_limit="1M", device="cpu"), call)(*arguments)
        named = re.search(r"at least (\w+):", str(caught.value))
        assert named is not None
        getattr(TracIn(random_model(), memory_limit=named[1], device="cpu"), call)(*arguments)


def test_a_limit_that_is_no_size() -> None:
    with pytest.raises(InputError, match="memory_limit is '4X'; expected"):
        TracIn(random_model(), memory_limit="4X", device="cpu")


class Small:
    """A backend on a machine where only so many test and training triples fit."""

    def __init__(self, backend: Any, error: Exception, tests: int, block: int) -> None:
        self.backend, self.error, self.tests, self.block = backend, error, tests, block
        self.test_bytes, self.triple_bytes = backend.test_bytes, backend.triple_bytes
        self.fixed_bytes, self.name, self.label = backend.fixed_bytes, backend.name, backend.label
        self.block_device, self.free_buffers = backend.block_device, backend.free_buffers

    def check(self, size: int, most: int) -> None:
        if size > most:
            raise self.error

    def test_factors(self, test: Tensor) -> Any:
        self.check(len(test), self.tests)
        return self.backend.test_factors(test)

    def scores(self, tests: Any, block: Tensor, rate: float) -> Tensor:
        self.check(len(block), self.block)
        return self.backend.scores(tests, block, rate)

    def self_influence(self, block: Tensor, rate: float) -> Tensor:
        self.check(len(block), self.block)
        return self.backend.self_influence(block, rate)


def short_of_memory(error: Exception, tests: int, block: int) -> TracIn:
    ti = TracIn(checkpoints(), batch_size=100, device="cpu")
    ti._backends = [Small(backend, error, tests, block) for backend in ti._backends]
    return ti


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
@pytest.mark.parametrize(("tests", "block"), [(TESTS, 99), (TESTS, 11), (TESTS, 1), (9, 100), (1, 100), (3, 6)])
def test_out_of_memory_halves_and_is_said_once(error: Exception, tests: int, block: int) -> None:
    train, test = triples()
    whole = TracIn(checkpoints(), device="cpu").influence(train, test)
    for call in ("influence", "top_k"):
        with pytest.warns(UserWarning, match="out of memory with") as caught:
            result = getattr(short_of_memory(error, tests, block), call)(train, test)
        assert sum("out of memory" in str(warning.message) for warning in caught) == 1
        if call == "influence":
            assert close(result, whole)
        else:
            assert close(result.scores.abs(), whole.abs().topk(10).values)
            assert close(result.scores, whole.gather(1, result.indices))
            assert all(len(index.unique()) == 10 for index in result.indices)


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_in_self_influence(error: Exception) -> None:
    train, _ = triples()
    with pytest.warns(UserWarning, match="out of memory with 100 training triples at a time; going on with 50") as told:
        own = short_of_memory(error, 1, 30).self_influence(train)
    assert sum("out of memory" in str(warning.message) for warning in told) == 1
    assert close(own, TracIn(checkpoints(), device="cpu").self_influence(train))


def test_out_of_memory_with_one_triple_is_an_error() -> None:
    train, test = triples()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call, arguments in (("influence", (train, test)), ("top_k", (train, test)), ("self_influence", (train,))):
            with pytest.raises(InputError, match="out of memory with one training triple at a time; close other"):
                getattr(short_of_memory(MemoryError(), TESTS, 0), call)(*arguments)
        with pytest.raises(InputError, match="out of memory with one test triple at a time; close other programs"):
            short_of_memory(MemoryError(), 0, 100).influence(train, test)


def test_other_errors_of_a_backend_come_through() -> None:
    with pytest.raises(RuntimeError, match="shapes disagree"):
        short_of_memory(RuntimeError("shapes disagree"), 1, 1).influence(*triples())


def test_no_tests_and_no_training_triples() -> None:
    ti, (test, train), none = (
        TracIn(random_model(), device="cpu"),
        pairs_of_triples(),
        torch.empty(0, 3, dtype=torch.long),
    )
    assert ti.influence(train, none).shape == (0, len(train)) and ti.influence(none, test).shape == (len(test), 0)
    assert ti.top_k(train, none, 3).indices.shape == (0, 3) and ti.top_k(none, test, 3).scores.shape == (len(test), 0)
    assert ti.self_influence(none).shape == (0,)


def test_seconds_by_stage() -> None:
    train, test = triples()
    ti = TracIn(random_model(), device="cpu")
    ti.top_k(train, test)
    assert set(ti.seconds) == {"test factors", "influence"} and all(value > 0 for value in ti.seconds.values())
    before = dict(ti.seconds)
    ti.self_influence(train)
    ti.influence(train, test)
    assert set(ti.seconds) == {*before, "self-influence"} and ti.seconds["influence"] > before["influence"]
