"""The same influences by other libraries, on the same model and triples. None is needed to run the benchmark.

They are pyproject.toml's extra `compare`, which `make bench` does not install.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, suppress
from importlib import metadata
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from bench.methods import DENSE, DENSE_BATCH, RATE, Method, Score
from tracin import ConvE
from tracin.losses import bce


def captum(model: ConvE) -> tuple[Score, str]:
    """Captum's TracInCP over all parameters, one autograd pass per triple."""
    from captum import __version__
    from captum.influence import TracInCP

    model = copy.deepcopy(model)

    def loss(scores: Tensor, _: Tensor) -> Tensor:  # [B], [B] -> [B]
        return bce(scores)

    def score(train: Tensor, test: Tensor) -> Tensor:  # [n, 3], [q, 3] -> [q, n]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attributor = TracInCP(
                model,
                TensorDataset(train, train[:, 0]),
                ["the one checkpoint"],
                lambda *_: RATE,
                loss_fn=loss,
                batch_size=DENSE_BATCH,
            )
            return attributor.influence((test, test[:, 0])).detach()

    return score, f"Captum {__version__} TracInCP, batches of {DENSE_BATCH}"


def dattri(model: ConvE) -> tuple[Score, str]:
    """dattri's TracIn with the identity in place of its random projection."""
    from importlib.metadata import version

    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    model = copy.deepcopy(model)

    def loss(named: dict[str, Tensor], data: tuple[Tensor]) -> Tensor:
        return bce(functional_call(model, named, (data[0][None],))).sum()

    def score(train: Tensor, test: Tensor) -> Tensor:  # [n, 3], [q, 3] -> [q, n]
        attributor = TracInAttributor(
            AttributionTask(loss, model, [model.state_dict()]),
            weight_list=torch.tensor([RATE]),
            normalized_grad=False,
            projector_kwargs={"proj_type": "identity", "device": "cpu"},
        )
        loaders = (DataLoader(TensorDataset(triples), DENSE_BATCH) for triples in (train, test))
        with redirect_stderr(StringIO()):  # its progress bars
            return attributor.attribute(*loaders).T

    return score, f"dattri {version('dattri')} TracIn, identity projection, batches of {DENSE_BATCH}"


def hooks(model: ConvE) -> tuple[Score, str]:
    """Per-sample gradients as Opacus takes them: hooks keep activations and output gradients of one batched pass."""
    model = copy.deepcopy(model).requires_grad_(True)

    def score(train: Tensor, test: Tensor) -> Tensor:  # [n, 3], [q, 3] -> [q, n]
        tests = torch.cat([per_sample_gradients(model, batch) for batch in test.split(DENSE_BATCH)])
        blocks = [tests @ per_sample_gradients(model, batch).T for batch in train.split(DENSE_BATCH)]
        return RATE * torch.cat(blocks, 1)

    return score, f"per-sample gradients by hooks (as in Opacus), batches of {DENSE_BATCH}"


def per_sample_gradients(model: ConvE, triples: Tensor) -> Tensor:  # [B, 3] -> [B, parameters]
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []  # layer, its input, its output; in order of the calls

    def keep(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append((layer, inputs[0].detach(), output))

    handles = [layer.register_forward_hook(keep) for layer in model.modules() if type(layer) in RULES]
    try:
        with torch.enable_grad():
            scores = model(triples)
            errors = torch.autograd.grad(bce(scores).sum(), [scores, *(output for _, _, output in seen)])
    finally:
        for handle in handles:
            handle.remove()
    rows = {name: value.new_zeros(len(triples), *value.shape) for name, value in model.named_parameters()}
    names = {layer: name for name, layer in model.named_modules()}
    for (layer, x, _), error in zip(seen, errors[1:], strict=True):
        for name, gradient in RULES[type(layer)](layer, x, error).items():
            rows[f"{names[layer]}.{name}"] += gradient
    if model.bias is not None:
        rows["bias"][torch.arange(len(triples)), triples[:, 2]] = errors[0]
    return torch.cat([gradient.flatten(1) for gradient in rows.values()], 1)


def embedding(layer: Any, ids: Tensor, error: Tensor) -> dict[str, Tensor]:  # [B], [B, D]
    rows = error.new_zeros(len(ids), *layer.weight.shape)
    rows[torch.arange(len(ids)), ids] = error
    return {"weight": rows}


def linear(layer: Any, x: Tensor, error: Tensor) -> dict[str, Tensor]:  # [B, in], [B, out]
    return {"weight": error[:, :, None] * x[:, None, :]} | ({} if layer.bias is None else {"bias": error})


def convolution(layer: Any, x: Tensor, error: Tensor) -> dict[str, Tensor]:  # [B, I, H, W], [B, C, H', W']
    patches = functional.unfold(x, layer.kernel_size)  # [B, J, positions]
    weight = error.flatten(2) @ patches.transpose(1, 2)
    found = {"weight": weight.view(len(x), *layer.weight.shape)}
    return found if layer.bias is None else found | {"bias": error.flatten(2).sum(2)}


def batch_norm(layer: Any, x: Tensor, error: Tensor) -> dict[str, Tensor]:  # [B, C, ...]
    if layer.weight is None:
        return {}
    shape = (1, -1) + (1,) * (x.dim() - 2)
    normal = (x - layer.running_mean.view(shape)) * (layer.running_var.view(shape) + layer.eps).rsqrt()
    positions = tuple(range(2, x.dim()))

    def total(values: Tensor) -> Tensor:
        return values.sum(positions) if positions else values

    return {"weight": total(error * normal), "bias": total(error)}


RULES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], dict[str, Tensor]]] = {
    nn.Embedding: embedding,
    nn.Linear: linear,
    nn.Conv2d: convolution,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
}

LIBRARIES = {"Captum TracInCP": "captum", "dattri TracIn": "dattri"}  # by method


def missing(methods: Iterable[Method]) -> Iterator[str]:
    """Of each method whose library is not installed, a line that says how to get it, in the version we compare with."""
    asked: list[str] = []
    with suppress(metadata.PackageNotFoundError):
        asked = metadata.requires("tracin-ext") or []
    versions = [found[1] for text in asked if (found := re.fullmatch(r'(.+); extra == "compare"', text))]
    for method in methods:
        library = LIBRARIES.get(method.name)
        if library is not None and find_spec(library) is None:
            wanted = next((text for text in versions if text.startswith(library)), library)
            yield f"{method.name} is left out: {library} is not installed; pip install {wanted} gets it"


PEERS = (
    Method("Captum TracInCP", captum, DENSE, train=384, kind="peer"),
    Method("dattri TracIn", dattri, DENSE, train=2 * DENSE_BATCH, kind="peer", quick=False),
    Method("hooks, as Opacus", hooks, DENSE, train=384, kind="peer"),
)
