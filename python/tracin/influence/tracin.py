"""TracIn: which training triples made the model predict a test triple."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.digests import digest
from tracin.errors import InputError
from tracin.influence.arguments import (
    AUTOGRAD_BACKENDS,
    PRECISIONS,
    check_batch_size,
    check_indices,
    check_models,
    create_backend,
    resolve_backend,
    resolve_learning_rates,
    shared_dictionaries,
)
from tracin.influence.directions import by_row
from tracin.influence.fisher import EmbeddingScorer, EmbeddingScores
from tracin.influence.layers import layers_of, select_layers, trainable_parts
from tracin.influence.memory import parse_size
from tracin.influence.over_tails import backend_over_tails, over_tails, teach
from tracin.influence.passes import Pass
from tracin.influence.questions import (
    layers_at_embeddings,
    query_of,
    resolve_correction,
    resolve_embedding_backend,
    resolve_question,
    told_question,
    without_mixed,
)
from tracin.influence.resume import Partial
from tracin.influence.scorer import Scorer
from tracin.influence.top_k import TopK
from tracin.influence.turns import in_turn
from tracin.losses import LOSSES, check_loss, resolve_loss_options
from tracin.machine import resolve_device
from tracin.model import ConvE
from tracin.notebook import as_html
from tracin.progress import Clock
from tracin.pykeen import from_pykeen, is_pykeen
from tracin_ext.backends import Backend, Job
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend
from tracin_ext.backends.over_tails import SequentialOverTails
from tracin_ext.tail_losses import TailLoss


class TracIn(Scorer):
    """TracIn (Pruthi et al., NeurIPS 2020, https://arxiv.org/abs/2002.08484) for ConvE, exact and for all parameters.

        influence(z, z') = sum over checkpoints of  learning rate * <grad loss(z), grad loss(z')>

    The model is in eval mode; each sample's gradient is its own. Positive: a proponent, a training step on it lowers
    the loss of the test triple. Negative: an opponent.

    Parameters that are frozen (requires_grad False) when this object is made are left out.

    Threads: one object may be used by several, whose calls wait for each other. Objects in several threads run side by
    side, also of one model, which each copies; on a GPU, TF32 is off in the whole process meanwhile. Results are those
    of one thread. The threads of PyTorch (`torch.set_num_threads`) are for each, so that calls side by side are seldom
    faster. Not safe: changing an object's attributes, or the model while an object is made, from another thread;
    `partial` files shared by two calls; progress bars, which overwrite each other.

    Args:
        model_or_checkpoints: a ConvE, a Checkpoint, the path of one, a PyKEEN model or the result of a PyKEEN pipeline
            (see `from_pykeen`), or several of one model. Any other module that maps triples [B, 3] to scores
            [B] and has num_entities and num_relations runs on the backends vectorized and sequential.
        learning_rates: one for all or one each; None takes the checkpoints' own. One checkpoint that has none gets
            1e-3; of several, each has to have one.
        loss: that of a triple in training: "bce", softplus(-score); or one of the scores of all tails: "ce", softmax
            cross-entropy over its tail and those not known to be true; "bce-1n", binary cross-entropy of all tails
            with its own as the true one, "kvsall" with all known ones (a triple then stands for all of its head and
            relation); "margin", mean of max(0, margin + score of a tail not known to be true - its score); or "score",
            minus the score. Known to be true: the training triples; of test triples also `known`.
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
        memory_cleanup: give the buffers of blocks (and cached CUDA memory, where it is more than 1/32 of the GPU's)
            back after each call; False keeps them for the next one, and on a CPU `top_k` the factors of its training
            triples (1.4 GB for FB15k-237): further questions to the same training triples then take milliseconds.
        method: "tracin", the sum above; or "accurate": gradients at the embeddings alone, corrected by the damped
            Fisher matrix of a sample of the training triples (see `tracin.influence.fisher`), which predicts better
            what retraining does (docs/accuracy.md). It takes no learning rates: scores of several checkpoints are
            divided by their spread over the training triples, and added up.
        query: what is asked about a test triple: "bce", why is its score high; "ce", why does its tail rank there
            among those not known to be true; "score", the score itself; "against:TAIL" (a label or an id), why its
            tail and not that one. None: the loss; in the accurate method "ce".
        direction: which samples a training triple is, in a model with inverse relations: "forward" (h, r, t),
            "inverse" (t, inverse of r, h), or "both", their sum. None: "forward"; in the accurate method "both" where
            the model is known to have inverse relations.
        query_direction: the same of test triples. None: as `direction`; in the accurate method "forward".
            Queries other than the loss, directions and normalisation take layers among entity, relation, bias ("all":
            these three).
        normalize: "none"; "train", scores are divided by the norm of the training triple's gradient; "cosine", also by
            that of the test triple's (of learning rates only their shares count). None: "none"; in the accurate method
            "train".
        samples: training samples that the Fisher matrix is made of, fewer if there are fewer; 0: no correction.
        ridge: its damping, in mean squared norms of these samples' gradients.
        seed: of the sample.
        known: further true triples, whose tails "ce" leaves out of test triples' losses, as it does those of the
            training triples; in any form that `influence` takes.
        label_smoothing: of the losses "bce-1n" and "kvsall": a share, understood as in the ConvE paper, or
            "pykeen:SHARE", "libkge:SHARE" (also the ConvE program's).
        margin: of the loss "margin".

    Attributes:
        seconds: what the calls so far took, by stage: "training factors", "test factors", "influence",
            "self-influence".
        search: how the last `top_k` found its lists: by bounds, which leave most pairs out, or in blocks, and why.
        frozen: layers and parameters that are left out because they are frozen.

    Raises:
        InputError: for an argument out of range or a backend or device that cannot run here, and where every parameter
            is frozen.

    Example:
        >>> top = TracIn(checkpoint).top_k(train, test, k=10)
        >>> train[top.indices[0]]
    """

    def __init__(
        self,
        model_or_checkpoints: Any,
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
        *,
        method: str = "tracin",
        query: str | None = None,
        direction: str | None = None,
        query_direction: str | None = None,
        normalize: str | None = None,
        samples: int = 4096,
        ridge: float = 1.0,
        seed: int = 0,
        known: Any = None,
        label_smoothing: float | str = 0.0,
        margin: float = 1.0,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        single = isinstance(model_or_checkpoints, str) or not isinstance(model_or_checkpoints, Sequence)
        items: list[Any] = [model_or_checkpoints] if single else list(model_or_checkpoints)
        given = [_opened(item) for item in items]
        self.models = [item.model if isinstance(item, Checkpoint) else item for item in given]
        check_models(self.models)
        self.learning_rates = (
            [1.0] * len(given) if method == "accurate" else resolve_learning_rates(learning_rates, given)
        )
        self._dictionaries = shared_dictionaries(given)
        self.method = method
        self.loss = check_loss(loss)
        self.loss_options = resolve_loss_options(label_smoothing, margin)
        self.question = resolve_question(
            method, loss, query, direction, query_direction, normalize, self.models[0], self._dictionaries
        )
        self.correction = resolve_correction(method, samples, ridge, seed)
        if self.question is not None:
            layers = layers_at_embeddings(layers, self.models[0])
        selected = select_layers(self.models[0], layers)
        self._counted, self.frozen = trainable_parts(self.models, selected)
        self.layers = tuple(layer for layer in selected if layer not in self.frozen)
        self.precision = precision
        self.device = resolve_device(device)
        self.batch_size = check_batch_size(batch_size)
        self.progress = progress
        self.memory_limit = None if memory_limit is None else parse_size(memory_limit)
        self.cache_test_factors = cache_test_factors
        self.recompute_activations = recompute_activations
        self.memory_cleanup = memory_cleanup
        self.search = ""
        self._kept = None
        self._answers = None
        self._timed = Clock()
        self.seconds = self._timed.seconds
        over = self._loss_over_tails()
        job = Job(self.models[0], self._counted, PRECISIONS[precision], LOSSES.get(loss, LOSSES["bce"]))
        if self.question is not None or loss not in LOSSES:
            self._also_true = torch.empty(0, 3, dtype=torch.int64) if known is None else self._ids(known, "known")
        if self.question is None:
            if over is not None:
                backend = backend_over_tails(backend, self.models[0], loss, self.device)
                self.precision = without_mixed(precision, f"influences of the loss {loss!r}")
            self.backend = resolve_backend(backend, self.device, job)
            self._backends = [self._create(model, over) for model in self.models]
            return
        self.precision = without_mixed(precision, "scores from gradients at embeddings")
        self.backend = resolve_embedding_backend(backend, self.device, job)
        models = [model for model in self.models if isinstance(model, ConvE)]  # all: see `resolve_question`
        self._backends = [self._create(by_row(model)) for model in models]
        asked = query_of(self.question, self.loss_options, models[0].num_entities)
        scorers = [
            EmbeddingScorer(model, own, self.question, self.correction, over, asked)
            for model, own in zip(models, self._backends, strict=True)
            if isinstance(own, NativeBackend | FactoredBackend)  # both: see `resolve_embedding_backend`
        ]
        self._answers = EmbeddingScores(
            scorers, None if method == "accurate" else self.learning_rates, self._free_bytes
        )

    def _loss_over_tails(self) -> TailLoss | None:
        """The loss, if it depends on the scores of all tails."""
        if self.loss in LOSSES:
            return None
        entities: Any = self.models[0].num_entities
        return self.loss_options.loss(self.loss, entities)

    def _create(self, model: nn.Module, over: TailLoss | None = None) -> Backend:
        mixed, dtype = self.precision == "mixed", PRECISIONS[self.precision]
        if over is not None and self.backend == "sequential":
            return SequentialOverTails(model, self._counted, dtype, self.device, over, self.recompute_activations)
        job = Job(model, self._counted, dtype, LOSSES.get(self.loss, LOSSES["bce"]))
        backend = create_backend(self.backend, self.device, job, mixed, self.recompute_activations)
        if mixed and not getattr(backend, "mixed", False):
            where = f"the {self.backend} backend" if self.backend in AUTOGRAD_BACKENDS else f"this {self.device.type}"
            warnings.warn(
                f"mixed precision needs products in bfloat16, which {where} does not have: using float32", stacklevel=4
            )
            self.precision = "float32"
        return backend if over is None else over_tails(backend, over)

    @property
    def description(self) -> str:
        """One line that says what runs."""
        count = "" if len(self.models) == 1 else f", {len(self.models)} checkpoints"
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        every = {*self.layers, *self.frozen} >= set(layers_of(self.models[0]))
        layers = "all layers" if every else "layers " + ", ".join(self.layers)
        frozen = f" without the frozen {', '.join(self.frozen)}" if self.frozen else ""
        search = f", top k {self.search}" if self.search else ""
        asked = "" if self.question is None else f", {told_question(self.method, self.question, self.correction)}"
        loss = "" if self.loss == "bce" else f"loss {self.loss}, "
        runs = f"{self._backends[0].label}, {self.precision}, {loss}{layers}{frozen}, {self.device}{threads}{count}"
        return runs + asked + search

    @property
    def asked(self) -> dict[str, Any]:
        """Method, query, directions, normalisation and correction, as they were resolved."""
        options = {} if self.loss == "bce" else {"loss": self.loss, **asdict(self.loss_options)}
        if self.question is None:
            return {"method": self.method, **options}
        correction = asdict(self.correction) if self.method == "accurate" else {}
        return {"method": self.method, **asdict(self.question), **correction, **options}

    def __repr__(self) -> str:
        model = self.models[0]
        kind = f"{type(model).__name__}, {model.num_entities} entities, {model.num_relations} relations"
        return f"TracIn({kind}: {self.description})"

    def _repr_html_(self) -> str:
        model = self.models[0]
        facts = {
            "model": type(model).__name__,
            "entities": model.num_entities,
            "relations": model.num_relations,
            "learning rates": ", ".join(f"{rate:g}" for rate in self.learning_rates),
            "runs": self.description,
        }
        return as_html("TracIn", facts)

    def influence(
        self,
        train: Any,  # [n_train, 3]
        test: Any,  # [n_test, 3]
        *,
        together: bool = False,
    ) -> Tensor:  # [n_test, n_train], or [1, n_train]
        """Influence of every training triple on every test triple.

        Args:
            train: training triples [n_train, 3] of ids (head, relation, tail): a tensor, an array, lists, a data frame
                with columns head, relation, tail, or a PyKEEN triples factory. Also of labels, or the path of a file,
                where a checkpoint has its dictionaries.
            test: test triples [n_test, 3], in any of these forms; also a single one.
            together: whether the test triples are one question, such as all of a relation: one row, of the sum of their
                losses; from gradients at embeddings (method "accurate") at the cost of a single question.

        Returns:
            Influences [n_test, n_train], or [1, n_train] on all together, in the precision of this object, on the CPU.
            A warning names test triples that nothing influences, as their gradient is 0 (of a saturated score).

        Raises:
            InputError: if ids exceed the model, a factory has other dictionaries than the model, or an influence is no
                finite number.

        Example:
            >>> TracIn(model).influence(train, test[:5]).shape
        """
        train, test = self._pair(train, test)
        if together:
            return self._influence_on_all(train, test)
        result = self.influence_of_part(train, test)
        self.warn_of_zeros(test, result)
        return result

    def top_k(
        self,
        train: Any,  # [n_train, 3]
        test: Any,  # [n_test, 3]
        k: int = 10,
        order: str = "absolute",
        partial: str | os.PathLike[str] | None = None,
        *,
        keep_finished: bool = False,
    ) -> TopK:
        """The k most influential training triples of each test triple, without a test-by-train matrix.

        Many test triples, native backend on a CPU: only pairs are scored that bounds on their influences do not
        exclude, where that takes less time; the lists are the same. `search` says so.

        Args:
            train: training triples [n_train, 3], in any form that `influence` takes.
            test: test triples [n_test, 3], in any of these forms; also a single one.
            k: how many; all of them if k exceeds n_train.
            order: "absolute" (largest |influence| first), "proponents" (largest first), "opponents" (smallest first).
            partial: a file for what is finished, saved every 10 s and when the work is stopped (an exception, SIGINT,
                SIGTERM). A call with the same inputs and the same file goes on from there, to the same results. Remove
                the file once the results are safe.
            keep_finished: save `partial` at the end of a call of less than 10 s too, for what may yet fail elsewhere.

        Returns:
            TopK(indices [n_test, k], scores [n_test, k]). Training triples whose influence is exactly 0 only fill
            lists up, lowest indices first; a warning names test triples whose whole list is of them.

        Raises:
            InputError: as `influence`, if k is not positive, the order unknown, or `partial` is damaged or belongs to
                other inputs.

        Example:
            >>> TracIn(model).top_k(train, test, k=3, order="proponents").indices
        """
        train, test = self._pair(train, test)
        top = self.top_k_of_part(train, test, k, order, partial, keep_finished)
        self.warn_of_zeros(test, top.scores, order)
        return top

    @in_turn
    def breakdown(
        self,
        train: Any,  # [n_train, 3]
        test: Any,  # [n_test, 3]
        indices: Any,  # [n_test, k]
    ) -> dict[str, Tensor]:  # each [n_test, k]
        """What some of the influences add up from.

        Args:
            train, test: as in `influence`.
            indices: [n_test, k] of training triples, such as those of `top_k`.

        Returns:
            Terms by name, each [n_test, k], whose sum is the influence. Of TracIn: "hidden layer" (fc, bn2),
            "convolution" (bn0, conv, bn1), and the embeddings of the "same relation", of a "shared head", a "shared
            tail", and of an entity that is one triple's head and the other's tail ("head as tail"). Of method
            "accurate", and of other questions: the training triple's own embeddings through which it acts, "head",
            "relation", "tail".

        Raises:
            InputError: as `influence`, if an index is out of range, and for a model that is no ConvE.

        Example:
            >>> TracIn(model).breakdown(train, test[:1], [[0, 2]])["same relation"].shape
            torch.Size([1, 2])
        """
        train, test = self._pair(train, test)
        return self._terms(train, test, check_indices(indices, len(test), len(train)))

    @in_turn
    def self_influence(
        self,
        train: Any,  # [n_train, 3]
        partial: str | os.PathLike[str] | None = None,
        *,
        keep_finished: bool = False,
    ) -> Tensor:  # [n_train]
        """Influence of each triple on itself: learning rate times the squared norm of its gradient.

        Of method "accurate" and of other questions: of its gradient at the embeddings, in the `direction` of training
        triples, neither corrected nor divided by a norm; in the accurate method without learning rates.

        Args:
            train: triples [n_train, 3], in any form that `influence` takes.
            partial, keep_finished: a file for what is finished, as in `top_k`.

        Returns:
            Self-influences [n_train], in the precision of this object, on the CPU. Large: mislabelled or hard.

        Raises:
            InputError: if ids exceed the model, a self-influence is no finite number, or `partial` is damaged or
                belongs to other inputs.

        Example:
            >>> TracIn(model).self_influence(train).argsort(descending=True)[:10]
        """
        train = self._ids(train, "train")
        if self._answers is not None:
            return self._squared_norms(train)
        teach(self._backends, self.models[0], train, train[:0])
        result = torch.zeros(len(train), dtype=PRECISIONS[self.precision])

        def inputs() -> dict[str, str]:
            return self._inputs("self_influence", digest({"": train}))

        def keep(_: slice, index: Tensor, scores: Tensor) -> None:
            result[index] = scores.cpu()

        work = self._work(len(train), None, result.nbytes)
        saved = Partial(partial, inputs, work, {"scores": result}, self._asked, keep_finished)
        order = self._order(train)
        with self._running(saved) as stage:
            advance = stage("self-influence", len(train), "triples", done=work.finished)
            advance(0)
            diagonal = Pass(train, None, order, saved, keep, self.precision, self._timed, "self-influence", advance)
            while (tests := work.next_tile()) is not None:
                diagonal.score_next(tests, self._diagonal)
        return result


def _opened(item: Any) -> Any:
    """A model from its file or from PyKEEN; anything else as it is."""
    if isinstance(item, str | os.PathLike):
        return load_checkpoint(item)
    return from_pykeen(item) if is_pykeen(item) else item
