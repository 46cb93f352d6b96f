"""Smallest sets for the questions of one model: what they are looked for with, made once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.checkpoints.save import read_training_state
from tracin.errors import InputError
from tracin.evaluation.graph import Recipe
from tracin.explanation.reasons import Reason
from tracin.model import ConvE
from tracin.progress import progress_stages
from tracin.sets.facts import Facts
from tracin.sets.post_training import LOSS, PostTraining, check_loss
from tracin.sets.smallest import KINDS, NECESSARY, SetOptions, SmallestSet, necessary, sufficient
from tracin.sets.verification import PostTrained, Retrained, Verifier
from tracin.subject import Subject
from tracin.triples.read import Triple

LABEL_SMOOTHING = 0.1  # of the authors of ConvE, where a checkpoint does not tell


@dataclass(frozen=True)
class ShownSet:
    """A smallest set with its facts as reasons, to be shown beside the others."""

    found: SmallestSet
    reasons: tuple[Reason, ...]


class SetFinder:
    """Looks for smallest sets in one subject.

    Args:
        subject: a ConvE with its triples.
        options: of the search.
        progress: whether to show progress on stderr; None shows it on a terminal.

    Raises:
        InputError: if the model is no ConvE, or is to be trained again and its file does not tell how it was trained.
    """

    def __init__(self, subject: Subject, options: SetOptions, progress: bool | None = None) -> None:
        if not isinstance(subject.model, ConvE):
            raise InputError(
                f"necessary and sufficient sets are verified on a ConvE; this model is a {type(subject.model).__name__}"
            )
        self.subject, self.options, self.progress = subject, options, progress
        if options.verify == "retrain" and self.training is None:
            raise InputError(
                f"{subject.name} does not tell how it was trained, so that it cannot be trained again; take a "
                "checkpoint of `tracin train`, or verify by post-training (post-train)",
                "verify",
            )

    @cached_property
    def facts(self) -> Facts:
        subject = self.subject
        return Facts(subject.model, subject.train, torch.cat([subject.train, subject.others]), subject.both_directions)

    @cached_property
    def training(self) -> dict[str, Any] | None:
        """How the model was trained, where its file is ours."""
        path = self.subject.checkpoint.path
        if not self.subject.checkpoint.format.startswith("tracin") or not Path(path).is_file():
            return None
        state = read_training_state(path)
        return None if state is None else dict(state["options"])

    @cached_property
    def verifier(self) -> Verifier:
        options, training = self.options, self.training or {}
        if options.verify == "retrain":
            own = {name: value for name, value in training.items() if name != "seed"}
            recipe = Recipe(self.subject.checkpoint.epoch or 1, own)
            return Retrained(self.facts, recipe, self._folder, options.copies, training["seed"])
        check_loss(training.get("loss", LOSS))
        smoothing = training.get("label_smoothing", LABEL_SMOOTHING)
        samples = self.facts.samples(self.subject.train)
        return PostTrained(
            self.facts, PostTraining(self.subject.model, samples, smoothing, options.seed), options.copies
        )

    @cached_property
    def _folder(self) -> Path:
        if self.options.runs is not None:
            return self.options.runs
        self._temporary = tempfile.TemporaryDirectory(prefix="tracin-")
        return Path(self._temporary.name)

    def find(
        self,
        kind: str,
        triple: Triple,
        of_head: bool,
        scores: Tensor,  # [n]
        rank: float,
    ) -> SmallestSet:
        """The smallest set of a kind, for a prediction that the model ranks so."""
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}", "kind")
        asked = self.facts.asked(triple, of_head)
        look = necessary if kind == NECESSARY else sufficient
        with progress_stages(self.progress) as stage:
            advance = stage(f"looking for a {kind} set", self.options.tries * self.options.max_size, "sets")
            return look(self.facts, self.verifier, asked, scores, rank, self.options, advance)
