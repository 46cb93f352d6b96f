"""Kinds of files that people bring or that a run leaves: how each is made, damaged, used, and what must come of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tracin
from tests.robustness.mutations import (
    ARRAYS,
    BYTES,
    SAID,
    TEXT,
    ZIP,
    Mutation,
    member_missing,
    member_renamed,
    order_of_members,
)  # fmt: skip
from tests.robustness.objects import OBJECTS
from tests.samples.models import ENTITIES, RELATIONS, random_model, random_triples

PLAIN = ("pykeen state dict", "pykeen callback", "width stacked")
IMAGE = {"embedding_height": 8, "embedding_width": 4}  # of the fixtures' models
Number = Any  # what is compared: equal numbers are equal results
ANY = object()  # the oracle does not judge this file: whatever is read is taken for right


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Args:
        name: of the kind.
        weight: how often it is tried.
        suffix: of the file's name.
        original: the undamaged file.
        mutations: ways to damage it.
        use: reads the file as a user would; raises InputError or gives the number.
        expected: the number that bytes must give; None: they must be refused.
        said: names of mutations that make another well-formed file, where another number is what the file says.
    """

    name: str
    weight: int
    suffix: str
    original: bytes
    mutations: tuple[Mutation, ...]
    use: Callable[[Path], Number]
    expected: Callable[[bytes], Number]
    said: frozenset[str] = frozenset()


def names(mutations: tuple[Mutation, ...]) -> frozenset[str]:
    return frozenset(mutation.__name__ for mutation in mutations)


class Constant:
    """The number of the undamaged file, worked out once in each worker: by `use`, which may start threads."""

    def __init__(self, original: bytes, suffix: str, use: Callable[[Path], Number]) -> None:
        self.original, self.suffix, self.use = original, suffix, use
        self.number: list[Number] = []

    def __call__(self, data: bytes) -> Number:
        if not self.number:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"original{self.suffix}"
                path.write_bytes(self.original)
                self.number.append(self.use(path))
        return self.number[0]


# ---- checkpoints --------------------------------------------------------------------------------------------------


class NotFinite(Exception):
    """A result that holds NaN or infinity was given as if it were one."""


