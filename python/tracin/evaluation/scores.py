"""Scores of training triples for test triples, by the names that the commands take: TracIn's and their controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tracin.checkpoints.load import Checkpoint
from tracin.errors import InputError
from tracin.evaluation.graph import Graph
from tracin.influence.tracin import TracIn
from tracin.model import ConvE
from tracin.proximity.two_rules import two_rules

TRACIN: dict[str, dict[str, Any]] = {
    "tracin": {},
    "accurate": {"method": "accurate"},
}  # names, and what TracIn is given for them
QUERIES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Model:
    """What scores are computed with.

    Args:
        checkpoints: of one run, the last one last.
        seed: of what is random in controls.
    """

    checkpoints: Sequence[Checkpoint]
    seed: int = 0

    @property
    def last(self) -> ConvE:
        model: ConvE = self.checkpoints[-1].model
        return model

    def random(self) -> Model:
        """The same model with weights as they are before training."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            config = {key: value for key, value in self.last.config.items()}
            fresh = ConvE(config.pop("num_entities"), config.pop("num_relations"), **config).eval()
        return Model(
            [Checkpoint(fresh, learning_rate=1.0, relation_to_id=self.checkpoints[-1].relation_to_id)], self.seed
        )


@dataclass(frozen=True)
class Term:
    """One score with its settings."""

    name: str
    settings: dict[str, Any]

    @property
    def is_tracin(self) -> bool:
        return self.name in TRACIN

    @property
    def arguments(self) -> dict[str, Any]:
        """What TracIn is given."""
        return TRACIN[self.name] | self.settings

    def of(
        self,
        graph: Graph,
        model: Model,
        queries: Tensor,  # [q, 3]
    ) -> Tensor:  # [q, n] float32
        if self.name not in TRACIN:
            return CONTROLS[self.name](graph, model, queries)
        settings = self.arguments
        weights, number = settings.pop("weights", "trained"), settings.pop("checkpoints", 1)
        if weights not in ("trained", "random"):
            raise InputError(f"{self.name}: weights is {weights}; expected trained or random")
        if weights == "random":
            model = model.random()
        if not 1 <= number <= len(model.checkpoints):
            raise InputError(f"{self.name} asks for {number} checkpoints, of which there are {len(model.checkpoints)}")
        return tracin_of(graph, model.checkpoints[-number:], settings).influence(graph.train, queries)


def tracin_of(graph: Graph, checkpoints: Sequence[Checkpoint], settings: Mapping[str, Any]) -> TracIn:
    """A TracIn with settings that a user wrote; what is true in the graph is known to it.

    Raises:
        InputError: on a setting that it does not have, or a wrong value.
    """
    try:
        return TracIn(list(checkpoints), progress=False, known=graph.known, **settings)
    except TypeError as error:
        raise InputError(f"a score's settings {dict(settings)} do not suit TracIn: {error}") from None


@dataclass(frozen=True)
class Score:
    """A score as it was named: a term, or several, each z-scored for its test triple, that add up.

    Args:
        text: NAME, NAME:SETTING=VALUE,..., or several of them with " + " between.
    """

    text: str
    terms: tuple[Term, ...]

    @classmethod
    def named(cls, text: str) -> Score:
        """Raises InputError for a name that is not known or a setting without a value.

        Example:
            >>> Score.named("tracin:layers=entity/bias + two-rules").terms[1].name
            'two-rules'
        """
        return cls(text, tuple(_term(part.strip(), text) for part in text.split(" + ")))

    @property
    def asks_model(self) -> bool:
        return any(term.name in TRACIN or term.name == "embedding" for term in self.terms)

    def of(
        self,
        graph: Graph,
        model: Model,
        queries: Tensor,  # [q, 3]
    ) -> Tensor:  # [q, n] float32
        """How much each training triple speaks for each query; a control's values only rank them."""
        if len(self.terms) == 1:
            return self.terms[0].of(graph, model, queries)
        return sum((z_scores(term.of(graph, model, queries)) for term in self.terms), start=torch.zeros(()))


def _term(part: str, text: str) -> Term:
    name, _, rest = part.partition(":")
    if name not in (*TRACIN, *CONTROLS):
        raise InputError(
            f"score {text!r}: there is no score {name!r}; expected one of {', '.join((*TRACIN, *CONTROLS))}"
        )
    settings = {}
    for setting in filter(None, rest.split(",")):
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise InputError(f"score {text!r}: {setting!r} is no setting; expected SETTING=VALUE")
        settings[key] = _value(value)
    if settings and name in CONTROLS:
        raise InputError(f"score {text!r}: {name} has no settings")
    return Term(name, settings)


def _value(text: str) -> Any:
    """A number, several names with / between, or the text itself."""
    if "/" in text:
        return text.split("/")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def z_scores(
    scores: Tensor,  # [q, n]
) -> Tensor:  # [q, n]
    """Minus the mean, over the standard deviation of each row; 0 where a row is constant."""
    centred = scores - scores.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(spread > 0, centred / spread.clamp(min=torch.finfo(scores.dtype).tiny), 0.0)


def _embedding(graph: Graph, model: Model, queries: Tensor) -> Tensor:
    """Cosine of the embeddings of head, relation and tail, one after the other."""

    def rows(triples: Tensor) -> Tensor:  # [n, 3 D]
        heads, relations, tails = triples.unbind(1)
        entity, relation = model.last.entity.weight, model.last.relation.weight[model.last.relation_step * relations]
        return F.normalize(torch.cat([entity[heads], relation, entity[tails]], dim=1).detach(), dim=1)

    return rows(queries) @ rows(graph.train).T


def _random(graph: Graph, model: Model, queries: Tensor) -> Tensor:
    """Even random numbers in [0, 1)."""
    generator = torch.Generator().manual_seed(model.seed)
    return torch.rand(len(queries), len(graph.train), generator=generator)


def _neighbours(graph: Graph, model: Model, queries: Tensor) -> Tensor:
    """Those that share an entity with the test triple before the others, both in random order."""
    ends, own = graph.train[:, [0, 2]], queries[:, [0, 2]]
    shared = (ends[None, :, :, None] == own[:, None, None, :]).flatten(2).any(2)
    return _random(graph, model, queries) + shared


def _same_relation(graph: Graph, model: Model, queries: Tensor) -> Tensor:
    """Those of the test triple's relation before the others, both in random order."""
    return _random(graph, model, queries) + (graph.train[None, :, 1] == queries[:, None, 1])


CONTROLS: dict[str, Callable[[Graph, Model, Tensor], Tensor]] = {
    "two-rules": lambda graph, model, queries: two_rules(graph.train, queries),
    "embedding": _embedding,
    "neighbours": _neighbours,
    "same-relation": _same_relation,
    "random": _random,
}
