"""ConvE models of random geometry, the geometries at the edges, and their influences by float64 autograd."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tracin import ConvE

Result = TypeVar("Result")

LAYERS = ("entity", "relation", "bn0", "conv", "bn1", "fc", "bn2", "bias")
LARGEST_FC = 2_000_000  # weights; a geometry whose fc is larger gets fewer channels
TRAIN, TESTS = 12, 3
SATURATED = 15.0  # scores beyond it lose digits: the residual is exp(-score), or -1 + exp(score)
AT_THE_KINK = 1e-5  # pre-activations nearer to zero, in units of their layer's own size, are on no sure side in float32


@dataclass(frozen=True)
class Geometry:
    """What a model is made of: arguments of ConvE, and how its weights are drawn."""

    name: str
    options: dict[str, Any]
    entities: int = 8
    relations: int = 3
    seed: int = 0
    score_scale: float = 1.0
    layers: tuple[str, ...] | str = "all"
    zero_gammas: bool = False

    @property
    def axis(self) -> int:
        """0 if the halves are stacked in height, 1 if in width."""
        return int(self.options["stack"] == "width")

    @property
    def empty_middle(self) -> bool:
        """Whether no window of the filter sees both halves, but some see one."""
        extent = self.options[("kernel_height", "kernel_width")[self.axis]]
        return bool(extent == 1)

    def describe(self) -> str:
        o = self.options
        planes = o["embedding_dim"] // (o["embedding_height"] * o["embedding_width"])
        norms = "".join(str(i) for i in range(3) if o[f"bn{i}"]) or "none"
        return (
            f"d {o['embedding_dim']} = {planes} x {o['embedding_height']} x {o['embedding_width']}, "
            f"C {o['output_channels']}, kernel {o['kernel_height']} x {o['kernel_width']}, stacked in {o['stack']}, "
            f"norms {norms}{'' if o['batch_norm_affine'] else ' without affine'}, "
            f"conv bias {o['conv_bias']}, entity bias {o['entity_bias']}, step {o['relation_step']}, "
            f"{self.entities} entities, {self.relations} relations, layers {self.layers}"
        )


def geometry(
    name: str,
    plane: tuple[int, int, int] = (1, 4, 3),  # planes, rows, columns of one embedding
    kernel: tuple[int, int] = (3, 3),
    channels: int = 3,
    stack: str = "height",
    norms: tuple[bool, bool, bool] = (True, True, True),
    affine: bool = True,
    biases: tuple[bool, bool] = (True, True),  # of the convolution, of the entities
    step: int = 1,
    **more: Any,
) -> Geometry:
    planes, rows, columns = plane
    options = dict(
        embedding_dim=planes * rows * columns, embedding_height=rows, embedding_width=columns,
        output_channels=channels, kernel_height=kernel[0], kernel_width=kernel[1], stack=stack,
        bn0=norms[0], bn1=norms[1], bn2=norms[2], batch_norm_affine=affine,
        conv_bias=biases[0], entity_bias=biases[1], relation_step=step,
    )  # fmt: skip
    return Geometry(name, options, **more)


def edges() -> list[Geometry]:
    """Each geometry at which something is empty, single, absent or largest."""
    none = (False, False, False)
    return [
        geometry("kernel 1 x 3 stacked in height", kernel=(1, 3)),
        geometry("kernel 3 x 1 stacked in width", kernel=(3, 1), stack="width"),
        geometry("kernel 1 x 1 stacked in height", kernel=(1, 1)),
        geometry("kernel 1 x 1 stacked in width", kernel=(1, 1), stack="width"),
        geometry("kernel 1 x 3, 33 channels", kernel=(1, 3), channels=33, plane=(1, 8, 5)),
        geometry("empty halves in height", kernel=(5, 2)),
        geometry("empty halves in width", kernel=(2, 4), stack="width"),
        geometry("one position", kernel=(8, 3)),
        geometry("one position in width", kernel=(4, 6), stack="width"),
        geometry("one channel", channels=1),
        geometry("d 1, kernel 1 x 1", plane=(1, 1, 1), kernel=(1, 1)),
        geometry("d 1, kernel 2 x 1", plane=(1, 1, 1), kernel=(2, 1)),
        geometry("d 1, kernel 1 x 2 in width", plane=(1, 1, 1), kernel=(1, 2), stack="width"),
        geometry("d 2", plane=(2, 1, 1), kernel=(2, 1), channels=2),
        geometry("one entity", entities=1),
        geometry("one relation", relations=1),
        geometry("one entity, one relation", entities=1, relations=1),
        geometry("no bn0", norms=(False, True, True)),
        geometry("no bn1", norms=(True, False, True)),
        geometry("no bn2", norms=(True, True, False)),
        geometry("no norms", norms=none),
        geometry("norms without affine", affine=False),
        geometry("no conv bias", biases=(False, True)),
        geometry("no entity bias", biases=(True, False)),
        geometry("nothing optional", norms=none, biases=(False, False)),
        geometry("zero gammas", zero_gammas=True, channels=5),
        geometry("two planes", plane=(2, 4, 3)),
        geometry("inverse rows", step=2),
        geometry("d 1024", plane=(1, 32, 32), channels=1),
        geometry("64 channels", plane=(1, 6, 4), channels=64),
        geometry("kernel 7 x 7", plane=(1, 9, 8), kernel=(7, 7), channels=4),
        geometry("only fc", layers=("fc",)),
        geometry("only bn2", layers=("bn2",)),
        geometry("only entity", layers=("entity",)),
        geometry("only conv", layers=("conv",), kernel=(2, 2)),
        geometry("saturated scores", score_scale=40.0, plane=(1, 8, 4), norms=(True, True, False)),
    ]


def random_geometry(seed: int, number: int) -> Geometry:
    """Sizes drawn evenly on a logarithmic scale; every option by itself."""
    rng = Random(f"{seed} {number}")
    planes = rng.choice([1, 1, 1, 1, 2, 3])
    rows, columns = (round(2 ** rng.uniform(0, 5)) for _ in range(2))
    stack = rng.choice(["height", "width"])
    high, wide = rows * (1 + (stack == "height")), columns * (1 + (stack == "width"))
    kernel = min(high, rng.choice([1, 2, 3, 3, 4, 5, 6, 7])), min(wide, rng.choice([1, 2, 3, 3, 4, 5, 6, 7]))
    while planes > 1 and planes * rows * columns > 1024:
        planes -= 1
    dim, positions = planes * rows * columns, (high - kernel[0] + 1) * (wide - kernel[1] + 1)
    channels = min(round(2 ** rng.uniform(0, 6)), max(1, LARGEST_FC // (dim * positions)))
    some = tuple(name for name in LAYERS if rng.random() < 0.4) or ("fc",)
    norms = (rng.random() < 0.75, rng.random() < 0.75, rng.random() < 0.75)
    affine, biases = rng.random() < 0.75, (rng.random() < 0.7, rng.random() < 0.7)
    here = {"fc", "entity", "relation", "conv"} | ({"bias"} if biases[1] else set())
    here |= {f"bn{i}" for i in range(3) if norms[i] and affine}
    chosen = tuple(name for name in some if name in here) or ("fc",)
    return geometry(
        f"random {number}", (planes, rows, columns), kernel, channels, stack, norms, affine, biases,
        rng.choice([1, 1, 1, 2]), entities=rng.choice([1, 2, 5, 12, 40]), relations=rng.choice([1, 2, 5]),
        seed=rng.randrange(1 << 30), score_scale=rng.choice([0.3, 1.0, 1.0, 3.0]),
        layers=chosen if rng.random() < 0.25 else "all", zero_gammas=rng.random() < 0.1,
    )  # fmt: skip


def model_of(geometry: Geometry, seed: int = 0) -> ConvE:
    """In eval mode; every weight and running statistic matters, activations stay near 1, scores near `score_scale`."""
    model = ConvE(geometry.entities, geometry.relations * geometry.options["relation_step"], **geometry.options).eval()
    generator = torch.Generator().manual_seed(geometry.seed + seed)

    def normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    with torch.no_grad():
        normal(model.entity.weight, std=0.7)
        normal(model.relation.weight, std=0.7)
        for layer in (model.conv, model.fc):
            normal(layer.weight, std=layer.weight[0].numel() ** -0.5)
            if layer.bias is not None:
                normal(layer.bias, std=0.3)
        for norm in (model.bn0, model.bn1, model.bn2):
            if norm is None:
                continue
            normal(norm.running_mean, std=0.3)
            norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) * 1.5 + 0.5)
            if norm.affine:
                normal(norm.weight, 1.0, 0.5)
                normal(norm.bias, std=0.5)
                if geometry.zero_gammas:
                    norm.weight[0] = 0
        if model.bias is not None:
            normal(model.bias, std=0.5)
        ids = torch.arange(geometry.entities)
        typical = model.score_tails(ids[:8], torch.zeros_like(ids[:8])).abs().max().clamp_min(0.1)
        if geometry.score_scale > SATURATED:
            model.fc.weight.mul_(geometry.score_scale / typical)
        else:
            model.entity.weight.mul_((geometry.score_scale / typical).clamp(0.2, 5.0) ** 0.5)
    return model


def triples_of(geometry: Geometry, train: int = TRAIN, tests: int = TESTS) -> tuple[Tensor, Tensor]:  # [n, 3], [Q, 3]
    """With a self-loop, a duplicate, and a test triple that is a training triple."""
    generator = torch.Generator().manual_seed(geometry.seed + 1)
    sizes = (geometry.entities, geometry.relations, geometry.entities)
    rows = torch.stack([torch.randint(high, (train + tests,), generator=generator) for high in sizes], 1)
    rows[1, 2], rows[3] = rows[1, 0], rows[2]
    rows[train] = rows[0]
    return rows[:train].contiguous(), rows[train:].contiguous()


@dataclass(frozen=True)
class Exact:
    """Influences in float64 by one autograd backward per triple, and which of them are delicate."""

    influence: Tensor  # [Q, n]
    own: Tensor  # [n] self-influences of the training triples
    kink_train: Tensor  # [n] whether a pre-activation of the triple lies at ReLU's kink
    kink_test: Tensor  # [Q]
    largest_score: float


def exact(model: ConvE, train: Tensor, test: Tensor, layers: tuple[str, ...] | str = "all") -> Exact:
    """The definition: <gradient of the loss of a, gradient of the loss of b>, loss = -log sigmoid(score)."""
    wide = copy_of(model)
    starts = tuple(f"{name}." for name in (LAYERS if layers == "all" else layers))
    parameters = [p for name, p in wide.named_parameters() if f"{name}.".startswith(starts)]

    def gradient(triple: Tensor) -> Tensor:
        loss = -F.logsigmoid(wide(triple[None])).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        parts = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))
        return torch.cat([part.flatten() for part in parts])

    tests = torch.stack([gradient(triple) for triple in test])
    columns, own = [], []
    for triple in train:
        g = gradient(triple)
        columns.append(tests @ g)
        own.append(g @ g)
    with torch.no_grad():
        largest = max(float(wide(rows).abs().max()) for rows in (train, test))
        near_train, near_test = at_the_kink(wide, train), at_the_kink(wide, test)
    return Exact(torch.stack(columns, 1), torch.stack(own), near_train, near_test, largest)


def copy_of(model: ConvE) -> ConvE:
    """In float64, without rounding anything."""
    wide = ConvE(**model.config).double().eval()
    wide.load_state_dict(model.state_dict())
    return wide


@torch.no_grad()
def at_the_kink(model: ConvE, triples: Tensor) -> Tensor:  # [n, 3] -> [n] bool
    """Whether float32 may see a pre-activation of a triple on the other side of zero."""
    seen: list[Tensor] = []

    def keep(module: Any, arguments: Any, result: Tensor) -> None:
        seen.append(result)

    layers = (model.bn1 or model.conv, model.bn2 or model.fc)
    handles = [layer.register_forward_hook(keep) for layer in layers]
    model(triples)
    for handle in handles:
        handle.remove()
    # exactly 0, as with gamma = beta = 0, is 0 in every precision
    near = [((x.abs() < AT_THE_KINK * x.abs().mean()) & (x != 0)).flatten(1).any(1) for x in seen]
    return near[0] | near[1]


def row_errors(found: Tensor, expected: Tensor) -> Tensor:  # [Q, n], [Q, n] -> [Q]
    """||row - expected|| / ||expected|| of each test triple; what is not finite is an infinite error."""
    difference = (found.double() - expected).norm(dim=1)
    errors = torch.where(difference == 0, torch.zeros_like(difference), difference / expected.norm(dim=1))
    return errors.nan_to_num(torch.inf, posinf=torch.inf)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is filled with NaN (torch) or huge numbers (glibc), so that reading what nobody wrote shows."""
    perturb = -6  # M_PERTURB of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[assignment]
    if mallopt is not None:
        mallopt(perturb, 1)
    try:
        yield
    finally:
        if mallopt is not None:
            mallopt(perturb, 0)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[assignment]


def in_fresh_memory(work: Callable[[], Result]) -> Result:
    """The result of work() in a thread of its own, whose buffers are new, with poisoned memory."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    with poisoned_memory():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