def number_of_checkpoint(checkpoint: tracin.Checkpoint) -> Number:
    """Everything of it that influences depend on, and that they are numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ti = tracin.TracIn(checkpoint, backend="factored", device="cpu", progress=False)
    own = ti.self_influence(torch.zeros(1, 3, dtype=torch.int64))
    if not own.isfinite().all():
        raise NotFinite(f"self-influence {own.item()}")
    state = hashlib.sha256()
    for name, tensor in checkpoint.model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            state.update(f"{name} {tuple(tensor.shape)} ".encode())
            state.update(tensor.double().contiguous().numpy().tobytes())
    config = {name: value for name, value in checkpoint.model.config.items() if not name.endswith("dropout")}
    labels = [
        None if ids is None else tuple(ids.items()) for ids in (checkpoint.entity_to_id, checkpoint.relation_to_id)
    ]
    return state.hexdigest(), tuple(sorted(config.items())), checkpoint.learning_rate, *labels


def checkpoint_kinds(fixtures: Path) -> list[Kind]:
    relations = dict(line.split("\t") for line in (fixtures / "rel_dict.txt").read_text().splitlines())
    given = IMAGE | {"relation_to_id": {label: int(row) for label, row in relations.items()}}
    models = fixtures / "models"
    files = {  # name -> weight, file, arguments of load_checkpoint
        "pykeen state dict": (10, "pykeen_model_state_dict.pt", given),
        "pykeen callback": (6, "pykeen_callback.pt", given),
        "pykeen whole model": (10, "pykeen_trained_model.pkl", {}),
        "pykeen training loop": (6, "pykeen_training_loop.pt", {"embedding_height": 4, "embedding_width": 8}),
        "width stacked": (6, "width_stacked.pt", {}),
        "libkge": (1, "libkge_checkpoint.pt", {}),
    }
    kinds = [
        checkpoint_kind(name, weight, Path(file).suffix, (models / file).read_bytes(), arguments, name in PLAIN)
        for name, (weight, file, arguments) in files.items()
    ]
    stream = io.BytesIO()
    state = torch.load(models / "pykeen_model_state_dict.pt", weights_only=True)
    torch.save(state, stream, _use_new_zipfile_serialization=False)
    legacy = checkpoint_kind("older torch format", 4, ".pt", stream.getvalue(), given)
    kinds.append(legacy)
    kinds.append(checkpoint_kind("own checkpoint", 12, ".pt", own_checkpoint(), {}))
    kinds.append(folder_kind(models / "pykeen_directory"))
    return kinds


def checkpoint_kind(
    name: str, weight: int, suffix: str, original: bytes, arguments: dict[str, Any], plain: bool = True
) -> Kind:
    """`plain`: the file holds tensors and plain values only, which can be changed one by one."""

    def use(path: Path) -> Number:
        return number_of_checkpoint(tracin.load_checkpoint(path, **arguments))

    packed = original[:2] == b"PK"
    said = names(SAID) | (frozenset() if name == "own checkpoint" else names(ARRAYS))
    if not packed:
        said = names(BYTES)  # raw values without any checksum
    expected = Constant(original, suffix, use)
    known = said | names(OBJECTS)
    return Kind(name, weight, suffix, original, BYTES + ZIP * packed + OBJECTS * plain, use, expected, known)


def own_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        labels = [{f"{kind}:{i}": i for i in range(n)} for kind, n in (("e", ENTITIES), ("r", RELATIONS))]
        tracin.save_checkpoint(
            Path(folder) / "m.pt", random_model(), epoch=3, learning_rate=0.01,
            entity_to_id=labels[0], relation_to_id=labels[1],
        )  # fmt: skip
        return (Path(folder) / "m.pt").read_bytes()


def folder_kind(original: Path) -> Kind:
    """The folder of PyKEEN's save_to_directory: its model is the file that is damaged, the others stay."""

    def use(path: Path) -> Number:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "saved"
            shutil.copytree(original, copy, copy_function=shutil.copyfile)
            shutil.copyfile(path, copy / "training_triples" / "base.pth")
            return number_of_checkpoint(tracin.load_checkpoint(copy))

    base = (original / "training_triples" / "base.pth").read_bytes()
    damage = BYTES + (member_missing, member_renamed, order_of_members, *SAID)  # it has no storages
    return Kind("pykeen folder", 3, ".pth", base, damage, use, Constant(base, ".pth", use), names(SAID))


# ---- dictionaries and triples -------------------------------------------------------------------------------------


def lines_of(data: bytes) -> list[list[str]] | None:
    """Cells of the lines of a text file, plain or gzip, by the README's rules; None if it is none."""
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).removeprefix(b"\xef\xbb\xbf").decode()
    except (OSError, EOFError, ValueError, gzip.zlib.error):  # type: ignore[attr-defined]
        return None
    lines = text.rstrip("\r\n").split("\n") if text.strip("\r\n") else []
    return [line.removesuffix("\r").split("\t") for line in lines]


def label_of(cell: str, known: Collection[str]) -> str:
    """The label that a cell of triples names: in quotation marks, unless such a label is known, the one within."""
    if cell in known or not (len(cell) >= 2 and cell[0] == cell[-1] == '"'):
        return cell
    return cell[1:-1].replace('""', '"')


def expected_dictionary(data: bytes) -> Number:
    lines = lines_of(data)
    if not lines or any(len(cells) < 2 for cells in lines):
        return None if lines is None or not lines else ANY if lines[0][0][:1] in "{[" else None
    numbers = [cells[1] for cells in lines]
    if lines[0][:2] == ["id", "label"] or not all(number.isascii() and number.isdecimal() for number in numbers):
        return ANY  # another form, or an error; both have kinds or tests of their own
    ids = {cells[0]: int(cells[1]) for cells in lines}
    distinct = len(ids) == len(lines) == len(set(ids.values()))
    return tuple(ids.items()) if distinct else None


def expected_json(data: bytes) -> Number:
    try:
        pairs = json.loads(data.removeprefix(b"\xef\xbb\xbf"), object_pairs_hook=list)
    except (ValueError, RecursionError):
        return ANY if not data.lstrip().startswith(b"{") else None
    if not isinstance(pairs, list) or not data.lstrip().removeprefix(b"\xef\xbb\xbf").startswith(b"{"):
        return ANY
    whole = all(type(row) is int and row >= 0 for _, row in pairs)
    distinct = len(dict(pairs)) == len(pairs) == len({str(row) for _, row in pairs})
    return tuple((label, row) for label, row in pairs) if whole and distinct and pairs else None


