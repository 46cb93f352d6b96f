"""The factored form in plain PyTorch: no gradient is ever built (see the README, "How it works").

Sizes: B triples, G distinct (head, relation), Q test triples, D embedding, C channels, J taps, P positions, F = C * P.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tracin_ext.grouping import Grouped, group_triples
from tracin_ext.losses import Loss, bce, bce_by_score
from tracin_ext.parameters import ConvEParameters, kink_of, parameters_of


def has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are fast there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def product(p: ConvEParameters, a: Tensor, b: Tensor) -> Tensor:  # [m, k], [k, n] -> [m, n]
    """a b, with operands and result rounded to bfloat16 in mixed precision."""
    return (a.bfloat16() @ b.bfloat16()).to(a.dtype) if p.mixed else a @ b


@dataclass(frozen=True)
class Factors:
    """What the kernel of a pair needs from each side."""

    heads: Tensor  # [B]
    relations: Tensor  # [B]
    tails: Tensor  # [B]
    group: Tensor  # [B]
    v: Tensor  # [G, F] feature maps
    z: Tensor  # [B, D] hidden layer
    w: Tensor  # [B] dloss/dscore
    e: Tensor  # [B, D] gradient at BN2's output
    e_un: Tensor  # [B, D] e * un
    delta: Tensor  # [B, D] gradient at fc's output
    S: Tensor  # [B, C * (J + 1)] statistics
    c: Tensor  # [B, D] gradient at E[h] through the convolution
    q: Tensor  # [B, D] gradient at R[r]


def image(p: ConvEParameters, grouped: Grouped) -> Tensor:  # [G, I, H, W]
    """xn, the stacked embeddings after BN0's normalisation, before its affine part."""
    planes = (-1, *p.plane)
    stacked = torch.cat(
        [p.entity[grouped.heads].view(planes), p.relation[p.relation_rows(grouped.relations)].view(planes)],
        dim=2 if p.stack == "height" else 3,
    ).to(p.dtype)
    return (stacked - p.image_mean[:, None, None]) * p.image_rstd[:, None, None]


def features(p: ConvEParameters, xn: Tensor) -> Tensor:  # [G, I, H, W] -> [G, F]
    """v, the feature maps after ReLU, channel-major."""
    x0 = xn * p.image_gamma[:, None, None] + p.image_beta[:, None, None]
    y = functional.conv2d(x0, p.conv_weight) * p.conv_scale[:, None, None] + p.conv_shift[:, None, None]
    return y.relu().flatten(1)


def hidden(
    p: ConvEParameters,
    grouped: Grouped,
    v: Tensor,  # [G, F]
) -> tuple[Tensor, Tensor]:  # un [G, D], pre-activation [G, D]
    un = (v @ p.fc_weight.T + (p.fc_bias - p.hidden_mean)) * p.hidden_rstd
    return un, un * p.hidden_gamma + p.hidden_beta


def settle_kinks(
    p64: ConvEParameters,  # float64, tables excepted
    grouped: Grouped,
    pre: Tensor,  # [G, D], changed in place
) -> None:
    """Recomputes in float64 the pre-activations at ReLU's kink, so that float32 takes the same side as float64."""
    rows, units = (pre.abs() < kink_of(p64)).nonzero(as_tuple=True)
    if not len(rows):
        return
    distinct, index = rows.unique(return_inverse=True)
    few = Grouped(grouped.heads[distinct], grouped.relations[distinct], distinct, distinct)
    v = features(p64, image(p64, few))[index]
    u = (v * p64.fc_weight[units].double()).sum(1) + p64.fc_bias[units]
    un = (u - p64.hidden_mean[units]) * p64.hidden_rstd[units]
    pre[rows, units] = (un * p64.hidden_gamma[units] + p64.hidden_beta[units]).to(pre.dtype)


# Of an inner product: fc and bn2; bn0, conv and bn1; the embeddings where the same relation, head, tail meet, and where
# one triple's head is the other's tail.
PAIR_TERMS = ("hidden layer", "convolution", "same relation", "shared head", "shared tail", "head as tail")

