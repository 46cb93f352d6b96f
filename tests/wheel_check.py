"""Builds a wheel without and, where nvcc is found, with CUDA kernels; installs each in a fresh environment and uses it.

    make wheel-check

The fresh environment sees this one's torch and other dependencies, but not this source tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
SMOKE = """
import pathlib, sys, torch, tracin, tracin_ext
expected_cuda, folder = sys.argv[1] == "ON", pathlib.Path(sys.argv[2]).resolve()
assert pathlib.Path(tracin_ext.__file__).resolve().is_relative_to(folder), tracin_ext.__file__
assert pathlib.Path(tracin.__file__).resolve().is_relative_to(folder), tracin.__file__
status = tracin_ext.status()
assert status["available"], status["reason"]
assert bool(status["cuda_targets"]) == expected_cuda, status["cuda_targets"]
for op in ("influence_block", "self_influence_block", "relation_tables", "merge_top_k"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"tracin_ext::{op}", "CUDA") == expected_cuda, op
torch.manual_seed(0)
model = tracin.ConvE(30, 4, 32, embedding_height=8, embedding_width=4, output_channels=5).eval()
train = torch.stack([torch.randint(30, (50,)), torch.randint(4, (50,)), torch.randint(30, (50,))], 1)
scores = [
    tracin.TracIn(model, precision="float64", backend=backend, device="cpu").influence(train, train[:5])
    for backend in ("native", "sequential")
]
assert torch.allclose(*scores, rtol=1e-9, atol=1e-15)
print(tracin.info()["extension"])
"""


def run(*command: object, **variables: str) -> None:
    subprocess.run([str(part) for part in command], check=True, env=os.environ | variables)


def check(cuda: str, work: Path) -> None:
    """One wheel: `cuda` is ON or OFF."""
    wheels, environment = work / "wheels", work / "environment"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", wheels, ROOT, TRACIN_CUDA=cuda, TRACIN_EXT="require")
    (wheel,) = wheels.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Without the editable install's finder: a .pth file does not read those of the folder that it names.
    (packages / "dependencies.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")
    subprocess.run([str(python), "-P", "-c", SMOKE, cuda, str(environment)], check=True, cwd=work)
    print(f"{wheel.name} with TRACIN_CUDA={cuda}: {wheel.stat().st_size >> 10} KiB, passed")


if __name__ == "__main__":
    for choice in ("OFF", "ON") if shutil.which("nvcc") else ("OFF",):
        with tempfile.TemporaryDirectory() as folder:
            check(choice, Path(folder))
