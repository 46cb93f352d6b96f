"""Builds wheels without and, where nvcc is found, with CUDA kernels; installs each in fresh environments and uses it.

    python tests/wheel_check.py [other Pythons that have torch and the other dependencies]

The wheels are for every Python: no pybind11 module is in them. A fresh environment sees the torch and the other
dependencies of the Python that it was made by, but not this source tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
TORCH = "import importlib.util; print(importlib.util.find_spec('torch').submodule_search_locations[0])"


def run(*command: object, **variables: str) -> None:
    subprocess.run([str(part) for part in command], check=True, env=os.environ | variables)


def build(cuda: str, wheels: Path) -> Path:
    """The wheel; `cuda` is ON or OFF."""
    options = {"TRACIN_CUDA": cuda, "TRACIN_EXT": "require", "TRACIN_PYBIND": "OFF"}
    run(*PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", wheels, ROOT, **options)
    (wheel,) = wheels.glob("*.whl")
    assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl"), wheel.name
    libraries = [Path(name).name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".dylib"))]
    assert [Path(name).stem for name in libraries] == ["libtracin_ext"], libraries
    return wheel


def check(wheel: Path, base: str, environment: Path) -> None:
    """Installs the wheel in a fresh environment of the Python `base`, and uses it."""
    run(base, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", wheel)
    torch = subprocess.run([base, "-I", "-c", TORCH], check=True, capture_output=True, text=True).stdout.strip()
    (packages,) = environment.glob("lib/python*/site-packages")
    # Without the editable install's finder: a .pth file does not read those of the folder that it names.
    (packages / "dependencies.pth").write_text(f"{Path(torch).parent}\n")
    run(python, "-I", ROOT / "tests" / "installed_wheel.py", environment)


if __name__ == "__main__":
    for choice in ("OFF", "ON") if shutil.which("nvcc") else ("OFF",):
        with tempfile.TemporaryDirectory() as folder:
            wheel = build(choice, Path(folder, "wheels"))
            for number, base in enumerate([sys.executable, *sys.argv[1:]]):
                check(wheel, base, Path(folder, f"environment{number}"))
            print(f"{wheel.name} with TRACIN_CUDA={choice}: {wheel.stat().st_size >> 10} KiB, passed", flush=True)
