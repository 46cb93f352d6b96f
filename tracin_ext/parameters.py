"""The tensors of one ConvE checkpoint in the form that the factored backends and the native ops read.

Sizes: N entities, R relations, D embedding, C channels, I image planes, J = I * kernel height * kernel width taps of a
filter, P output positions of a filter, F = C * P features.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = ("entity", "relation", "bn0", "conv", "bn1", "fc", "bn2", "bias")
READ = (*LAYERS, "plane", "stack", "relation_step")  # attributes of a module that `parameters_of` reads
KINK = 1e-5  # pre-activations of the hidden layer this close to zero are settled in float64


@dataclass(frozen=True)
class ConvEParameters:
    """Absent batch norms are identities, absent biases are zero; `tracked` says which gradients count.

    `M` is that of the statistics' inner product S_a^T M S_b; None when no layer below fc is tracked.
    """

    entity: Tensor  # [N, D]
    relation: Tensor  # [R, D]
    bias: Tensor | None  # [N]
    image_mean: Tensor  # [I]
    image_rstd: Tensor  # [I]
    image_gamma: Tensor  # [I]
    image_beta: Tensor  # [I]
    conv_weight: Tensor  # [C, I, kernel height, kernel width]
    conv_scale: Tensor  # [C] gamma_1 / sigma_1
    conv_shift: Tensor  # [C] BN1's pre-activation = conv_scale * (conv without bias) + conv_shift
    fc_weight: Tensor  # [D, F]
    fc_bias: Tensor  # [D]
    hidden_mean: Tensor  # [D]
    hidden_rstd: Tensor  # [D]
    hidden_gamma: Tensor  # [D]
    hidden_beta: Tensor  # [D]
    M: Tensor | None  # [C * (J + 1), C * (J + 1)], symmetric
    M_blocks: Tensor | None  # [C, J + 1, J + 1], of the layers whose gradients belong to one channel each
    M_rows: Tensor | None  # [gradients of bn0, C * (J + 1)]: M is the sum of the blocks and of rows^T rows
    plane: tuple[int, int, int]  # I, rows, columns of one embedding
    stack: str  # "height" | "width"
    relation_step: int  # row of relation r is relation_step * r
    tracked: frozenset[str]  # layers, and "fc.bias", "bn2.weight", "bn2.bias" where they exist
    mixed: bool = False  # whether the backward product and v . v' are in bfloat16

    @property
    def dtype(self) -> torch.dtype:
        """The type that results are computed in; the tables may be narrower."""
        return self.conv_weight.dtype

    @property
    def features(self) -> int:
        """F."""
        return self.fc_weight.shape[1]

    def relation_rows(
        self,
        relations: Tensor,  # [B] ids
    ) -> Tensor:  # [B] rows of the relation table
        return relations * self.relation_step


def affine(norm: nn.Module | None, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean, 1/sigma, gamma, beta) of a batch norm in eval mode, float64, each [size]; the identity if it is absent."""
    zero, one = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    if norm is None:
        return zero, one, one, zero
    state: Any = norm
    rstd = (state.running_var.detach().double().cpu() + state.eps).rsqrt()
    if state.weight is None:
        return state.running_mean.double().cpu(), rstd, one, zero
    gamma, beta = state.weight.detach().double().cpu(), state.bias.detach().double().cpu()
    return state.running_mean.double().cpu(), rstd, gamma, beta


def kink_of(
    p: ConvEParameters,  # float64, tables excepted
) -> Tensor:  # [D] float64
    """The width of ReLU's kink: what float32 may get wrong of a pre-activation, many times over."""
    return KINK * (p.hidden_rstd * p.hidden_gamma).abs().clamp(min=1)


def has_factored_form(model: Any) -> bool:
    """Whether `parameters_of` reads this module: a ConvE."""
    return all(hasattr(model, name) for name in READ)


def lacks_weight(layers: Collection[str]) -> bool:
    """Whether fc's bias counts and its weight does not: the factored form has no term of it alone."""
    return "fc.bias" in layers and not {"fc", "fc.weight"} & set(layers)


