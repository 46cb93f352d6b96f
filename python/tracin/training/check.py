"""Is this the model of these triples? How well it tells them from wrong ones, read in every way its weights allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tracin.checkpoints.images import Sizes
from tracin.model import STACK_AXES, ConvE
from tracin.training.ranking import Ranking, evaluate
from tracin.triples.ids import check_ids

SAMPLE = 500  # training triples that are compared; the separation is then known to about 0.02
GLANCE = 200  # the same where nobody asked for a check: 0.03 s an image for FB15k-237 on 2 cores
FEWEST = 50  # fewer tell nothing

# Measured on UMLS, kinship, nations and FB15k-237, separations with foreign dictionaries: 0.5 with a deviation of 0.02;
# with the right ones: 0.57 to 0.60 after one epoch, 0.75 to 0.98 after 15; with a wrong image shape up to 0.73.
RANDOM = 0.55
BETTER = 0.05  # a gain that is no accident
RENUMBERINGS = 8  # random dictionaries that the given one is compared with
DEVIATIONS = 3  # of these, above whose mean the given one must be
GLANCED = 4  # random relation ids, where nobody asked for a check

SAME_SCORES = 1e-3  # of the greatest: float32 on another machine differs by 1e-5

Shape = tuple[int, int, str]  # rows and columns of one embedding's image, stacking


@dataclass(frozen=True)
class Reading:
    """What a way to read the model makes of the triples."""

    name: str
    separation: float | None  # None if all tails are the same
    ranking: Ranking


@dataclass(frozen=True)
class Report:
    """The model as it was read first, then the same with random dictionaries, then with other images that fit."""

    ok: bool
    verdict: str
    readings: list[Reading]


def separation(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
    seed: int = 0,
) -> float:
    """How well a model tells triples from the same with the tails of others (AUC): 1 always, 0.5 as chance does.

        mean over triples (h, r, t) and tails t' != t of the sample of  [s(h, r, t) > s(h, r, t')] + [equal] / 2

    That some tails are more frequent does not help, as it would against uniformly random ones.

    Args:
        model: a ConvE; its mode is left as it was, scores are those of eval mode.
        triples: [n, 3] that the model was trained on; at most 500 are taken.
        seed: of their choice.

    Returns:
        0 to 1; nan if all tails are the same.

    Raises:
        InputError: if an id is outside the model's tables.

    Example:
        >>> separation(load_model("model.pt"), read_triples("train.txt", entities, relations))
        0.98
    """
    return _separation(model, choose(triples, SAMPLE, seed))


def doubt(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
    seed: int = 0,
) -> str | None:
    """One sentence if the model, as it was read, does not look like the model of its training triples; else None.

    Also None for fewer than 50 triples, and if all tails are the same. Arguments and errors are those of `separation`.
    """
    some = choose(triples, GLANCE, seed)
    found = {shape: _separation(read_as(model, shape), some) for shape in shapes(model)}
    text = _doubt(found, _turned(model, some), len(some))
    kinds = some[:, 1].unique()
    value = next(iter(found.values()))
    if text is not None or len(some) < FEWEST or len(kinds) < 2 or math.isnan(value):
        return text
    by_chance = []
    for number in range(GLANCED):
        relations = torch.arange(int(kinds.max()) + 1)
        relations[kinds] = kinds[_cycle(len(kinds), seed + number)]
        by_chance.append(_separation(model, renumbered(some, torch.arange(len(model.entity.weight)), relations)))
    mean, deviation = float(np.mean(by_chance)), float(np.std(by_chance, ddof=1))
    return _foreign("relation", value, mean) if value < mean + max(BETTER / 2, 2 * deviation) else None


def examine(
    model: ConvE,
    train: Tensor,  # [n, 3] int64
    ranked: Tensor,  # [m, 3] int64
    known: Sequence[Tensor],  # each [k, 3] int64
    *,
    both_directions: bool,
    seed: int = 0,
) -> Report:
    """The separation of training triples and the filtered ranking of others, and what follows.

    Args:
        model: a ConvE as it was read.
        train: training triples.
        ranked: triples to rank, m at least 1.
        known: triples taken as true in the ranking, such as training, validation and test triples.
        both_directions: whether heads are ranked too, through the inverse relations.
        seed: of the sample and of the random dictionaries.

    Raises:
        InputError: if an id is outside the model's tables.
    """
    some = choose(train, SAMPLE, seed)
    about = torch.cat([_about(ranked, triples, model.entity.num_embeddings) for triples in known])

    def reading(name: str, model: ConvE, ids: tuple[Tensor, Tensor] | None, separation: float) -> Reading:
        triples = (ranked, about) if ids is None else (renumbered(ranked, *ids), renumbered(about, *ids))
        value = None if math.isnan(separation) else separation
        return Reading(name, value, evaluate(model, *triples, both_directions=both_directions))

    found = {shape: _separation(read_as(model, shape), some) for shape in shapes(model)}
    first, *others = found
    readings = [reading(described(first), model, None, found[first])]
    text = _doubt(found, _turned(model, some), len(some))
    rows = model.relation.num_embeddings
    sizes = {"entity": model.entity.num_embeddings, "relation": rows // 2 if both_directions else rows}
    for kind in (kind for kind, size in sizes.items() if size > 1):
        ids = [_random_ids(sizes, kind, seed + number) for number in range(RENUMBERINGS)]
        by_chance = np.array([_separation(model, renumbered(some, *one)) for one in ids])
        readings.append(reading(f"random {kind} ids", model, ids[0], float(by_chance.mean())))
        bound = by_chance.mean() + max(BETTER, DEVIATIONS * by_chance.std(ddof=1))
        if text is None and found[first] < bound:
            text = _foreign(kind, found[first], float(by_chance.mean()))
    readings += [reading(described(shape), read_as(model, shape), None, found[shape]) for shape in others]
    if len(some) < FEWEST or math.isnan(found[first]):
        why = f"{len(some)} training triples are too few" if len(some) < FEWEST else "with one tail there is nothing"
        return Report(False, f"undecided: {why} to tell", readings)
    good = f"training triples are told from wrong ones, separation {found[first]:.2f} (0.5 is chance)"
    return Report(text is None, text or good, readings)


@dataclass(frozen=True)
class ScoreComparison:
    """What another program's scores of some triples say about the model as it was read."""

    count: int
    same: bool
    kind: str  # "scores", or "probabilities" where they are nearer to the sigmoid of ours
    largest: float  # difference
    row: int  # of the triple that has it, from 0
    theirs: float
    ours: float


