"""TracIn's public methods: top-k, checkpoints, arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tracin_ext
from tests.samples.models import pairs_of_triples, random_model, random_triples
from tracin import Checkpoint, InputError, TracIn
from tracin_ext import ops

NATIVE = tracin_ext.status()["available"]
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
BACKENDS = ["factored", "native"] if NATIVE else ["factored"]
ORDERS = ["absolute", "proponents", "opponents"]


def sorted_scores(scores: Tensor, order: str) -> tuple[Tensor, Tensor]:  # [Q, B] -> scores, indices, both [Q, B]
    key = {"absolute": scores.abs(), "proponents": scores, "opponents": -scores}[order]
    index = key.argsort(dim=1, descending=True, stable=True)
    return scores.gather(1, index), index


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000, "auto"])
@pytest.mark.parametrize("k", [1, 5, 60, 1000])
def test_top_k_is_the_sorted_dense_influence(
    k: int, batch_size: int | str, backend: str, order: str, device: str
) -> None:
    test, train = pairs_of_triples()
    ti = TracIn(random_model(), backend=backend, precision="float64", batch_size=batch_size, device=device)
    scores, indices = sorted_scores(ti.influence(train, test), order)
    top = ti.top_k(train, test, k=k, order=order)
    kept = min(k, len(train))
    assert top.indices.shape == top.scores.shape == (len(test), kept)
    assert torch.allclose(top.scores, scores[:, :kept], rtol=1e-9, atol=1e-15)
    same = top.indices == indices[:, :kept]
    ties = torch.isclose(top.scores, ti.influence(train, test).gather(1, indices[:, :kept]), rtol=1e-9, atol=1e-15)
    assert (same | ties).all()
    assert all(len(index.unique()) == kept for index in top.indices)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merge_settles_ties_by_index_in_any_order_of_blocks(
    native: bool, order: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and not NATIVE:
        pytest.skip(f"no native extension: {tracin_ext.status()['reason']}")
    if not native:
        monkeypatch.setattr(tracin_ext, "native", None)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (6, 3000), generator=generator).to(dtype)
    shuffled = torch.randperm(3000, generator=generator)
    expected, expected_index = sorted_scores(scores, order)
    for k in (1, 4, 50, 3000):
        best, best_index = torch.zeros(6, k, dtype=dtype), torch.full((6, k), -1)
        for index in shuffled.split(271):
            ops.merge_top_k(scores[:, index].contiguous(), index, order, best, best_index)
        assert torch.equal(best_index, expected_index[:, :k])
        assert torch.equal(best, expected[:, :k])


def test_checkpoints_add_up_with_their_own_rates() -> None:
    test, train = pairs_of_triples()
    first, second = random_model(seed=1), random_model(seed=2)
    one = [TracIn(model, 1.0, precision="float64", device="cpu").influence(train, test) for model in (first, second)]
    both = TracIn([Checkpoint(first, 0.5), Checkpoint(second, 0.25)], precision="float64", device="cpu")
    assert torch.allclose(both.influence(train, test), 0.5 * one[0] + 0.25 * one[1], rtol=1e-9)
    given = TracIn([first, second], [2.0, 3.0], precision="float64", device="cpu")
    assert torch.allclose(given.influence(train, test), 2 * one[0] + 3 * one[1], rtol=1e-9)
    squares = [TracIn(model, 1.0, precision="float64", device="cpu").self_influence(train) for model in (first, second)]
    assert torch.allclose(given.self_influence(train), 2 * squares[0] + 3 * squares[1], rtol=1e-9)


def test_self_influence_is_the_diagonal() -> None:
    train = random_triples(40)
    ti = TracIn(random_model(), precision="float64", device="cpu")
    assert torch.allclose(ti.self_influence(train), ti.influence(train, train).diagonal(), rtol=1e-9)


def test_no_test_by_train_matrix_in_top_k(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    merge = ops.merge_top_k

    def spy(scores: Tensor, *rest: Tensor) -> None:
        widths.append(scores.shape[1])
        merge(scores, *rest)

    monkeypatch.setattr("tracin.influence.scorer.merge_top_k", spy)
    TracIn(random_model(), batch_size=16, device="cpu").top_k(random_triples(100), random_triples(8), 3)
    assert sum(widths) == 100 and max(widths) == 16


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([None, None], r"^checkpoint 0 and checkpoint 1 \(last\.pt\) hold no learning rate.*give learning_rates"),
        ([0.5, None], r"^checkpoint 1 \(last\.pt\) holds no learning rate"),
        ([0.5, 0.0], r"^the learning rate of checkpoint 1 \(last\.pt\) is 0\.0; expected positive"),
        ([0.5, -1e-3], "is -0.001; expected positive"),
        ([float("nan"), 0.5], "learning rate of checkpoint 0 is nan"),
        ([float("inf"), 0.5], "learning rate of checkpoint 0 is inf"),
        (["fast", 0.5], "learning rate of checkpoint 0 is 'fast'"),
    ],
)
def test_rates_of_several_checkpoints_are_known_and_positive(rates: list[Any], message: str) -> None:
    first, last = Checkpoint(random_model(seed=1), rates[0]), Checkpoint(random_model(seed=2), rates[1], path="last.pt")
    with pytest.raises(InputError, match=message):
        TracIn([first, last], device="cpu")
    assert TracIn([first, last], [1.0, 2.0], device="cpu").learning_rates == [1.0, 2.0]


def test_one_checkpoint_alone_has_a_default_rate() -> None:
    model = random_model()
    assert (
        TracIn(model, device="cpu").learning_rates == TracIn([Checkpoint(model)], device="cpu").learning_rates == [1e-3]
    )
    assert TracIn(Checkpoint(model, 0.5), device="cpu").learning_rates == [0.5]
    with pytest.raises(InputError, match="learning rate of checkpoint 0 is 0.0"):
        TracIn(Checkpoint(model, 0.0), device="cpu")


@pytest.mark.parametrize("rates", [0, -1.0, float("nan"), float("inf"), "0.1", [None], [True], 1j, object()])
def test_wrong_rates_are_named(rates: Any) -> None:
    with pytest.raises(InputError, match="^learning_rates is .*; expected (a )?positive number") as raised:
        TracIn(random_model(), rates, device="cpu")
    assert raised.value.argument == "learning_rates"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "float16"}, "precision"),
        ({"backend": "fast"}, "backend"),
        ({"device": "tpu9"}, "device"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "big"}, "batch_size"),
        ({"loss": "hinge"}, "loss"),
        ({"learning_rates": [1.0, 2.0]}, "2 learning rates for 1"),
        ({"learning_rates": -1.0}, "positive"),
        ({"layers": "conv2"}, "layers"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TracIn(random_model(), **arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_is_an_error_with_a_remedy() -> None:
    with pytest.raises(InputError, match="sees no CUDA device.*cpu or auto"):
        TracIn(random_model(), device="cuda")


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        (torch.tensor([[0, 0, 12]]), r"train row 0: tail id 12 is outside 0..11; were"),
        (torch.tensor([[0, 0, 1], [0, 4, 1]]), r"train row 1: relation id 4 is outside 0..3; were"),
        (torch.tensor([[-1, 0, 1]]), "head id -1"),
        (torch.zeros(3, 2), "shape"),
        (torch.zeros(3, 3), "integer"),
        ({(0, 0, 1)}, "a set; expected triples"),
    ],
)
def test_wrong_triples_are_named(triples: Tensor, message: str) -> None:
    ti, good = TracIn(random_model(), device="cpu"), random_triples(3)
    with pytest.raises(InputError, match=message):
        ti.influence(triples, good)
    with pytest.raises(InputError, match=message):
        ti.self_influence(triples)
    with pytest.raises(InputError, match=message.replace("train", "test")):
        ti.top_k(good, triples)


def test_wrong_k_and_order_are_named() -> None:
    ti, triples = TracIn(random_model(), device="cpu"), random_triples(3)
    for k in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="k is"):
            ti.top_k(triples, triples, k)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="order is 'best'"):
        ti.top_k(triples, triples, 1, "best")


def test_models_must_be_finite_and_of_one_shape() -> None:
    broken = random_model()
    with torch.no_grad():
        broken.fc.weight[1, 2] = float("nan")
    with pytest.raises(InputError, match="fc.weight of checkpoint 0 has NaN"):
        TracIn(broken, device="cpu")
    with pytest.raises(InputError, match="checkpoint 1 has other tensor shapes"):
        TracIn([random_model(), random_model("no entity bias")], device="cpu")
    with pytest.raises(InputError, match="no checkpoint"):
        TracIn([], device="cpu")


@pytest.mark.parametrize("cached", [True, False])
def test_test_factors_are_kept_or_computed_for_every_block(cached: bool) -> None:
    test, train = pairs_of_triples()
    expected = TracIn(random_model(), precision="float64", device="cpu").influence(train, test)
    ti = TracIn(random_model(), precision="float64", batch_size=25, cache_test_factors=cached, device="cpu")
    calls: list[int] = []
    compute = ti._test_factors

    def counted(triples: Tensor) -> list[object]:
        calls.append(len(triples))
        return compute(triples)

    ti._test_factors = counted  # type: ignore[method-assign]
    assert torch.allclose(ti.influence(train, test), expected, rtol=1e-9, atol=1e-15)
    assert calls == [len(test)] * (1 if cached else -(-len(train) // 25))


@pytest.mark.skipif(not NATIVE, reason="no native extension: no buffers are kept")
@pytest.mark.parametrize("cleanup", [True, False])
def test_memory_cleanup_gives_the_buffers_back(cleanup: bool) -> None:
    ti = TracIn(random_model(), backend="native", memory_cleanup=cleanup, device="cpu")
    for _ in range(2):
        ti.influence(random_triples(20), random_triples(3))
        assert ti._backends[0].buffer.numel() == (0 if cleanup else 60)  # type: ignore[attr-defined]
