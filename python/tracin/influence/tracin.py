"""TracIn: which training triples made the model predict a test triple."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tracin.checkpoints.load import Checkpoint
from tracin.digests import digest, digest_models
from tracin.errors import InputError
from tracin.influence.arguments import (
    AUTOGRAD_BACKENDS,
    PRECISIONS,
    check_batch_size,
    check_models,
    check_ranking,
    check_triples,
    create_backend,
    resolve_backend,
    resolve_learning_rates,
)
from tracin.influence.blocks import Work, attempt
from tracin.influence.layers import layers_of, select_layers
from tracin.influence.memory import need_of, parse_size, tile_and_block
from tracin.influence.passes import Pass
from tracin.influence.resume import Partial
from tracin.influence.top_k import TopK
from tracin.losses import loss_named
from tracin.machine import resolve_device, version
from tracin.progress import Clock, Stage, progress_stages
from tracin.pykeen import from_pykeen, is_pykeen
from tracin_ext.backends import Backend, Job
from tracin_ext.full_float32 import full_float32
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.ops import merge_top_k


class TracIn:
    """TracIn (Pruthi et al., NeurIPS 2020, https://arxiv.org/abs/2002.08484) for ConvE, exact and for all parameters.

        influence(z, z') = sum over checkpoints of  learning rate * <grad loss(z), grad loss(z')>

    The model is in eval mode; each sample's gradient is its own. Positive: a proponent, a training step on it lowers
    the loss of the test triple. Negative: an opponent.

    Args:
        model_or_checkpoints: a ConvE, a Checkpoint, a PyKEEN model (see `from_pykeen`), or several of one model. Any
            other module that maps triples [B, 3] to scores [B] and has num_entities and num_relations runs on the
            backends vectorized and sequential.
        learning_rates: one for all or one each; None takes the checkpoints' own, else 1e-3.
        loss: "bce", softplus(-score) of the triple.
        layers: "all"; or names among entity, relation, bn0, conv, bn1, fc, bn2, bias; or an int n, the last n of
            (bn0, conv, bn1, bn2, fc) that the model has: 1 is fc, 2 is bn2 and fc. Of a model that is no ConvE, the
            beginnings of its parameters' names, such as entity_representations.
        precision: "float32", "float64", or "mixed": backward and pair products in bfloat16, where the processor has
            them and the backend is native, factored or compiled; else float32, with a warning.
        backend: one of native, compiled, factored, vectorized, sequential; or "auto", the first that can run of
            native, factored, vectorized, sequential, with a warning that says why if it is not native.
        device: "auto", "cpu", "cuda" or a torch device.
        batch_size: training triples in a block, or "auto", as many as fit in memory; halved, with one warning, when
            memory runs out. Results depend on it by rounding only.
        progress: True, False, or None for progress bars only on a terminal.
        memory_limit: bytes, or a size such as "4G" or "512M". It bounds the whole process: what it holds already
            (models, triples, libraries), the results, the factors of the test triples worked on at a time, and a block
            of training triples with its scores; on a GPU, the same of its memory. None: half of what the machine has
            available, and at most 2 GiB of test factors. Results depend on it by rounding only.
        cache_test_factors: keep the test side while blocks of training triples pass; False computes it anew for every
            block, which takes longer and frees that memory in between.
        recompute_activations: gradient checkpointing: the backward pass computes activations again instead of keeping
            them. It changes the sequential backend only: the others keep no activations beyond a block.
        memory_cleanup: give the buffers of blocks (and cached CUDA memory) back after each call; False keeps them for
            the next one.

    Attributes:
        seconds: what the calls so far took, by stage: "test factors", "influence", "self-influence".

    Raises:
        InputError: for an argument out of range or a backend or device that cannot run here.

    Example:
        >>> top = TracIn(checkpoint).top_k(train, test, k=10)
        >>> train[top.indices[0]]
    """

    def __init__(
        self,
        model_or_checkpoints: nn.Module | Checkpoint | Sequence[nn.Module | Checkpoint],
        learning_rates: float | Sequence[float] | None = None,
        loss: str = "bce",
        layers: str | int | Sequence[str] = "all",
        precision: str = "float32",
        backend: str = "auto",
        device: str | torch.device = "auto",
        batch_size: int | str = "auto",
        progress: bool | None = None,
        memory_limit: int | str | None = None,
        cache_test_factors: bool = True,
        recompute_activations: bool = False,
        memory_cleanup: bool = True,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        given = list(model_or_checkpoints) if isinstance(model_or_checkpoints, Sequence) else [model_or_checkpoints]
        given = [from_pykeen(item) if is_pykeen(item) else item for item in given]
        self.models = [item.model if isinstance(item, Checkpoint) else item for item in given]
        check_models(self.models)
        self.learning_rates = resolve_learning_rates(learning_rates, given)
        self.layers = select_layers(self.models[0], layers)
        self.precision = precision
        self.device = resolve_device(device)
        self.batch_size = check_batch_size(batch_size)
        self.progress = progress
        self.memory_limit = None if memory_limit is None else parse_size(memory_limit)
        self.cache_test_factors = cache_test_factors
        self.recompute_activations = recompute_activations
        self.memory_cleanup = memory_cleanup
        self.loss = loss
        self._timed = Clock()
        self.seconds = self._timed.seconds
        job = Job(self.models[0], self.layers, PRECISIONS[precision], loss_named(loss))
        self.backend = resolve_backend(backend, self.device, job)
        self._backends = [self._create(model) for model in self.models]

    def _create(self, model: nn.Module) -> Backend:
        mixed = self.precision == "mixed"
        job = Job(model, self.layers, PRECISIONS[self.precision], loss_named(self.loss))
        backend = create_backend(self.backend, self.device, job, mixed, self.recompute_activations)
        if mixed and not getattr(backend, "mixed", False):
            where = f"the {self.backend} backend" if self.backend in AUTOGRAD_BACKENDS else f"this {self.device.type}"
            warnings.warn(
                f"mixed precision needs products in bfloat16, which {where} does not have: using float32", stacklevel=4
            )
            self.precision = "float32"
        return backend

    @property
    def description(self) -> str:
        """One line that says what runs."""
        count = "" if len(self.models) == 1 else f", {len(self.models)} checkpoints"
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        every = set(self.layers) == set(layers_of(self.models[0]))
        layers = "all layers" if every else "layers " + ", ".join(self.layers)
        return f"{self._backends[0].label}, {self.precision}, {layers}, {self.device}{threads}{count}"

    def influence(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
    ) -> Tensor:  # [n_test, n_train]
        """Influence of every training triple on every test triple.

        Args:
            train: training triples [n_train, 3] of ids (head, relation, tail).
            test: test triples [n_test, 3] of ids.

        Returns:
            Influences [n_test, n_train], in the precision of this object, on the CPU.

        Raises:
            InputError: if ids exceed the model.

        Example:
            >>> TracIn(model).influence(train, test[:5]).shape
        """
        train = check_triples(train, "train", self.models[0])
        test = check_triples(test, "test", self.models[0])
        result = torch.empty(len(test), len(train), dtype=PRECISIONS[self.precision])

        def keep(tests: slice, index: Tensor, scores: Tensor) -> None:
            result[tests, index] = scores.cpu()

        work = self._work(len(train), len(test), result.nbytes)
        self._score(train, test, Partial(None, dict, work, {}, ""), keep)
        return result

    def top_k(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        k: int = 10,
        order: str = "absolute",
        partial: str | os.PathLike[str] | None = None,
        *,
        keep_finished: bool = False,
    ) -> TopK:
        """The k most influential training triples of each test triple, without a test-by-train matrix.

        Args:
            train: training triples [n_train, 3] of ids.
            test: test triples [n_test, 3] of ids.
            k: how many; all of them if k exceeds n_train.
            order: "absolute" (largest |influence| first), "proponents" (largest first), "opponents" (smallest first).
            partial: a file for what is finished, saved every 10 s and when the work is stopped (an exception, SIGINT,
                SIGTERM). A call with the same inputs and the same file goes on from there, to the same results. Remove
                the file once the results are safe.
            keep_finished: save `partial` at the end of a call of less than 10 s too, for what may yet fail elsewhere.

        Returns:
            TopK(indices [n_test, k], scores [n_test, k]).

        Raises:
            InputError: if k is not positive, the order unknown, ids exceed the model, or `partial` is damaged or
                belongs to other inputs.

        Example:
            >>> TracIn(model).top_k(train, test, k=3, order="proponents").indices
        """
        check_ranking(k, order)
        train = check_triples(train, "train", self.models[0])
        test = check_triples(test, "test", self.models[0])
        k = min(k, len(train))
        dtype = PRECISIONS[self.precision]
        indices = torch.full((len(test), k), -1, device=self.device)
        scores = torch.zeros(len(test), k, dtype=dtype, device=self.device)

        def keep(tests: slice, index: Tensor, block: Tensor) -> None:
            merge_top_k(block.contiguous(), index, order, scores[tests], indices[tests])

        def inputs() -> dict[str, str]:
            return self._inputs("top_k", train) | {"test triples": digest({"": test}), "k": str(k), "order": order}

        work = self._work(len(train), len(test), indices.nbytes + scores.nbytes)
        results = {"indices": indices, "scores": scores}
        self._score(train, test, Partial(partial, inputs, work, results, self._asked, keep_finished), keep)
        return TopK(indices.cpu(), scores.cpu())

    def self_influence(
        self,
        train: Tensor,  # [n_train, 3]
        partial: str | os.PathLike[str] | None = None,
        *,
        keep_finished: bool = False,
    ) -> Tensor:  # [n_train]
        """Influence of each triple on itself: learning rate times the squared norm of its gradient.

        Args:
            train: triples [n_train, 3] of ids.
            partial, keep_finished: a file for what is finished, as in `top_k`.

        Returns:
            Self-influences [n_train], in the precision of this object, on the CPU. Large: mislabelled or hard.

        Raises:
            InputError: if ids exceed the model, or `partial` is damaged or belongs to other inputs.

        Example:
            >>> TracIn(model).self_influence(train).argsort(descending=True)[:10]
        """
        train = check_triples(train, "train", self.models[0])
        result = torch.zeros(len(train), dtype=PRECISIONS[self.precision])

        def inputs() -> dict[str, str]:
            return self._inputs("self_influence", train)

        def keep(_: slice, index: Tensor, scores: Tensor) -> None:
            result[index] = scores.cpu()

        work = self._work(len(train), None, result.nbytes)
        saved = Partial(partial, inputs, work, {"scores": result}, self._asked, keep_finished)
        order = order_by_head_relation(train)
        with self._running(saved) as stage:
            advance = stage("self-influence", len(train), "triples", done=work.finished)
            advance(0)
            diagonal = Pass(train, order, saved, keep, self._timed, "self-influence", advance)
            while (tests := work.next_tile()) is not None:
                diagonal.score_next(tests, self._diagonal)
        return result

    def _score(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        saved: Partial,
        keep: Callable[[slice, Tensor, Tensor], None],
    ) -> None:
        """Calls keep(test triples, index [B] of training triples, scores [Q, B]) for every tile and every block.

        Blocks run through the training triples ordered by (head, relation), whose forward pass is shared.
        """
        work, order = saved.work, order_by_head_relation(train)
        with self._running(saved) as stage:
            ready = int((work.done == work.total).sum())  # test triples whose factors have been computed
            prepared = stage("test factors", len(test), "triples", done=ready)
            advance = stage("influence", len(test) * len(train), "pairs", done=work.finished)
            pairs = Pass(train, order, saved, keep, self._timed, "influence", advance)
            while (tests := work.next_tile()) is not None:
                with self._timed("test factors"):
                    factors = attempt(self._test_factors, test[tests])
                if factors is None:
                    work.halve_tile(tests.stop - tests.start)
                    continue
                prepared(max(0, tests.stop - ready))
                ready = max(ready, tests.stop)
                advance(0)
                while work.done[tests.start] < len(train):
                    pairs.score_next(tests, self._block_scores, factors)
                    if not self.cache_test_factors:
                        break  # the same tile comes next, its factors computed anew
                del factors  # before the next ones are computed

    @contextmanager
    def _running(self, saved: Partial) -> Iterator[Stage]:
        """Around the work of a call: what it begins with, is interrupted by, and leaves behind."""
        saved.restore()
        with progress_stages(self.progress) as stage, torch.no_grad(), self._cleaning_up(), saved.saving():
            yield stage

    @full_float32()
    def _test_factors(
        self,
        test: Tensor,  # [Q, 3]
    ) -> list[Any]:
        return [backend.test_factors(test.to(self.device)) for backend in self._backends]

    @full_float32()
    def _block_scores(
        self,
        factors: list[Any],  # of the test triples, by each backend
        block: Tensor,  # [B, 3]
    ) -> Tensor:  # [Q, B]
        block = block.to(self._backends[0].block_device)
        return added_up(
            backend.scores(own, block, rate)
            for rate, backend, own in zip(self.learning_rates, self._backends, factors, strict=True)
        )

    @full_float32()
    def _diagonal(
        self,
        block: Tensor,  # [B, 3]
    ) -> Tensor:  # [B]
        block = block.to(self._backends[0].block_device)
        return added_up(
            backend.self_influence(block, rate)
            for rate, backend in zip(self.learning_rates, self._backends, strict=True)
        )

    @contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        """Gives memory back, at the end, that only the next call would use again."""
        try:
            yield
        finally:
            if self.memory_cleanup:
                for backend in self._backends:
                    backend.free_buffers()
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _work(self, triples: int, tests: int | None, results: int) -> Work:
        """Nothing done yet; `tests` None: self-influences; `results`: their bytes."""
        need = need_of(self._backends, self.device, PRECISIONS[self.precision], results, tests is not None)
        block = self.batch_size if isinstance(self.batch_size, int) else None
        count = 1 if tests is None else tests
        sizes = tile_and_block(need, self.memory_limit, count, triples, block, self.device)
        return Work(triples, torch.zeros(count, dtype=torch.int64), *sizes)

    @property
    def _asked(self) -> str:
        return f"batch_size {self.batch_size}, memory_limit {self.memory_limit}"

    def _inputs(
        self,
        kind: str,
        train: Tensor,  # [n_train, 3]
    ) -> dict[str, str]:
        """What results depend on, except for what is only of this kind."""
        return {
            "kind": kind,
            "tracin": version(),
            "torch": str(torch.__version__),  # it is of a class of its own, which weights_only refuses
            "model weights": digest_models(self.models),
            "training triples": digest({"": train}),
            "learning rates": ", ".join(map(str, self.learning_rates)),
            "loss": self.loss,
            "layers": ", ".join(self.layers),
            "precision": self.precision,
            "backend": self._backends[0].label,
            "device": str(self.device),
        }


def added_up(terms: Iterator[Tensor]) -> Tensor:
    """The sum of tensors of one shape, in the first one's memory."""
    total = next(terms)
    for term in terms:
        total += term
    return total
