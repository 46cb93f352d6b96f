"""The native extension as built, forced to each variant, absent, and the install on a machine without a compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tracin_ext

ROOT = Path(__file__).resolve().parent.parent
STATUS = tracin_ext.status()
native = pytest.mark.skipif(not STATUS["available"], reason=f"no native extension: {STATUS['reason']}")

PRINT_STATUS = "import json, tracin_ext; print(json.dumps(tracin_ext.status() | {'file': tracin_ext.__file__}))"
SOURCES = [
    "CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "csrc", "pyproject.toml", "python", "setup.py",
    "tracin_ext",
]  # fmt: skip


def python(code: str, *path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter that imports from `path`, by default from this tree.

    -S: an editable install has a finder in site-packages that would serve its own _C to a package without one.
    """
    path = path or (ROOT, ROOT / "python")
    folders = [*path, Path(torch.__file__).parent.parent]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), **environment}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=path[0])


def status(*path: Path, before: str = "", **environment: str) -> dict:
    """tracin_ext.status() in a fresh interpreter."""
    result = python(before + PRINT_STATUS, *path, **environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@native
def test_build_info_says_what_was_built() -> None:
    from tracin_ext import _C

    info = _C.build_info()
    assert set(info) == {"version", "isa", "isa_variants", "bfloat16", "compiler", "cuda_targets"}
    assert f'\nversion = "{info["version"]}"\n' in (ROOT / "pyproject.toml").read_text()
    assert info["isa_variants"][0] == "default"
    assert info["isa"] in info["isa_variants"]
    assert info["compiler"].split()[0] in {"GNU", "Clang", "AppleClang", "IntelLLVM"}
    *architectures, last = info["cuda_targets"] or ["PTX"]  # PTX of the last one, for the GPUs after it
    assert last == "PTX" and all(re.fullmatch(r"sm_\d+", name) for name in architectures)


def test_status_has_the_same_keys_and_a_reason_exactly_when_unavailable() -> None:
    assert set(STATUS) == {
        "available", "reason", "torch_required", "version", "isa", "isa_variants", "bfloat16", "compiler",
        "cuda_targets",
    }  # fmt: skip
    assert (STATUS["reason"] is None) == STATUS["available"]


@native
@pytest.mark.parametrize("isa", STATUS["isa_variants"])
def test_each_variant_can_be_forced(isa: str) -> None:
    forced = status(TRACIN_CPU=isa)
    if not forced["available"]:
        pytest.skip(forced["reason"])
    assert forced["isa"] == isa


@native
def test_an_unknown_variant_is_an_error() -> None:
    result = python("import tracin_ext; tracin_ext.native.build_info()", TRACIN_CPU="foo")
    assert result.returncode != 0
    assert "ValueError: TRACIN_CPU=foo is not one of default" in result.stderr
    wrong = status(TRACIN_CPU="foo")
    assert not wrong["available"]
    assert "TRACIN_CPU=foo" in wrong["reason"]


def test_import_without_the_extension() -> None:
    without = status(before="import sys; sys.modules['tracin_ext._C'] = None; import tracin, tracin_ext.ops;")
    assert not without["available"]
    assert "not built" in without["reason"]
    assert without["isa_variants"] == []


def install(
    folder: Path, replaced: dict[str, str] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """pip install of a copy of this tree, with other contents in the `replaced` files, into `folder`/target."""
    pytest.importorskip("setuptools")
    source = folder / "source"
    source.mkdir()
    ignore = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__", "_build_error.txt")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source / name)
    for name, text in (replaced or {}).items():
        (source / name).write_text(text)
    command = [sys.executable, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", "--no-index"]
    variables = {key: value for key, value in os.environ.items() if key != "TRACIN_EXT"} | environment
    return subprocess.run(
        [*command, "--target", str(folder / "target"), str(source)], capture_output=True, text=True, env=variables
    )


def test_without_a_compiler_the_install_is_pure_python_with_one_warning(tmp_path: Path) -> None:
    result = install(tmp_path, CXX="/nonexistent/c++")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (result.stdout + result.stderr).count("tracin_ext._C was not built") == 1
    installed = status(tmp_path / "target")
    assert Path(installed["file"]).is_relative_to(tmp_path)
    assert not installed["available"]
    assert "no C++ compiler (/nonexistent/c++)" in installed["reason"]
    assert (tmp_path / "target" / "tracin" / "py.typed").exists()


def test_a_required_extension_makes_a_missing_compiler_an_error(tmp_path: Path) -> None:
    result = install(tmp_path, CXX="/nonexistent/c++", TRACIN_EXT="require")
    assert result.returncode != 0
    assert "TRACIN_EXT=require, but no C++ compiler (/nonexistent/c++)" in result.stdout + result.stderr
    assert not (tmp_path / "target").exists()


@native
@pytest.mark.parametrize(
    ("choice", "message"),
    [("ON", "TRACIN_CUDA=ON, but nvcc was not found: install the CUDA toolkit"), ("MAYBE", "is not one of AUTO, ON")],
)
def test_cuda_that_cannot_be_built_is_an_error_with_a_remedy(choice: str, message: str, tmp_path: Path) -> None:
    result = install(tmp_path, TRACIN_EXT="require", CUDACXX="/nonexistent/nvcc", TRACIN_CUDA=choice)
    assert result.returncode != 0
    assert message in " ".join((result.stdout + result.stderr).split())


@native
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_kernels_that_do_not_compile_cost_only_cuda(tmp_path: Path) -> None:
    """Sources of the CPU are empty here: what is built is a module, quickly."""
    empty = [*(ROOT / "csrc" / "cpu").glob("*.cpp"), *(ROOT / "csrc" / "cuda").glob("*.cu"), ROOT / "csrc" / "ops.cpp"]
    replaced = {str(path.relative_to(ROOT)): "" for path in empty} | {
        "csrc/bindings.cpp": "#include <pybind11/pybind11.h>\nPYBIND11_MODULE(_C, m) {}\n",
        "csrc/cuda/merge_top_k.cu": "broken;",
    }
    result = install(tmp_path, replaced, TRACIN_CUDA="AUTO", CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=90")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert re.search(r"the CUDA kernels were not built: .*merge_top_k\.cu", output)
    assert list((tmp_path / "target" / "tracin_ext").glob("_C*.so"))
