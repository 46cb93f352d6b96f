"""The smallest set of facts without which a prediction falls, or that carries it over to other entities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.results.words import in_letters, ordinal, several
from tracin.sets.facts import Asked, Fact, Facts
from tracin.sets.search import Search, Size, Verdict, search
from tracin.sets.verification import Verifier

NECESSARY, SUFFICIENT = KINDS = ("necessary", "sufficient")
VERIFICATIONS = ("post-train", "retrain")
Advance = Callable[[int], None]


@dataclass(frozen=True)
class SetOptions:
    """How smallest sets are looked for.

    Args:
        max_size: of a set.
        verify: "post-train" (copies of the one entity are trained anew) or "retrain" (the whole model is).
        candidates: the entity's facts of the greatest scores, of which sets are made.
        tries: sets of each size.
        copies: with different random numbers, on which a verdict rests.
        entities: others, to which a sufficient set is to carry the prediction over.
        seed: of all that is random.
        runs: folder in which what retrained models said is kept; None: in none.

    Raises:
        InputError: if they are wrong.
    """

    max_size: int = 4
    verify: str = "post-train"
    candidates: int = 20
    tries: int = 30
    copies: int = 3
    entities: int = 10
    seed: int = 0
    runs: Path | None = None

    def __post_init__(self) -> None:
        if self.verify not in VERIFICATIONS:
            raise InputError(f"verify is {self.verify!r}; expected one of {', '.join(VERIFICATIONS)}", "verify")
        for name in ("max_size", "candidates", "tries", "copies", "entities"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} is {value!r}; expected a positive number", name)


@dataclass(frozen=True)
class SmallestSet:
    """What a search for a smallest set found.

    Args:
        kind: "necessary" or "sufficient".
        found: whether a set does it.
        facts: the set; where none does it, the one of those tried that came nearest.
        before, after: what holds without and with it done; None where nothing was tried.
        sizes: what was tried.
        max_size: up to which size was looked for.
        entities: those that a sufficient set was added to.
        verified: how.
        unable: why nothing was tried, a sentence; else "".
    """

    kind: str
    found: bool
    facts: tuple[Fact, ...]
    before: Verdict | None
    after: Verdict | None
    sizes: tuple[Size, ...]
    max_size: int
    entities: tuple[int, ...]
    verified: str
    unable: str = ""

    @property
    def tried(self) -> int:
        """Sets, of all sizes."""
        return sum(size.tried for size in self.sizes)

    @property
    def exhausted(self) -> bool:
        """Whether every smaller set of the candidates was tried."""
        done = self.sizes[:-1] if self.found else self.sizes
        return all(size.tried == size.possible for size in done)

    def sentence(self) -> str:
        """For people: what was found, how it was verified, and what was tried."""
        if self.unable:
            return self.unable
        assert self.before is not None and self.after is not None
        words = self._necessary() if self.kind == NECESSARY else self._sufficient()
        tried, possible = (sum(getattr(size, name) for size in self.sizes) for name in ("tried", "possible"))
        sets = f"{tried:,} of {several(possible, 'set', 'sets')} up to that size"
        rest = "; smaller ones may be left" if self.found and not self.exhausted else ""
        return f"{words} Tried: {sets}{rest}, by {self.verified}."

    def _necessary(self) -> str:
        assert self.before is not None and self.after is not None
        ranks = f"{ordinal(round(self.before.rank, 2))} before, {ordinal(round(self.after.rank, 2))} after"
        if self.found:
            facts = "this training triple" if len(self.facts) == 1 else f"these {in_letters(len(self.facts))}"
            return f"Without {facts} the prediction falls: {ranks}."
        return f"No set of up to {in_letters(self.max_size)} makes it fall; the nearest, below: {ranks}."

    def _sufficient(self) -> str:
        assert self.before is not None and self.after is not None
        entities = several(len(self.entities), "other entity", "other entities")
        reached = f"the answer is first for {self.after.first} of {entities}, for {self.before.first} without"
        if self.found:
            facts = "this training triple" if len(self.facts) == 1 else f"these {in_letters(len(self.facts))}"
            return f"With {facts} said of the other entity as well, {reached}."
        up_to = in_letters(self.max_size)
        return f"No set of up to {up_to} carries it over to most; with the nearest, below, {reached}."


def necessary(
    facts: Facts,
    verifier: Verifier,
    asked: Asked,
    scores: Tensor,  # [n]
    rank: float,
    options: SetOptions,
    advance: Advance = lambda number: None,
) -> SmallestSet:
    """The smallest set without which the answer is no longer first for most copies.

    Args:
        scores: of the training triples: how much each speaks for the prediction.
        rank: of the answer, by the model itself.
    """
    nothing = _nothing(NECESSARY, verifier, options)
    candidates = facts.touching(asked.entity, scores)[: options.candidates]
    if rank != 1:
        return replace(nothing, unable=_not_first(rank, "there is nothing to explain away"))
    if not candidates:
        return replace(nothing, unable="No training triple holds the entity that is asked about: none can be left out.")
    (before,) = verifier.without(asked, [()])
    if not before.mostly_first:
        told = f"With all its facts the answer is {ordinal(round(before.rank, 2))} by {nothing.verified}"
        other = "retraining (retrain)" if options.verify == "post-train" else "post-training (post-train)"
        return replace(nothing, before=before, unable=f"{told}: that says nothing of this model; verify by {other}.")
    found = search(
        candidates,
        lambda sets: verifier.without(asked, sets),
        lambda verdict: not verdict.mostly_first,
        lambda verdict: -verdict.margin,
        most=options.max_size,
        tries=options.tries,
        at_a_time=verifier.at_a_time,
        advance=advance,
    )
    return _done(nothing, before, found)


def sufficient(
    facts: Facts,
    verifier: Verifier,
    asked: Asked,
    scores: Tensor,  # [n]
    rank: float,
    options: SetOptions,
    advance: Advance = lambda number: None,
) -> SmallestSet:
    """The smallest set that makes the answer the first for most of some other entities, to which it is added.

    The prediction itself, where it is a training triple, is none of the facts that are added.

    Args:
        scores, rank: as `necessary` takes them.
    """
    nothing = _nothing(SUFFICIENT, verifier, options)
    candidates = [fact for fact in facts.touching(asked.entity, scores) if fact.triple != asked.triple]
    if rank != 1:
        return replace(nothing, unable=_not_first(rank, "there is nothing to carry over"))
    if not candidates:
        return replace(nothing, unable="No other training triple holds the entity that is asked about.")
    entities = unpredicted(facts, asked, options.entities, options.seed)
    if not entities:
        return replace(nothing, unable="The model says the same of every other entity: there is none to carry it to.")
    (before,) = verifier.carried(asked, entities, [()])
    found = search(
        candidates[: options.candidates],
        lambda sets: verifier.carried(asked, entities, sets),
        lambda verdict: verdict.mostly_first,
        lambda verdict: verdict.first + min(0.0, verdict.margin) / (1 + abs(verdict.margin)),
        most=options.max_size,
        tries=options.tries,
        at_a_time=verifier.at_a_time,
        advance=advance,
    )
    return _done(replace(nothing, entities=tuple(entities)), before, found)


def _nothing(kind: str, verifier: Verifier, options: SetOptions) -> SmallestSet:
    return SmallestSet(kind, False, (), None, None, (), options.max_size, (), verifier.words(kind == SUFFICIENT))


def _done(nothing: SmallestSet, before: Verdict, found: Search) -> SmallestSet:
    return replace(
        nothing, found=found.found, facts=found.chosen or (), before=before, after=found.verdict, sizes=found.sizes
    )


def _not_first(rank: float, so: str) -> str:
    return f"The model puts it {ordinal(rank)}, not first: {so}."


@torch.no_grad()
def unpredicted(
    facts: Facts,
    asked: Asked,
    number: int,
    seed: int,
) -> list[int]:
    """Other entities at random, of which the answer is not known to be true and not what the model puts first."""
    model, found = facts.model, list[int]()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(model.num_entities, generator=generator)
    order = order[(order != asked.entity) & (order != asked.answer)]
    rows, table = model.relation.weight[asked.relation], model.entity.weight
    for block in order.split(256):
        heads = block.to(table.device)
        hidden = model.eval().hidden_of(table[heads], rows.expand(len(heads), -1))
        scores = hidden @ table.T if model.bias is None else hidden @ table.T + model.bias
        for entity, own in zip(block.tolist(), scores.cpu(), strict=True):
            if asked.answer in facts.right(entity, asked.relation).tolist():
                continue
            rank, _ = facts.ranks(replace(asked, entity=entity), own)
            if rank != 1:
                found.append(entity)
            if len(found) == number:
                return found
    return found
