"""Scores from gradients at the embeddings alone, and their correction by the damped Fisher matrix: the accurate mode.

    score(a, b) = <g_a, f_b> - K(a, S) (K(S, S) + mu I)^-1 K(S, b),     mu = ridge * mean of K(S, S)'s diagonal

g_a is the gradient of training triple a, f_b that of what is asked about test triple b, S a sample of the training
samples, K inner products of their gradients. The correction is linear in f_b, so each question becomes one table of
the embeddings' size, and a training triple's score three dot products with it.

Sizes: n training triples, s samples of each, Q questions, N entities, R rows of the relation table, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tracin.influence.directions import samples_of
from tracin.influence.triple_block import TripleBlock
from tracin.model import ConvE
from tracin.triples.known_tails import KnownTails
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend
from tracin_ext.embeddings import (
    Damping,
    Gradients,
    functional_tables,
    sample_gradients,
    scores_of,
    term_scores,
)
from tracin_ext.full_float32 import full_float32
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.ops import Tables
from tracin_ext.tail_losses import TailLoss

TABLE_BYTES = 512 << 20  # tables of the questions that are answered together
TERMS = ("head", "relation", "tail")  # the training triple's embedding through which it acts
NORMALIZE = ("none", "train", "cosine")


@dataclass(frozen=True)
class Question:
    """What is asked about test triples, and of which samples training triples consist."""

    query: str  # one of TAIL_LOSSES, or "against"
    other: int | None  # of "against": the other tail
    direction: str  # of training triples
    query_direction: str  # of test triples
    normalize: str  # one of NORMALIZE


@dataclass(frozen=True)
class Correction:
    """Of how many training samples the Fisher matrix is made, and how it is damped; no samples: no correction."""

    samples: int
    ridge: float
    seed: int


class EmbeddingScorer:
    """Scores of one checkpoint.

    Args:
        model: a ConvE.
        backend: of the model by rows of its relation table, for layers among entity, relation and bias.
        question, correction: what is computed.
        loss: of training samples; None: softplus(-score).
        query: of the question.
    """

    def __init__(
        self,
        model: ConvE,
        backend: NativeBackend | FactoredBackend,
        question: Question,
        correction: Correction,
        loss: TailLoss | None,
        query: TailLoss,
    ) -> None:
        self.model, self.backend, self.question, self.correction = model, backend, question, correction
        self.loss, self.query = loss, query
        self.trained: KnownTails | None = None  # what the loss takes for true
        self.parameters, self.wide = backend.parameters, backend.exact
        self._damping: Damping | None = None

    @property
    def triple_bytes(self) -> int:
        """What a training triple's gradients take, and its scores beside them."""
        samples = 2 if self.question.direction == "both" else 1
        numbers = (3 if self.loss is None else 5) * self.parameters.entity.shape[1] + 8
        return samples * numbers * self.parameters.conv_weight.element_size()

    def question_bytes(self, triples: int) -> int:
        """What a question's tables take, and their correction by a sample of so many triples' samples."""
        rows = 2 * (len(self.parameters.entity) + len(self.parameters.relation))
        drawn = min(self.correction.samples, triples * (2 if self.question.direction == "both" else 1))
        return (rows + 3 * drawn) * self.parameters.entity.shape[1] * self.parameters.conv_weight.element_size()

    def forget(self) -> None:
        self._damping = self.trained = None

    def learn(
        self,
        train: Tensor,  # [n, 3]
    ) -> None:
        """What the loss takes for true: the training triples."""
        if self.loss is not None:
            rows = samples_of(self.model, train, self.question.direction).flatten(0, 1)
            self.trained = KnownTails.of(rows, self.model.num_entities, self.model.relation.num_embeddings)

    @full_float32()
    def prepare(
        self,
        train: Tensor,  # [n, 3]
        block: TripleBlock | None = None,  # their gradients, where they are there
    ) -> None:
        """Draws the sample and factorises its matrix."""
        samples = samples_of(self.model, train, self.question.direction).flatten(0, 1)
        self.learn(train)
        generator = torch.Generator().manual_seed(self.correction.seed)
        chosen = torch.randperm(len(samples), generator=generator)[: self.correction.samples]
        drawn = samples[chosen]
        self._damping = None
        if len(drawn):
            if block is None:
                gradients = self._gradients(drawn[order_by_head_relation(drawn)])
            else:
                gradients = block.gradients.of_rows(block.place.flatten()[chosen].sort().values)
            self._damping = Damping(gradients, self.parameters.tracked, self.correction.ridge)

    def _gradients(
        self,
        samples: Tensor,  # [n, 3] ordered by head and relation
    ) -> Gradients:
        return sample_gradients(self.backend, samples, self.loss, self.trained)

    @full_float32()
    def block(
        self,
        train: Tensor,  # [n, 3]
    ) -> TripleBlock:
        """Gradients of training triples."""
        samples = samples_of(self.model, train, self.question.direction)
        count, flat = len(samples), samples.flatten(0, 1)
        order = order_by_head_relation(flat)
        place = order.argsort().view(count, -1)
        return TripleBlock(self._gradients(flat[order]), place, self.parameters.tracked)

    @full_float32()
    def tables(
        self,
        test: Tensor,  # [Q, 3]
        known: KnownTails,  # of rows of the relation table
        together: int = 0,  # not 0: the sum of all, so many of them at a time
    ) -> tuple[Tables, Tensor | None]:  # corrected; norms [Q] of the questions' own gradients, if they are needed
        """The questions; those of both directions are added up."""
        tables = self._summed(test, known, together) if together else self._asked(test, known)
        norms = None
        if self.question.normalize == "cosine":
            count = 1 if together else len(test)
            squares = [table.square().view(len(table), count, -1).sum((0, 2)) for table in tables if table.numel()]
            norms = torch.stack(squares).sum(0).sqrt()
        if self._damping is not None:
            self._damping.apply(tables)
        return tables, norms

    def _summed(
        self,
        test: Tensor,  # [Q, 3]
        known: KnownTails,
        tile: int,
    ) -> Tables:  # of one functional
        total: list[Tensor] = []
        for some in test.split(tile):
            own = [table.sum(1, keepdim=True) if table.numel() else table for table in self._asked(some, known)]
            total = [x.add_(y) for x, y in zip(total, own, strict=True)] if total else own
        return Tables(*total)

    def _asked(
        self,
        test: Tensor,  # [Q, 3]
        known: KnownTails,
    ) -> Tables:
        """The questions before they are corrected."""
        parts = [self._tables_of(rows, known) for rows in samples_of(self.model, test, self.question.query_direction)]
        return Tables(*(torch.stack(same).sum(0) if len(parts) > 1 else same[0] for same in zip(*parts, strict=True)))

    def _tables_of(
        self,
        rows: Tensor,  # [Q, 3]
        known: KnownTails,
    ) -> Tables:
        position, answers = known.lookup(rows[:, 0], rows[:, 1])

        def residual(scores: Tensor) -> Tensor:
            place = scores.device
            return self.query.derivative(scores, rows[:, 2].to(place), (position.to(place), answers.to(place)))

        return functional_tables(self.parameters, self.wide, rows, residual)

    @full_float32()
    def scores(
        self,
        block: TripleBlock,
        tables: Tables,
        norms: Tensor | None,  # [Q]
    ) -> Tensor:  # [Q, n]
        return self._normalized(block, block.fold(scores_of(block.gradients, tables)), norms)

    @full_float32()
    def terms(
        self,
        block: TripleBlock,
        tables: Tables,
        norms: Tensor | None,  # [Q]
    ) -> dict[str, Tensor]:  # each [Q, n], by TERMS
        """What the scores add up from: by the training triple's own head, relation and tail."""
        g = block.gradients
        by_sample = term_scores(g, tables)
        total = {name: scores.new_zeros(scores.shape[1], block.place.shape[1]) for name, scores in by_sample.items()}
        turned = {"head": "tail", "relation": "relation", "tail": "head"}
        for number, rows in enumerate(block.place):
            inverse = self.question.direction == "inverse" or number == 1
            for name, scores in by_sample.items():
                total[turned[name] if inverse else name] += scores[rows].T
        return {name: self._normalized(block, scores, norms) for name, scores in total.items()}

    def _normalized(
        self,
        block: TripleBlock,
        scores: Tensor,  # [Q, n]
        norms: Tensor | None,  # [Q]
    ) -> Tensor:  # [Q, n]
        """A triple without a gradient has no score, whatever it is divided by."""
        if self.question.normalize != "none":
            scores = scores / block.norms.where(block.norms > 0, torch.inf)
        if norms is not None:
            scores = scores / norms.where(norms > 0, torch.inf)[:, None]
        return scores


