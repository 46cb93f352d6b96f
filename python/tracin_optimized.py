"""TracIn behind the Python interface of the original scripts; `tracin.TracIn` does the work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tracin.checkpoints.load import Checkpoint
from tracin.errors import InputError
from tracin.files import check_writable, replacing
from tracin.influence.arguments import PRECISIONS, check_batch_size, check_triples, resolve_learning_rates
from tracin.influence.layers import layer_of, layers_named
from tracin.influence.top_k import TopK
from tracin.influence.tracin import TracIn
from tracin.influence.turns import OneAtATime, in_turn
from tracin.losses import LOSSES
from tracin.model import ConvE
from tracin.pykeen import TripleScorer, from_pykeen, is_pykeen
from tracin.results.writers import Influences, encode, write_influences
from tracin.triples.dictionaries import predicate_of
from tracin.triples.labels import Labels
from tracin_ext import backends
from tracin_ext.backends.sequential import SequentialBackend
from tracin_ext.backends.vectorized import VectorizedBackend

Triple = tuple[int, int, int]  # head, relation, tail
Triples = Any  # a PyKEEN triples factory, a tensor [n, 3], or a list of Triple
Gradient = dict[str, Tensor]  # parameter name -> gradient in the parameter's shape
PathLike = str | os.PathLike[str]


class TracInAnalyzer(OneAtATime):
    """Influences of training triples on predictions, as lists and dictionaries of plain numbers.

    Ids of triples are those of the triples factory. Make a new analyzer after training the model further. Threads that
    share an analyzer wait for each other.

    Args:
        model: a PyKEEN model, a `tracin.ConvE` or a `tracin.Checkpoint`.
        loss_fn: see `tracin.TracIn`, argument loss.
        device: None takes CUDA where there is some.
        use_last_layers_only: only the gradients of the last `num_last_layers` of bn0, conv, bn1, bn2, fc.
        last_layer_names: only the gradients of these layers, by name of a layer or a parameter.
        use_mixed_precision: products in bfloat16 where the processor has them.
        use_gradient_checkpointing, enable_memory_cleanup: see `tracin.TracIn`, recompute_activations, memory_cleanup.
        use_vectorized_gradients: False takes the sequential backend, one backward pass per triple.
        cache_test_gradients: keep what `get_or_compute_test_gradient` computes, and see `tracin.TracIn`,
            cache_test_factors.
        use_torch_compile: take the compiled backend.
        enable_multi_gpu: `analyze_test_set` shares its test triples out to all GPUs.

    Raises:
        InputError: for arguments that are wrong or disagree, here and in every method.

    Example:
        >>> analyzer = TracInAnalyzer(result.model, device="cpu")
        >>> analyzer.analyze_test_set(testing, result.training, top_k=10, output_path="results.json")
    """

    def __init__(
        self,
        model: nn.Module | Checkpoint,
        loss_fn: str = "bce",
        device: str | torch.device | None = None,
        use_last_layers_only: bool = False,
        last_layer_names: Sequence[str] | None = None,
        num_last_layers: int = 2,
        use_mixed_precision: bool = False,
        use_gradient_checkpointing: bool = False,
        enable_memory_cleanup: bool = True,
        use_vectorized_gradients: bool = True,
        cache_test_gradients: bool = True,
        use_torch_compile: bool = False,
        enable_multi_gpu: bool = False,
    ) -> None:
        super().__init__()
        if use_torch_compile and not use_vectorized_gradients:
            raise InputError(
                "use_torch_compile and use_vectorized_gradients=False ask for different backends; choose one"
            )
        self._checkpoint = from_pykeen(model) if is_pykeen(model) else model
        ours = self._checkpoint.model if isinstance(self._checkpoint, Checkpoint) else self._checkpoint
        # A ConvE of PyKEEN is scored by ours; its gradients have the names and shapes of its own parameters.
        self._scorer = TripleScorer(model) if is_pykeen(model) and isinstance(ours, ConvE) else ours
        layers: str | int | list[str] = num_last_layers if use_last_layers_only else "all"
        if last_layer_names:
            layers = layers_named(last_layer_names, ours)
        self._options: dict[str, Any] = {
            "loss": loss_fn,
            "layers": layers,
            "precision": "mixed" if use_mixed_precision else "float32",
            "backend": "compiled" if use_torch_compile else "auto" if use_vectorized_gradients else "sequential",
            "device": "auto" if device is None else device,
            "cache_test_factors": cache_test_gradients,
            "recompute_activations": use_gradient_checkpointing,
            "memory_cleanup": enable_memory_cleanup,
        }
        self.cache_test_gradients = cache_test_gradients
        self.enable_multi_gpu = enable_multi_gpu
        self._tracin = TracIn(self._checkpoint, **self._options)
        self._test_gradients: dict[Triple, Gradient] = {}

    @in_turn
    def compute_gradient(self, head: int, relation: int, tail: int, label: float = 1.0) -> Gradient:
        """Gradient of a triple's loss, as a false triple's with label 0: softplus(score).

        Returns:
            Of every parameter of the chosen layers, by the name that the model given has for it.
        """
        (triple,) = self._placed([(head, relation, tail)])
        if label == 1:
            return self._autograd.gradients(triple)
        if label != 0 or self._options["loss"] != "bce":
            raise InputError(f"label is {label!r}; expected 1, or with loss_fn 'bce' 0")
        return self._autograd.gradients(triple, lambda scores: -functional.logsigmoid(-scores))

    @in_turn
    def compute_influence(self, train_triple: Triple, test_triple: Triple, learning_rate: float = 0.001) -> float:
        """Influence of a training triple on a test triple."""
        tracin = self._ready(self._tracin, learning_rate)
        return tracin.influence(self._one(train_triple), self._one(test_triple)).item()

    @in_turn
    def compute_batch_individual_gradients(self, triples_batch: Triples) -> list[Gradient]:
        """The gradient of each triple, by one backward pass each."""
        return [self._autograd.gradients(triple) for triple in self._placed(triples_batch)]

    @in_turn
    def compute_batch_gradients_vectorized(self, triples_batch: Triples) -> list[Gradient]:
        """The gradient of each triple, all by one vmap, or one by one where that cannot follow the model."""
        triples = self._placed(triples_batch)
        if self._vmap is None or not len(triples):
            return self.compute_batch_individual_gradients(triples)
        gradients = self._vmap.per_sample(self._vmap.tracked, triples)
        return [{name: rows[row] for name, rows in gradients.items()} for row in range(len(triples))]

    @in_turn
    def get_or_compute_test_gradient(self, test_triple: Triple) -> Gradient:
        """The gradient of a test triple, kept for the next time if the test gradients are cached."""
        key: Triple = tuple(self._one(test_triple)[0].tolist())
        if key in self._test_gradients:
            return self._test_gradients[key]
        gradient = self.compute_gradient(*key)
        if self.cache_test_gradients:
            self._test_gradients[key] = gradient
        return gradient

    @in_turn
    def precompute_test_gradients(self, test_triples: Triples) -> None:
        """Fills the cache of `get_or_compute_test_gradient`; a gradient takes as much memory as the model."""
        if not self.cache_test_gradients:
            warnings.warn("cache_test_gradients is off: no test gradient is kept", stacklevel=2)
            return
        for triple in self._ids(test_triples, "test_triples"):
            self.get_or_compute_test_gradient(tuple(triple.tolist()))

    @in_turn
    def compute_influences_for_test_triple(
        self,
        test_triple: Triple,
        training_triples: Triples,
        learning_rate: float = 0.001,
        top_k: int | None = None,
        batch_size: int | str = 256,
    ) -> list[dict[str, Any]]:
        """The most influential training triples of a test triple, greatest |influence| first; all without `top_k`.

        `batch_size` training triples are worked on at a time; "auto" takes as many as fit in memory, which is faster.
        """
        train = self._ids(training_triples, "training_triples")
        tracin = self._ready(self._tracin, learning_rate, batch_size)
        top = _ranked(tracin, self._one(test_triple), train, top_k)
        return _influences(train[top.indices[0]], top.scores[0])

    @in_turn
    def analyze_test_set(
        self,
        test_triples: Triples,
        training_triples: Triples,
        learning_rate: float = 0.001,
        top_k: int | None = 10,
        max_test_triples: int | None = None,
        output_path: PathLike | None = None,
        batch_size: int | str = 256,
    ) -> dict[str, Any]:
        """The most influential training triples of each test triple, of the first `max_test_triples` where given.

        Returns:
            num_test_triples, num_training_triples, top_k, learning_rate, and results: of each test triple test_head,
            test_relation, test_tail, and top_influences as `compute_influences_for_test_triple` returns them. With
            `output_path`, the same as a JSON file.
        """
        path = _checked_path(output_path)
        tracins = self._everywhere() if self.enable_multi_gpu else [self._tracin]
        summary = self._analyze(
            tracins, test_triples, training_triples, learning_rate, top_k, max_test_triples, batch_size
        )
        _write_json(path, summary)
        return summary

    @in_turn
    def analyze_test_set_multi_gpu(
        self,
        test_triples: Triples,
        training_triples: Triples,
        learning_rate: float = 0.001,
        top_k: int | None = 10,
        max_test_triples: int | None = None,
        batch_size: int | str = 256,
    ) -> dict[str, Any]:
        """`analyze_test_set` with the test triples shared out to all GPUs that PyTorch sees."""
        return self._analyze(
            self._everywhere(), test_triples, training_triples, learning_rate, top_k, max_test_triples, batch_size
        )

    @in_turn
    def compute_self_influence(
        self, training_triples: Triples, learning_rate: float = 0.001, output_path: PathLike | None = None
    ) -> list[dict[str, Any]]:
        """head, relation, tail, self_influence of each training triple, greatest first; also as a JSON file."""
        path = _checked_path(output_path)
        train = self._ids(training_triples, "training_triples")
        scores = self._ready(self._tracin, learning_rate).self_influence(train)
        order = scores.argsort(descending=True, stable=True)
        rows = zip(train[order].tolist(), scores[order].tolist(), strict=True)
        records = [{"head": h, "relation": r, "tail": t, "self_influence": score} for (h, r, t), score in rows]
        _write_json(path, records)
        return records

    def save_influences_to_csv(
        self,
        test_triple: Triple,
        influences: Sequence[Mapping[str, Any]],
        output_path: PathLike,
        id_to_entity: Mapping[int, str],
        id_to_relation: Mapping[int, str],
        entity_labels: Mapping[Any, str] | None = None,
        relation_labels: Mapping[Any, str] | None = None,
        self_influence: float | None = None,
    ) -> None:
        """Writes what `compute_influences_for_test_triple` returned as a CSV file; makes its folder.

        Args:
            test_triple: whose influences they are.
            influences: in the order to be written.
            output_path: the file.
            id_to_entity, id_to_relation: label of each id.
            entity_labels, relation_labels: names, by label or by id; of a name that is JSON text, its "predicate".
            self_influence: of the test triple.
        """
        path = Path(output_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
        triples = [tuple(item[f"train_{part}"] for part in ("head", "relation", "tail")) for item in influences]
        entities = {index for head, _, tail in (test_triple, *triples) for index in (int(head), int(tail))}
        names = {index: _name(index, id_to_entity, entity_labels) for index in entities if index in id_to_entity}
        predicates = {label: _name(index, id_to_relation, relation_labels) for index, label in id_to_relation.items()}
        labels = Labels(id_to_entity, id_to_relation, names, predicates)
        scores = torch.tensor([item["influence"] for item in influences], dtype=torch.float64)
        head, relation, tail = map(int, test_triple)
        train = torch.tensor(triples, dtype=torch.int64).reshape(-1, 3)
        write_influences(path, [Influences(0, (head, relation, tail), self_influence, train, scores)], labels)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The parameters of the scored model that the chosen layers are."""
        names = [name for name, parameter in self._scorer.named_parameters() if parameter.requires_grad]
        if isinstance(self._tracin.models[0], ConvE):
            return tuple(name for name in names if layer_of(name) in self._tracin.layers)
        return tuple(name for name in names if f"{name}.".startswith(tuple(f"{each}." for each in self._tracin.layers)))

    @cached_property
    def _job(self) -> backends.Job:
        dtype = PRECISIONS[self._tracin.precision]
        return backends.Job(self._scorer, self._names, dtype, LOSSES[self._tracin.loss])

    @cached_property
    def _autograd(self) -> SequentialBackend:
        job = self._job
        return SequentialBackend(job.model, job.layers, job.dtype, self._tracin.device, job.loss)

    @cached_property
    def _vmap(self) -> VectorizedBackend | None:
        """None where vmap cannot follow the model."""
        job, device = self._job, self._tracin.device
        if reason := backends.reason_against("vectorized", device, job):
            warnings.warn(f"gradients of a batch are computed one by one: {reason}", stacklevel=4)
            return None
        return VectorizedBackend(job.model, job.layers, job.dtype, device, job.loss)

    def _everywhere(self) -> list[TracIn]:
        """One TracIn on each GPU; with fewer than two GPUs the one there is."""
        return self._on_gpus or [self._tracin]

    @cached_property
    def _on_gpus(self) -> list[TracIn]:
        count = torch.cuda.device_count()
        if count < 2:
            warnings.warn(f"PyTorch sees {count} GPUs, not several: using {self._tracin.device}", stacklevel=5)
            return []
        options = self._options | {"progress": False}  # one bar at a time is all a terminal takes
        return [TracIn(self._checkpoint, **options | {"device": f"cuda:{index}"}) for index in range(count)]

    def _analyze(
        self,
        tracins: list[TracIn],
        test_triples: Triples,
        training_triples: Triples,
        learning_rate: float,
        top_k: int | None,
        max_test_triples: int | None,
        batch_size: int | str,
    ) -> dict[str, Any]:
        if max_test_triples is not None and max_test_triples < 1:
            raise InputError(f"max_test_triples is {max_test_triples}; expected a positive number, or None for all")
        train = self._ids(training_triples, "training_triples")
        test = self._ids(test_triples, "test_triples")[:max_test_triples]
        ready = [self._ready(tracin, learning_rate, batch_size) for tracin in tracins]
        parts = test.tensor_split(len(ready))
        with ThreadPoolExecutor(len(ready)) as pool:
            run = pool.map if len(ready) > 1 else map  # the main thread alone can be interrupted
            tops = list(run(partial(_ranked, train=train, top_k=top_k), ready, parts))
        ranked = [row for top in tops for row in zip(top.indices, top.scores, strict=True)]
        results = [
            {"test_head": h, "test_relation": r, "test_tail": t, "top_influences": _influences(train[rows], scores)}
            for (h, r, t), (rows, scores) in zip(test.tolist(), ranked, strict=True)
        ]
        return {
            "num_test_triples": len(test),
            "num_training_triples": len(train),
            "top_k": top_k,
            "learning_rate": learning_rate,
            "results": results,
        }

    def _ready(self, tracin: TracIn, learning_rate: float, batch_size: int | str = "auto") -> TracIn:
        tracin.learning_rates = resolve_learning_rates(learning_rate, tracin.models)
        tracin.batch_size = check_batch_size(batch_size)
        return tracin

    def _one(self, triple: Triple | Tensor) -> Tensor:  # [1, 3]
        return self._ids(triple, "the triple")

    def _placed(self, triples: Triples) -> Tensor:  # [n, 3]
        """For the backends, which `TracIn` hands triples on its device."""
        return self._ids(triples, "the triples").to(self._tracin.device)

    def _ids(self, triples: Triples, name: str) -> Tensor:  # [n, 3]
        source = self._checkpoint if isinstance(self._checkpoint, Checkpoint) else None
        return check_triples(triples, name, self._tracin.models[0], source)


