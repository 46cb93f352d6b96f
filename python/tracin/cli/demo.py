"""Why does a small ConvE predict what it predicts? Trains on the packaged UMLS triples, explains four test triples."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import click
import torch
from torch import Tensor

from tracin import streams
from tracin.cli.command import Command
from tracin.cli.options import FILE, POSITIVE, Options, json_option, option, takes
from tracin.influence.tracin import TracIn
from tracin.results.tables import influence_table
from tracin.results.writers import Influences, write_single
from tracin.training.loop import DEFAULT_EPOCHS, train
from tracin.training.ranking import Ranking, head_ranks, tail_ranks
from tracin.triples.labels import Labels
from tracin.triples.read import make_dictionaries, read_triples

SHOWN = 4  # proponents, and opponents, of each test triple


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    output: Path = option("--output", "-o", type=FILE, required=True, help="Folder for model and influences.")
    epochs: int = option("--epochs", type=POSITIVE, default=DEFAULT_EPOCHS, show_default=True)
    as_json: bool = json_option("Print the names of what was written and the ranking as JSON; the rest on stderr.")


@click.command("demo", cls=Command)
@takes(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Train a ConvE on UMLS, and show which training triples speak for and against some of its predictions."""
    output, epochs = options.output, options.epochs
    console = streams.console(stderr=options.as_json, soft_wrap=True)
    folder = resources.files("tracin") / "data" / "umls"
    paths = [Path(str(folder / f"{name}.txt.gz")) for name in ("train", "valid", "test")]
    entities, relations = make_dictionaries(paths)
    training, valid, test = (read_triples(path, entities, relations) for path in paths)
    console.print(f"UMLS: {len(entities)} entities, {len(relations)} relations, {len(training)} training triples")
    console.print(f"training a ConvE for {epochs} epochs ...")
    start = time.perf_counter()
    with one_thread():
        checkpoint = train(
            training,
            num_entities=len(entities),
            num_relations=len(relations),
            epochs=epochs,
            valid=valid,
            known=test,
            device="cpu",
            output=output,
            entity_to_id=entities,
            relation_to_id=relations,
        )
    seconds = time.perf_counter() - start
    known = torch.cat([training, valid, test])
    ranks = tail_ranks(checkpoint.model, test, known)
    ranking = Ranking.of(torch.cat([ranks, head_ranks(checkpoint.model, test, known)]))
    console.print(f"trained in {seconds:.1f} s; test triples, both directions, filtered: {ranking}")

    chosen = choose(test, ranks)
    tracin = TracIn(checkpoint)
    console.print(f"influence on {len(chosen)} test triples: {tracin.description}\n")
    labels = Labels({i: label for label, i in entities.items()}, {i: label for label, i in relations.items()})
    results = explain(tracin, training, test, chosen)
    for result in results:
        remark = f"right tail ranked {ranks[result.test_index]:g} of {len(entities)}"
        console.print(influence_table(result, labels, remark=remark), soft_wrap=False)
    json_path, csv_paths = output / "influences.json", {i: output / f"influences_test_{i}.csv" for i in chosen}
    write_single(json_path, csv_paths.__getitem__, results, labels)
    written = [str(path) for path in (checkpoint.path, json_path, *csv_paths.values())]
    for path in written:
        console.print(f"wrote {path}")
    if options.as_json:
        streams.show_text(json.dumps({"outputs": written, "test": asdict(ranking)}, indent=2))


@contextmanager
def one_thread() -> Iterator[None]:
    """A second thread gains little on products this small; on a busy machine, where threads wait for each other,
    training took 83 s with two and 15 s with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose(
    test: Tensor,  # [n, 3] int64
    ranks: Tensor,  # [n]
) -> list[int]:
    """Rows of three test triples of different relations that the model ranks best, and of the one it ranks worst."""
    chosen: dict[int, int] = {}  # relation -> row
    for row in ranks.argsort(stable=True).tolist():
        chosen.setdefault(int(test[row, 1]), row)
    best = list(chosen.values())[:3]
    worst = int(ranks.argmax())
    return best if worst in best else [*best, worst]


def explain(
    tracin: TracIn,
    training: Tensor,  # [n, 3] int64
    test: Tensor,  # [m, 3] int64
    rows: list[int],
) -> list[Influences]:
    """The strongest proponents and opponents of some test triples, by |influence|."""
    tops = [tracin.top_k(training, test[rows], k=SHOWN, order=order) for order in ("proponents", "opponents")]
    scores = torch.cat([top.scores for top in tops], dim=1)
    order = scores.abs().argsort(dim=1, descending=True, stable=True)
    scores, indices = scores.gather(1, order), torch.cat([top.indices for top in tops], dim=1).gather(1, order)
    own = tracin.self_influence(test[rows]).tolist()
    triples = [(int(head), int(relation), int(tail)) for head, relation, tail in test[rows]]
    return [
        Influences(row, triple, itself, training[index], score, index)
        for row, triple, itself, index, score in zip(rows, triples, own, indices, scores, strict=True)
    ]


if __name__ == "__main__":
    demo()
