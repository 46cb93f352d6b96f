"""The ops of csrc/ops.cpp: a typed function and a fake kernel for each.

On CUDA all tensors but `triples` lie on the GPU, and the values of indices other than triples are not checked, which
would wait for the GPU. Products are torch's: TF32 must be off (`tracin_ext.full_float32`).

Sizes: B training triples of a block, Q test triples, G distinct (head, relation), N entities, D embedding, X = 2 D
pixels, C channels, J taps, P positions, F = C P features, size_S = C (J + 1) statistics. Letters: those of the formula
(csrc/kernels.h); a prime is the test's side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import tracin_ext

ORDERS = ("absolute", "proponents", "opponents")


class SegmentTensors(NamedTuple):
    """One part of the image: its windows, and its columns of fc, packed a chunk of channels after the other."""

    pixels: Tensor  # [X] int32, pixels of the image
    taps: Tensor  # [P, J] int32, among those pixels
    forward: Tensor  # fc [D, C P]
    backward: Tensor  # its transpose [C P, D]
    narrow_backward: Tensor  # the same in bfloat16, or empty


class ModelTensors(NamedTuple):
    """One checkpoint, as csrc/kernels.h describes it; empty tensors stand for what is absent."""

    entity: Tensor  # [N, D]
    relation: Tensor  # [rows, D]
    bias: Tensor  # [N] or empty
    pixel: Tensor  # [2, 2 D] mean, 1/sigma
    kernel: Tensor  # [C, J]
    shift: Tensor  # [C]
    pixel_kernel: Tensor  # [C, J] derivative of BN1's pre-activation by the raw pixel
    hidden: Tensor  # [5, D] scale, offset, norm_scale, norm_offset, delta_scale
    head_half: SegmentTensors
    middle: SegmentTensors
    relation_half: SegmentTensors
    relation_u: Tensor  # [R, D] or empty
    jacobians: Tensor  # [R, ceil(size_S / 32), D, 32] or empty
    head_positions: Tensor  # [head_P] int32, windows of the whole image that see the head alone; for CUDA, or empty
    both_positions: Tensor  # [both_P] int32, that see both
    taps: Tensor  # [all P, J] int32, of the whole image
    fc: Tensor  # [D, F]
    exact_pixel: Tensor  # [2, 2 D] float64; these five are empty if the others are float64
    exact_kernel: Tensor  # [C, J]
    exact_shift: Tensor  # [C]
    exact_hidden: Tensor  # [2, D] scale, offset
    exact_kink: Tensor  # [D]


class ModelSizes(NamedTuple):
    """Numbers that come with ModelTensors."""

    relation_step: int
    relations: int
    head_half_step: int  # channels in a chunk of products
    middle_step: int
    relation_half_step: int
    height: int  # rows of a packed panel: the constant operand_height for the extension's products, 0 for torch's


class TestTensors(NamedTuple):
    """The test side, ready to be multiplied; empty tensors where no layer that needs them is tracked.

    `narrow_*`: an operand in bfloat16, or empty. On CUDA nothing is packed, and along_c, along_wz are not read.
    """

    triples: Tensor  # [Q, 3]
    pair: Tensor  # [Q] row of the distinct (head, relation)
    pair_head: Tensor  # [pairs] row of the distinct head
    pair_relation: Tensor  # [pairs] row of the distinct relation
    by_relation: Tensor  # [Q] tests in the order of their relation, or empty; read on CUDA alone
    head_half_v: Tensor  # [heads, C P] v' of the head's half, packed in chunks
    narrow_head_half_v: Tensor
    middle_v: Tensor  # [pairs, C P], packed in chunks
    narrow_middle_v: Tensor
    relation_gram: Tensor  # [relations, R] v . v' of the relation's half
    delta: Tensor  # [Q, D] delta' * delta_scale, packed
    narrow_delta: Tensor
    linear: Tensor  # [Q, 2 D + size_S] or [Q, 2 D] e', e' un', M S', packed
    narrow_linear: Tensor
    w: Tensor  # [Q] w'
    wz: Tensor  # [Q, D] w' z'
    c: Tensor  # [Q, D] c'
    along_c: Tensor  # [Q, D + X] times a sample's (delta, gradient at the middle's X pixels): its gradient along c'
    along_wz: Tensor  # [Q, D + X]
    along_q: Tensor  # [Q, D + X]


class TestSizes(NamedTuple):
    """Numbers that come with TestTensors."""

    heads: int  # rows of head_half_v
    has_S: bool  # whether linear has the columns of M S'
    fc_bias: bool  # whether it is tracked


class HalfTensors(NamedTuple):
    """What gradients at whole embeddings need of an image that has halves; all empty where it is taken whole."""

    head_fc: Tensor  # [P, C, D rounded up to 16] flat: fc of the head's half by position, zero-filled
    relation_fc: Tensor  # likewise
    relation_squares: Tensor  # [R] |v|^2 of the relation's half
    relation_pixels: Tensor  # [R, ceil(X / 32), D, 32] or empty: gradient at the half's X pixels by delta


class Tracked(NamedTuple):
    """Which gradients count towards a norm, beside those of M."""

    fc: bool
    fc_bias: bool
    bn2_weight: bool
    bn2_bias: bool
    entity: bool
    relation: bool
    bias: bool


class FactorTensors(NamedTuple):
    """What pair scores need of n triples over G distinct pairs and H distinct heads, kept by row.

    Empty tensors where no layer that needs them is tracked, or the image has no such part.
    """

    triples: Tensor  # [n, 3] int64
    pair: Tensor  # [n] int32, row of the (head, relation)
    pair_head: Tensor  # [G] int32, row of the head
    w: Tensor  # [n]
    S: Tensor  # [n, size_S]; of tests, M S
    c: Tensor  # [n, D]
    q: Tensor  # [n, D]
    z: Tensor  # [G, D]
    un: Tensor  # [G, D]
    signs: Tensor  # [G, ceil(D / 32)] int32, bit d of a row: whether z[d] > 0
    middle_v: Tensor  # [G, C P]
    middle_squares: Tensor  # [G] |middle_v|^2
    head_v: Tensor  # [H, C P]
    head_squares: Tensor  # [H]
    norms: Tensor  # [n, NORM_PARTS] of the gradient's parts: S, fc, e, e un, relation, head, tail, bias


class FormTensors(NamedTuple):
    """M as the sum of a block per channel and of rows^T rows; both empty where no layer below fc is tracked."""

    blocks: Tensor  # [C, J + 1, J + 1], symmetric
    rows: Tensor  # [gradients of layers that all channels share, size_S]


class PairTensors(NamedTuple):
    """One checkpoint of pair scores."""

    entity: Tensor  # [N, D]
    delta_scale: Tensor  # [D]
    relation_gram: Tensor  # [R, R] v . v' of the relation's half, or empty
    train: FactorTensors
    tests: FactorTensors


class ListTensors(NamedTuple):
    """Rows of the training triples' factors by what they share: csrc/kernels.h, PairLists."""

    numbers: Tensor  # [n] int64, number of a row's triple
    row_of: Tensor  # [n] int32, its inverse
    head_from: Tensor  # [N + 1] int64
    tail_from: Tensor  # [N + 1] int64
    tail_rows: Tensor  # [n] int32
    relation_from: Tensor  # [R + 1] int64
    relation_rows: Tensor  # [n] int32
    relation_totals: Tensor  # [n]
    relation_norms: Tensor  # [checkpoints (DENSE_PARTS + 1), n]
    rows: Tensor  # [n] int32
    totals: Tensor  # [n]
    norms: Tensor  # [checkpoints DENSE_PARTS, n]


