"""Why does the model think that this drug treats that disease? A small made-up graph, from text files to names.

python examples/biomedical_graph.py
"""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import tracin

PATHWAYS = 8  # drugs target genes of their pathway and treat the diseases that these genes are associated with
DRUGS, GENES, DISEASES = 6, 8, 4  # of a pathway


def write_graph(folder: Path) -> None:
    """train.tsv and test.tsv, lines head<TAB>relation<TAB>tail; entities.tsv and relations.tsv, lines label<TAB>id."""
    choose = random.Random(0)
    train, test = [], []
    for pathway in range(PATHWAYS):
        drugs, genes, diseases = (
            [f"{kind}:{pathway}.{i}" for i in range(count)]
            for kind, count in (("drug", DRUGS), ("gene", GENES), ("disease", DISEASES))
        )
        train += [(drug, "targets", gene) for drug in drugs for gene in choose.sample(genes, 4)]
        train += [(gene, "associated_with", disease) for gene in genes for disease in choose.sample(diseases, 2)]
        treats = [(drug, "treats", disease) for drug in drugs for disease in diseases]
        choose.shuffle(treats)
        test, train = test + treats[:2], train + treats[2:]
    entities = sorted({label for head, _, tail in train for label in (head, tail)})
    relations = sorted({relation for _, relation, _ in train})
    for name, triples in (("train", train), ("test", test)):
        (folder / f"{name}.tsv").write_text("".join("\t".join(triple) + "\n" for triple in triples))
    for name, labels in (("entities", entities), ("relations", relations)):
        (folder / f"{name}.tsv").write_text("".join(f"{label}\t{i}\n" for i, label in enumerate(labels)))


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # products this small gain nothing from more
    write_graph(folder)
    entities, relations = (tracin.read_dictionary(folder / f"{name}.tsv") for name in ("entities", "relations"))
    train, test = (tracin.read_triples(folder / f"{name}.tsv", entities, relations) for name in ("train", "test"))
    checkpoint = tracin.train(
        train, num_entities=len(entities), num_relations=len(relations), epochs=30, batch_size=16,
        valid=test, progress=False, output=folder, entity_to_id=entities, relation_to_id=relations,
    )  # fmt: skip
    print(f"{len(train)} training triples, {len(entities)} entities; held-out triples: {checkpoint.ranking}")

    # The checkpoint file holds the labels: from here on this is what any other checkpoint takes.
    checkpoint = tracin.load_checkpoint(checkpoint.path)
    top = tracin.TracIn(checkpoint).top_k(train, test[:3], k=5)
    for rows in top.to_frame(train, test[:3], checkpoint).partition_by("test_index"):
        print("\n{test_head_label} {test_relation_label} {test_tail_label}, because".format(**rows.row(0, named=True)))
        for row in rows.iter_rows(named=True):
            print("  {score:+.1e}  line {train_index:3}  {head_label} {relation_label} {tail_label}".format(**row))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(folder))
