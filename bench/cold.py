"""One test triple against a training file, from the start of the process: a line after each part, for the harness.

python -m bench.cold MODEL TRAIN TEST ENTITY_TO_ID RELATION_TO_ID
"""

from __future__ import annotations

import json
import sys
from typing import Any


def done(part: str, **facts: Any) -> None:
    print(json.dumps({"part": part, **facts}), flush=True)


def main(model: str, train_path: str, test_path: str, entity_to_id: str, relation_to_id: str) -> None:
    done("start Python")
    import tracin
    from tracin import TracIn

    done("import tracin and PyTorch")
    entities, relations = tracin.read_dictionary(entity_to_id), tracin.read_dictionary(relation_to_id)
    checkpoint = tracin.load_checkpoint(model, entity_to_id=entities, relation_to_id=relations)
    done("read checkpoint and dictionaries")
    train, test = (tracin.read_triples(path, entities, relations) for path in (train_path, test_path))
    done("read triples")
    ti = TracIn(checkpoint, 1e-3, progress=False)
    done("prepare", runs=ti.description)
    top = ti.top_k(train, test[:1], k=10)
    done("score", train=len(train), indices=top.indices[0].tolist(), scores=top.scores[0].tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
