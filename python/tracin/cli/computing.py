"""From the options of a command to a `TracIn`, and what is said of it before the work begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import click
import torch

import tracin_ext
from tracin.checkpoints.load import Checkpoint
from tracin.cli.command import warned_once
from tracin.cli.inputs import Inputs, Options
from tracin.cli.ranks import own_device
from tracin.distributed.ranks import Ranks
from tracin.influence.layers import layers_named
from tracin.influence.tracin import TracIn
from tracin.progress import Clock
from tracin.training.check import doubt

ISA_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "default": "portable loops"}


def chosen_backend(options: Options) -> str:
    """The one backend that the flags ask for."""
    if options.use_mixed_precision and "precision" in options.given and options.precision != "mixed":
        raise click.UsageError(f"--use-mixed-precision and --precision {options.precision} disagree; choose one")
    asked = {options.backend: "--backend"} if options.backend != "auto" else {}
    if options.use_torch_compile:
        asked.setdefault("compiled", "--use-torch-compile")
    if not options.use_vectorized_gradients:
        asked.setdefault("sequential", "--disable-vectorized-gradients")
    if len(asked) > 1:
        flags = " and ".join(f"{by} ({name})" for name, by in asked.items())
        raise click.UsageError(f"{flags} ask for different backends; choose one")
    return next(iter(asked), "auto")


def begin(
    options: Options, inputs: Inputs, backend: str, ranks: Ranks, clock: Clock, report: Callable[[str], None]
) -> TracIn:
    """Makes the TracIn, says what runs, and warns if the model hardly fits the training triples."""
    with clock("setting up"):
        doubted = doubt(inputs.checkpoint.model, inputs.train) if ranks.first else None
    if doubted is not None:
        warnings.warn(f"{doubted}; tracin check says more", stacklevel=1)
    with clock("setting up"):
        tracin = create(options, inputs.checkpoint, backend, ranks)
    for line in enabled(tracin, ranks):
        report(line)
    for note in notes_on_computing(options, tracin, ranks):
        report(f"note: {note}")
    return tracin


def create(options: Options, checkpoint: Checkpoint, backend: str, ranks: Ranks) -> TracIn:
    layers: str | int | list[str] = "all"
    if options.last_layer_names:
        layers = layers_named(options.last_layer_names, checkpoint.model)
    elif options.use_last_layers_only:
        layers = options.num_last_layers
    with warned_once(ranks):
        return TracIn(
            checkpoint,
            options.learning_rate,
            layers=layers,
            precision="mixed" if options.use_mixed_precision else options.precision,
            backend=backend,
            device=own_device(options.device, ranks),
            batch_size=options.batch_size or "auto",
            progress=None if ranks.first and not options.quiet else False,
            memory_limit=options.memory_limit,
            cache_test_factors=options.cache_test_gradients,
            recompute_activations=options.use_gradient_checkpointing,
            memory_cleanup=not options.disable_memory_cleanup,
        )


def notes_on_layers(options: Options) -> Iterator[str]:
    if "num_last_layers" in options.given and (options.last_layer_names or not options.use_last_layers_only):
        yield "--num-last-layers has no effect: " + (
            "--last-layer-names decides" if options.last_layer_names else "--use-last-layers-only was not given"
        )


def notes_on_computing(options: Options, tracin: TracIn, ranks: Ranks) -> Iterator[str]:
    """One line for each flag that does not do here what its name says."""
    if options.use_torch_compile and tracin.device.type == "cpu" and tracin_ext.status()["available"]:
        yield "the native backend is faster here than --use-torch-compile; leave the flag out to take it"
    if options.use_gradient_checkpointing and tracin.backend != "sequential":
        yield (
            f"--use-gradient-checkpointing changes nothing: the {tracin.backend} backend keeps no activations beyond "
            "a block; --batch-size bounds those"
        )
    if options.enable_multi_gpu and ranks.size == 1:
        gpus = torch.cuda.device_count()
        why = f"{gpus} GPUs are visible here" if gpus < 2 else f"--device {options.device} was asked for"
        yield f"--enable-multi-gpu: {why}; going on on one device"


def enabled(tracin: TracIn, ranks: Ranks) -> Iterator[str]:
    """What runs, a line for each thing that can be on or off."""
    yield f"running: {tracin.backend} backend, {tracin.description}"
    if ranks.size > 1:
        here = "all" if ranks.local_size == ranks.size else str(ranks.local_size)
        yield f"  ranks: {ranks.size}, {here} on this machine, each for its part of the training triples"
    instructions = "CUDA" if tracin.device.type == "cuda" else ISA_NAMES[tracin_ext.status()["isa"] or "default"]
    runs = {
        "native": f"native extension, {instructions}",
        "vectorized": "torch.func.vmap, dense gradients",
        "sequential": "off, one backward pass per triple",
    }
    yield f"  vectorized gradients: {runs.get(tracin.backend, 'factored form in PyTorch')}"
    yield "  test gradient caching: " + ("on" if tracin.cache_test_factors else "off, computed anew for every block")
    yield "  mixed precision: " + ("backward and pair products in bfloat16" if tracin.precision == "mixed" else "off")
    compiled = tracin.backend == "compiled" and "not compiled" not in tracin.description
    yield f"  torch.compile: {'on' if compiled else 'off'}"
    recomputed = tracin.recompute_activations and tracin.backend == "sequential"
    yield f"  gradient checkpointing: {'on' if recomputed else 'off'}"
    yield f"  memory cleanup: {'on' if tracin.memory_cleanup else 'off'}"
