"""Runs CMake for what tracin_ext loads. Metadata is in pyproject.toml, sources and flags are in CMakeLists.txt.

A build that fails leaves a working pure-Python install and the reason in tracin_ext/_build_error.txt;
with TRACIN_EXT=require it is an error. CXX names the compiler, CMAKE_ARGS adds options for CMake, TRACIN_CUDA is AUTO
(CUDA kernels if nvcc is found), ON or OFF. TRACIN_PYBIND is AUTO (tracin_ext._C if pybind11 is found) or OFF: the wheel
then serves every Python.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command import editable_wheel
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def tool(name: str) -> str:
    """The path of a program: beside this Python, where pip puts it, or on PATH."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=folders) or sys.exit(f"{name} was not found: pip install {name}")


def compiler() -> str:
    """The C++ compiler: CXX if set, else the first of the usual names."""
    names = shlex.split(os.environ.get("CXX", ""))[:1] or ["c++", "g++", "clang++"]
    for name in names:
        if path := shutil.which(name):
            return path
    sys.exit(f"no C++ compiler ({' or '.join(names)}): install g++ or clang++, or set CXX, then install again")


def run(*command: object) -> None:
    """Runs a command; a failure ends in SystemExit with the compiler's or CMake's first error."""
    process = subprocess.run(
        [str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(process.stdout, flush=True)
    if process.returncode:
        error = re.search(
            r"^CMake Error[^\n]*\n(.+?)\n\n|^([^\n]*\berror *: [^\n]*)", process.stdout + "\n\n", re.M | re.S
        )
        text = next(filter(None, error.groups())) if error else process.stdout[-500:]
        sys.exit(" ".join(text.split()))


class CMakeBuild(build_ext):
    def run(self) -> None:
        package = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib)) / "tracin_ext"
        reason = package / "_build_error.txt"
        for stale in [*package.glob("libtracin_ext.*"), *package.glob("_C.*"), reason]:
            stale.unlink(missing_ok=True)
        try:
            self.build(package)
        except SystemExit as error:
            if os.environ.get("TRACIN_EXT") == "require":
                raise SystemExit(f"error: TRACIN_EXT=require, but {error}") from None
            package.mkdir(parents=True, exist_ok=True)
            reason.write_text(f"{error}\n")
            self.warn(f"the native extension was not built, the package runs in pure Python: {error}")

    def build(self, package: Path) -> None:
        """Without CUDA kernels if they do not compile and nobody insists on them."""
        cuda = os.environ.get("TRACIN_CUDA", "AUTO")
        try:
            self.cmake(package, cuda)
        except SystemExit as error:
            if cuda != "AUTO" or os.environ.get("TRACIN_EXT") == "require" or "cuda" not in str(error).lower():
                raise
            self.warn(f"the CUDA kernels were not built: {error}")
            self.cmake(package, "OFF")

    def cmake(self, package: Path, cuda: str) -> None:
        """Configures and builds, in one folder per compiler and Python: a changed compiler resets CMake's cache."""
        cxx = compiler()
        folder = ROOT / "build" / "-".join([*Path(cxx).parts[1:], sys.implementation.cache_tag])
        run(
            tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DCMAKE_CXX_COMPILER={cxx}", f"-DPython_EXECUTABLE={sys.executable}", f"-DTRACIN_CUDA={cuda}",
            f"-DTRACIN_PYBIND={os.environ.get('TRACIN_PYBIND', 'AUTO')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        )  # fmt: skip
        run(tool("cmake"), "--build", folder)
        run(tool("cmake"), "--install", folder, "--prefix", package)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in Path(self.build_lib, "tracin_ext").glob("*") if path.suffix != ".py"]


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        """Of every Python, unless the pybind11 module is in it: the library of ops binds to none."""
        python, abi, platform = super().get_tag()
        module = any(Path(self.get_finalized_command("build").build_lib, "tracin_ext").glob("_C.*"))
        return (python, abi, platform) if module else ("py3", "none", platform)


class Editable(editable_wheel.editable_wheel):
    """Puts both folders of packages on sys.path: type checkers look there, and follow no import hooks.

    setuptools does so itself where there is one folder. If its method is called otherwise one day, hooks are used.
    """

    def _select_strategy(self, name: str, tag: str, build_lib: str) -> object:
        if self.mode:  # chosen by --config-settings editable_mode=...
            return super()._select_strategy(name, tag, build_lib)
        return editable_wheel._StaticPth(self.distribution, name, [ROOT / "python", ROOT])


# No sources: CMake knows them. An extension makes this a package for one platform.
setup(
    ext_modules=[Extension("tracin_ext.libtracin_ext", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel, "editable_wheel": Editable},
)
