"""TracIn: which training triples made the model predict a test triple."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracin.checkpoints import Checkpoint
from tracin.devices import resolve_device
from tracin.errors import InputError
from tracin.layers import layers_of, select_layers
from tracin.losses import loss_named
from tracin.model import ConvE
from tracin.progress import progress_bar
from tracin_ext import backends
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.ops import merge_top_k

ORDERS = ("absolute", "proponents", "opponents")
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
DEFAULT_LEARNING_RATE = 1e-3
BLOCK_BYTES = 512 << 20  # memory of one block of training triples when batch_size is "auto"
TEST_BYTES = 2 << 30  # memory of the test factors held at a time
MAX_BLOCK = 8192


@dataclass(frozen=True)
class TopK:
    """The k most influential training triples of each test triple, best first, ties by row."""

    indices: Tensor  # [n_test, k] rows of the training triples
    scores: Tensor  # [n_test, k] influences, signed


class TracIn:
    """TracIn (Pruthi et al., NeurIPS 2020, https://arxiv.org/abs/2002.08484) for ConvE, exact and for all parameters.

        influence(z, z') = sum over checkpoints of  learning rate * <grad loss(z), grad loss(z')>

    The model is in eval mode; each sample's gradient is its own. Positive: a proponent, a training step on it lowers
    the loss of the test triple. Negative: an opponent.

    Args:
        model_or_checkpoints: a ConvE, a Checkpoint, or several of one model.
        learning_rates: one for all or one each; None takes the checkpoints' own, else 1e-3.
        loss: "bce", softplus(-score) of the triple.
        layers: "all"; or names among entity, relation, bn0, conv, bn1, fc, bn2, bias; or an int n, the last n of
            (bn0, conv, bn1, bn2, fc) that the model has: 1 is fc, 2 is bn2 and fc.
        precision: "float32" or "float64".
        backend: "auto" (native, else factored) or one of native, compiled, factored, vectorized, sequential.
        device: "auto", "cpu", "cuda" or a torch device.
        batch_size: training triples in a block, or "auto"; results do not depend on it.
        progress: True, False, or None for progress bars only on a terminal.

    Raises:
        InputError: for an argument out of range or a backend or device that cannot run here.

    Example:
        >>> top = TracIn(checkpoint).top_k(train, test, k=10)
        >>> train[top.indices[0]]
    """

    def __init__(
        self,
        model_or_checkpoints: ConvE | Checkpoint | Sequence[ConvE | Checkpoint],
        learning_rates: float | Sequence[float] | None = None,
        loss: str = "bce",
        layers: str | int | Sequence[str] = "all",
        precision: str = "float32",
        backend: str = "auto",
        device: str | torch.device = "auto",
        batch_size: int | str = "auto",
        progress: bool | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch_size is {batch_size!r}; expected 'auto' or a positive number of triples")
        given = list(model_or_checkpoints) if isinstance(model_or_checkpoints, Sequence) else [model_or_checkpoints]
        if not given:
            raise InputError("no checkpoint was given; expected at least one")
        self.models = [item.model if isinstance(item, Checkpoint) else item for item in given]
        check_models(self.models)
        self.learning_rates = resolve_learning_rates(learning_rates, given)
        self.layers = select_layers(self.models[0], layers)
        self.precision = precision
        self.device = resolve_device(device)
        self.batch_size = batch_size
        self.progress = progress
        self.backend = self._resolve_backend(backend)
        self._backends = [self._create(model, loss) for model in self.models]

    def _resolve_backend(self, name: str) -> str:
        if name == "auto":
            name, reason = backends.automatic(self.device)
            if reason:
                warnings.warn(f"using the {name} backend, not native: {reason}", stacklevel=3)
        elif name not in backends.NAMES:
            raise InputError(f"backend is {name!r}; expected auto or one of {', '.join(backends.NAMES)}")
        return name

    def _create(self, model: ConvE, loss: str) -> backends.Backend:
        dtype = PRECISIONS[self.precision]
        try:
            return backends.create(self.backend, model, self.layers, dtype, self.device, loss_named(loss))
        except RuntimeError as error:
            raise InputError(f"backend {self.backend!r} cannot run here: {error}") from error

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
        train, test = self._check(train, "train"), self._check(test, "test")
        result = torch.empty(len(test), len(train), dtype=PRECISIONS[self.precision])

        def keep(rows: slice, columns: Tensor, scores: Tensor) -> None:
            result[rows, columns] = scores.cpu()

        self._score(train, test, keep)
        return result

    def top_k(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        k: int = 10,
        order: str = "absolute",
    ) -> TopK:
        """The k most influential training triples of each test triple, without a test-by-train matrix.

        Args:
            train: training triples [n_train, 3] of ids.
            test: test triples [n_test, 3] of ids.
            k: how many; all of them if k exceeds n_train.
            order: "absolute" (largest |influence| first), "proponents" (largest first), "opponents" (smallest first).

        Returns:
            TopK(indices [n_test, k], scores [n_test, k]).

        Raises:
            InputError: if k is not positive, the order unknown, or ids exceed the model.

        Example:
            >>> TracIn(model).top_k(train, test, k=3, order="proponents").indices
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}; expected a positive number of training triples")
        if order not in ORDERS:
            raise InputError(f"order is {order!r}; expected one of {', '.join(ORDERS)}")
        train, test = self._check(train, "train"), self._check(test, "test")
        k = min(k, len(train))
        dtype = PRECISIONS[self.precision]
        indices = torch.full((len(test), k), -1, device=self.device)
        scores = torch.zeros(len(test), k, dtype=dtype, device=self.device)

        def keep(rows: slice, columns: Tensor, block: Tensor) -> None:
            merge_top_k(block.contiguous(), columns, order, scores[rows], indices[rows])

        self._score(train, test, keep)
        return TopK(indices.cpu(), scores.cpu())

    def self_influence(
        self,
        train: Tensor,  # [n_train, 3]
    ) -> Tensor:  # [n_train]
        """Influence of each triple on itself: learning rate times the squared norm of its gradient.

        Args:
            train: triples [n_train, 3] of ids.

        Returns:
            Self-influences [n_train], in the precision of this object, on the CPU. Large: mislabelled or hard.

        Raises:
            InputError: if ids exceed the model.

        Example:
            >>> TracIn(model).self_influence(train).argsort(descending=True)[:10]
        """
        train = self._check(train, "train")
        result = torch.zeros(len(train), dtype=PRECISIONS[self.precision])
        with progress_bar("self-influence", len(train), self.progress) as advance, torch.no_grad():
            for columns in self._blocks(train):
                block = train[columns].to(self.device)
                total = sum(
                    rate * backend.self_influence(block)
                    for rate, backend in zip(self.learning_rates, self._backends, strict=True)
                )
                result[columns] = torch.as_tensor(total).cpu()
                advance(len(columns))
        return result

    def _score(self, train: Tensor, test: Tensor, keep: Callable[[slice, Tensor, Tensor], None]) -> None:
        """Calls keep(test rows, training rows [B], scores [Q, B]) for every tile of tests and block of training."""
        tile = max(1, TEST_BYTES // (len(self._backends) * max(b.test_bytes for b in self._backends)))
        tiles = [slice(start, min(start + tile, len(test))) for start in range(0, len(test), tile)]
        with progress_bar("influence", len(train) * len(tiles), self.progress) as advance, torch.no_grad():
            for rows in tiles:
                tests = [backend.test_factors(test[rows].to(self.device)) for backend in self._backends]
                for columns in self._blocks(train, rows.stop - rows.start):
                    block = train[columns].to(self.device)
                    terms = zip(self.learning_rates, self._backends, tests, strict=True)
                    scores = sum(backend.scores(factors, block).mul_(rate) for rate, backend, factors in terms)
                    keep(rows, columns, torch.as_tensor(scores))
                    advance(len(columns))

    def _blocks(self, train: Tensor, tests: int = 1) -> Iterator[Tensor]:
        """Rows of each block, ordered so that triples of one (head, relation) are adjacent."""
        size: Any = self.batch_size
        if size == "auto":
            triple_bytes = max(backend.triple_bytes for backend in self._backends) + 8 * tests
            size = min(MAX_BLOCK, max(1, BLOCK_BYTES // triple_bytes))
        if len(train):
            yield from order_by_head_relation(train).split(size)

    def _check(self, triples: Tensor, name: str) -> Tensor:
        if not isinstance(triples, Tensor) or triples.dim() != 2 or triples.shape[1] != 3:
            shape = tuple(triples.shape) if isinstance(triples, Tensor) else type(triples).__name__
            raise InputError(f"{name} is {shape}; expected a tensor of shape [n, 3]: head, relation, tail")
        if triples.is_floating_point() or triples.dtype == torch.bool:
            raise InputError(f"{name} has dtype {triples.dtype}; expected integer ids")
        triples = triples.long().cpu()
        if not len(triples):
            return triples
        model = self.models[0]
        entities, relations = model.entity.num_embeddings, model.relation.num_embeddings // model.relation_step
        for column, what, count in ((0, "head", entities), (1, "relation", relations), (2, "tail", entities)):
            low, high = triples[:, column].min(), triples[:, column].max()
            if low < 0 or high >= count:
                bad = int(low if low < 0 else high)
                row = int((triples[:, column] == bad).nonzero()[0])
                raise InputError(f"{name} row {row}: {what} id {bad} is outside the model's 0..{count - 1}")
        return triples


def check_models(models: Sequence[ConvE]) -> None:
    """All of one shape, all weights finite."""
    for index, model in enumerate(models):
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        if shapes != {name: value.shape for name, value in models[0].state_dict().items()}:
            raise InputError(f"checkpoint {index} has other tensor shapes than checkpoint 0; expected one model")
        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise InputError(f"{name} of checkpoint {index} has NaN or infinite values; the training diverged?")


def resolve_learning_rates(rates: float | Sequence[float] | None, given: Sequence[Any]) -> list[float]:
    """One rate per checkpoint."""
    if rates is None:
        own = [getattr(item, "learning_rate", None) for item in given]
        return [DEFAULT_LEARNING_RATE if rate is None else float(rate) for rate in own]
    several = [float(rates)] * len(given) if isinstance(rates, int | float) else [float(rate) for rate in rates]
    if len(several) != len(given):
        raise InputError(f"{len(several)} learning rates for {len(given)} checkpoints; give one for all or one each")
    if not all(rate > 0 and rate < float("inf") for rate in several):
        raise InputError(f"learning_rates is {rates}; expected positive numbers")
    return several
