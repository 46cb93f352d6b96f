"""The CUDA ops between Python and their kernels, emulated on the CPU: checks, layouts, test factors, blocks, lists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tracin_ext

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("everything odd", "no window sees both halves, in width")
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def run(*command: object) -> str:
    """The output of a command run at the root, which must succeed."""
    imported = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": imported}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment | {"PATH": path}, capture_output=True, text=True
    )
    assert found.returncode == 0, (found.stdout + found.stderr)[-3000:]
    return found.stdout


@pytest.fixture(scope="module")
def library() -> Path:
    """torch.ops.tracin_emulated, built beside what `make` builds, and kept for the next time."""
    folder = ROOT / "build" / "emulated"
    options = ["-DTRACIN_CUDA=OFF", "-DTRACIN_PYBIND=OFF", "-DTRACIN_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    run(CMAKE, "-S", ROOT, "-B", folder, "-G", "Ninja", "--log-level=WARNING", *options)
    run(CMAKE, "--build", folder, "--target", "emulated_ops")
    return folder / "tests" / "libemulated_ops.so"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the emulation is for Linux")
@pytest.mark.skipif(CMAKE is None or tracin_ext.native is None, reason="no CMake, or no C++ compiler")
@pytest.mark.parametrize("model", MODELS)
def test_tracin_on_emulated_cuda_is_float64_on_the_cpu(library: Path, model: str) -> None:
    output = run(sys.executable, "-m", "tests.tracin_ext.emulated", library, model)
    assert output.count(f"{model}, ") == 3  # precisions
    assert "tiny: all right" in output
    assert "launches of 13 kernels" in output
