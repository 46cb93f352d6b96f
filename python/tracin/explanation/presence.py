"""Whether a triple is in the training set: as such, in other words, or the other way round."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tracin.results.words import percent
from tracin.triples.labels import Labels
from tracin.triples.read import Triple
from tracin.triples.twins import SURE, relation_twins


@dataclass(frozen=True)
class Twin:
    """A training triple between the same two entities."""

    row: int
    relation: int
    turned: bool  # from tail to head
    share: float  # of the question's relation's pairs of entities that this relation has likewise


@dataclass(frozen=True)
class Presence:
    """Where a triple is in the training set."""

    rows: tuple[int, ...]  # of the triple itself, more than one where it is there twice
    twins: tuple[Twin, ...]
    given: bool = False  # it is among the further triples that are known to be true

    def sentence(self, triple: Triple, labels: Labels) -> str:
        """For people: what the training set says of the triple."""
        told = []
        if self.rows:
            times = "" if len(self.rows) == 1 else f", {len(self.rows)} times"
            told.append(f"The model was trained on this very triple (row {self.rows[0]}{times}).")
        else:
            told.append(
                "This triple is not in the training set"
                + (", but among the others that are known to be true." if self.given else ".")
            )
        sure = [twin for twin in self.twins if twin.share >= SURE]
        for twin in sure[:1]:
            how = "the other way round " if twin.turned else ""
            told.append(
                f"It is there {how}as “{labels.relation_name(twin.relation)}” (row {twin.row}), which goes with "
                f"“{labels.relation_name(triple[1])}” in {percent(twin.share)} of its pairs: "
                "the answer is close to given."
            )
        if not sure and self.twins:
            names = [
                f"“{labels.relation_name(twin.relation)}”" + (" (the other way round)" if twin.turned else "")
                for twin in self.twins
            ]
            names = list(dict.fromkeys(names))
            more = [] if len(names) <= 2 else [f"{len(names) - 2:,} more"]
            told.append(f"The same two entities are joined by {' and '.join([*names[:2], *more])}.")
        return " ".join(told)


def presence(
    train: Tensor,  # [n, 3]
    triple: Triple,
    given: bool = False,
) -> Presence:
    """Looks the triple up; `given`: it is among the further triples that are known to be true."""
    head, relation, tail = triple
    heads, relations, tails = train.unbind(1)
    as_is, turned = (heads == head) & (tails == tail), (heads == tail) & (tails == head)
    own = as_is & (relations == relation)
    others = [(row, False) for row in (as_is & ~own).nonzero()[:, 0].tolist()]
    if head != tail:
        others += [(row, True) for row in turned.nonzero()[:, 0].tolist()]
    shares: dict[tuple[int, bool], float] = {}
    if others:
        table = relation_twins(train, relation)
        keys = zip(table["other"].to_list(), table["turned"].to_list(), strict=True)
        shares = dict(zip(keys, table["share"].to_list(), strict=True))
    twins = [Twin(row, int(relations[row]), back, shares.get((int(relations[row]), back), 0.0)) for row, back in others]
    twins.sort(key=lambda twin: (-twin.share, twin.row))
    return Presence(tuple(own.nonzero()[:, 0].tolist()), tuple(twins), given)
