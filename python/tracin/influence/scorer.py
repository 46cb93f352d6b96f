"""How the calls of `TracIn` go through their triples: tiles of test triples, blocks of training triples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tracin.digests import digest, digest_models
from tracin.errors import InputError
from tracin.influence import outcomes
from tracin.influence.arguments import PRECISIONS, check_ranking, check_triples
from tracin.influence.blocks import Work, attempt
from tracin.influence.bounded import Kept, Search, keep_factors, reason_against
from tracin.influence.fisher import Correction, EmbeddingScores, Question
from tracin.influence.memory import (
    LEAST_BLOCK,
    available_bytes,
    give_back,
    need_of,
    on_the_cpu,
    place_of_results,
    tile_and_block,
    used_bytes,
)
from tracin.influence.over_tails import teach
from tracin.influence.passes import Pass
from tracin.influence.resume import Partial
from tracin.influence.top_k import TopK
from tracin.influence.triple_block import TripleBlock
from tracin.influence.turns import OneAtATime, in_turn
from tracin.losses import LOSSES
from tracin.machine import version
from tracin.model import ConvE
from tracin.progress import Clock, Stage, progress_stages
from tracin.triples.given import check_same_dictionaries
from tracin.triples.labels import Dictionaries
from tracin_ext.backends import Backend
from tracin_ext.backends.factored import PAIR_TERMS, FactoredBackend, pair_terms
from tracin_ext.full_float32 import full_float32
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.ops import merge_top_k
from tracin_ext.tail_losses import LossOptions

TOGETHER = 256  # test triples whose influences are added up at a time


class Scorer(OneAtATime):
    """What `TracIn` is made of, below its public methods; `TracIn` says what the attributes are."""

    models: list[nn.Module]
    learning_rates: list[float]
    loss: str
    layers: tuple[str, ...]
    precision: str
    device: torch.device
    batch_size: int | str
    progress: bool | None
    memory_limit: int | None
    cache_test_factors: bool
    memory_cleanup: bool
    _dictionaries: Dictionaries | None  # of the checkpoints
    _counted: tuple[str, ...]  # the layers, or parameters, whose gradients count
    _backends: list[Backend]  # of the checkpoints
    _timed: Clock
    _kept: tuple[str, Kept] | None  # the last call's, by the digest of its triples, where memory is not cleaned up
    _known: tuple[Tensor, str] | None = None  # training triples [n, 3] that are checked and never change, their digest
    search: str
    method: str
    correction: Correction
    question: Question | None  # None: TracIn as it stands
    _answers: EmbeddingScores | None  # for the question
    _also_true: Tensor = torch.empty(0, 3, dtype=torch.int64)  # [m, 3]
    loss_options: LossOptions

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": None}

    def _ids(self, triples: Any, name: str) -> Tensor:  # [n, 3] int64
        known: Tensor | None = None if self._known is None else self._known[0]
        if known is not None and triples is known:
            return known
        return check_triples(triples, name, self.models[0], self._dictionaries)

    def _digest(
        self,
        train: Tensor,  # [n, 3]
    ) -> str:
        known = self._known
        return known[1] if known is not None and train is known[0] else digest({"": train})

    def _pair(self, train: Any, test: Any) -> tuple[Tensor, Tensor]:  # [n_train, 3], [n_test, 3], both int64
        check_same_dictionaries("test", test, "train", train)
        return self._ids(train, "train"), self._ids(test, "test")

    @in_turn
    def influence_of_part(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
    ) -> Tensor:  # [n_test, n_train]
        """`TracIn.influence` of some of the training triples, of which `warn_of_zeros` has not been told."""
        train, test = self._pair(train, test)
        teach(self._backends, self.models[0], train, self._also_true)
        dtype = PRECISIONS[self.precision]
        place = place_of_results(self.device, len(test) * len(train) * dtype.itemsize)
        result = torch.empty(len(test), len(train), dtype=dtype, device=place)

        def keep(tests: slice, index: Tensor, scores: Tensor) -> None:
            result[tests].index_copy_(1, index.to(place), scores.to(place))

        if self._answers is not None:
            work = self._tiles(train, test)
            self._answer(train, test, Partial(None, dict, work, {}, ""), keep)
        else:
            work = self._work(len(train), len(test), result.nbytes)
            self._score(train, test, Partial(None, dict, work, {}, ""), keep)
        return on_the_cpu(result)

    @in_turn
    def top_k_of_part(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        k: int,
        order: str,
        partial: str | os.PathLike[str] | None,
        keep_finished: bool = True,
    ) -> TopK:
        """`TracIn.top_k` of some of the training triples, of which `warn_of_zeros` has not been told."""
        check_ranking(k, order)
        train, test = self._pair(train, test)
        teach(self._backends, self.models[0], train, self._also_true)
        k = min(k, len(train))
        dtype = PRECISIONS[self.precision]
        indices = torch.full((len(test), k), -1, device=self.device)
        scores = torch.zeros(len(test), k, dtype=dtype, device=self.device)
        digests = {"train_digest": self._digest(train), "test_digest": digest({"": test})}

        def keep(tests: slice, index: Tensor, block: Tensor) -> None:
            merge_top_k(block.contiguous(), index, order, scores[tests], indices[tests])

        def inputs() -> dict[str, str]:
            tests, trained = digests["test_digest"], digests["train_digest"]
            return self._inputs("top_k", trained) | {"test triples": tests, "k": str(k), "order": order}

        if self._answers is not None:
            work = self._tiles(train, test)
        else:
            work = self._work(len(train), len(test), indices.nbytes + scores.nbytes)
        results = {"indices": indices, "scores": scores, "rounds": torch.zeros(len(test), dtype=torch.int8)}
        saved = Partial(partial, inputs, work, results, self._asked, keep_finished)

        def by_bounds(stage: Stage) -> None:
            self._find_by_bounds(train, digests["train_digest"], test, saved, k, order, stage)

        if self._answers is not None:
            self._answer(train, test, saved, keep)
        else:
            self._score(train, test, saved, keep, by_bounds)
        return TopK(on_the_cpu(indices), on_the_cpu(scores), **digests)

    def _find_by_bounds(
        self,
        train: Tensor,  # [n_train, 3]
        train_digest: str,
        test: Tensor,  # [n_test, 3]
        saved: Partial,
        k: int,
        order: str,
        stage: Stage,
    ) -> None:
        """Finishes the lists that bounds find for less than blocks of scores cost, if any.

        Only tests that no block has met are looked at. Where most of them are found so, the others are scored in blocks
        here, as `saved` goes on from whole tests only.
        """
        work, scores, indices = saved.work, saved.results["scores"], saved.results["indices"]
        unfinished = (work.done == 0).nonzero()[:, 0]
        there = self._kept[1] if self._kept is not None and self._kept[0] == train_digest else None
        kept = there if there is not None and there.serves(len(test)) else None
        lasting = not self.memory_cleanup
        against = reason_against(self._backends, train, len(test), k, self.memory_limit, lasting, kept is not None)
        if against and kept is None and there is not None:  # they serve more slowly, but without memory
            kept = there
            against = reason_against(self._backends, train, len(test), k, self.memory_limit, lasting, True)
        self.search = f"in blocks: {against}" if against else ""
        if against or not len(train) or not len(unfinished):
            return
        advance = stage("influence by bounds", len(unfinished), "triples")

        def give(tests: Tensor, best: Tensor, index: Tensor) -> None:
            with saved.changing():
                scores[tests], indices[tests] = best, index
                work.done[tests] = len(train)
            advance(len(tests))
            saved.tick()

        if kept is None:
            self._kept = None  # before there are others
            with self._timed("training factors"):
                kept = attempt(keep_factors, self._backends, self.learning_rates, train)
        if kept is None:
            self.search = "in blocks: out of memory with factors of the training triples"
            return
        if lasting:
            self._kept = train_digest, kept
        with self._timed("influence"):
            search = Search(kept, test, k, order, saved.results["rounds"], give)
            left = search.find(unfinished)
        del kept, search.kept
        scored, compared = search.work.tolist()
        pairs = len(unfinished) * len(train)
        how = "by bounds" if self.precision != "mixed" else "by bounds, in float32"
        self.search = f"{how}: {scored:,} of {pairs:,} pairs scored, {compared:,} bounds, {len(left):,} lists in blocks"
        if len(left) < len(unfinished):
            self._score_left(train, test, saved, left, order, stage)

    def _score_left(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        saved: Partial,
        left: Tensor,  # [n] index of tests
        order: str,
        stage: Stage,
    ) -> None:
        """Finishes some of the lists in blocks."""
        if not len(left):
            return
        work, scores, indices = saved.work, saved.results["scores"], saved.results["indices"]
        own, own_index = scores[left], indices[left]

        def keep(tests: slice, index: Tensor, block: Tensor) -> None:
            merge_top_k(block.contiguous(), index, order, own[tests], own_index[tests])

        some = Work(len(train), torch.zeros(len(left), dtype=torch.int64), work.tile, work.block)
        self._score_tiles(train, test[left], Partial(None, dict, some, {}, ""), keep, stage)
        with saved.changing():
            scores[left], indices[left] = own, own_index
            work.done[left] = len(train)
        saved.tick()

    @torch.no_grad()
    @full_float32()
    def _terms(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        index: Tensor,  # [n_test, k] of training triples
    ) -> dict[str, Tensor]:  # each [n_test, k]
        """What influences add up from."""
        if self._answers is not None:
            with self._cleaning_up():
                self._prepare(train)
                return self._answers.terms(test, index)
        if self.loss not in LOSSES:
            raise InputError(
                f"influences of the loss {self.loss!r} on all layers are not broken down by term; take method "
                "'accurate', or a direction, whose scores from gradients at the embeddings are",
                "loss",
            )
        if not all(isinstance(model, ConvE) for model in self.models):
            raise InputError("only the influences of a ConvE are broken down by term", "model_or_checkpoints")
        distinct, place = index.unique(return_inverse=True)
        order, by_test = order_by_head_relation(train[distinct]), order_by_head_relation(test)
        place, back = order.argsort()[place], by_test.argsort()
        total: dict[str, Tensor] = {}
        for model, rate in zip(self.models, self.learning_rates, strict=True):
            plain = FactoredBackend(model, self._counted, PRECISIONS[self.precision], torch.device("cpu"))
            factors = plain.factors(test[by_test])
            parts = [
                pair_terms(plain.parameters, factors, plain.factors(some))
                for some in train[distinct][order].split(LEAST_BLOCK)
            ]
            for name in PAIR_TERMS if parts else ():
                term = rate * torch.cat([part[name] for part in parts], 1)[back].gather(1, place)
                total[name] = total[name] + term if name in total else term
        return total

    @in_turn
    def warn_of_zeros(
        self,
        test: Tensor,  # [n_test, 3]
        scores: Tensor,  # [n_test, n] influences, all or the best
        order: str | None = None,  # of top-k lists
    ) -> None:
        """Says which test triples nothing influences, and why."""
        rows = outcomes.zero_rows(scores)
        if len(rows):
            work = order_by_head_relation(test[rows])
            norms = torch.empty(len(rows), dtype=scores.dtype)
            if self._answers is not None:
                return
            with torch.no_grad():
                for index in work.split(LEAST_BLOCK):
                    norms[index] = self._diagonal(test[rows[index]]).cpu()
            outcomes.warn_of_zeros(test, rows, norms, self.precision, self.layers, order)

    def _score(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        saved: Partial,
        keep: Callable[[slice, Tensor, Tensor], None],
        before: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        """Calls keep(test triples, index [B] of training triples, scores [Q, B]) for every tile and every block.

        What `before` has finished is left out.
        """
        with self._running(saved) as stage:
            before(stage)
            self._score_tiles(train, test, saved, keep, stage)

    def _score_tiles(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        saved: Partial,
        keep: Callable[[slice, Tensor, Tensor], None],
        stage: Stage,
    ) -> None:
        """Blocks run through the training triples ordered by (head, relation), whose forward pass is shared."""
        if saved.work.next_tile() is None:
            return
        work, order = saved.work, self._order(train)
        ready = int((work.done == work.total).sum())  # test triples whose factors have been computed
        prepared = stage("test factors", len(test), "triples", done=ready)
        advance = stage("influence", len(test) * len(train), "pairs", done=work.finished)
        pairs = Pass(train, test, order, saved, keep, self.precision, self._timed, "influence", advance)
        while (tests := work.next_tile()) is not None:
            with self._timed("test factors"):
                factors = attempt(self._test_factors, test[tests])
            if factors is None:
                work.halve_tile(tests.stop - tests.start)
                continue
            prepared(max(0, tests.stop - ready))
            ready = max(ready, tests.stop)
            advance(0)
            while work.done[tests.start] < len(train):
                pairs.score_next(tests, self._block_scores, factors)
                if not self.cache_test_factors:
                    break  # the same tile comes next, its factors computed anew
            del factors  # before the next ones are computed

    def _tiles(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
    ) -> Work:
        """Of questions that are answered together, each to all training triples at once."""
        assert self._answers is not None
        return Work(
            len(train), torch.zeros(len(test), dtype=torch.int64), self._answers.tile(len(train)), max(1, len(train))
        )

    def _answer(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
        saved: Partial,
        keep: Callable[[slice, Tensor, Tensor], None],
    ) -> None:
        """As `_score`, for questions."""
        assert self._answers is not None
        order = torch.arange(len(train))
        with self._running(saved) as stage:
            self._prepare(train)
            advance = stage("influence", len(test) * len(train), "pairs", done=saved.work.finished)
            pairs = Pass(train, test, order, saved, keep, self.precision, self._timed, "influence", advance)
            while (tests := saved.work.next_tile()) is not None:
                answers = attempt(self._answers.scores, test[tests])
                if answers is None:
                    saved.work.halve_tile(tests.stop - tests.start)
                    continue
                pairs.score_next(tests, lambda _, own=answers: own)

    @in_turn
    def _influence_on_all(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor,  # [n_test, 3]
    ) -> Tensor:  # [1, n_train]
        """On the sum of the test triples' losses."""
        result = torch.zeros(1, len(train), dtype=PRECISIONS[self.precision])
        if self._answers is None or not len(test):
            for some in test.split(TOGETHER):
                result += self.influence_of_part(train, some).sum(0, keepdim=True)
            return result
        with torch.no_grad(), self._cleaning_up():
            self._prepare(train)
            with self._timed("influence"):
                result.copy_(self._answers.scores(test, together=True))
        outcomes.check_finite(result, train, test[:1], self.precision)
        return result

    def _prepare(
        self,
        train: Tensor,  # [n_train, 3]
    ) -> None:
        """What questions to the same training triples share, unless the last call left it."""
        assert self._answers is not None
        told = digest({"train": train, "known": self._also_true})
        if self._answers.prepared != told:
            with self._timed("training factors"):
                self._answers.prepare(train, self._also_true, told)

    def take_gradients(
        self,
        train: Tensor,  # [n_train, 3]
        block: TripleBlock,
        direction: str,
    ) -> None:
        """Gradients of training triples that an index holds; without effect where others are asked for."""
        question = self.question
        if self._answers is None or question is None or question.direction != direction or self.loss not in LOSSES:
            return
        p = self._answers.scorers[0].parameters
        if len(self.models) == 1 and p.tracked >= block.tracked and p.dtype == block.gradients.own.w.dtype:
            self._answers.take(train, block)

    def _squared_norms(
        self,
        triples: Tensor,  # [n, 3]
    ) -> Tensor:  # [n]
        """Of the gradients at the embeddings that questions are answered with, weighted by the rates."""
        assert self._answers is not None
        with torch.no_grad(), self._timed("self-influence"):
            result = self._answers.squared_norms(triples).cpu()
        outcomes.check_finite(result, triples, None, self.precision)
        return result

    def _free_bytes(self) -> int:
        """What a question's gradients, tables and scores may take."""
        if self.memory_limit is None:
            return available_bytes(self.device) // 2
        return max(1, self.memory_limit - used_bytes(self.device))

    def _order(self, train: Tensor) -> Tensor:  # [n, 3] -> [n]
        """Training triples by (head, relation), as index on the CPU; sorted where that is fastest."""
        return order_by_head_relation(train.to(self.device) if self.device.type == "cuda" else train).cpu()

    @contextmanager
    def _running(self, saved: Partial) -> Iterator[Stage]:
        """Around the work of a call: what it begins with, is interrupted by, and leaves behind."""
        saved.restore()
        with progress_stages(self.progress) as stage, torch.no_grad(), self._cleaning_up(), saved.saving():
            yield stage

    @full_float32()
    def _test_factors(
        self,
        test: Tensor,  # [Q, 3]
    ) -> list[Any]:
        return [backend.test_factors(test.to(self.device)) for backend in self._backends]

    @full_float32()
    def _block_scores(
        self,
        factors: list[Any],  # of the test triples, by each backend
        block: Tensor,  # [B, 3]
    ) -> Tensor:  # [Q, B]
        block = block.to(self._backends[0].block_device)
        return added_up(
            backend.scores(own, block, rate)
            for rate, backend, own in zip(self.learning_rates, self._backends, factors, strict=True)
        )

    @full_float32()
    def _diagonal(
        self,
        block: Tensor,  # [B, 3]
    ) -> Tensor:  # [B]
        block = block.to(self._backends[0].block_device)
        return added_up(
            backend.self_influence(block, rate)
            for rate, backend in zip(self.learning_rates, self._backends, strict=True)
        )

    @contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        """Gives memory back, at the end, that only the next call would use again."""
        try:
            yield
        finally:
            if self.memory_cleanup:
                self._kept = None
                if self._answers is not None:
                    self._answers.forget()
                for backend in self._backends:
                    backend.free_buffers()
                give_back(self.device)

    def _work(self, triples: int, tests: int | None, results: int) -> Work:
        """Nothing done yet; `tests` None: self-influences; `results`: their bytes."""
        need = need_of(self._backends, self.device, PRECISIONS[self.precision], results, tests is not None)
        block = self.batch_size if isinstance(self.batch_size, int) else None
        count = 1 if tests is None else tests
        sizes = tile_and_block(need, self.memory_limit, count, triples, block, self.device)
        return Work(triples, torch.zeros(count, dtype=torch.int64), *sizes)

    @property
    def _asked(self) -> str:
        return f"batch_size {self.batch_size}, memory_limit {self.memory_limit}"

    def _inputs(self, kind: str, train: str) -> dict[str, str]:
        """What results depend on, except for what is only of this kind; `train` is a digest."""
        return {
            "kind": kind,
            "tracin": version(),
            "torch": str(torch.__version__),  # it is of a class of its own, which weights_only refuses
            "model weights": digest_models(self.models),
            "training triples": train,
            "learning rates": ", ".join(map(str, self.learning_rates)),
            "loss": self.loss if self.loss in LOSSES else f"{self.loss} {self.loss_options}",
            "layers": ", ".join(self._counted),
            "precision": self.precision,
            "backend": self._backends[0].label,
            "device": str(self.device),
            "question": "" if self.question is None else f"{self.method} {self.question} {self.correction}",
            "known triples": digest({"": self._also_true}) if len(self._also_true) else "",
        }


def added_up(terms: Iterator[Tensor]) -> Tensor:
    """The sum of tensors of one shape, in the first one's memory."""
    total = next(terms)
    for term in terms:
        total += term
    return total
