"""From the options of a command to its ranks, what it reads, and a `TracIn`; what is said of them on the way."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import torch
from torch import Tensor

import tracin_ext
from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.checkpoints.several import load_checkpoints
from tracin.cli.command import ARGUMENTS, speaking_of_flags, warned_once
from tracin.cli.options import (
    ComputingOptions,
    FileOptions,
    InputOptions,
    ModelOptions,
    QuestionOptions,
    RankingOptions,
    spelled,
    valued,
)
from tracin.digests import digest_file, digest_models
from tracin.distributed.launch import launch
from tracin.distributed.ranks import Ranks, ranks_of_environment, working_together
from tracin.errors import InputError, quote
from tracin.influence.layers import layers_named
from tracin.influence.tracin import TracIn
from tracin.machine import resolve_device
from tracin.progress import Clock
from tracin.streams import say
from tracin.training.check import doubt
from tracin.triples.dictionaries import read_dictionaries, read_edge_map, read_names
from tracin.triples.labels import Labels
from tracin.triples.named import named_triple
from tracin.triples.read import check_parts, read_triples, read_triples_part

DEFAULT_OF_TORCHRUN = "1"  # what it sets OMP_NUM_THREADS to where nobody else did
# Options that may differ between ranks: they change no result, or by rounding only.
OF_A_RANK = ("batch_size", "csv_output", "device", "memory_limit", "quiet", "show", "threads")
NOT_FACTORED = {"vectorized": "torch.func.vmap, dense gradients", "sequential": "off, one backward pass per triple"}


class SessionOptions(Protocol):
    """What a command's options have in common."""

    @property
    def files(self) -> FileOptions: ...

    @property
    def inputs(self) -> InputOptions: ...

    @property
    def ranking(self) -> RankingOptions: ...

    @property
    def computing(self) -> ComputingOptions: ...


@dataclass(frozen=True)
class Inputs:
    checkpoint: Checkpoint
    entity_to_id: Mapping[str, int]
    relation_to_id: Mapping[str, int]
    train: Tensor  # [n_part, 3]; this rank's part, in the order of ranks
    num_train: int  # of all ranks
    test: Tensor  # [n_test, 3]; no rows where none are read
    labels: Labels
    earlier: Sequence[Checkpoint] = ()  # of the same training run

    @property
    def models(self) -> list[Any]:
        return [checkpoint.model for checkpoint in (*self.earlier, self.checkpoint)]


@contextmanager
def opened(options: SessionOptions) -> Iterator[Session]:
    """A rank's part of a command, with its device and its share of the machine's cores; errors speak of flags.

    With --enable-multi-gpu and several GPUs, the command runs on a rank for each of them, and this process exits.
    """
    computing = options.computing
    take_all_gpus(computing)
    ranks = ranks_of_environment()
    set_threads(computing.threads, ranks)
    with speaking_of_flags(options.inputs.entity_to_id, options.inputs.relation_to_id):
        device = own_device(computing.device, ranks)
        with working_together(device.type) as ranks:
            yield Session(options, ranks, chosen_backend(computing), Clock())


@dataclass(frozen=True)
class Session:
    """What a rank works with; of all ranks, the first reports."""

    options: SessionOptions
    ranks: Ranks
    backend: str
    clock: Clock

    def report(self, message: str) -> None:
        if self.ranks.first and not self.options.computing.quiet:
            say(message)

    def note(self, *notes: str) -> None:
        for note in notes:
            self.report(f"note: {note}")

    def read(self, test: Path | Sequence[Sequence[str]] | None) -> Inputs:
        """Reads every file that the options name and checks them against each other.

        Args:
            test: the file of the test triples, or these themselves as `named_triple` takes them; None: there are none.
        """
        with self.clock("reading"):
            inputs = read_inputs(self.options.files, self.options.inputs, test, self.ranks)
            check_alike(self.options, inputs, self.ranks)
        return inputs

    def begin(self, inputs: Inputs, tests: int) -> TracIn:
        """Makes the TracIn, says what runs, and warns if the model hardly fits the training triples."""
        self.report(describe_inputs(inputs, tests))
        self.note(*notes_on_inputs(self.options.ranking, inputs, self.options.computing.question.method))
        with self.clock("setting up"):
            doubted = doubt(inputs.checkpoint.model, inputs.train) if self.ranks.first else None
        if doubted is not None:
            warnings.warn(f"{doubted}; tracin check says more", stacklevel=1)
        with self.clock("setting up"):
            ranking, computing = self.options.ranking, self.options.computing
            tracin = create(ranking, computing, [*inputs.earlier, inputs.checkpoint], self.backend, self.ranks)
        for line in enabled(computing, tracin, self.ranks):
            self.report(line)
        self.note(*notes_on_computing(computing, tracin, self.ranks))
        return tracin