class EmbeddingScores:
    """Scores of all checkpoints, added up.

    Args:
        scorers: of the checkpoints.
        rates: their weights, of cosines their shares of the sum; None: each checkpoint's scores are divided by their
            standard deviation, if there are several.
        free: bytes that gradients, tables and scores may take.
    """

    def __init__(
        self, scorers: Sequence[EmbeddingScorer], rates: Sequence[float] | None, free: Callable[[], int]
    ) -> None:
        self.scorers, self.rates, self.free = scorers, rates, free
        self._stored: tuple[Tensor, TripleBlock] | None = None
        if rates is not None and scorers[0].question.normalize == "cosine":
            self.rates = [rate / sum(rates) for rate in rates]
        self.prepared: str | None = None
        self._train: Tensor | None = None
        self._known: KnownTails | None = None
        self._blocks: list[TripleBlock] | None = None  # of each checkpoint, where all fit

    def take(
        self,
        train: Tensor,  # [n, 3]
        block: TripleBlock,
    ) -> None:
        """The gradients of training triples that were computed before, for the one checkpoint."""
        self._stored = train, block

    def prepare(
        self,
        train: Tensor,  # [n, 3]
        known: Tensor,  # [m, 3] what else is true
        told: str,  # their digest
    ) -> None:
        """What all questions about these training triples share."""
        self.forget()
        model = self.scorers[0].model
        both = torch.cat([train, known])
        turned = "both" if "forward" != self.scorers[0].question.query_direction else "forward"
        rows = samples_of(model, both, turned).flatten(0, 1)
        self._known = KnownTails.of(rows, model.num_entities, model.relation.num_embeddings)
        self._train = train
        self._blocks = None
        if self._stored is not None and torch.equal(self._stored[0], train):
            self._blocks = [self._stored[1]]
        for scorer in self.scorers:
            scorer.prepare(train, None if self._blocks is None else self._blocks[0])
        size = sum(scorer.triple_bytes for scorer in self.scorers)
        if self._blocks is None and size * len(train) <= self.free() // 2:
            self._blocks = [scorer.block(train) for scorer in self.scorers]
        self.prepared = told

    def forget(self) -> None:
        """Gives the memory back."""
        self.prepared = self._train = self._known = self._blocks = None
        for scorer in self.scorers:
            scorer.forget()

    def tile(self, triples: int) -> int:
        """Questions that are answered together about so many training triples."""
        size = max(scorer.question_bytes(triples) for scorer in self.scorers) + 16 * triples
        return max(1, min(TABLE_BYTES, self.free() // 4) // size)

    def _of(self, number: int) -> Iterator[tuple[slice, TripleBlock]]:
        """The blocks of a checkpoint."""
        assert self._train is not None
        scorer, n = self.scorers[number], len(self._train)
        if self._blocks is not None:
            yield slice(0, n), self._blocks[number]
            return
        size = max(1, self.free() // 4 // scorer.triple_bytes)
        for start in range(0, n, size):
            yield slice(start, min(n, start + size)), scorer.block(self._train[start : start + size])

    def scores(
        self,
        test: Tensor,  # [Q, 3]
        together: bool = False,  # one question: the sum of all
    ) -> Tensor:  # [Q, n], or [1, n]
        assert self._train is not None and self._known is not None
        total: Tensor | None = None
        for number, scorer in enumerate(self.scorers):
            tables, norms = scorer.tables(test, self._known, self.tile(len(self._train)) if together else 0)
            questions = 1 if together else len(test)
            own = scorer.parameters.conv_weight.new_empty(questions, len(self._train))
            for part, block in self._of(number):
                own[:, part] = scorer.scores(block, tables, norms)
            own *= self._weights(number, own)
            total = own if total is None else total.add_(own)
        assert total is not None
        return total

    def _weights(
        self,
        number: int,
        scores: Tensor,  # [Q, n] of the checkpoint
    ) -> Tensor:  # [Q, 1]
        if self.rates is not None:
            return scores.new_tensor([[self.rates[number]]])
        if len(self.scorers) == 1:
            return scores.new_ones(1, 1)
        spread = scores.std(1, correction=0, keepdim=True)
        return 1 / spread.where(spread > 0, torch.inf)

    def terms(
        self,
        test: Tensor,  # [Q, 3]
        index: Tensor,  # [Q, k] of training triples
    ) -> dict[str, Tensor]:  # each [Q, k], by TERMS
        """What the scores of some training triples add up from."""
        assert self._train is not None and self._known is not None
        distinct, place = index.unique(return_inverse=True)
        total: dict[str, Tensor] = {}
        for number, scorer in enumerate(self.scorers):
            tables, norms = scorer.tables(test, self._known)
            weights = scorer.parameters.conv_weight.new_ones(1, 1)
            if len(self.scorers) > 1 or self.rates is not None:
                own = [scorer.scores(block, tables, norms) for _, block in self._of(number)]
                weights = self._weights(number, torch.cat(own, 1))
            for name, scores in scorer.terms(scorer.block(self._train[distinct]), tables, norms).items():
                part = weights * scores.gather(1, place)
                total[name] = part if name not in total else total[name] + part
        return total

    def squared_norms(
        self,
        triples: Tensor,  # [n, 3]
    ) -> Tensor:  # [n]
        """Of the triples' gradients, added up over the checkpoints."""
        total = torch.zeros(len(triples), dtype=self.scorers[0].parameters.dtype)
        for number, scorer in enumerate(self.scorers):
            size = max(1, self.free() // 4 // scorer.triple_bytes)
            before = scorer.trained
            scorer.learn(triples)
            own = [scorer.block(some).norms.square() for some in triples.split(size)]
            scorer.trained = before
            total += (self.rates[number] if self.rates is not None else 1.0) * torch.cat(own).cpu()
        return total
