"""The native extension as built, forced to each variant, absent, and the install on a machine without a compiler."""

from __future__ import annotations

import importlib.util
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

    -S: an editable install has its folders in site-packages, which would serve modules to a package without them.
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
    info = tracin_ext.native.build_info()
    assert set(info) == {"version", "isa", "isa_variants", "bfloat16", "compiler", "cuda_targets", "constants"}
    assert f'\nversion = "{info["version"]}"\n' in (ROOT / "pyproject.toml").read_text()
    assert info["isa_variants"][0] == "default"
    assert info["isa"] in info["isa_variants"]
    assert info["compiler"].split()[0] in {"GNU", "Clang", "AppleClang", "IntelLLVM"}
    *architectures, last = info["cuda_targets"] or ["PTX"]  # PTX of the last one, for the GPUs after it
    assert last == "PTX" and all(re.fullmatch(r"sm_\d+", name) for name in architectures)


CONSTANTS = [
    ("lanes", "kernels.h"),
    ("operand_height", "cpu/products.h"),
    ("jacobian_from", "cpu/factors.h"),
    ("most_kept", "cuda/device.h"),
]


@native
@pytest.mark.parametrize(("name", "source"), CONSTANTS)
def test_constants_are_those_of_the_headers(name: str, source: str) -> None:
    text = (ROOT / "csrc" / source).read_text()
    (value,) = re.findall(rf"^constexpr int64_t {name} = (\d+);", text, re.M)
    assert tracin_ext.native.constants[name] == int(value)


@native
def test_the_pybind11_module_says_the_same() -> None:
    module = pytest.importorskip("tracin_ext._C", reason="built without pybind11")
    assert module.build_info() == tracin_ext.native.build_info()


@native
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not on PATH")
def test_the_library_binds_to_no_python() -> None:
    """So one wheel serves every Python."""
    (library,) = (ROOT / "tracin_ext").glob("libtracin_ext.*")
    command = ["nm", "-u", library] if sys.platform == "darwin" else ["nm", "-D", "-u", library]
    undefined = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "aoti_torch" in undefined
    assert re.findall(r"\b_?_?Py\w+", undefined) == []


def test_status_has_the_same_keys_and_a_reason_exactly_when_unavailable() -> None:
    assert set(STATUS) == {
        "available", "reason", "torch_required", "version", "isa", "isa_variants", "bfloat16", "compiler",
        "cuda_targets",
    }  # fmt: skip
    assert (STATUS["reason"] is None) == STATUS["available"]


@native
@pytest.mark.parametrize("isa", STATUS["isa_variants"])
@pytest.mark.slow
def test_each_variant_can_be_forced(isa: str) -> None:
    forced = status(TRACIN_CPU=isa)
    if not forced["available"]:
        pytest.skip(forced["reason"])
    assert forced["isa"] == isa


@native
@pytest.mark.slow
def test_an_unknown_variant_is_an_error() -> None:
    result = python("import tracin_ext; tracin_ext.native.build_info()", TRACIN_CPU="foo")
    assert result.returncode != 0
    assert "ValueError: TRACIN_CPU=foo is not one of default" in result.stderr
    name = 'an "\\\x01é'
    wrong = status(TRACIN_CPU=name)
    assert not wrong["available"]
    assert wrong["reason"].startswith(f"TRACIN_CPU={name} is not one of default")


def without_library(folder: Path) -> Path:
    """A copy of the packages as an install without a compiler leaves them."""
    ignore = shutil.ignore_patterns("libtracin_ext.*", "_C.*", "_build_error.txt", "__pycache__")
    shutil.copytree(ROOT / "tracin_ext", folder / "tracin_ext", ignore=ignore)
    shutil.copytree(ROOT / "python" / "tracin", folder / "tracin", ignore=ignore)
    return folder