@torch.no_grad()
def compare_scores(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
    scores: Tensor,  # [n] float64
) -> ScoreComparison:
    """Compares the scores of the model in eval mode with those of another program, which may be probabilities.

    Raises:
        InputError: if an id is outside the model's tables.
    """
    check_ids(triples, model.entity.num_embeddings, model.relation.num_embeddings // model.relation_step)
    was_training = model.training
    ours = torch.cat([model.eval()(some) for some in triples.split(SAMPLE)]).double().cpu()
    model.train(was_training)
    kinds = {"scores": ours}
    if len(scores) and scores.min() >= 0 and scores.max() <= 1:
        kinds["probabilities"] = ours.sigmoid()
    kind = min(kinds, key=lambda name: float((kinds[name] - scores).abs().max()))
    difference = (kinds[kind] - scores).abs()
    row = int(difference.argmax())
    bound = SAME_SCORES * max(1.0 if kind == "scores" else 0.1, float(scores.abs().max()))
    largest = float(difference[row])
    return ScoreComparison(
        len(scores), largest <= bound, kind, largest, row, float(scores[row]), float(kinds[kind][row])
    )


def shapes(model: ConvE) -> list[Shape]:
    """All images that fit the model's weights, its own first."""
    config = model.config
    names = ("num_entities", "num_relations", "embedding_dim", "output_channels", "kernel_height", "kernel_width")
    sizes = Sizes(
        input_channels=model.plane[0], features=model.fc.in_features, **{name: config[name] for name in names}
    )
    fitting = [(*image, stack) for stack in STACK_AXES for image in sizes.images(stack)]
    own = (config["embedding_height"], config["embedding_width"], config["stack"])
    return [own, *(shape for shape in fitting if shape != own)]


def read_as(model: ConvE, shape: Shape) -> ConvE:
    """The same weights with embeddings of another image."""
    height, width, stack = shape
    with torch.device("meta"):
        other = ConvE(**model.config | dict(embedding_height=height, embedding_width=width, stack=stack))
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def described(shape: Shape) -> str:
    height, width, stack = shape
    return f"{height} x {width} stacked in {stack}"


def flags(shape: Shape) -> str:
    height, width, stack = shape
    return f"read the model with --embedding-height {height} --embedding-width {width} --stack {stack}"


def choose(
    triples: Tensor,  # [n, 3]
    count: int,
    seed: int,
) -> Tensor:  # [min(n, count), 3]
    rows = np.random.default_rng(seed).choice(len(triples), min(count, len(triples)), replace=False)
    return triples[torch.from_numpy(rows)]


def renumbered(
    triples: Tensor,  # [n, 3]
    entities: Tensor,  # [N] the new id of each
    relations: Tensor,  # [R]
) -> Tensor:  # [n, 3]
    heads, kinds, tails = triples.unbind(1)
    return torch.stack([entities[heads], relations[kinds], entities[tails]], 1)


def _random_ids(sizes: dict[str, int], kind: str, seed: int) -> tuple[Tensor, Tensor]:  # [N], [R]
    """Random new ids of one kind, none its own; those of the other stay."""
    ids = {name: torch.arange(size) for name, size in sizes.items()}
    ids[kind] = _cycle(sizes[kind], seed)
    return ids["entity"], ids["relation"]


def _cycle(size: int, seed: int) -> Tensor:  # [size]
    """Random new numbers of 0 to size - 1; none keeps its own."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    numbers = torch.empty_like(order)
    numbers[order] = order.roll(1)
    return numbers


def _turned(
    model: ConvE,
    triples: Tensor,  # [n, 3]
) -> float:
    """The separation of the triples with heads and tails swapped."""
    return _separation(model, triples[:, [2, 1, 0]])


@torch.no_grad()
def _separation(
    model: ConvE,
    triples: Tensor,  # [n, 3]
) -> float:
    check_ids(triples, model.entity.num_embeddings, model.relation.num_embeddings // model.relation_step)
    heads, relations, tails = triples.to(model.entity.weight.device).unbind(1)
    was_training = model.training
    hidden = model.eval().hidden(heads, relations)
    model.train(was_training)
    scores = hidden @ model.entity.weight[tails].T + (0 if model.bias is None else model.bias[tails])  # [n, n]
    own, others = scores.diagonal()[:, None], tails[:, None] != tails
    below = ((scores < own).double() + (scores == own).double() / 2) * others
    return float((below.sum(1) / others.sum(1)).nanmean())


def _about(
    triples: Tensor,  # [m, 3]
    known: Tensor,  # [k, 3]
    num_entities: int,
) -> Tensor:  # [l, 3]
    """The known triples that a ranking of `triples` looks up: a sorted list of all takes long for millions."""
    marked = torch.zeros(num_entities, dtype=torch.bool)
    marked[triples[:, [0, 2]]] = True
    return known[marked[known[:, 0]] | marked[known[:, 2]]]


def _foreign(kind: str, value: float, by_chance: float) -> str:
    return (
        f"the {kind} dictionary is not that of the model, or the model is hardly trained: the separation is "
        f"{value:.2f}, with random {kind} ids {by_chance:.2f}"
    )


def _doubt(separations: dict[Shape, float], turned: float, count: int) -> str | None:
    """What the separations of `count` triples, of the image as read and of the others that fit, speak against.

    `turned`: that of the image as read with heads and tails swapped.
    """
    (own, value), *others = separations.items()
    if count < FEWEST or math.isnan(value):
        return None
    best = max(separations, key=lambda shape: separations[shape])
    better = BETTER * (SAMPLE / count) ** 0.5
    if turned > separations[best] + better:
        return (
            "heads and tails of the triples are likely swapped: the other way round they are told from wrong ones with "
            f'a separation of {turned:.2f} against {value:.2f} (0.5 is chance); --columns trh (columns="trh") reads '
            "them so"
        )
    if separations[best] > value + better:
        return (
            f"the image is likely {described(best)}, not {described(own)}: training triples are told from wrong ones "
            f"with a separation of {separations[best]:.2f} against {value:.2f} (0.5 is chance); {flags(best)}"
        )
    if value < RANDOM:
        also = ", ".join(f"{described(shape)} {other:.2f}" for shape, other in others)
        return (
            f"training triples score no better than random ones (separation {value:.2f}): foreign dictionaries, or a "
            "model that is not trained or not of these triples; "
            + (f"no other image that fits is better ({also})" if also else "no other image fits")
        )
    return None
