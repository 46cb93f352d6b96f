"""Runs that stop and go on: the same results as undisturbed ones, and no partial file taken for another's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import random_model, random_triples
from tracin import Checkpoint, InputError, TracIn
from tracin.digests import digest, digest_of, sealed
from tracin.files import locked
from tracin.influence import memory, resume, scorer
from tracin.influence.blocks import Work
from tracin.influence.resume import Partial, held_signals

BACKENDS = ["factored", "native"] if tracin_ext.status()["available"] else ["factored"]
TRAIN, TESTS, BLOCK, TILE = 90, 10, 16, 4
BLOCKS = 6 * 3  # of training triples for 3 tiles of tests
Method = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, also where the tests were started in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def checkpoints() -> list[Checkpoint]:
    return [Checkpoint(random_model(seed=1), 0.5), Checkpoint(random_model(seed=2), 0.25)]


@pytest.fixture(params=BACKENDS)
def tiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TracIn]:
    """Makes a TracIn that takes BLOCK training triples at a time and TILE tests."""

    def make(**arguments: Any) -> TracIn:
        ti = TracIn(checkpoints(), backend=request.param, **{"batch_size": BLOCK} | arguments)
        monkeypatch.setattr(memory, "TEST_BYTES", TILE * sum(backend.test_bytes for backend in ti._backends))
        return ti

    return make


def count_calls(ti: TracIn, method: str, action: Callable[[int], None]) -> list[int]:
    """Calls action(number of the call) after each call of the last backend's method; returns the growing list."""
    backend: Any = ti._backends[-1]
    original, calls = getattr(backend, method), []

    def counted(*arguments: Any) -> Any:
        result = original(*arguments)
        calls.append(len(calls) + 1)
        action(len(calls))
        return result

    setattr(backend, method, counted)
    return calls


def stop_at(last: int, error: BaseException) -> Callable[[int], None]:
    def action(call: int) -> None:
        if call == last:
            raise error

    return action


def triples() -> tuple[Tensor, Tensor]:  # [TRAIN, 3], [TESTS, 3]
    return random_triples(TRAIN), random_triples(TESTS, seed=1)


def nothing(call: int) -> None:
    return None


@pytest.mark.parametrize("last", [1, 2, 6, 7, 11, BLOCKS])
@pytest.mark.slow
def test_a_stopped_top_k_goes_on_to_equal_results(tiled: Callable[..., TracIn], tmp_path: Path, last: int) -> None:
    train, test = triples()
    whole = tiled().top_k(train, test, 5, "proponents")
    path, ti = tmp_path / "p", tiled()
    count_calls(ti, "scores", stop_at(last, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        ti.top_k(train, test, 5, "proponents", partial=path)
    assert path.exists() == (last > 1)
    again = tiled()
    calls = count_calls(again, "scores", nothing)
    found = again.top_k(train, test, 5, "proponents", partial=path)
    assert len(calls) == BLOCKS - (last - 1)
    assert torch.equal(found.indices, whole.indices) and torch.equal(found.scores, whole.scores)
    finished = tiled()
    calls = count_calls(finished, "scores", nothing)
    assert torch.equal(finished.top_k(train, test, 5, "proponents", partial=path).scores, whole.scores)
    assert not calls or last == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("gone"), SystemExit(3)])
def test_a_stopped_self_influence_goes_on(tiled: Callable[..., TracIn], tmp_path: Path, error: BaseException) -> None:
    train, _ = triples()
    whole, path, ti = tiled().self_influence(train), tmp_path / "p", tiled()
    count_calls(ti, "self_influence", stop_at(4, error))
    with pytest.raises(type(error)):
        ti.self_influence(train, partial=path)
    again = tiled()
    calls = count_calls(again, "self_influence", nothing)
    assert torch.equal(again.self_influence(train, partial=path), whole)
    assert len(calls) == 3


