"""A part of a data set that a small machine can train on many times: the triples among its busiest entities.

    python -m bench.subgraph FB15k-237.tar.gz --entities 1500 --output fb15k-237-1500

takes the entities in the most training triples (of equal ones the first by label) and keeps of train, valid and test,
line by line, the triples between two of them. Validation and test triples whose relation or whose entity no kept
training triple has are left out. The same input gives the same files.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections import Counter
from pathlib import Path

from tracin.errors import InputError
from tracin.files import replacing

PARTS = ("train", "valid", "test")
Lines = list[tuple[str, str, str]]


def read(source: Path) -> dict[str, Lines]:
    """The triples of train.txt, valid.txt and test.txt in a folder or a .tar.gz."""
    texts: dict[str, str] = {}
    if source.is_dir():
        texts = {part: (source / f"{part}.txt").read_text(encoding="utf-8") for part in PARTS}
    else:
        with tarfile.open(source) as archive:
            for member in archive.getmembers():
                part, file = Path(member.name).stem, archive.extractfile(member)
                if file is not None and Path(member.name).suffix == ".txt" and part in PARTS:
                    texts[part] = io.TextIOWrapper(file, encoding="utf-8").read()
    if missing := [part for part in PARTS if part not in texts]:
        raise InputError(f"{source} lacks {', '.join(f'{part}.txt' for part in missing)}")
    return {part: [_triple(line) for line in text.split("\n") if line] for part, text in texts.items()}


def _triple(line: str) -> tuple[str, str, str]:
    head, relation, tail = line.rstrip("\r").split("\t")
    return head, relation, tail


def among_busiest(parts: dict[str, Lines], entities: int) -> dict[str, Lines]:
    """The triples between two of the entities in the most training triples."""
    seen = Counter(entity for head, _, tail in parts["train"] for entity in (head, tail))
    chosen = set(sorted(seen, key=lambda entity: (-seen[entity], entity))[:entities])
    kept = {part: [row for row in rows if row[0] in chosen and row[2] in chosen] for part, rows in parts.items()}
    known = {entity for head, _, tail in kept["train"] for entity in (head, tail)}
    relations = {relation for _, relation, _ in kept["train"]}
    for part in PARTS[1:]:
        kept[part] = [row for row in kept[part] if row[0] in known and row[2] in known and row[1] in relations]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder or .tar.gz with train.txt, valid.txt and test.txt")
    parser.add_argument("--entities", type=int, default=1500)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    kept = among_busiest(read(options.source), options.entities)
    options.output.mkdir(parents=True, exist_ok=True)
    for part, rows in kept.items():
        with replacing(options.output / f"{part}.txt") as file:
            file.write("".join("\t".join(row) + "\n" for row in rows))
        print(f"{options.output / part}.txt: {len(rows):,} triples")


if __name__ == "__main__":
    main()
