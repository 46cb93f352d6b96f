"""Threads: calls on one TracIn, and several TracIns side by side, give what one thread alone gets."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_optimized
from tests.samples.models import random_model, random_triples
from tests.tracin_ext.test_backends import needs
from tracin import TracIn
from tracin.influence.turns import OneAtATime, in_turn
from tracin_ext.full_float32 import full_float32

THREADS = 4
BACKENDS = ["sequential", "vectorized", "factored", "native", pytest.param("compiled", marks=pytest.mark.slow)]
# Large enough that each call takes a while, and of other shapes from one call to the next.
TRAIN = random_triples(200)
TESTS = [random_triples(1 + i % 5, seed=i) for i in range(8)]


@pytest.fixture(autouse=True)
def one_pytorch_thread() -> Iterator[None]:
    """Each thread that calls PyTorch has as many of its own: more than there are cores only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def calls(ti: TracIn) -> list[Callable[[], Tensor]]:
    train = TRAIN[:10] if ti.backend == "sequential" else TRAIN
    kinds: list[Callable[[], Tensor]] = [lambda: ti.self_influence(train), lambda: ti.self_influence(train[:7])]
    kinds += [lambda test=test: ti.influence(train, test) for test in TESTS]  # type: ignore[misc]
    kinds += [lambda test=test: ti.top_k(train, test, 5).scores for test in TESTS]  # type: ignore[misc]
    return kinds


def together(work: list[Callable[[], Tensor]]) -> list[Tensor]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(call) for call in work]]


@pytest.mark.parametrize("cleanup", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_one_object_in_several_threads(backend: str, cleanup: bool) -> None:
    needs(backend)
    ti = TracIn(random_model(), backend=backend, memory_cleanup=cleanup, batch_size=64, device="cpu")
    alone = [call() for call in calls(ti)]
    for expected, found in zip(alone, together(calls(ti)), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_an_object_for_each_thread(backend: str) -> None:
    needs(backend)
    model = random_model()
    objects = [TracIn(model, backend=backend, batch_size=64, device="cpu") for _ in range(THREADS)]
    alone = [call() for call in calls(objects[0])]
    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(lambda ti: [call() for call in calls(ti)], objects):
            for expected, found in zip(alone, results, strict=True):
                assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_the_analyzer_keeps_each_calls_rate() -> None:
    analyzer = tracin_optimized.TracInAnalyzer(random_model(), device="cpu")
    train, test = [tuple(t) for t in random_triples(2, seed=1).tolist()], (0, 1, 2)
    rates = [1e-3, 1.0, 2.0, 5.0] * 10
    alone = [analyzer.compute_influence(train[0], test, rate) for rate in rates]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda rate: analyzer.compute_influence(train[0], test, rate), rates))
    assert found == pytest.approx(alone, rel=1e-5)


def test_turns_do_not_overlap_and_one_thread_may_nest_them() -> None:
    class Busy(OneAtATime):
        inside = most = 0

        @in_turn
        def outer(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.inner()
            self.inside -= 1

        @in_turn
        def inner(self) -> None:
            threading.Event().wait(0.002)

    busy = Busy()
    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(busy.outer) for _ in range(12)]:
            future.result()
    assert (busy.most, busy.inside) == (1, 0)


def test_copies_and_pickles_take_turns_of_their_own() -> None:
    ti = TracIn(random_model(), backend="factored", device="cpu")
    expected = ti.influence(TRAIN, TESTS[4])
    for other in (copy.deepcopy(ti), pickle.loads(pickle.dumps(ti))):
        assert other._turn is not ti._turn
        with ti._turn, ThreadPoolExecutor(1) as pool:
            found = pool.submit(other.influence, TRAIN, TESTS[4]).result(timeout=60)
        assert torch.equal(found, expected)


def test_full_float32_lasts_until_the_last_thread_leaves() -> None:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    first_inside, second_inside = threading.Event(), threading.Event()
    seen: list[str] = []

    def first() -> None:
        with full_float32():
            first_inside.set()
            second_inside.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    first_inside.wait(10)
    with full_float32():
        second_inside.set()
        thread.join()
        seen.append(matmul.fp32_precision)
    seen.append(matmul.fp32_precision)
    matmul.fp32_precision = before
    assert seen == ["ieee", "tf32"]
