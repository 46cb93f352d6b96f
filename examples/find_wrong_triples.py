"""Which training triples are wrong? Corrupts some of UMLS, trains on them, and looks for them by the model alone.

python examples/find_wrong_triples.py
"""

from importlib import resources

import polars as pl
import torch

import tracin

SHARE = 0.05  # of the training triples get a random tail
EPOCHS = 20


def main() -> None:
    torch.set_num_threads(1)  # products this small gain nothing from more
    file = resources.files("tracin") / "data" / "umls" / "train.txt.gz"
    with resources.as_file(file) as path:
        lines = pl.read_csv(path, has_header=False, separator="\t", new_columns=["head", "relation", "tail"])
        entities = {label: i for i, label in enumerate(sorted({*lines["head"], *lines["tail"]}))}
        relations = {label: i for i, label in enumerate(sorted({*lines["relation"]}))}
        triples = tracin.read_triples(path, entities, relations)  # [n, 3]

    generator = torch.Generator().manual_seed(0)
    count = int(SHARE * len(triples))
    wrong = torch.zeros(len(triples), dtype=torch.bool)
    wrong[torch.randperm(len(triples), generator=generator)[:count]] = True
    triples[wrong, 2] = torch.randint(len(entities), (count,), generator=generator)

    checkpoint = tracin.train(
        triples, num_entities=len(entities), num_relations=len(relations), epochs=EPOCHS, progress=False,
        entity_to_id=entities, relation_to_id=relations,
    )  # fmt: skip
    own = tracin.TracIn(checkpoint).self_influence(triples)  # [n]
    with torch.no_grad():
        loss = torch.nn.functional.softplus(-checkpoint.model(triples))  # [n]

    print(f"{count} of {len(triples)} training triples have a random tail")
    print(f"of the {count} triples a method ranks first, these are wrong:")
    for name, scores in (("self-influence", own), ("loss", loss)):
        found = wrong[scores.argsort(descending=True)[:count]].double().mean()
        print(f"  {name:15}{found:.0%}")
    print(f"  {'chance':15}{SHARE:.0%}\n")
    frame = tracin.self_influence_frame(own, triples, checkpoint).head(8)
    for row in frame.iter_rows(named=True):
        verdict = "wrong" if wrong[row["train_index"]] else "right"
        print("{}  {self_influence:.1e}  {head_label} {relation_label} {tail_label}".format(verdict, **row))


if __name__ == "__main__":
    main()
