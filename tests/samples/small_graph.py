"""A folder with a random model and graph, and `tracin run` on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result
from torch import Tensor

import tracin
from tracin.cli import main

ENTITIES, RELATIONS, LINES, TESTS = 12, 3, 40, 6


@dataclass(frozen=True)
class Graph:
    """A folder with a random model and graph, and the same in memory."""

    folder: Path
    checkpoint: tracin.Checkpoint
    train: Tensor  # [LINES, 3]
    test: Tensor  # [TESTS, 3]

    def tracin(self, **arguments: Any) -> tracin.TracIn:
        return tracin.TracIn(self.checkpoint, 1e-3, backend="factored", **arguments)

    def run(self, *arguments: str, output: Path | None = None) -> Result:
        files = {"--model-path": "model.pt", "--train": "train.txt", "--test": "test.txt"}
        paths = [part for name, file in files.items() for part in (name, str(self.folder / file))]
        paths += ["--output", str(output or self.folder / "out.json")]
        return CliRunner().invoke(main, ["run", *paths, *arguments])

    def json(self, *arguments: str) -> Any:
        result = self.run("--backend", "factored", *arguments)
        assert result.exit_code == 0, result.stderr
        return json.loads((self.folder / "out.json").read_text())


def write_graph(folder: Path) -> Graph:
    generator = torch.Generator().manual_seed(3)

    def triples(count: int) -> Tensor:
        columns = [torch.randint(high, (count,), generator=generator) for high in (ENTITIES, RELATIONS, ENTITIES)]
        return torch.stack(columns, 1)

    train, test = triples(LINES), triples(TESTS)
    train[7] = train[3]  # a duplicate: equal influences, ties by line
    entities = {f"entity {i}": i for i in range(ENTITIES)}
    relations = {f"relation:{i}": i for i in range(RELATIONS)}
    torch.manual_seed(5)
    model = tracin.ConvE(
        ENTITIES, RELATIONS, 8, embedding_height=4, embedding_width=2, output_channels=3, kernel_width=2
    ).eval()
    tracin.save_checkpoint(
        folder / "model.pt", model, learning_rate=0.01, entity_to_id=entities, relation_to_id=relations
    )
    for name, rows in (("train.txt", train), ("test.txt", test)):
        lines = (f"entity {h}\trelation:{r}\tentity {t}\n" for h, r, t in rows.tolist())
        (folder / name).write_text("".join(lines))
    (folder / "entities.txt").write_text("".join(f"{label}\t{i}\n" for label, i in entities.items()))
    (folder / "relations.txt").write_text("".join(f"{label}\t{i}\n" for label, i in relations.items()))
    return Graph(folder, tracin.load_checkpoint(folder / "model.pt"), train, test)


def triples_and_scores(items: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:  # [k, 3], [k]
    rows = [[item["train_head"], item["train_relation"], item["train_tail"]] for item in items]
    return torch.tensor(rows), torch.tensor([item["influence"] for item in items])