# Of a loss, from z [B, D] and tails [B]: its derivatives by the tails' scores [B] and by z [B, D].
LossGradient = Callable[[ConvEParameters, Tensor, Tensor], tuple[Tensor, Tensor]]


def bce_gradient(
    p: ConvEParameters,
    z: Tensor,  # [B, D]
    tails: Tensor,  # [B]
) -> tuple[Tensor, Tensor]:  # w [B], dloss/dz [B, D]
    """Of softplus(-score) of each triple."""
    tail = p.entity[tails]
    score = (z * tail).sum(1)
    if p.bias is not None:
        score = score + p.bias[tails]
    w = bce_by_score(score)
    return w, w[:, None] * tail


def backward(
    p: ConvEParameters,
    grouped: Grouped,
    xn: Tensor,  # [G, I, H, W]
    v: Tensor,  # [G, F]
    un: Tensor,  # [G, D]
    pre: Tensor,  # [G, D]
    gradient: LossGradient = bce_gradient,
) -> Factors:
    """Everything that differs between the tails of one (head, relation)."""
    group, tails = grouped.group, grouped.tails
    z = pre.relu()[group]
    w, by_z = gradient(p, z, tails)
    e = by_z * (pre > 0)[group]
    delta = e * (p.hidden_gamma * p.hidden_rstd)
    size, channels = len(tails), p.conv_weight.shape[0]
    S, c, q = xn.new_zeros(size, 0), xn.new_zeros(size, 0), xn.new_zeros(size, 0)
    through_image = bool({"entity", "relation"} & p.tracked)
    if p.M is not None or through_image:
        y = product(p, delta, p.fc_weight) * (v > 0)[group]
        y = y.unflatten(1, (channels, -1))  # [B, C, P]
    if p.M is not None:
        patches = functional.unfold(xn, p.conv_weight.shape[2:])[group]  # [B, J, P]
        S = torch.cat([y @ patches.mT, y.sum(2, keepdim=True)], 2).flatten(1)
    if through_image:
        rows, columns = (n - k + 1 for n, k in zip(xn.shape[2:], p.conv_weight.shape[2:], strict=True))
        grad = functional.conv_transpose2d(
            (y * p.conv_scale[:, None]).view(size, channels, rows, columns), p.conv_weight
        )
        grad = grad * (p.image_gamma * p.image_rstd)[:, None, None]
        halves = grad.tensor_split(2, dim=2 if p.stack == "height" else 3)
        c, q = halves[0].flatten(1), halves[1].flatten(1)
    return Factors(
        heads=grouped.heads[group],
        relations=grouped.relations[group],
        tails=tails,
        group=group,
        v=v,
        z=z,
        w=w,
        e=e,
        e_un=e * un[group],
        delta=delta,
        S=S,
        c=c,
        q=q,
    )


def compute_factors(
    p: ConvEParameters, grouped: Grouped, p64: ConvEParameters | None = None, gradient: LossGradient = bce_gradient
) -> Factors:
    """Factors of a group of triples; `p64` settles ReLU's kink when p is float32."""
    xn = image(p, grouped)
    v = features(p, xn)
    un, pre = hidden(p, grouped, v)
    if p64 is not None:
        settle_kinks(p64, grouped, pre)
    return backward(p, grouped, xn, v, un, pre, gradient)


