"""Work shared out to threads of one PyTorch thread each."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from tests.samples.models import pairs_of_triples, random_model
from tracin import TracIn
from tracin_ext.threads import each_in_a_thread

THREADS = 3


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def seen_by_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_results_come_in_order_from_threads_of_one(count: int) -> None:
    found = list(each_in_a_thread(lambda i: (i, torch.get_num_threads(), torch.is_grad_enabled()), range(count)))
    assert [i for i, *_ in found] == [*range(count)]
    assert {(threads, grad) for _, threads, grad in found} <= {(1 if count > 1 else THREADS, False)}
    assert torch.get_num_threads() == seen_by_a_new_thread() == THREADS


def test_an_error_comes_through_and_leaves_the_threads_as_they_were() -> None:
    def fail(i: int) -> int:
        if i == 3:
            raise MemoryError("no more")
        return i

    with pytest.raises(MemoryError, match="no more"):
        list(each_in_a_thread(fail, range(10)))
    assert torch.get_num_threads() == seen_by_a_new_thread() == THREADS


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_any_number_of_threads_gives_the_same_influences(precision: str) -> None:
    test, train = pairs_of_triples(80)
    test = test.repeat(9, 1)  # several chunks of tests
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(TracIn(random_model(), device="cpu", precision=precision, progress=False).influence(train, test))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5 if precision == "float32" else 1e-12, atol=1e-9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_after_fork_scores_too() -> None:
    test, train = pairs_of_triples()
    ti = TracIn(random_model(), device="cpu", progress=False)
    expected = ti.influence(train, test)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # PyTorch's own threads do not survive a fork
        os._exit(0 if torch.allclose(ti.influence(train, test), expected, rtol=1e-5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