# ---- ranks ------------------------------------------------------------------------------------------------------


def take_all_gpus(computing: ComputingOptions) -> None:
    gpus = torch.cuda.device_count()
    if not computing.enable_multi_gpu or ranks_of_environment().size > 1 or gpus < 2:
        return
    if computing.device == "cpu" and "device" in computing.given:
        return
    code, reason = launch([*click.get_current_context().meta[ARGUMENTS], "--device", "cuda"], gpus)
    if reason:
        say(f"tracin: error: {reason}")
    sys.exit(code)


def set_threads(asked: int | None, ranks: Ranks) -> None:
    if asked is not None:
        torch.set_num_threads(asked)
    elif ranks.size > 1 and os.environ.get("OMP_NUM_THREADS", DEFAULT_OF_TORCHRUN) == DEFAULT_OF_TORCHRUN:
        torch.set_num_threads(max(1, cores() // ranks.local_size))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_device(device: str, ranks: Ranks) -> torch.device:
    """A GPU for each rank, by its number on its machine.

    Raises:
        InputError: if there are fewer GPUs than ranks.
    """
    resolved = resolve_device(device)
    if resolved.type != "cuda" or ranks.size == 1:
        return resolved
    gpus = torch.cuda.device_count()
    if ranks.local_rank >= gpus:
        raise InputError(
            f"{ranks.local_size} ranks run on this machine, each on a GPU of its own, but {gpus} are visible; "
            f"start {gpus} with --nproc-per-node {gpus}, or take --device cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def check_alike(options: SessionOptions, inputs: Inputs, ranks: Ranks) -> None:
    """Raises InputError unless all ranks have read the same files, of which each machine may have its own.

    So must be all options that decide what is computed.
    """
    if ranks.size == 1:
        return
    own = {
        "weights": digest_models(inputs.models),
        "dictionaries": [hash_of(inputs.entity_to_id), hash_of(inputs.relation_to_id)],
        "training files": digest_file(options.files.train_path),
    }
    chosen = deciding(options)
    for rank, (theirs, others) in enumerate(ranks.all_gather((own, chosen))):
        for name, value in own.items():
            if theirs[name] != value:
                raise InputError(f"the {name} on ranks {ranks.rank} and {rank} differ; all ranks need the same files")
        for flag, value in chosen.items():
            if others.get(flag) != value:
                raise InputError(
                    f"{flag} is {quote(value)} on rank {ranks.rank} and {quote(others.get(flag))} on rank {rank}; all "
                    "ranks need the same options"
                )


def deciding(options: Any) -> dict[str, Any]:
    """The options of a command by their flags, without files and what only says how the work is done."""
    return {
        str(field.metadata["flag"]): value
        for field, value in valued(options)
        if "flag" in field.metadata and not isinstance(value, Path) and field.name not in OF_A_RANK
    }


def hash_of(labels: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()


# ---- inputs -----------------------------------------------------------------------------------------------------


def read_inputs(
    files: FileOptions, options: ModelOptions, test: Path | Sequence[Sequence[str]] | None, ranks: Ranks
) -> Inputs:
    """Of the training triples each rank reads its part; what only outputs need, rank 0 alone."""
    given = read_dictionaries(options.entity_to_id, options.relation_to_id)
    if files.several:
        *earlier, checkpoint = load_checkpoints(files.several, *options.image.shape, *given)
    else:
        earlier, checkpoint = [], load_checkpoint(files.model_path, *options.image.shape, *given)
    path = Path(checkpoint.path)
    for name, asked in (("embedding_dim", options.embedding_dim), ("output_channels", options.output_channels)):
        size = checkpoint.model.config[name]
        if asked not in (None, size):
            flag = spelled(options, name)
            raise InputError(f"{flag} is {asked}, but {path} has {size}; leave the flag out")
    entities, relations = dictionaries_of(checkpoint, path)
    names = names_of(options) if ranks.first and isinstance(options, InputOptions) else (None, None)
    # a checkpoint's dictionaries are in the order of ids
    labels = Labels(dict(enumerate(entities)), dict(enumerate(relations)), *names)
    given_triples = test if ranks.first and not isinstance(test, Path) else ()
    tests = [
        named_triple(texts, entities, relations, labels, options.numeric_triples, "--triple")
        for texts in given_triples or ()
    ]
    skip_unknown, numeric = options.skip_unknown, options.numeric_triples or None
    form = skip_unknown, numeric, options.columns
    part = read_triples_part(files.train_path, entities, relations, ranks.rank, ranks.size, *form)
    counts = ranks.all_gather(part.count)
    with warned_once(ranks):
        check_parts(files.train_path, counts)
    rows = torch.tensor(tests, dtype=torch.int64).reshape(-1, 3)
    if ranks.first and isinstance(test, Path):
        rows = read_triples(test, entities, relations, *form)
    num_train = sum(count.lines - count.skipped for count in counts)
    return Inputs(checkpoint, entities, relations, part.triples, num_train, rows, labels, earlier)


def names_of(options: InputOptions) -> tuple[dict[int, str] | None, dict[str, str] | None]:
    """Names of entities by id and of relations by label, where files of them are given."""
    return (
        None if options.node_name_dict is None else read_names(options.node_name_dict),
        None if options.edge_map is None else read_edge_map(options.edge_map),
    )


def dictionaries_of(checkpoint: Checkpoint, path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Of entities and of relations; InputError if one is missing."""
    entities, relations = checkpoint.entity_to_id, checkpoint.relation_to_id
    if entities is None or relations is None:
        missing = "--entity-to-id" if entities is None else "--relation-to-id"
        raise InputError(f"{path} holds no dictionary of labels; name one with {missing}")
    return entities, relations


def describe_inputs(inputs: Inputs, tests: int) -> str:
    config = inputs.checkpoint.model.config
    earlier = f" and {len(inputs.earlier)} earlier" if inputs.earlier else ""
    return (
        f"{inputs.checkpoint.path}{earlier}: {inputs.checkpoint.format}, {len(inputs.labels.entities)} entities, "
        f"{len(inputs.labels.relations)} relations, embeddings of {config['embedding_dim']} as "
        f"{config['embedding_height']} x {config['embedding_width']} stacked in {config['stack']}; "
        f"{inputs.num_train} training triples" + (f", {tests} test triples" if tests else "")
    )


def notes_on_inputs(ranking: RankingOptions, inputs: Inputs, method: str) -> Iterator[str]:
    own = inputs.checkpoint.learning_rate
    if method == "accurate":
        if "learning_rate" in ranking.given:
            yield "--learning-rate has no effect: --method accurate takes none"
    elif inputs.earlier:
        rates = [checkpoint.learning_rate for checkpoint in [*inputs.earlier, inputs.checkpoint]]
        if "learning_rate" not in ranking.given and None not in rates:  # else they are asked for
            yield "the checkpoints are weighted by their learning rates " + ", ".join(f"{rate:g}" for rate in rates)
    elif own not in (None, ranking.learning_rate) and "learning_rate" not in ranking.given:
        yield f"--learning-rate {ranking.learning_rate} is used, not the checkpoint's {own:g}"
    if len(inputs.test) and (ranking.top_k or 0) > inputs.num_train:
        yield f"--top-k {ranking.top_k} exceeds the {inputs.num_train} training triples: all are written"


# ---- the TracIn -------------------------------------------------------------------------------------------------


def chosen_backend(computing: ComputingOptions) -> str:
    """The one backend that the flags ask for."""
    if computing.use_mixed_precision and "precision" in computing.given and computing.precision != "mixed":
        raise click.UsageError(f"--use-mixed-precision and --precision {computing.precision} disagree; choose one")
    asked = {computing.backend: "--backend"} if computing.backend != "auto" else {}
    if computing.use_torch_compile:
        asked.setdefault("compiled", "--use-torch-compile")
    if not computing.use_vectorized_gradients:
        asked.setdefault("sequential", "--disable-vectorized-gradients")
    if len(asked) > 1:
        flags = " and ".join(f"{by} ({name})" for name, by in asked.items())
        raise click.UsageError(f"{flags} ask for different backends; choose one")
    return next(iter(asked), "auto")


def create(
    ranking: RankingOptions, computing: ComputingOptions, checkpoints: Sequence[Checkpoint], backend: str, ranks: Ranks
) -> TracIn:
    """Of one checkpoint with the learning rate of the command line, of several with their own unless one is given."""
    layers: str | int | list[str] = "all"
    if ranking.last_layer_names:
        layers = layers_named(ranking.last_layer_names, checkpoints[0].model)
    elif ranking.use_last_layers_only:
        layers = ranking.num_last_layers
    asked = computing.question
    if ranks.size > 1 and not plain(asked):
        raise InputError(
            "on several ranks there are only the influences of --method tracin and --loss bce with its own query, "
            "direction and normalisation; run in one process"
        )
    with warned_once(ranks):
        return TracIn(
            checkpoints,
            ranking.learning_rate if len(checkpoints) == 1 or "learning_rate" in ranking.given else None,
            layers=layers,
            precision="mixed" if computing.use_mixed_precision else computing.precision,
            backend=backend,
            device=own_device(computing.device, ranks),
            batch_size=computing.batch_size or "auto",
            progress=None if ranks.first and not computing.quiet else False,
            memory_limit=computing.memory_limit,
            cache_test_factors=computing.cache_test_gradients,
            recompute_activations=computing.use_gradient_checkpointing,
            memory_cleanup=not computing.disable_memory_cleanup,
            **question_of(asked),
        )


def question_of(asked: QuestionOptions) -> dict[str, Any]:
    """The arguments of `TracIn` for it."""
    return {field.name: value for field, value in valued(asked)}


def plain(asked: QuestionOptions) -> bool:
    """Whether TracIn is asked for as it stands."""
    return question_of(asked) == question_of(QuestionOptions())


def notes_on_layers(ranking: RankingOptions) -> Iterator[str]:
    if "num_last_layers" in ranking.given and (ranking.last_layer_names or not ranking.use_last_layers_only):
        yield "--num-last-layers has no effect: " + (
            "--last-layer-names decides" if ranking.last_layer_names else "--use-last-layers-only was not given"
        )


def notes_on_computing(computing: ComputingOptions, tracin: TracIn, ranks: Ranks) -> Iterator[str]:
    """One line for each flag that does not do here what its name says."""
    if computing.use_torch_compile and tracin.device.type == "cpu" and tracin_ext.status()["available"]:
        yield "the native backend is faster here than --use-torch-compile; leave the flag out to take it"
    if computing.use_gradient_checkpointing and tracin.backend != "sequential":
        yield (
            f"--use-gradient-checkpointing changes nothing: the {tracin.backend} backend keeps no activations beyond "
            "a block; --batch-size bounds those"
        )
    if computing.enable_multi_gpu and ranks.size == 1:
        gpus = torch.cuda.device_count()
        why = f"{gpus} GPUs are visible here" if gpus < 2 else f"--device {computing.device} was asked for"
        yield f"--enable-multi-gpu: {why}; going on on one device"


def enabled(computing: ComputingOptions, tracin: TracIn, ranks: Ranks) -> Iterator[str]:
    """What runs, and a line for each thing that can be on or off and is not as it is by default."""
    yield f"running: {tracin.backend} backend, {tracin.description}"
    if ranks.size > 1:
        here = "all" if ranks.local_size == ranks.size else str(ranks.local_size)
        yield f"  ranks: {ranks.size}, {here} on this machine, each for its part of the training triples"
    if tracin.backend in NOT_FACTORED:
        yield f"  vectorized gradients: {NOT_FACTORED[tracin.backend]}"
    if not tracin.cache_test_factors:
        yield "  test gradient caching: off, computed anew for every block"
    if computing.use_mixed_precision or computing.precision == "mixed":
        yield "  mixed precision: " + (
            "backward and pair products in bfloat16" if tracin.precision == "mixed" else "off"
        )
    if tracin.backend == "compiled":
        yield f"  torch.compile: {'off' if 'not compiled' in tracin.description else 'on'}"
    if tracin.recompute_activations and tracin.backend == "sequential":
        yield "  gradient checkpointing: on"
    if not tracin.memory_cleanup:
        yield "  memory cleanup: off"
