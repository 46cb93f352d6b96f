"""An index is built: the factors or norms of all training triples, in blocks, from a model into a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.digests import digest, digest_models, digest_of
from tracin.errors import InputError
from tracin.index.accurate import gradient_bytes, write_gradients
from tracin.index.dictionaries import packed_labels
from tracin.index.folder import DTYPES, Writer, building
from tracin.influence.layers import layers_of
from tracin.influence.memory import available_bytes, format_size, parse_size, used_bytes
from tracin.influence.tracin import TracIn
from tracin.model import ConvE
from tracin.progress import progress_stages
from tracin_ext.backends.native import NativeBackend
from tracin_ext.full_float32 import full_float32
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.kept import BLOCK, Norms, kept_blocks, norms_of
from tracin_ext.lists import RowLists, falling, lists_of, row_lists_of, total_of
from tracin_ext.ops import DENSE_PARTS, NORM_PARTS, SKETCH_PARTS, FactorTensors, ListTensors
from tracin_ext.sketches import sketch_basis

STORES = ("compact", "norms")
SHARED = ("triples", "pair", "pair_head")  # fields of factors that are the same for all checkpoints
PIECE = 1 << 20  # triples that are put in order at a time
LIST_BYTES = {"compact": 160, "norms": 64}  # of a training triple while its place in lists is found


def build(
    model_or_checkpoints: Any,
    train: Any,  # [n_train, 3]
    directory: str | os.PathLike[str],
    *,
    learning_rates: float | Sequence[float] | None = None,
    layers: str | int | Sequence[str] = "all",
    precision: str = "float32",
    store: str = "compact",
    accurate: bool = False,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
) -> None:
    """Write an index, from which `tracin.Index` answers at once which training triples made a model predict a triple.

    The folder holds all that answers need: the model, the training triples, labels where the checkpoint has
    dictionaries, and norms of the gradients' parts in the order in which bounds are looked at.

    Args:
        model_or_checkpoints: a ConvE or its checkpoints, as for `TracIn`.
        train: training triples [n_train, 3], in any form that `TracIn.influence` takes.
        directory: a folder that is new, empty or an index, whose place the new one takes once it is whole.
        learning_rates, layers: as for `TracIn`.
        precision: "float32" or "float64".
        store: "compact" also stores what the triples are scored with (1.4 GB for FB15k-237), "norms" computes it again
            for the few triples that bounds leave (55 MB; for graphs of millions of triples).
        accurate: also store what the accurate method needs of the triples (1.1 GB for FB15k-237), so that
            `tracin.explain` answers from the index at once; of one checkpoint with all layers.
        memory_limit: as for `TracIn`: what the whole process may take meanwhile.
        progress: True, False, or None for progress bars only on a terminal.

    Raises:
        InputError: for arguments that `TracIn` refuses; for a model, layers or triples that no bounds are known of, or
            whose gradients are no finite numbers; if the memory limit is too small; if the folder has other files in it
            or another process builds there.

    Example:
        >>> tracin.index.build(checkpoint, train, "my_index")
        >>> tracin.Index("my_index").top_k(test, k=10)
    """
    if store not in STORES:
        raise InputError(f"store is {store!r}; expected one of {', '.join(STORES)}")
    if precision not in ("float32", "float64"):
        raise InputError(f"precision is {precision!r}; an index is of float32 or float64")
    made = TracIn(
        model_or_checkpoints,
        learning_rates,
        layers=layers,
        precision=precision,
        device="cpu",
        progress=False,
        memory_limit=memory_limit,
    )
    triples = made._ids(train, "train")
    with building(Path(directory)) as (writer, facts), progress_stages(progress) as stage, torch.no_grad():
        backends = check_indexable(made, triples)
        if accurate and (len(backends) > 1 or made.frozen or set(made.layers) < set(layers_of(made.models[0]))):
            raise InputError(
                "accurate gradients are stored of one checkpoint with all its layers; build without accurate, or so",
                "accurate",
            )
        gradients = gradient_bytes(backends[0].parameters, len(triples)) if accurate else 0
        check_memory(backends, triples, store, gradients, None if memory_limit is None else parse_size(memory_limit))
        facts |= facts_of(made, triples, store)
        for name in ("entity", "relation"):
            known = getattr(made._dictionaries, f"{name}_to_id", None)
            facts[f"{name} labels"] = None if known is None else digest_of(list(known))
            if known is not None:
                write_labels(writer, name, known)
        for i, model in enumerate(made.models):
            for name, tensor in model.state_dict().items():
                known_type = str(tensor.dtype).removeprefix("torch.") in DTYPES
                writer.add(f"model.{i}.{name}", tensor if known_type else tensor.float())
        advance = stage("building the index", len(triples) * len(backends), "triples")
        write_triples(writer, backends, made.learning_rates, triples, store == "compact", advance)
        if accurate:
            (model,), relations = made.models, getattr(made._dictionaries, "relation_to_id", None)
            assert isinstance(model, ConvE)  # see `check_indexable`
            advance = stage("gradients for the accurate method", len(triples), "triples")
            facts["accurate"] = write_gradients(writer, model, relations, triples, precision, advance)


def check_indexable(
    made: TracIn,
    triples: Tensor,  # [n, 3]
) -> list[NativeBackend]:
    """The backends; InputError where bounds find no lists."""
    backends = [b for b in made._backends if isinstance(b, NativeBackend) and b.keeps_factors]
    if len(backends) < len(made._backends) or not all(isinstance(model, ConvE) for model in made.models):
        raise InputError(
            "an index needs a ConvE and the native backend on a CPU; `tracin info` says why that is not in use"
        )
    if any({"entity", "relation"}.isdisjoint(backend.parameters.tracked) for backend in backends):
        raise InputError(
            "layers has neither entity nor relation, and bounds tell little without them: an index would be no faster "
            "than tracin run; take layers with one of them, or no index",
            "layers",
        )
    if not len(triples):
        raise InputError("train has no triples; an index needs at least one", "train")
    if len(triples) > torch.iinfo(torch.int32).max:
        raise InputError(f"train has {len(triples):,} triples; an index holds at most 2 ** 31 - 1", "train")
    return backends


def check_memory(
    backends: Sequence[NativeBackend],
    triples: Tensor,  # [n, 3]
    store: str,
    gradients: int,  # bytes of what is stored for the accurate method
    limit: int | None,
) -> None:
    cpu = torch.device("cpu")
    norms = NORM_PARTS * backends[0].parameters.conv_weight.itemsize + (SKETCH_PARTS + 1) * (store == "norms")
    needed = gradients + len(triples) * (LIST_BYTES[store] + len(backends) * norms)
    needed += max(b.triple_bytes + b.test_bytes for b in backends) * BLOCK
    used = used_bytes(cpu)
    if limit is not None and used + needed > limit:
        raise InputError(
            f"memory_limit is {format_size(limit)}; this index needs at least {format_size(used + needed)} while it is "
            f"built, {format_size(used)} of them are in use already; raise the limit",
            "memory_limit",
        )
    if limit is None and needed > available_bytes(cpu):
        raise InputError(
            f"this index needs {format_size(needed)} of memory while it is built, and "
            f"{format_size(available_bytes(cpu))} are free; close other programs"
        )


def facts_of(
    made: TracIn,
    triples: Tensor,  # [n, 3]
    store: str,
) -> dict[str, Any]:
    """What the manifest says of an index."""
    frozen = [[name for name, p in model.named_parameters() if not p.requires_grad] for model in made.models]
    return {
        "store": store,
        "models": [{"config": model.config, "frozen": names} for model, names in zip(made.models, frozen, strict=True)],
        "model weights": digest_models(made.models),
        "training triples": digest({"": triples}),
        "count": len(triples),
        "learning rates": made.learning_rates,
        "layers": [*made.layers],
        "precision": made.precision,
    }


def write_labels(writer: Writer, name: str, known: Mapping[str, int]) -> None:
    for part, array in packed_labels(known).items():
        writer.add(f"{name}.{part}", array)


@full_float32()
def write_triples(
    writer: Writer,
    backends: Sequence[NativeBackend],
    rates: Sequence[float],
    triples: Tensor,  # [n, 3]
    compact: bool,
    advance: Any,
) -> None:
    """Factors, or norms alone, and the lists of them."""
    order = order_by_head_relation(triples)
    sizes = len(backends[0].parameters.entity), backends[0].sizes.relations
    lists: ListTensors | RowLists
    if compact:
        ordered = triples[order]
        norms = [write_factors(writer, i, backend, ordered, advance) for i, backend in enumerate(backends)]
        lists = lists_of(ordered, norms, rates, order, *sizes)
    else:  # millions of them: half the memory
        lists = write_rows(writer, backends, rates, triples, order.int(), advance)
    for name, array in lists._asdict().items():
        writer.add(f"lists.{name}", array)


def write_rows(
    writer: Writer,
    backends: Sequence[NativeBackend],
    rates: Sequence[float],
    triples: Tensor,  # [n, 3]
    order: Tensor,  # [n] int32, theirs by head and relation
    advance: Any,
) -> RowLists:
    """Norms, signs and sketches, the largest norms first."""
    known, bases = [], []
    for backend in backends:
        bases.append(sketch_basis(backend, triples, order))
        known.append([*norms_of(backend, triples, order, bases[-1], advance)])
    norms = [norms for norms, *_ in known]
    check_finite(*norms)
    totals, relation_totals = (total_of(norms, rates, parts) for parts in (DENSE_PARTS, DENSE_PARTS + 1))
    del norms
    rows = falling(totals).int()
    for i, arrays in enumerate(known):
        for name in Norms._fields:
            array = arrays.pop(0)
            for some in rows.split(PIECE) if len(array) else [rows[:0]]:
                writer.add(f"factors.{i}.{name}", array.index_select(0, some))
            del array
        writer.add(f"factors.{i}.basis", bases[i])
    order = order[rows]
    triples = torch.cat([triples[some].int() for some in order.split(PIECE)])
    sizes = len(backends[0].parameters.entity), backends[0].sizes.relations
    return row_lists_of(triples, order, totals[rows], relation_totals[rows], *sizes)


def write_factors(
    writer: Writer,
    number: int,
    backend: NativeBackend,
    ordered: Tensor,  # [n, 3]
    advance: Any,
) -> Tensor:  # [n, NORM_PARTS]
    norms = []
    for block in kept_blocks(backend, ordered):
        check_finite(block.norms)
        for name in FactorTensors._fields:
            if name not in SHARED or number == 0:
                writer.add(f"factors.{number}.{name}", getattr(block, name))
        norms.append(block.norms)
        advance(len(block.norms))
    return torch.cat(norms)


def check_finite(
    *norms: Tensor,  # [n, NORM_PARTS]
) -> None:
    if not all(some.isfinite().all() for each in norms for some in each.split(PIECE)):
        raise InputError(
            "a training triple's gradient is no finite number, so that bounds tell nothing; the training "
            "diverged, or take precision float64",
            "precision",
        )