def use_dictionary(path: Path) -> Number:
    return tuple(tracin.read_dictionary(path).items())


def text_kinds(fixtures: Path) -> list[Kind]:
    entities, relations = (expected_dictionary((fixtures / f"{n}_dict.txt").read_bytes()) for n in ("node", "rel"))
    entity_to_id, relation_to_id = dict(entities), dict(relations)

    def use_triples(path: Path) -> Number:
        return tracin.read_triples(path, entity_to_id, relation_to_id).tolist()

    def expected_triples(data: bytes) -> Number:
        lines = lines_of(data)
        if lines and lines[0] == ["head", "relation", "tail"]:
            return ANY
        if not lines or any(len(cells) < 3 for cells in lines):
            return None
        try:
            known = (entity_to_id, relation_to_id, entity_to_id)
            return [[ids[label_of(cell, ids)] for cell, ids in zip(cells, known, strict=False)] for cells in lines]
        except KeyError:
            return None

    triples, nodes = (fixtures / "train.txt").read_bytes(), (fixtures / "node_dict.txt").read_bytes()
    as_json = json.dumps(entity_to_id, indent=1).encode()
    vocabulary = pickle.dumps([entity_to_id, {row: label for label, row in entity_to_id.items()}], 2)
    pykeen = (fixtures / "models/pykeen_directory/training_triples/entity_to_id.tsv.gz").read_bytes()
    damage = BYTES + TEXT

    def constant(original: bytes, suffix: str) -> Constant:
        return Constant(original, suffix, use_dictionary)

    return [
        Kind("triples", 14, ".txt", triples, damage, use_triples, expected_triples),
        Kind("triples gz", 5, ".txt.gz", gzip.compress(triples, mtime=0), damage, use_triples, expected_triples),
        Kind("dictionary", 12, ".txt", nodes, damage, use_dictionary, expected_dictionary),
        Kind("dictionary JSON", 8, ".json", as_json, damage, use_dictionary, expected_json),
        # text within says what it says; it must not crash
        Kind(
            "dictionary pickle",
            5,
            ".pkl",
            vocabulary,
            BYTES,
            use_dictionary,
            constant(vocabulary, ".pkl"),
            names(BYTES),
        ),
        Kind(
            "dictionary of pykeen",
            4,
            ".tsv.gz",
            pykeen,
            damage,
            use_dictionary,
            constant(pykeen, ".tsv.gz"),
            names(TEXT),
        ),
    ]


# ---- what a stopped run leaves ------------------------------------------------------------------------------------


class Stopping(tracin.ConvE):
    """Raises KeyboardInterrupt in its forward pass once `left` more calls have passed."""

    left = 0

    def forward(self, triples: Tensor) -> Tensor:
        Stopping.left -= 1
        if Stopping.left < 0:
            raise KeyboardInterrupt
        return super().forward(triples)


TRAIN, TESTS, K = 24, 3, 4


def resume_kinds() -> list[Kind]:
    plain = random_model()
    stopping = Stopping(**plain.config).eval()
    stopping.load_state_dict(plain.state_dict())
    train, test = random_triples(TRAIN), random_triples(TESTS, seed=1)

    def ti(model: tracin.ConvE) -> tracin.TracIn:
        return tracin.TracIn(model, 1.0, backend="sequential", device="cpu", batch_size=4, progress=False)

    def top_k(model: tracin.ConvE, path: Path | None) -> Number:
        top = ti(model).top_k(train, test, K, partial=path)
        return top.indices.tolist(), top.scores.tolist()

    def self_influence(model: tracin.ConvE, path: Path | None) -> Number:
        return ti(model).self_influence(train, partial=path).tolist()

    kinds = []
    for name, work, calls in (
        ("partial of top k", top_k, TESTS + 20),
        ("partial of self-influence", self_influence, 20),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "p.partial"
            Stopping.left = calls
            try:
                work(stopping, path)
            except KeyboardInterrupt:
                pass
            original = path.read_bytes()

        def use(path: Path, work: Any = work) -> Number:
            return work(plain, path)

        def expected(data: bytes, work: Any = work, found: list[Number] = []) -> Number:  # noqa: B006 (kept on purpose)
            found or found.append(work(plain, None))
            return found[0]

        kinds.append(Kind(name, 5, ".partial", original, BYTES + ZIP, use, expected))
    return kinds
