"""Which training triples explain what a ConvE of PyKEEN predicts? Needs PyKEEN, with which the data comes.

python examples/explain_pykeen_model.py
"""

import torch
from pykeen.datasets import Nations
from pykeen.pipeline import pipeline
from pykeen.predict import predict_target

import tracin

QUESTIONS = [("brazil", "intergovorgs3"), ("egypt", "embassy"), ("uk", "exports3")]  # head and relation of a tail


def main() -> None:
    torch.set_num_threads(1)  # products this small gain nothing from more
    result = pipeline(
        dataset=Nations(create_inverse_triples=True), model="ConvE", training_loop="LCWA", random_seed=0,
        model_kwargs=dict(embedding_dim=32, embedding_height=8, embedding_width=4, output_channels=16),
        training_kwargs=dict(num_epochs=20, batch_size=64, use_tqdm=False, pin_memory=False),
        optimizer_kwargs=dict(lr=0.01), evaluation_kwargs=dict(use_tqdm=False),
    )  # fmt: skip
    model, training = result.model, result.training

    # PyKEEN's best answer to each question that is not a training triple already.
    predicted = []
    for head, relation in QUESTIONS:
        answers = predict_target(model=model, head=head, relation=relation, triples_factory=training)
        tail = answers.filter_triples(training).df["tail_label"].iloc[0]
        predicted.append([training.entity_to_id[head], training.relation_to_id[relation], training.entity_to_id[tail]])
    test = torch.tensor(predicted)  # [3, 3] ids of the factory

    checkpoint = tracin.from_pykeen(model, training)  # the model as it is in memory, with the factory's labels
    ti = tracin.TracIn(checkpoint)
    print(ti.description)
    top = ti.top_k(training.mapped_triples, test, k=3, order="proponents")
    frame = top.to_frame(training.mapped_triples, test, checkpoint)  # polars
    for rows in frame.partition_by("test_index"):
        print("\n{test_head_label} {test_relation_label} {test_tail_label}, because".format(**rows.row(0, named=True)))
        for row in rows.iter_rows(named=True):
            print("  {score:+.1e}  {head_label} {relation_label} {tail_label}".format(**row))


if __name__ == "__main__":
    main()