def parameters_of(
    model: Any,
    layers: Collection[str] = LAYERS,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    tables: torch.dtype | None = None,
) -> ConvEParameters:
    """Reads a ConvE module, its attributes READ.

    `layers` are those whose gradients count; in the place of a layer, names of parameters count these alone. `fc.bias`
    counts only with `fc.weight`: see `lacks_weight`.
    Everything derived is computed in float64 and rounded once, to `dtype`. `tables` is the type of entity, relation,
    bias and fc_weight where it differs: float32 tables with everything else in float64 are exact for a float32 model,
    and share its memory.
    """
    conv_weight = model.conv.weight.detach().double().cpu()
    channels, planes = conv_weight.shape[:2]
    image_mean, image_rstd, image_gamma, image_beta = affine(model.bn0, planes)
    conv_mean, conv_rstd, conv_gamma, conv_beta = affine(model.bn1, channels)
    hidden_mean, hidden_rstd, hidden_gamma, hidden_beta = affine(model.bn2, model.fc.out_features)
    no_bias = torch.zeros(channels, dtype=torch.float64)
    conv_bias = no_bias if model.conv.bias is None else model.conv.bias.detach().double().cpu()
    scale = conv_gamma * conv_rstd
    counted = {name for name, _ in model.named_parameters() if not {name, name.split(".")[0]}.isdisjoint(layers)}
    tracked = {name.split(".")[0] for name in counted} | counted & {"fc.bias", "bn2.weight", "bn2.bias"}
    maps = statistics_maps(conv_weight, conv_bias - conv_mean, conv_rstd, scale, image_gamma, image_beta)
    weights = {"bn0": planes, "conv": conv_weight.numel(), "bn1": channels}  # rows of a map before those of the bias
    below_fc = {
        f"{layer}.{name}": maps[layer][rows]
        for layer, size in weights.items()
        for name, rows in (("weight", slice(size)), ("bias", slice(size, None)))
        if f"{layer}.{name}" in counted
    }
    root = torch.cat([*below_fc.values()]) if below_fc else None
    none = conv_weight.new_empty(0, channels * (conv_weight[0].numel() + 1))
    of_channels, shared = (
        torch.cat([none, *(rows for name, rows in below_fc.items() if name.startswith("bn0") == of_bn0)])
        for of_bn0 in (False, True)
    )

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype)

    def table(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, tables or dtype)

    return ConvEParameters(
        entity=table(model.entity.weight),
        relation=table(model.relation.weight),
        bias=None if model.bias is None else table(model.bias),
        image_mean=cast(image_mean),
        image_rstd=cast(image_rstd),
        image_gamma=cast(image_gamma),
        image_beta=cast(image_beta),
        conv_weight=cast(conv_weight),
        conv_scale=cast(scale),
        conv_shift=cast(scale * (conv_bias - conv_mean) + conv_beta),
        fc_weight=table(model.fc.weight),
        fc_bias=cast(torch.zeros(model.fc.out_features) if model.fc.bias is None else model.fc.bias.detach()),
        hidden_mean=cast(hidden_mean),
        hidden_rstd=cast(hidden_rstd),
        hidden_gamma=cast(hidden_gamma),
        hidden_beta=cast(hidden_beta),
        M=None if root is None else cast(root.T @ root),
        M_blocks=None if root is None else cast(blocks_of(of_channels, channels)),
        M_rows=None if root is None else cast(shared),
        plane=model.plane,
        stack=model.stack,
        relation_step=model.relation_step,
        tracked=frozenset(tracked),
    )


def blocks_of(
    rows: Tensor,  # [parameters, C * (J + 1)], each of one channel
    channels: int,
) -> Tensor:  # [C, J + 1, J + 1]
    """The blocks of rows^T rows, which has nothing else."""
    by_channel = rows.unflatten(1, (channels, -1))
    return torch.einsum("pcj,pck->cjk", by_channel, by_channel)


def statistics_maps(
    weight: Tensor,  # [C, I, kernel height, kernel width]
    offset: Tensor,  # [C] conv bias minus BN1's mean
    rstd: Tensor,  # [C] 1/sigma of BN1
    scale: Tensor,  # [C] gamma_1 / sigma_1
    image_gamma: Tensor,  # [I]
    image_beta: Tensor,  # [I]
) -> dict[str, Tensor]:  # layer -> [parameters of the layer, C * (J + 1)]
    """Gradients of the layers below fc as linear maps of the statistics S[c] = (sum_p y patch_k(xn), sum_p y).

    patch(x0) = gamma_0 patch(xn) + beta_0, so no map divides by a gamma.
    """
    channels, planes = weight.shape[:2]
    taps = weight[0].numel()
    per_tap = taps // planes
    kernel = weight.reshape(channels, taps)
    gamma, beta = image_gamma.repeat_interleave(per_tap), image_beta.repeat_interleave(per_tap)  # [J]
    eye = torch.eye(channels, dtype=weight.dtype)
    conv = torch.zeros(channels, taps, channels, taps + 1, dtype=weight.dtype)
    conv[:, :, :, :taps] = torch.einsum("ce,kl->ckel", torch.diag(scale), torch.diag(gamma))
    conv[:, :, :, taps] = torch.einsum("ce,k->cke", torch.diag(scale), beta)
    conv_bias = torch.zeros(channels, channels, taps + 1, dtype=weight.dtype)
    conv_bias[:, :, taps] = torch.diag(scale)
    bn1 = torch.zeros(2, channels, channels, taps + 1, dtype=weight.dtype)
    bn1[0, :, :, :taps] = torch.einsum("ce,ck->cek", eye, rstd[:, None] * kernel * gamma)
    bn1[0, :, :, taps] = torch.diag(rstd * (kernel @ beta + offset))
    bn1[1, :, :, taps] = eye
    bn0 = torch.zeros(2, planes, channels, taps + 1, dtype=weight.dtype)
    for plane in range(planes):
        window = slice(plane * per_tap, (plane + 1) * per_tap)
        bn0[0, plane, :, window] = scale[:, None] * kernel[:, window]
        bn0[1, plane, :, taps] = scale * kernel[:, window].sum(1)
    width = channels * (taps + 1)
    return {
        "conv": torch.cat([conv.reshape(-1, width), conv_bias.reshape(-1, width)]),
        "bn1": bn1.reshape(-1, width),
        "bn0": bn0.reshape(-1, width),
    }
