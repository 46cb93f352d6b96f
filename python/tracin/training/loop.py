"""Training of a ConvE: batches of distinct (head, relation), whose every tail is scored; Adam, exponential decay."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.checkpoints.save import read_training_state, save_checkpoint
from tracin.errors import InputError
from tracin.files import check_writable, locked, remove_parts
from tracin.machine import resolve_device
from tracin.model import ConvE, inverse_rows
from tracin.progress import on_a_terminal, progress_bar
from tracin.training.ranking import Ranking, evaluate
from tracin.triples.ids import check_ids
from tracin.triples.known_tails import KnownTails
from tracin_ext.tail_losses import AllTrueTails, Bce, LossOptions, OneTrueTail, TailLoss

MODEL_OPTIONS = (
    "embedding_dim",
    "embedding_height",
    "embedding_width",
    "output_channels",
    "kernel_height",
    "kernel_width",
    "stack",
    "input_dropout",
    "feature_dropout",
    "hidden_dropout",
)
WHOLE_OPTIONS = (
    "embedding_dim",
    "embedding_height",
    "embedding_width",
    "output_channels",
    "kernel_height",
    "kernel_width",
    "batch_size",
    "seed",
)
LOSSES = ("kvsall", "bce-1n", "ce", "margin", "bce")
DEFAULT_EPOCHS = 60
SEEDS_PER_RUN = 1_000_003  # epochs of one run and runs of neighbouring seeds draw different numbers


@dataclass(frozen=True)
class TrainingOptions:
    """What a run is made of besides its triples; stored in every checkpoint, and the same when it resumes.

    The defaults suit graphs of some thousand triples: UMLS reaches a filtered test MRR of 0.93, kinship of 0.76.

    Args:
        embedding_dim, embedding_height, embedding_width: size of an embedding and of its plane in pixels.
        output_channels, kernel_height, kernel_width: number and size of the filters.
        stack: "height" or "width", how the planes of head and relation form the image.
        input_dropout, feature_dropout, hidden_dropout: probabilities.
        inverse: also train (t, inverse of r, h); the relation table then has 2R rows, r + R is the inverse of r.
        learning_rate: Adam's, in the first epoch.
        decay: factor on the learning rate after each epoch.
        batch_size: distinct (head, relation) of a step.
        label_smoothing: epsilon; the target of a true tail is 1 - epsilon + epsilon / N, of another epsilon / N; of the
            losses "kvsall" and "bce-1n".
        seed: of initial weights, order and dropout.
        loss: "kvsall", binary cross-entropy of all N tails of a (head, relation), the known ones true; or the mean over
            its triples of "bce-1n", the same with one true tail; "ce", softmax cross-entropy over the tail and those
            not known to be true; "margin", mean of max(0, margin + score of a tail not known to be true - its score);
            "bce", softplus(-score), and softplus(score) of a tail not known to be true.
        margin: of the loss "margin".
    """

    embedding_dim: int = 64
    embedding_height: int = 8
    embedding_width: int = 8
    output_channels: int = 32
    kernel_height: int = 3
    kernel_width: int = 3
    stack: str = "height"
    input_dropout: float = 0.1
    feature_dropout: float = 0.1
    hidden_dropout: float = 0.1
    inverse: bool = True
    learning_rate: float = 0.003
    decay: float = 0.97
    batch_size: int = 64
    label_smoothing: float = 0.1
    seed: int = 0
    loss: str = "kvsall"
    margin: float = 1.0

    def __post_init__(self) -> None:
        accepted = {
            "input_dropout": (0 <= self.input_dropout < 1, "at least 0 and below 1"),
            "feature_dropout": (0 <= self.feature_dropout < 1, "at least 0 and below 1"),
            "hidden_dropout": (0 <= self.hidden_dropout < 1, "at least 0 and below 1"),
            "learning_rate": (0 < self.learning_rate < float("inf"), "above 0"),
            "decay": (0 < self.decay <= 1, "above 0 and at most 1"),
            "batch_size": (self.batch_size >= 2, "at least 2: batch norm cannot train on a single sample"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "loss": (self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            "margin": (0 <= self.margin < float("inf"), "at least 0"),
        }
        for name in WHOLE_OPTIONS:
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if type(value) is not int or value < least:
                raise InputError(f"{name} is {value!r}; expected a whole number from {least} on")
        for name, (good, expected) in accepted.items():
            if not good:
                raise InputError(f"{name} is {getattr(self, name)}; expected {expected}")

    def model(self, num_entities: int, num_relations: int) -> ConvE:
        """A new ConvE of these sizes, for `num_relations` relations without their inverses."""
        rows = num_relations * (2 if self.inverse else 1)
        return ConvE(num_entities, rows, **{name: getattr(self, name) for name in MODEL_OPTIONS})

    def tail_loss(self, num_entities: int) -> TailLoss:
        """The loss of a triple."""
        return LossOptions(self.label_smoothing, margin=self.margin).loss(self.loss, num_entities)

    def rate(self, epoch: int) -> float:
        """The learning rate of epoch 1, 2, ..."""
        return self.learning_rate * self.decay ** (epoch - 1)


@dataclass(frozen=True)
class TrainedCheckpoint(Checkpoint):
    """The last checkpoint of a run, with the mean loss of each epoch and the ranking of the validation triples."""

    losses: tuple[float, ...] = ()
    ranking: Ranking | None = None


def train(
    triples: Tensor,  # [n, 3] int64
    *,
    num_entities: int,
    num_relations: int,
    epochs: int = DEFAULT_EPOCHS,
    valid: Tensor | None = None,  # [m, 3] int64
    known: Tensor | None = None,  # [k, 3] int64
    output: str | Path | None = None,
    every: int | None = None,
    resume_from: str | Path | None = None,
    entity_to_id: dict[str, int] | None = None,
    relation_to_id: dict[str, int] | None = None,
    device: str | torch.device = "auto",
    progress: bool | None = None,
    **options: Any,
) -> TrainedCheckpoint:
    """Train a ConvE on batches of distinct (head, relation), saving checkpoints that can resume.

    The default loss is the mean over the pairs of a batch and all N tails of

        BCE(sigmoid(score), (1 - epsilon) y + epsilon / N)

    Args:
        triples: [n, 3] head, relation, tail.
        num_entities: N.
        num_relations: R, without inverse relations.
        epochs: number of the last epoch; a resumed run counts those before.
        valid: [m, 3] triples to rank at each checkpoint.
        known: [k, 3] other true triples, such as the test triples, for the ranking's filter.
        output: folder for checkpoints `epoch_NNN.pt`, created if missing; None saves nothing.
        every: epochs between checkpoints; the last epoch always makes one, None makes no other.
        resume_from: a checkpoint to go on from; on a CPU the weights become those of a run that never stopped.
        entity_to_id, relation_to_id: labels to store in the checkpoints.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress on stderr; None shows it on a terminal.
        options: fields of `tracin.training.TrainingOptions`; a resumed run has those of its checkpoint.

    Returns:
        The last checkpoint, its model on the CPU (its path is empty without `output`), the loss of every epoch and the
        last ranking.

    Raises:
        InputError: on wrong ids or options, a checkpoint of another run, an unusable folder or one that another
            training writes to, or a loss of nan.

    Example:
        >>> result = train(torch.tensor([[0, 0, 1], [1, 0, 2]]), num_entities=3, num_relations=1, epochs=1)
        >>> result.model(torch.tensor([[0, 0, 1]])).shape
        torch.Size([1])

    Source: Dettmers et al., AAAI 2018, https://arxiv.org/abs/1707.01476, section 4.
    """
    place = resolve_device(device)
    for name, value in (("epochs", epochs), ("every", every)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; expected at least 1")
    given = [some for some in (triples, valid, known) if some is not None]
    for some in given:
        check_ids(some, num_entities, num_relations)
    if valid is not None and len(valid) == 0:
        raise InputError("valid has no triples; expected at least one, or None")
    labels = _Labels(entity_to_id, relation_to_id)
    unknown = set(options) - {option.name for option in dataclasses.fields(TrainingOptions)}
    if unknown:
        raise InputError(f"unknown training options {sorted(unknown)}; see tracin.training.TrainingOptions")
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        if resume_from is None:
            run = _start(TrainingOptions(**options), triples, num_entities, num_relations, labels, place)
        else:
            run = _resume(str(resume_from), options, triples, num_entities, num_relations, labels, place)
        if len(run.losses) >= epochs:
            raise InputError(f"{resume_from} has finished epoch {len(run.losses)}; ask for more epochs than {epochs}")
        folder = None if output is None else _folder(output)
        with nullcontext() if folder is None else locked(folder):
            _run_epochs(run, epochs, every, valid, torch.cat(given), folder, progress)
    return TrainedCheckpoint(
        model=run.model.eval().cpu(),
        learning_rate=run.options.rate(epochs),
        epoch=epochs,
        entity_to_id=run.labels.entity_to_id,
        relation_to_id=run.labels.relation_to_id,
        format="tracin",
        path=run.path,
        losses=tuple(run.losses),
        ranking=run.ranking,
    )


@dataclass(frozen=True)
class _Labels:
    entity_to_id: dict[str, int] | None
    relation_to_id: dict[str, int] | None


@dataclass
class _Run:
    """A run between two epochs."""

    options: TrainingOptions
    model: ConvE
    optimizer: torch.optim.Adam
    known: KnownTails
    pairs: Tensor  # [P, 2] int64, the distinct (head, relation)
    labels: _Labels
    losses: list[float] = field(default_factory=list)
    path: str = ""
    ranking: Ranking | None = None


def _start(
    options: TrainingOptions,
    triples: Tensor,  # [n, 3] int64
    num_entities: int,
    num_relations: int,
    labels: _Labels,
    device: torch.device,
) -> _Run:
    torch.manual_seed(options.seed * SEEDS_PER_RUN)
    model = options.model(num_entities, num_relations).to(device)
    if options.inverse:
        triples = torch.cat([triples, inverse_rows(model, triples)])
    known = KnownTails.of(triples.to(device), num_entities, model.relation.num_embeddings)
    pairs = known.pairs()
    if len(pairs) < 2:
        raise InputError(
            f"the {len(triples)} training triples have {len(pairs)} distinct (head, relation); "
            "batch norm needs at least 2 to train"
        )
    return _Run(options, model, torch.optim.Adam(model.parameters(), lr=options.learning_rate), known, pairs, labels)


def _resume(
    path: str,
    given: dict[str, Any],
    triples: Tensor,  # [n, 3] int64
    num_entities: int,
    num_relations: int,
    labels: _Labels,
    device: torch.device,
) -> _Run:
    checkpoint, state = load_checkpoint(path), read_training_state(path)
    if state is None:
        raise InputError(f"{path} holds no training state; resume from a checkpoint that `tracin train` wrote")
    options = TrainingOptions(**state["options"])
    stored = _Labels(checkpoint.entity_to_id or labels.entity_to_id, checkpoint.relation_to_id or labels.relation_to_id)
    run = _start(options, triples, num_entities, num_relations, stored, device)
    checks: list[tuple[str, Any, Any]] = [(name, getattr(options, name), value) for name, value in given.items()]
    checks.append(("distinct training triples", state["distinct_triples"], len(run.known.codes)))
    for name, before, now in (
        ("entities", checkpoint.model.entity, run.model.entity),
        ("relation rows", checkpoint.model.relation, run.model.relation),
    ):
        checks.append((name, before.num_embeddings, now.num_embeddings))
    for name, was, now in checks:
        if was != now:
            raise InputError(
                f"{path} was trained with {name} {was}, not {now}; resume with the same, or start a new run"
            )
    for name in ("entity_to_id", "relation_to_id"):
        if getattr(labels, name) not in (None, getattr(stored, name)):
            raise InputError(f"{path} was trained with another {name}; resume without giving one")
    run.model.load_state_dict(checkpoint.model.state_dict())
    run.optimizer.load_state_dict(state["optimizer"])
    run.losses.extend(state["losses"])
    return run


def _run_epochs(
    run: _Run,
    epochs: int,
    every: int | None,
    valid: Tensor | None,  # [m, 3] int64
    known: Tensor,  # [k, 3] int64
    folder: Path | None,
    progress: bool | None,
) -> None:
    shown = on_a_terminal() if progress is None else progress
    first = len(run.losses) + 1
    with progress_bar("training", (epochs - first + 1) * len(run.pairs), shown) as advance:
        for epoch in range(first, epochs + 1):
            run.losses.append(_train_epoch(run, epoch, advance))
            if epoch < epochs and (every is None or epoch % every):
                continue
            if folder is not None:
                run.path = str(folder / f"epoch_{epoch:03d}.pt")
                _save(run, epoch)
            if valid is not None:
                run.ranking = evaluate(run.model, valid, known, both_directions=run.options.inverse)
            if shown:
                ranking = "" if run.ranking is None else f", {run.ranking}"
                print(f"epoch {epoch}: loss {run.losses[-1]:.5f}{ranking}", file=sys.stderr)


def _train_epoch(run: _Run, epoch: int, advance: Callable[[int], None]) -> float:
    """One pass over the distinct (head, relation); returns the mean loss of its batches.

    Its random numbers hang on seed and epoch alone, so that a resumed run draws the same.
    """
    torch.manual_seed(run.options.seed * SEEDS_PER_RUN + epoch)
    run.model.train()
    for group in run.optimizer.param_groups:
        group["lr"] = run.options.rate(epoch)
    order = torch.randperm(len(run.pairs)).to(run.pairs.device)
    # Whole batches, the rest spread over them: batch norm cannot train on a last batch of one.
    batches = run.pairs[order].tensor_split(max(1, len(order) // run.options.batch_size))
    total, kind = 0.0, run.options.tail_loss(run.known.num_entities)
    for batch in batches:
        loss = batch_loss(run.model, run.known, batch, kind)
        if not loss.isfinite():
            raise InputError(
                f"the training loss is {loss.item()} in epoch {epoch} at learning rate {run.options.rate(epoch):g}; "
                "start again with a lower learning rate"
            )
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        total += loss.item()
        advance(len(batch))
    return total / len(batches)


def batch_loss(
    model: ConvE,
    known: KnownTails,
    pairs: Tensor,  # [B, 2] int64 head, relation
    loss: TailLoss,
) -> Tensor:  # scalar
    """Mean over all triples of these pairs; of binary cross-entropies also over the entities as their tails."""
    heads, relations = pairs.unbind(1)
    scores = model.score_tails(heads, relations)
    rows, tails = known.lookup(heads, relations)
    if isinstance(loss, AllTrueTails):
        targets = torch.full_like(scores, loss.targets.other)
        targets[rows, tails] = loss.targets.true
        return F.binary_cross_entropy_with_logits(scores, targets)
    true = torch.zeros_like(scores, dtype=torch.bool)
    true[rows, tails] = True
    mean = loss.loss(scores[rows], tails, true[rows]).mean()
    if isinstance(loss, OneTrueTail):
        return mean / known.num_entities
    return mean + F.softplus(scores[~true]).mean() if isinstance(loss, Bce) and not true.all() else mean


def _save(run: _Run, epoch: int) -> None:
    state = {
        "options": dataclasses.asdict(run.options),
        "optimizer": run.optimizer.state_dict(),
        "losses": list(run.losses),
        "distinct_triples": len(run.known.codes),
    }
    save_checkpoint(
        run.path,
        run.model,
        epoch=epoch,
        learning_rate=run.options.rate(epoch),
        entity_to_id=run.labels.entity_to_id,
        relation_to_id=run.labels.relation_to_id,
        training=state,
    )


def _folder(output: str | Path) -> Path:
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {output} ({error.strerror}); choose another --output") from error
    check_writable(Path(output) / "epoch.pt")
    remove_parts(Path(output))
    return Path(output)