class SampleGradients(NamedTuple):
    """Gradients at the embeddings of n samples over G (head, relation); c or q empty where its layer is not tracked."""

    triples: Tensor  # [n, 3] int64, relations as rows of their table
    pair: Tensor  # [n] int32, row of z
    w: Tensor  # [n]
    z: Tensor  # [G, D]
    c: Tensor  # [n, D]
    q: Tensor  # [n, D]
    by_tail: Tensor  # [n] int32, rows with equal tails adjacent


class Tables(NamedTuple):
    """Gradients at the embeddings of Q functionals; empty where the layer is not tracked."""

    entity: Tensor  # [N, Q, D]
    bias: Tensor  # [N, Q]
    relation: Tensor  # [R, Q, D]


class RowTensors(NamedTuple):
    """What bounds of a test's pairs know of one checkpoint: of n training triples by row, and of the test."""

    norms: Tensor  # [n, NORM_PARTS]
    entity: Tensor  # [N, D]
    signs: Tensor  # [n, ceil(D / 32)] int32, bit d of a row: whether z[d] > 0
    sketches: Tensor  # [n, SKETCH_PARTS + 1] int8, or [0, SKETCH_PARTS + 1]
    test: Tensor  # [NORM_PARTS] norms times the absolute rate
    sketch: Tensor  # [SKETCH_PARTS + 2] the test's / SKETCH_STEPS, and the most that rounding takes
    scaled: Tensor  # [2, D] directions of the test's delta and e, of length 1, times the scales of E[t] in them
    squares: Tensor  # [2, D] squares of the scales


