"""Before the work: that no output takes the place of an input, and how large the outputs become; what made them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.cli.options import Options, RankingOptions, valued
from tracin.cli.session import Inputs
from tracin.digests import digest_models
from tracin.errors import InputError
from tracin.files import is_device, is_parquet, remove_parts
from tracin.influence.tracin import TracIn
from tracin.machine import version
from tracin.results.text import csv_records, json_records
from tracin.triples.labels import Labels

SAMPLE = 1000  # training triples whose records tell how long they are
PARQUET_ROW = 24  # bytes, about
MENTIONED = 10**9  # bytes from which on the size of outputs is said before the work
# Endings that promise a form; whatever is written under them in another one could not be opened.
FORMS = {
    "JSON": (".json",),
    "CSV": (".csv",),
    "another form": (
        ".tsv",
        ".xlsx",
        ".xls",
        ".ods",
        ".jsonl",
        ".ndjson",
        ".html",
        ".feather",
        ".arrow",
        ".pq",
        ".npy",
    ),
    "a compressed form": (".gz", ".bz2", ".xz", ".zst", ".zip"),
    "tensors": (".npz", ".pt", ".pth", ".pkl", ".safetensors"),
}


def check_ending(flag: str, path: Path, form: str) -> None:
    """Raises InputError if the ending of an output's name promises another form than JSON or CSV, which is written."""
    ending = path.suffix.lower()
    promised = next((name for name, endings in FORMS.items() if ending in endings), form)
    if promised != form:
        raise InputError(
            f"{flag} {path}: {ending} promises {promised}, but {form} is written, or Parquet under .parquet; name it so"
        )


def inputs_of(options: Options) -> Iterator[tuple[str, Path]]:
    """Every file that the options of a command name, but for those that it writes, with its flag."""
    for field, value in valued(options):
        if isinstance(value, Path) and field.name not in ("output", "csv_output", "output_dir", "cache"):
            yield str(field.metadata.get("flag", field.name.upper())), value


def check_apart(outputs: Iterable[Path], inputs: Iterable[tuple[str, Path]]) -> None:
    """Raises InputError if an output, by whatever path or link, is an input or a file within one that is a folder."""
    written = list(outputs)
    for flag, given in inputs:
        for path in written:
            if same_file(path, given) or (
                given.is_dir() and given.resolve() in path.resolve().parents and path.exists()
            ):
                raise InputError(
                    f"output {path} is the file of {flag}, which would be overwritten; name another file or folder"
                )


def same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return one.resolve() == other.resolve()


def make_folder(path: Path) -> None:
    """The folder of an output, with those above it; removes what killed runs were still writing there."""
    if is_device(path):
        return
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        kind = "is a file, not a folder" if folder.is_file() else f"cannot be made ({error.strerror})"
        raise InputError(f"output {path}: {folder} {kind}; name another folder") from None
    remove_parts(folder)


def json_bytes(
    train: Tensor,  # [n, 3]
    labels: Labels | None,
) -> float:
    """Of an average record; `labels` None: ids only."""
    sample, scores = train[:SAMPLE], torch.full((len(train[:SAMPLE]),), -1 / 3e5)
    return sum(map(len, json_records(sample, scores, labels, 4, torch.arange(len(sample))))) / max(1, len(sample))


def csv_bytes(
    train: Tensor,  # [n, 3]
    test: Tensor,  # [m, 3]
    labels: Labels,
) -> float:
    """Of an average line."""
    sample, scores = train[:SAMPLE], torch.full((len(train[:SAMPLE]),), -1 / 3e5)
    head, relation, tail = test[0].tolist()
    lines = csv_records((head, relation, tail), 1 / 3e5, sample, scores, labels)
    return sum(len(text.encode()) for text in lines) / max(1, len(sample))


def line_bytes(
    train: Tensor,  # [n, 3]
    labels: Labels,
) -> float:
    """Of an average line of labels."""
    sample = train[:SAMPLE].tolist()
    texts = (
        f"{labels.entity(head)}\t{labels.relation(relation)}\t{labels.entity(tail)}\n"
        for head, relation, tail in sample
    )
    return sum(len(text.encode()) for text in texts) / max(1, len(sample))


def check_room(sizes: Mapping[Path, float], why: str) -> Iterator[str]:
    """A note if outputs of these sizes become large.

    Raises:
        InputError: if they do not fit on their disks.
    """
    total = sum(sizes.values())
    by_disk: dict[int, tuple[Path, float]] = {}
    for path, size in sizes.items():
        if not is_device(path):
            folder = path.resolve().parent
            disk = folder.stat().st_dev
            by_disk[disk] = folder, by_disk.get(disk, (folder, 0.0))[1] + size
    for folder, size in by_disk.values():
        free = shutil.disk_usage(folder).free
        if size > free:
            raise InputError(
                f"the outputs take about {in_words(size)} ({why}), but {in_words(free)} are free in {folder}; choose "
                "another place, or keep the best of each test triple, in mode self of all, with --top-k"
            )
    if total >= MENTIONED:
        yield f"the outputs take about {in_words(total)} ({why}); --top-k keeps the best of each test triple"


def in_words(size: float) -> str:
    """Such as 880 GB."""
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9)):
        if size >= bytes_:
            return f"{size / bytes_:,.3g} {unit}"
    return f"{size / 1e6:,.3g} MB"


def row_bytes(path: Path, plain: float) -> float:
    """Of a row of an output whose text takes so much."""
    return PARQUET_ROW if is_parquet(path) else plain


def learning_rate_of(tracin: TracIn, ranking: RankingOptions) -> float | list[float]:
    """As outputs have it: of several checkpoints a list."""
    return ranking.learning_rate if len(tracin.models) == 1 else tracin.learning_rates


def run_of(tracin: TracIn, inputs: Inputs, ranking: RankingOptions, mode: str, num_test: int | None) -> dict[str, Any]:
    """What made the outputs, in each of them: nothing that depends on the machine, the time or the number of ranks."""
    return {
        "tracin": version(),
        "mode": mode,
        "model": digest_models(inputs.models),
        "layers": list(tracin.layers),
        "precision": tracin.precision,
        "backend": tracin.backend,
        "loss": tracin.loss,
        **({"question": tracin.asked} if len(tracin.asked) > 1 else {}),
        "learning_rate": learning_rate_of(tracin, ranking),
        "top_k": ranking.top_k,
        **({} if mode == "self" else {"order": ranking.order}),
        "entities": len(inputs.entity_to_id),
        "relations": len(inputs.relation_to_id),
        "training_triples": inputs.num_train,
        **({} if num_test is None else {"test_triples": num_test}),
    }
