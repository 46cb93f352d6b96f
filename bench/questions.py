"""Questions to an index, from the start of the process: a line after each part, for the harness.

python -m bench.questions DIRECTORY TESTS COUNT [ALL]

TESTS: an .npy file of test triples [n, 3] of ids; the first COUNT of them are asked one by one, with ALL at once.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def done(part: str, **facts: Any) -> None:
    print(json.dumps({"part": part, **facts}), flush=True)


def main(directory: str, tests: str, count: str, together: str = "") -> None:
    done("start Python")
    import numpy as np
    import torch

    import tracin

    done("import tracin and PyTorch")
    index = tracin.Index(directory)
    _ = index.train
    done("open the index", runs=index.tracin.description)
    test = torch.from_numpy(np.load(tests))[: int(count)]
    seconds, found, searches = [], [], []
    for some in (test,) if together else test.split(1):
        start = time.perf_counter()
        found.append(index.top_k(some, k=10))
        seconds.append(time.perf_counter() - start)
        searches.append(index.tracin.search)
    indices, scores = (torch.cat([getattr(top, name) for top in found]) for name in ("indices", "scores"))
    done("answer", seconds=seconds, searches=searches, indices=indices.tolist(), scores=scores.tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