def compute_tracin_influence(
    model: nn.Module | Checkpoint,
    test_triple: Triple,
    training_triples: Triples,
    learning_rate: float = 0.001,
    top_k: int | None = 10,
    device: str | torch.device | None = None,
    use_last_layers_only: bool = False,
    last_layer_names: Sequence[str] | None = None,
    num_last_layers: int = 2,
) -> list[dict[str, Any]]:
    """The most influential training triples of one test triple; arguments and result are TracInAnalyzer's.

    Example:
        >>> compute_tracin_influence(result.model, (0, 1, 2), result.training, top_k=3)[0]["influence"]
    """
    analyzer = TracInAnalyzer(
        model,
        device=device,
        use_last_layers_only=use_last_layers_only,
        last_layer_names=last_layer_names,
        num_last_layers=num_last_layers,
    )
    return analyzer.compute_influences_for_test_triple(test_triple, training_triples, learning_rate, top_k)


def _ranked(
    tracin: TracIn,
    test: Tensor,  # [n_test, 3]
    train: Tensor,  # [n_train, 3]
    top_k: int | None,
) -> TopK:
    """Greatest |influence| first; without `top_k` all, which a sort of everything gives faster than merging blocks."""
    if top_k is not None:
        return tracin.top_k(train, test, top_k)
    scores = tracin.influence(train, test)
    rows = scores.abs().argsort(dim=1, descending=True, stable=True)
    return TopK(rows, scores.gather(1, rows))


def _influences(
    train: Tensor,  # [k, 3]
    scores: Tensor,  # [k]
) -> list[dict[str, Any]]:
    rows = zip(train.tolist(), scores.tolist(), strict=True)
    return [{"train_head": h, "train_relation": r, "train_tail": t, "influence": score} for (h, r, t), score in rows]


def _name(index: int, label_of: Mapping[int, str], names: Mapping[Any, str] | None) -> str:
    """By label or by id, else the label; of JSON text its "predicate"."""
    label, names = label_of[index], names or {}
    name = names.get(label, names.get(index, label))
    return predicate_of(name) or name


def _checked_path(path: PathLike | None) -> Path | None:
    """Raises InputError before the work if no file can be written there."""
    if path is None:
        return None
    check_writable(Path(path))
    return Path(path)


def _write_json(path: Path | None, value: object) -> None:
    if path is not None:
        with replacing(path) as file:
            file.writelines(encode(value))