@pytest.mark.slow
def test_import_without_the_library(tmp_path: Path) -> None:
    without = status(without_library(tmp_path), before="import tracin, tracin_ext.ops;")
    assert not without["available"]
    assert without["reason"] == "the native extension was not built: install tracin-ext with a C++ compiler present"
    assert without["isa_variants"] == []


@pytest.mark.slow
def test_import_of_a_library_that_does_not_load(tmp_path: Path) -> None:
    path = without_library(tmp_path) / "tracin_ext" / "libtracin_ext.so"
    path.write_text("not a library")
    broken = status(tmp_path, before="import tracin, tracin_ext.ops;")
    assert not broken["available"]
    assert broken["reason"].startswith(f"the native extension does not load ({path}: ")
    assert broken["reason"].endswith("): install tracin-ext again with this torch")


def install(
    folder: Path, replaced: dict[str, str] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """pip install of a copy of this tree, with other contents in the `replaced` files, into `folder`/target."""
    pytest.importorskip("setuptools")
    source = folder / "source"
    source.mkdir()
    ignore = shutil.ignore_patterns("*.so", "*.dylib", "*.egg-info", "__pycache__", "_build_error.txt")
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


@pytest.mark.slow
def test_without_a_compiler_the_install_is_pure_python_with_one_warning(tmp_path: Path) -> None:
    result = install(tmp_path, CXX="/nonexistent/c++")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (result.stdout + result.stderr).count("the native extension was not built") == 1
    installed = status(tmp_path / "target")
    assert Path(installed["file"]).is_relative_to(tmp_path)
    assert not installed["available"]
    assert "no C++ compiler (/nonexistent/c++)" in installed["reason"]
    assert (tmp_path / "target" / "tracin" / "py.typed").exists()


@pytest.mark.slow
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
@pytest.mark.slow
def test_cuda_that_cannot_be_built_is_an_error_with_a_remedy(choice: str, message: str, tmp_path: Path) -> None:
    result = install(tmp_path, TRACIN_EXT="require", CUDACXX="/nonexistent/nvcc", TRACIN_CUDA=choice)
    assert result.returncode != 0
    assert message in " ".join((result.stdout + result.stderr).split())


@native
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
@pytest.mark.slow
def test_kernels_that_do_not_compile_cost_only_cuda(tmp_path: Path) -> None:
    """Sources of the CPU are empty here: what is built is a library, quickly."""
    csrc = ROOT / "csrc"
    empty = [*csrc.glob("*.cpp"), *(csrc / "cpu").glob("*.cpp"), *(csrc / "cuda").glob("*.cu")]
    replaced = {str(path.relative_to(ROOT)): "" for path in empty} | {"csrc/cuda/merge_top_k.cu": "broken;"}
    options = {"TRACIN_PYBIND": "OFF", "CMAKE_ARGS": "-DCMAKE_CUDA_ARCHITECTURES=90"}
    result = install(tmp_path, replaced, TRACIN_CUDA="AUTO", **options)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert re.search(r"the CUDA kernels were not built: .*merge_top_k\.cu", output)
    assert list((tmp_path / "target" / "tracin_ext").glob("libtracin_ext.*"))


SCRIPT = """from tracin import TracIn, load_checkpoint
import tracin_ext

reveal_type(TracIn)
number: int = load_checkpoint("model.pt")
"""


@pytest.mark.slow
def test_type_checkers_find_an_editable_install(tmp_path: Path) -> None:
    """They follow no import hooks: both folders have to be on sys.path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}

    def run(*command: str) -> str:
        command = (sys.executable, *command)
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout

    if run("-c", "import tracin; print(tracin.__file__)").strip() != str(ROOT / "python" / "tracin" / "__init__.py"):
        pytest.skip("this tree is not installed editably")
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("no mypy")
    (tmp_path / "script.py").write_text(SCRIPT)
    told = run("-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "script.py")
    assert "tracin.influence.tracin.TracIn" in told, told
    assert 'variable has type "int"' in told and "Found 1 error in 1 file" in told, told
