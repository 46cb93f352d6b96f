"""Folders with a random model and triples for `tracin run`, and the files that a command wrote."""

from __future__ import annotations

from pathlib import Path

import torch

import tracin

ENTITIES, RELATIONS, DIM = 40, 3, 8


def write_job(folder: Path, train: int, tests: int, seed: int = 4) -> None:
    """A random model with its dictionaries, and random triples."""
    torch.manual_seed(seed)
    model = tracin.ConvE(
        ENTITIES, RELATIONS, DIM, embedding_height=4, embedding_width=2, output_channels=3, kernel_width=2
    ).eval()
    entities, relations = ({f"{kind}{i}": i for i in range(n)} for kind, n in (("e", ENTITIES), ("r", RELATIONS)))
    tracin.save_checkpoint(folder / "model.pt", model, entity_to_id=entities, relation_to_id=relations)
    for name, count in (("train.txt", train), ("test.txt", tests)):
        columns = [torch.randint(high, (count,)).tolist() for high in (ENTITIES, RELATIONS, ENTITIES)]
        (folder / name).write_text("".join(f"e{h}\tr{r}\te{t}\n" for h, r, t in zip(*columns, strict=True)))


def files(folder: Path) -> dict[str, bytes]:
    """Every file but those that tell times: the summary, and manifests."""
    told = ("batch_tracin_summary.json", ".manifest.json")
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(told)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
