"""A callback for PyKEEN's training loops that saves what TracIn over checkpoints needs. Importing it imports PyKEEN."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pykeen.training.callbacks import TrainingCallback, callback_resolver

from tracin.checkpoints.save import save_checkpoint
from tracin.errors import InputError
from tracin.files import check_writable
from tracin.model import ConvE
from tracin.pykeen import from_pykeen


class TracInCallback(TrainingCallback):
    """Saves a ConvE every few epochs: weights, learning rate, epoch, image shape and dictionaries.

    The files are `epoch_NNNN.pt`, which `tracin.load_checkpoints` and `tracin run --checkpoints` read; the last epoch
    is always saved. The learning rate is the optimizer's during that epoch.

    Args:
        output: folder, created if missing.
        every: epochs between checkpoints.
        triples_factory: the training triples, for the dictionaries of labels; None: checkpoints have none.

    Raises:
        InputError: if the model is no ConvE that `tracin` reads, or the folder cannot be written.

    Example:
        >>> import tracin.callbacks  # makes callbacks="tracin" known
        >>> pipeline(model="ConvE", training=factory, testing=factory, training_kwargs=dict(
        ...     callbacks="tracin", callbacks_kwargs=dict(output="checkpoints", every=5, triples_factory=factory)))
    """

    def __init__(self, output: str | os.PathLike[str], every: int = 10, triples_factory: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}; expected a positive number of epochs", "every")
        self.output, self.every, self.triples_factory = Path(output), every, triples_factory
        self._rate: float | None = None
        self._epoch = 0
        self._saved = 0

    def register_training_loop(self, training_loop: Any) -> None:
        super().register_training_loop(training_loop)
        self._model()  # what cannot be saved is found before it is trained
        self.output.mkdir(parents=True, exist_ok=True)
        check_writable(self._path(1))

    def on_batch(self, epoch: int, batch: Any, batch_loss: float, **kwargs: Any) -> None:
        self._rate = float(self.optimizer.param_groups[0]["lr"])

    def post_epoch(self, epoch: int, epoch_loss: float, **kwargs: Any) -> None:
        self._epoch = epoch
        if epoch % self.every == 0:
            self._save()

    def post_train(self, losses: list[float], **kwargs: Any) -> None:
        if self._epoch > self._saved:
            self._save()

    def _path(self, epoch: int) -> Path:
        return self.output / f"epoch_{epoch:04d}.pt"

    def _model(self) -> Any:
        checkpoint = from_pykeen(self.model, self.triples_factory)
        if not isinstance(checkpoint.model, ConvE):
            raise InputError(f"TracInCallback saves a plain ConvE; this is a {checkpoint.format}", "model")
        return checkpoint

    def _save(self) -> None:
        checkpoint = self._model()
        save_checkpoint(
            self._path(self._epoch),
            checkpoint.model,
            epoch=self._epoch,
            learning_rate=self._rate,
            entity_to_id=checkpoint.entity_to_id,
            relation_to_id=checkpoint.relation_to_id,
        )
        self._saved = self._epoch


if "tracin" not in callback_resolver.synonyms:
    callback_resolver.register(TracInCallback, synonyms={"tracin"})