WHICH = ("all", "of the relation", "of others")  # rows that rows_in_reach looks at, by number
NORM_PARTS, DENSE_PARTS = 8, 4  # columns of FactorTensors.norms; the first ones count for every pair
SKETCH_PARTS, SKETCH_STEPS = 31, 127  # of a sketch: parts of S along a basis, and steps to a share of 1
OUTCOMES = ("found", "too many", "not finite")  # of bounded_top_k for a test, by number


def flat(tensors: tuple[Any, ...]) -> list[Tensor]:
    """The tensors of a named tuple, and of those in it, in the order in which csrc/packed.h takes them."""
    return [x for field in tensors for x in (flat(field) if isinstance(field, tuple) else [field])]


def constant(name: str) -> int:
    """One of csrc/constants.h; needs the native extension."""
    assert tracin_ext.native is not None
    return tracin_ext.native.constants[name]


def has_kernel(name: str, device: str) -> bool:
    """Whether the native extension has a kernel of an op for a type of device, "cpu" or "cuda"."""
    return tracin_ext.native is not None and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"tracin_ext::{name}", device.upper()
    )


def _fake(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers the fake kernel of the op of the same name, if the native extension is loaded."""
    if tracin_ext.native is None:
        return function
    torch.library.register_fake(f"tracin_ext::{function.__name__.removeprefix('_')}")(function)
    return function


def influence_block(
    model: ModelTensors,
    model_sizes: ModelSizes,
    tests: TestTensors,
    test_sizes: TestSizes,
    triples: Tensor,  # [B, 3] on the CPU, equal heads adjacent
    rate: float,
    scores: Tensor,  # [Q, B], written
) -> None:
    """scores[q, b] = rate * <gradient of test q, gradient of triple b>."""
    torch.ops.tracin_ext.influence_block(
        flat(model), list(model_sizes), flat(tests), list(map(int, test_sizes)), triples, rate, scores
    )


def self_influence_block(
    model: ModelTensors,
    model_sizes: ModelSizes,
    M: Tensor,  # [size_S, size_S] packed, or empty
    tracked: Tracked,
    halves: HalfTensors,
    triples: Tensor,  # [B, 3] on the CPU, equal heads adjacent
    rate: float,
    scores: Tensor,  # [B], written
) -> None:
    """scores[b] = rate * |gradient of triple b|^2; on CUDA, the model must take the image whole."""
    torch.ops.tracin_ext.self_influence_block(
        flat(model), list(model_sizes), M, list(map(int, tracked)), flat(halves), triples, rate, scores
    )


def sample_factors(
    model: ModelTensors,
    model_sizes: ModelSizes,
    triples: Tensor,  # [B, 3] on the CPU, equal (head, relation) adjacent
    v: Tensor,  # [G, F], all of these written
    z: Tensor,  # [G, D]
    w: Tensor,  # [B]
    linear: Tensor,  # [B, 2 D + size_S] or [B, 2 D] e, e un, S
    delta: Tensor,  # [B, D]
    cq: Tensor,  # [B, 2 D] or empty: not wanted
) -> None:
    """The factors of triples, on CUDA alone."""
    torch.ops.tracin_ext.sample_factors(flat(model), list(model_sizes), triples, v, z, w, linear, delta, cq)


def relation_tables(
    model: ModelTensors,
    model_sizes: ModelSizes,
    u: Tensor,  # [R, D], changed
    v: Tensor,  # [R, C P of the relation's half], changed
    jacobians: Tensor,  # [R, ceil(size_S / 32), D, 32] or empty, changed
) -> None:
    """What the relation's half of the image gives once per relation: u, v, and the statistics' derivative by delta."""
    torch.ops.tracin_ext.relation_tables(flat(model), list(model_sizes), u, v, jacobians)


def relation_pixels(
    model: ModelTensors,
    model_sizes: ModelSizes,
    relation_fc: Tensor,  # HalfTensors' own
    pixels: Tensor,  # [R, ceil(X / 32), D, 32], changed
) -> None:
    """HalfTensors.relation_pixels, once per relation. There is no kernel for CUDA, which takes the image whole."""
    torch.ops.tracin_ext.relation_pixels(flat(model), list(model_sizes), relation_fc, pixels)


def factor_block(
    model: ModelTensors,
    model_sizes: ModelSizes,
    form: FormTensors,
    tracked: Tracked,
    halves: HalfTensors,
    factors: FactorTensors,  # triples, pair and pair_head given; the rest is changed
    first: int,
    count: int,
    S_slack: float,
) -> None:
    """Fills the rows first .. first + count of factors, equal heads adjacent, and those of their pairs and heads.

    The squared norm of S is S^T M S + S_slack |S|^2. There is no kernel for CUDA.
    """
    torch.ops.tracin_ext.factor_block(
        flat(model),
        list(model_sizes),
        list(form),
        list(map(int, tracked)),
        flat(halves),
        list(factors),
        first,
        count,
        S_slack,
    )


def norm_block(
    model: ModelTensors,
    model_sizes: ModelSizes,
    form: FormTensors,
    tracked: Tracked,
    halves: HalfTensors,
    basis: Tensor,  # [size_S, SKETCH_PARTS] float64, or empty
    triples: Tensor,  # [B, 3], equal heads adjacent, and equal (head, relation)
    S_slack: float,
    norms: Tensor,  # [B, NORM_PARTS], written
    signs: Tensor,  # [B, ceil(D / 32)] int32, written
    sketches: Tensor,  # [B, SKETCH_PARTS + 1] int8, written; [0, SKETCH_PARTS + 1] without a basis
) -> None:
    """FactorTensors.norms, and signs by triple; of S the parts along the basis, and what is left, as shares of it.

    Shares are in steps of 1 / SKETCH_STEPS, rounded; what is left rounded up. There is no kernel for CUDA.
    """
    torch.ops.tracin_ext.norm_block(
        flat(model),
        list(model_sizes),
        list(form),
        list(map(int, tracked)),
        flat(halves),
        basis,
        triples,
        S_slack,
        norms,
        signs,
        sketches,
    )


def pair_scores(
    models: list[PairTensors],  # of the checkpoints
    tracked: list[Tracked],
    rates: Tensor,  # [checkpoints] float64
    pairs: Tensor,  # [n, 2] rows of tests and of training triples; those of a test should be adjacent
    scores: Tensor,  # [n], written
) -> None:
    """Influences of training triples on test triples, one by one. There is no kernel for CUDA."""
    flags = [int(flag) for each in tracked for flag in each]
    torch.ops.tracin_ext.pair_scores([x for model in models for x in flat(model)], flags, rates, pairs, scores)


def bounded_top_k(
    models: list[PairTensors],  # of the checkpoints
    tracked: list[Tracked],
    rates: Tensor,  # [checkpoints] float64
    lists: ListTensors,
    order: str,  # one of ORDERS
    slack: float,  # share of a bound that rounding may add
    budget: int,  # numbers that the pairs of one test may need
    best: Tensor,  # [Q, k], written
    best_index: Tensor,  # [Q, k], written
    work: Tensor,  # [Q, 4], written: one of OUTCOMES by number, pairs scored, bounds compared, numbers read for scores
) -> None:
    """Each test's best k: best first, ties by index, as by `merge_top_k`. There is no kernel for CUDA."""
    flags = [int(flag) for each in tracked for flag in each]
    torch.ops.tracin_ext.bounded_top_k(
        [x for model in models for x in flat(model)],
        flags,
        rates,
        list(lists),
        ORDERS.index(order),
        slack,
        budget,
        best,
        best_index,
        work,
    )


def rows_in_reach(
    checkpoints: list[RowTensors],
    triples: Tensor,  # [n, 3] int32
    rows: Tensor,  # [m] int32
    test: Tensor,  # [3]
    which: str,  # one of WHICH
    threshold: float,
    slack: float,  # share of a bound that rounding may add
) -> tuple[Tensor, Tensor]:  # [l] int32, [l]
    """Rows whose bounds with a test reach a threshold, in their order, and the bounds. There is no kernel for CUDA.

    Rows whose norms say that the score is 0 are left out. `which`: of all rows; or of those that share no entity with
    the test and have its relation, or another one.
    """
    reached, bounds = torch.empty_like(rows), checkpoints[0].norms.new_empty(len(rows))
    count = torch.zeros(1, dtype=torch.int64)
    torch.ops.tracin_ext.rows_in_reach(
        [x for each in checkpoints for x in each],
        triples,
        rows,
        test,
        WHICH.index(which),
        threshold,
        slack,
        reached,
        bounds,
        count,
    )
    return reached[: int(count)], bounds[: int(count)]


def table_scores(
    samples: SampleGradients,
    tables: Tables,
    scores: Tensor,  # [n, Q], written
) -> None:
    """scores[i, q] = <gradient of sample i, of functional q>, at the embeddings. There is no kernel for CUDA."""
    torch.ops.tracin_ext.table_scores(list(samples), list(tables), scores)


def merge_top_k(
    scores: Tensor,  # [Q, B]
    index: Tensor,  # [B] number of each training triple
    order: str,  # one of ORDERS
    best: Tensor,  # [Q, k], changed
    best_index: Tensor,  # [Q, k], changed; -1: empty
) -> None:
    """Merges scores into each row's best k: best first, ties by index. In PyTorch where there is no native kernel."""
    cuda = scores.device.type == "cuda"
    if cuda:
        index = index.pin_memory().to(scores.device, non_blocking=True) if not index.is_cuda else index
    if has_kernel("merge_top_k", scores.device.type) and not (cuda and best.shape[1] > constant("most_kept")):
        torch.ops.tracin_ext.merge_top_k(scores, index, ORDERS.index(order), best, best_index)
        return
    values = torch.cat([best, scores], 1)
    indices = torch.cat([best_index, index.expand(len(scores), -1)], 1)
    key = values.abs() if order == "absolute" else values if order == "proponents" else -values
    key = key.masked_fill(key.isnan() | (indices < 0), -torch.inf)
    by_index = indices.masked_fill(indices < 0, torch.iinfo(indices.dtype).max).argsort(1)  # empty slots last
    by_key = key.gather(1, by_index).argsort(dim=1, descending=True, stable=True)[:, : best.shape[1]]
    chosen = by_index.gather(1, by_key)
    best.copy_(values.gather(1, chosen))
    best_index.copy_(indices.gather(1, chosen))


@_fake
def _influence_block(
    model: list[Tensor],
    model_sizes: list[int],
    tests: list[Tensor],
    test_sizes: list[int],
    triples: Tensor,
    rate: float,
    scores: Tensor,
) -> None:
    return None


@_fake
def _self_influence_block(
    model: list[Tensor],
    model_sizes: list[int],
    M: Tensor,
    tracked: list[int],
    halves: list[Tensor],
    triples: Tensor,
    rate: float,
    scores: Tensor,
) -> None:
    return None


@_fake
def _sample_factors(
    model: list[Tensor],
    model_sizes: list[int],
    triples: Tensor,
    v: Tensor,
    z: Tensor,
    w: Tensor,
    linear: Tensor,
    delta: Tensor,
    cq: Tensor,
) -> None:
    return None


@_fake
def _relation_tables(model: list[Tensor], model_sizes: list[int], u: Tensor, v: Tensor, jacobians: Tensor) -> None:
    return None


@_fake
def _relation_pixels(model: list[Tensor], model_sizes: list[int], relation_fc: Tensor, pixels: Tensor) -> None:
    return None


@_fake
def _factor_block(
    model: list[Tensor],
    model_sizes: list[int],
    form: list[Tensor],
    tracked: list[int],
    halves: list[Tensor],
    factors: list[Tensor],
    first: int,
    count: int,
    S_slack: float,
) -> None:
    return None


@_fake
def _norm_block(
    model: list[Tensor],
    model_sizes: list[int],
    form: list[Tensor],
    tracked: list[int],
    halves: list[Tensor],
    basis: Tensor,
    triples: Tensor,
    S_slack: float,
    norms: Tensor,
    signs: Tensor,
    sketches: Tensor,
) -> None:
    return None


@_fake
def _pair_scores(models: list[Tensor], tracked: list[int], rates: Tensor, pairs: Tensor, scores: Tensor) -> None:
    return None


@_fake
def _bounded_top_k(
    models: list[Tensor],
    tracked: list[int],
    rates: Tensor,
    lists: list[Tensor],
    order: int,
    slack: float,
    budget: int,
    best: Tensor,
    best_index: Tensor,
    work: Tensor,
) -> None:
    return None


@_fake
def _rows_in_reach(
    checkpoints: list[Tensor],
    triples: Tensor,
    rows: Tensor,
    test: Tensor,
    which: int,
    threshold: float,
    slack: float,
    reached: Tensor,
    bounds: Tensor,
    count: Tensor,
) -> None:
    return None


@_fake
def _table_scores(samples: list[Tensor], tables: list[Tensor], scores: Tensor) -> None:
    return None


@_fake
def _merge_top_k(scores: Tensor, index: Tensor, order: int, best: Tensor, best_index: Tensor) -> None:
    return None