@pytest.mark.slow
def test_stopped_again_and_again(tiled: Callable[..., TracIn], tmp_path: Path) -> None:
    train, test = triples()
    for _ in range(BLOCKS - 1):
        ti = tiled()
        count_calls(ti, "scores", stop_at(2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            ti.top_k(train, test, partial=tmp_path / "p")
    found, whole = tiled().top_k(train, test, partial=tmp_path / "p"), tiled().top_k(train, test)
    assert torch.equal(found.indices, whole.indices) and torch.equal(found.scores, whole.scores)


@pytest.mark.slow
def test_saved_as_time_goes_by(tiled: Callable[..., TracIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run that is killed leaves behind: the file of each moment is one to go on from."""
    train, test = triples()
    path, ti, seen = tmp_path / "p", tiled(), []
    monkeypatch.setattr(resume, "SAVE_SECONDS", -1.0)
    count_calls(ti, "scores", lambda call: seen.append(path.read_bytes() if path.exists() else b""))
    whole = ti.top_k(train, test, partial=path)
    assert len(set(seen)) == BLOCKS and seen[0] == b"" and [file.name for file in tmp_path.iterdir()] == ["p"]
    for call in (1, 5, 6, 7, 17):
        path.write_bytes(seen[call])
        again = tiled()
        calls = count_calls(again, "scores", nothing)
        found = again.top_k(train, test, partial=path)
        assert len(calls) == BLOCKS - call
        assert torch.equal(found.indices, whole.indices) and torch.equal(found.scores, whole.scores)


def test_a_short_run_writes_nothing(tiled: Callable[..., TracIn], tmp_path: Path) -> None:
    train, test = triples()
    tiled().top_k(train, test, partial=tmp_path / "p")
    tiled().self_influence(train, partial=tmp_path / "q")
    assert not list(tmp_path.iterdir())


def test_a_short_run_keeps_what_others_wait_for(tiled: Callable[..., TracIn], tmp_path: Path) -> None:
    train, test = triples()
    whole = tiled().top_k(train, test, partial=tmp_path / "p", keep_finished=True)
    own = tiled().self_influence(train, partial=tmp_path / "q", keep_finished=True)
    again = tiled()
    calls = [count_calls(again, method, nothing) for method in ("scores", "self_influence")]
    assert torch.equal(again.top_k(train, test, partial=tmp_path / "p").scores, whole.scores)
    assert torch.equal(again.self_influence(train, partial=tmp_path / "q"), own)
    assert calls == [[], []]


def test_sizes_halved_for_want_of_memory_are_kept(tiled: Callable[..., TracIn], tmp_path: Path) -> None:
    train, test = triples()

    def short(ti: TracIn, error: BaseException | None) -> list[int]:
        fits: list[int] = []
        for backend in ti._backends:
            original = backend.scores

            def scores(tests: Any, block: Tensor, rate: float, original: Any = original) -> Tensor:
                if len(block) > 9:
                    raise MemoryError
                fits.append(len(block))
                if error is not None and len(fits) == 9:
                    raise error
                return original(tests, block, rate)

            backend.scores = scores  # type: ignore[method-assign]
        return fits

    ti = tiled()
    short(ti, None)
    with pytest.warns(UserWarning, match="out of memory with 16 training triples at a time; going on with 8"):
        whole = ti.top_k(train, test)
    ti = tiled()
    short(ti, KeyboardInterrupt())
    with pytest.warns(UserWarning), pytest.raises(KeyboardInterrupt):
        ti.top_k(train, test, partial=tmp_path / "p")
    ti = tiled()
    fits = short(ti, None)
    found = ti.top_k(train, test, partial=tmp_path / "p")
    assert torch.equal(found.indices, whole.indices) and torch.equal(found.scores, whole.scores)
    assert max(fits) == 8


@pytest.mark.parametrize("changed", [{"batch_size": 7}, {"memory_limit": "400G"}])
def test_other_sizes_asked_for_are_taken(tiled: Callable[..., TracIn], tmp_path: Path, changed: dict[str, Any]) -> None:
    train, test = triples()
    whole, ti = tiled().top_k(train, test), tiled()
    count_calls(ti, "scores", stop_at(7, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        ti.top_k(train, test, partial=tmp_path / "p")
    again = tiled(**changed)
    sizes = count_calls(again, "scores", nothing)
    found = again.top_k(train, test, partial=tmp_path / "p")
    assert len(sizes) == (6 if "memory_limit" in changed else 26)  # one tile of 6 tests, or 13 blocks for each of 2
    assert torch.allclose(found.scores, whole.scores, rtol=1e-5, atol=1e-7)


# ---- what belongs to what ---------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The partial file of a top_k with k = 5 and of a TracIn with the factored backend."""
    train, test = triples()
    ti = TracIn(checkpoints(), backend="factored", batch_size=BLOCK, device="cpu")
    count_calls(ti, "scores", stop_at(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        ti.top_k(train, test, 5, partial=tmp_path / "p")
    return tmp_path / "p"


def go_on(path: Path, **changed: Any) -> None:
    train, test = triples()
    arguments: dict[str, Any] = {"train": train, "test": test, "k": 5} | changed.pop("call", {})
    models = changed.pop("models", checkpoints())
    TracIn(models, **{"backend": "factored", "batch_size": BLOCK} | changed).top_k(**arguments, partial=path)


def test_the_same_inputs_go_on(stopped: Path) -> None:
    go_on(stopped)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"call": {"k": 6}}, "k was 5 and is 6"),
        ({"call": {"order": "opponents"}}, "order was absolute and is opponents"),
        ({"call": {"train": random_triples(TRAIN, seed=5)}}, "the training triples differ"),
        ({"call": {"train": random_triples(TRAIN).flip(0)}}, "the training triples differ"),
        ({"call": {"train": random_triples(TRAIN - 1)}}, "the training triples differ"),
        ({"call": {"test": random_triples(TESTS, seed=5)}}, "the test triples differ"),
        ({"call": {"test": random_triples(TESTS - 1, seed=1)}}, "the test triples differ"),
        (
            {"models": [Checkpoint(random_model(seed=1), 0.5), Checkpoint(random_model(seed=3), 0.1)]},
            "the model weights differ; learning",
        ),
        ({"learning_rates": [0.5, 0.3]}, r"learning rates was 0.5, 0.25 and is 0.5, 0.3"),
        ({"layers": 2}, "layers was entity, relation, bn0.* and is bn1|layers was entity.* and is"),
        ({"precision": "float64"}, "precision was float32 and is float64"),
        ({"backend": "sequential"}, "backend was factored form in PyTorch and is one autograd"),
    ],
)
def test_other_inputs_are_named(stopped: Path, changed: dict[str, Any], told: str) -> None:
    before = stopped.read_bytes()
    with pytest.raises(InputError, match=f"p holds partial results of another run: .*({told}).*remove the file"):
        go_on(stopped, **changed)
    assert stopped.read_bytes() == before


def test_other_kinds_and_releases_are_refused(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = triples()
    with pytest.raises(InputError, match="p holds partial results of another run: .*kind was top_k and is self_inf"):
        TracIn(checkpoints(), backend="factored", device="cpu").self_influence(train, partial=stopped)
    monkeypatch.setattr(scorer, "version", lambda: "99.0")
    with pytest.raises(InputError, match="tracin was .* and is 99.0"):
        go_on(stopped)


def changed_file(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def mutate(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        del content["checksum"]
        change(content)
        torch.save(sealed(content), path)

    return mutate


class Executed:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "bytes changed": lambda path: path.write_bytes(path.read_bytes()[:200] + b"\xff" * 50 + path.read_bytes()[250:]),
    "a list": lambda path: torch.save([1, 2], path),
    "a state dict": lambda path: torch.save({"fc.weight": torch.zeros(2)}, path),
    "code": lambda path: torch.save({"format": resume.FORMAT, "done": Executed()}, path),
    "no scores": changed_file(lambda content: content.pop("scores")),
    "scores of another type": changed_file(lambda content: content.update(scores=content["scores"].double())),
    "fewer tests": changed_file(lambda content: content.update(done=content["done"][1:])),
    "negative count": changed_file(lambda content: content["done"].fill_(-1)),
    "count too large": changed_file(lambda content: content["done"].fill_(TRAIN + 1)),
    "indices beyond the training set": changed_file(lambda content: content["indices"].fill_(TRAIN)),
    "no block": changed_file(lambda content: content.update(block=0)),
    "no inputs": changed_file(lambda content: content.update(inputs={})),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_refused(
    stopped: Path, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stopped.parent)
    damage(stopped)
    with pytest.raises(
        InputError, match=r"p (is damaged or holds no partial|holds partial results of another).*remove"
    ):
        go_on(stopped)
    assert not (stopped.parent / "executed").exists()


@pytest.mark.slow
def test_a_changed_value_is_noticed_wherever_it_is(stopped: Path) -> None:
    """1,000 files with one bit flipped: refused, or the same content because the bit is of no value."""
    undamaged, whole, refused = stopped.read_bytes(), digest_of(Partial._read(stopped)), 0
    places = torch.randint(8 * len(undamaged), (1000,), generator=torch.Generator().manual_seed(3)).tolist()
    for place in places:
        damaged = bytearray(undamaged)
        damaged[place // 8] ^= 1 << place % 8
        stopped.write_bytes(damaged)
        try:
            assert digest_of(Partial._read(stopped)) == whole
        except InputError:
            refused += 1
    assert refused > 300


def test_values_without_their_checksum_are_refused(stopped: Path) -> None:
    for change in (
        lambda content: content["scores"].add_(1e-6),
        lambda content: content.pop("checksum"),
        lambda content: content.update(tile=content["tile"] + 1),
    ):
        content = torch.load(stopped, weights_only=True)
        change(content)
        torch.save(content, stopped.with_name("q"))
        with pytest.raises(InputError, match="q is damaged or holds no partial results of tracin; remove the file"):
            go_on(stopped.with_name("q"))


def test_a_file_that_another_run_is_writing_is_refused(stopped: Path) -> None:
    before = stopped.read_bytes()
    with locked(stopped), pytest.raises(InputError, match=r"another run \(process \d+\) is working on .*p; wait"):
        go_on(stopped)
    assert stopped.read_bytes() == before and list(stopped.parent.iterdir()) == [stopped]
    go_on(stopped)


def test_files_of_other_releases_are_refused(stopped: Path) -> None:
    changed_file(lambda content: content.update(version=1))(stopped)
    with pytest.raises(InputError, match="p was written by another release of tracin; remove the file"):
        go_on(stopped)


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = triples()
    ti = TracIn(random_model(), batch_size=BLOCK, device="cpu")
    with pytest.raises(InputError, match="no/p: .*no does not exist; create the folder"):
        ti.top_k(train, test, partial=tmp_path / "no/p")
    whole = ti.top_k(train, test)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match="partial results cannot be saved in .*p: .*No space left") as told:
        assert torch.equal(ti.top_k(train, test, partial=tmp_path / "p").scores, whole.scores)
    assert len(told) == 1 and not list(tmp_path.iterdir())


def test_digests_tell_values_types_shapes_and_names() -> None:
    zeros = torch.zeros(4)
    others = [
        {"a": zeros.double()},
        {"a": zeros.view(2, 2)},
        {"b": zeros},
        {"a": zeros + 1},
        {"a": zeros[:3]},
        {},
        {"a": zeros, "b": torch.empty(0)},
    ]
    assert len({digest(tensors) for tensors in [{"a": zeros}, *others]}) == len(others) + 1
    assert digest({"a": zeros}) == digest({"a": torch.zeros(8)[::2]})


# ---- signals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_wait_for_the_end_of_a_block(tmp_path: Path, number: int, error: type[BaseException]) -> None:
    train, test = triples()
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    ti = TracIn(random_model(), backend="factored", batch_size=BLOCK, device="cpu")
    whole = ti.top_k(train, test)
    calls = count_calls(ti, "scores", lambda call: os.kill(os.getpid(), number) if call == 3 else None)
    with pytest.raises(error) as raised:
        ti.top_k(train, test, partial=tmp_path / "p")
    assert len(calls) == 3 and getattr(raised.value, "code", 143) == 143
    assert torch.load(tmp_path / "p", weights_only=True)["done"].tolist() == [3 * BLOCK] * TESTS
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = TracIn(random_model(), backend="factored", batch_size=BLOCK, device="cpu")
    assert torch.equal(again.top_k(train, test, partial=tmp_path / "p").scores, whole.scores)


def test_a_second_signal_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), held_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal was held back")


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_signals() as act:
            signal.raise_signal(signal.SIGINT)
            act()
    finally:
        assert signal.signal(signal.SIGINT, before) == signal.SIG_IGN


def test_results_that_disagree_with_the_work_are_not_saved(tmp_path: Path) -> None:
    work = Work(10, torch.zeros(2, dtype=torch.int64), 1, 5)
    saved = Partial(tmp_path / "p", dict, work, {"scores": torch.zeros(2)}, "")
    with pytest.raises(KeyboardInterrupt), saved.saving(), saved.changing():
        work.done[0] = 5
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_tiles_are_test_triples_that_have_come_equally_far() -> None:
    work = Work(10, torch.tensor([10, 10, 4, 4, 4, 0, 0, 10, 0]), tile=2, block=3)
    tiles = []
    while (tile := work.next_tile()) is not None:
        tiles.append((tile.start, tile.stop))
        work.done[tile] = 10
    assert tiles == [(2, 4), (4, 5), (5, 7), (8, 9)]