def pair_terms(p: ConvEParameters, test: Factors, train: Factors) -> dict[str, Tensor]:  # each [Q, B]
    """Inner products of the per-sample gradients, over the tracked layers, by where they come from."""
    tracked = p.tracked
    nothing = train.delta.new_zeros(len(test.tails), len(train.tails))
    hidden, convolution, relation, head, tail, crossed = (nothing for _ in PAIR_TERMS)
    if "fc" in tracked:
        gram = product(p, test.v, train.v.T)[test.group][:, train.group]
        hidden = hidden + (test.delta @ train.delta.T) * (gram + float("fc.bias" in tracked))
    if "bn2.bias" in tracked:
        hidden = hidden + test.e @ train.e.T
    if "bn2.weight" in tracked:
        hidden = hidden + test.e_un @ train.e_un.T
    if p.M is not None:
        convolution = (test.S @ p.M) @ train.S.T
    same_tail = test.tails[:, None] == train.tails
    ww = test.w[:, None] * train.w
    if "bias" in tracked:
        tail = tail + same_tail * ww
    if "relation" in tracked:
        relation = (test.relations[:, None] == train.relations) * (test.q @ train.q.T)
    if "entity" in tracked:
        test_wz, train_wz = test.w[:, None] * test.z, train.w[:, None] * train.z
        head = (test.heads[:, None] == train.heads) * (test.c @ train.c.T)
        tail = tail + same_tail * ww * (test.z @ train.z.T)
        crossed = (test.tails[:, None] == train.heads) * (test_wz @ train.c.T)
        crossed = crossed + (test.heads[:, None] == train.tails) * (test.c @ train_wz.T)
    return dict(zip(PAIR_TERMS, (hidden, convolution, relation, head, tail, crossed), strict=True))


def pair_scores(p: ConvEParameters, test: Factors, train: Factors) -> Tensor:  # [Q, B]
    """Inner products of the per-sample gradients, over the tracked layers."""
    total, *others = pair_terms(p, test, train).values()
    for term in others:
        total = total + term
    return total


def self_scores(p: ConvEParameters, train: Factors) -> Tensor:  # [B]
    """Squared norms of the per-sample gradients: the diagonal of `pair_scores`."""
    tracked = p.tracked
    scores = torch.zeros_like(train.w)
    if "fc" in tracked:
        gram = train.v.square().sum(1)[train.group]
        scores = scores + train.delta.square().sum(1) * (gram + float("fc.bias" in tracked))
    if "bn2.bias" in tracked:
        scores = scores + train.e.square().sum(1)
    if "bn2.weight" in tracked:
        scores = scores + train.e_un.square().sum(1)
    if p.M is not None:
        scores = scores + ((train.S @ p.M) * train.S).sum(1)
    if "bias" in tracked:
        scores = scores + train.w.square()
    if "relation" in tracked:
        scores = scores + train.q.square().sum(1)
    if "entity" in tracked:
        wz = train.w[:, None] * train.z
        crossed = 2 * (train.heads == train.tails) * (train.c * wz).sum(1)
        scores = scores + train.c.square().sum(1) + wz.square().sum(1) + crossed
    return scores


class FactoredBackend:
    """Plain PyTorch on any device."""

    name = "factored"
    label = "factored form in PyTorch"
    losses: tuple[Loss, ...] | None = (bce,)

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, mixed: bool = False
    ) -> None:
        self.block_device = device
        self.mixed = mixed and has_bfloat16(device)
        self.parameters = replace(parameters_of(model, layers, dtype, device), mixed=self.mixed)
        wide = parameters_of(model, layers, torch.float64, device, tables=dtype)
        self.exact = wide if dtype == torch.float32 else None
        p = self.parameters
        taps = p.conv_weight[0].numel()
        per_triple = 4 * p.features + (taps + 1) * p.features // p.conv_weight.shape[0] + 8 * p.entity.shape[1]
        self.triple_bytes = per_triple * p.conv_weight.element_size()
        self.fixed_bytes = 0
        self.test_bytes = (p.features + 8 * p.entity.shape[1] + p.conv_weight.shape[0] * (taps + 1)) * 8

    def test_factors(self, triples: Tensor) -> Factors:  # [Q, 3]
        """What is kept of the test side, for all training blocks."""
        return self.factors(triples)

    def factors(self, triples: Tensor) -> Factors:  # [B, 3]
        return compute_factors(self.parameters, group_triples(triples), self.exact)

    def scores(self, test: Factors, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        return rate * pair_scores(self.parameters, test, self.factors(triples))

    def self_influence(self, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [B]
        return rate * self_scores(self.parameters, self.factors(triples))

    def free_buffers(self) -> None:
        """There are none between calls."""
