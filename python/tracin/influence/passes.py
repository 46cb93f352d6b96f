"""The way through all training triples, a block at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tracin.influence.blocks import attempt
from tracin.influence.outcomes import check_finite
from tracin.influence.resume import Partial
from tracin.progress import Advance, Clock


@dataclass(frozen=True)
class Pass:
    """What all blocks of one call have in common."""

    train: Tensor  # [n_train, 3]
    test: Tensor | None  # [n_test, 3]; None: self-influences
    order: Tensor  # [n_train] their index, in the order of work
    saved: Partial  # with the work, and where it stands
    keep: Callable[[slice, Tensor, Tensor], None]  # is given test triples, index [B] of a block, scores
    precision: str
    clock: Clock
    stage: str  # of the clock
    advance: Advance

    def score_next(self, tests: slice, score: Callable[..., Tensor], *factors: object) -> None:
        """Keeps score(*factors, block) of the next block for these test triples.

        Where memory runs out, nothing is kept and the blocks from here on are half as large.

        Raises:
            InputError: for a score that is no finite number.
        """
        work = self.saved.work
        start = int(work.done[tests.start])
        index = self.order[start : start + work.block]
        with self.clock(self.stage):
            scores = attempt(score, *factors, self.train[index])
            if scores is None:
                work.halve_block(len(index))
                return
            check_finite(scores, self.train[index], None if self.test is None else self.test[tests], self.precision)
            with self.saved.changing():
                self.keep(tests, index, scores)
                work.done[tests] += len(index)
        self.advance(scores.numel())
        self.saved.tick()
