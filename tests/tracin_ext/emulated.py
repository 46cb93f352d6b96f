"""TracIn on the CUDA ops emulated on the CPU: `python -m tests.tracin_ext.emulated LIBRARY [MODEL...]`.

LIBRARY registers torch.ops.tracin_emulated, the ops for CUDA on CPU tensors (tests/CMakeLists.txt). Everything above
them is as it is on a GPU; what is computed and compared is what a GPU's check computes.
"""

from __future__ import annotations

import sys

import torch

from tracin_ext import backends
from tracin_ext.backends.native_cuda import NativeCudaBackend


def main() -> None:
    torch.ops.load_library(sys.argv[1])
    torch.ops.tracin_ext = torch.ops.tracin_emulated  # type: ignore[assignment]
    torch.cuda.get_device_name = lambda device=None: "an emulated GPU"
    backends.CLASSES["native"] = NativeCudaBackend

    from bench.gpu_check import tiny

    models = sys.argv[2:] or tiny.MODELS
    sys.argv[1:] = ["cpu", *models]
    tiny.main()


if __name__ == "__main__":
    main()
