"""Uses an installed wheel: python -I tests/installed_wheel.py [folder of the environment, to be sure of it]

Isolated (-I), so that the source tree is not what is imported. That the wheel is complete, its ops load under this
Python, and scores are those of the sequential backend.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import tracin
import tracin_ext

BOTH = {"influence_block", "self_influence_block", "merge_top_k"}
OF_CPU = {"relation_tables", "relation_pixels", "factor_block", "norm_block"}
OF_CPU |= {"pair_scores", "bounded_top_k", "rows_in_reach", "table_scores"}
OPS = {"CPU": BOTH | OF_CPU, "CUDA": BOTH | {"sample_factors"}}


def check(folder: Path | None) -> None:
    for package in (tracin, tracin_ext):
        place = Path(str(package.__file__)).resolve()
        assert folder is None or place.is_relative_to(folder.resolve()), place
        assert (place.parent / "py.typed").exists(), place
    status = tracin_ext.status()
    assert status["available"], status["reason"]
    for device, here in (("CPU", True), ("CUDA", bool(status["cuda_targets"]))):
        for op in OPS["CPU"] | OPS["CUDA"]:
            found = torch._C._dispatch_has_kernel_for_dispatch_key(f"tracin_ext::{op}", device)
            assert found == (here and op in OPS[device]), (op, device)
    torch.manual_seed(0)
    model = tracin.ConvE(30, 4, 32, embedding_height=8, embedding_width=4, output_channels=5).eval()
    train = torch.stack([torch.randint(30, (50,)), torch.randint(4, (50,)), torch.randint(30, (50,))], 1)
    native, sequential = (
        tracin.TracIn(model, precision="float64", backend=backend, device="cpu").influence(train, train[:5])
        for backend in ("native", "sequential")
    )
    assert torch.allclose(native, sequential, rtol=1e-9, atol=1e-15)
    why = tracin.explain(model, *train[0].tolist(), train=train)  # its page is made from files beside the modules
    assert "</html>" in why.to_html()
    version = ".".join(map(str, sys.version_info[:2]))
    targets = ", ".join(status["cuda_targets"]) or "none"
    print(f"Python {version}, torch {torch.__version__}: {status['isa']}, CUDA targets {targets}, passed")


if __name__ == "__main__":
    check(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
