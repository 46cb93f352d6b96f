"""Builds for the GPU present, tests, watches with compute-sanitizer and measures; all within eight minutes.

    python -m bench.gpu_check          # or: make gpu-check

Works without a network, in a virtual environment or the system's Python: torch, cmake, ninja, a C++ compiler and nvcc
must be there; Python packages that are missing are taken from --wheels. Results are written after every step, to
gpu_check.json, log and profile.txt in --out. Only the standard library is imported here: nothing else may be there yet.
"""

from __future__ import annotations

import argparse
import glob
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/tracin_ext", "tests/influence/test_tracin.py", "tests/influence/test_threads.py")
# Tools of the sanitizer: options, and what of the tiny program they watch. Errors of calls that torch makes and handles
# are its own. initcheck must see what all kernels write, and seems not to see it of cuBLAS's products in bfloat16.
OURS = ("--kernel-name", "kernel_substring=tracin")
TOOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "memcheck": (("--report-api-errors", "no"), ()),
    "racecheck": (OURS, ("plain", "everything odd")),
    "initcheck": ((), ("plain", "float32", "float64")),
    "synccheck": (OURS, ("plain", "everything odd")),
}
TINY = "bench.gpu_check.tiny"
ALL_RIGHT = "tiny: all right"  # its last line
NO_ERRORS = re.compile(r"ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards")
CUDA_FOLDERS = ("/usr/local/cuda/bin", "/usr/local/cuda-*/bin", "/opt/cuda/bin")
PACKAGES = ("click", "numpy", "polars", "pytest", "rich", "scipy", "torch")
STEPS = ("card", "jobs", "tests")
NOT_RUN = 75


@dataclass
class Check:
    """Where a check stands: its settings, what it has found, and what time is left."""

    device: str
    quick: bool
    out: Path
    wheels: Path
    seconds: float  # for everything
    slower: float  # a step's limit is so many times longer
    environment: dict[str, str]
    result: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    @property
    def work(self) -> Path:
        return ROOT / "build" / "gpu-check"

    def left(self) -> float:
        return self.seconds * self.slower - (time.monotonic() - self.start)

    def say(self, text: str) -> None:
        print(text, flush=True)
        with (self.out / "log").open("a") as file:
            file.write(text + "\n")

    def save(self) -> None:
        part = self.out / "gpu_check.json.part"
        part.write_text(json.dumps(self.result, indent=1) + "\n")
        part.replace(self.out / "gpu_check.json")

    def begin(self, name: str, command: Sequence[object], **environment: str) -> Step:
        """Starts a step, its output in a file of its name."""
        output = self.work / f"{name}.out"
        environment = self.environment | environment
        with output.open("w") as file:
            options = {"cwd": ROOT, "env": environment, "stdout": file, "stderr": subprocess.STDOUT}
            process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
        return Step(self, name, output, process)

    def run(self, name: str, limit: float, *command: object, show: int = 25, **environment: str) -> bool:
        """Runs a step to its end; whether it passed."""
        if self.left() < 5:
            return self.note(name, NOT_RUN, 0, "no time left")
        return self.begin(name, command, **environment).end(limit, show)

    def python(self, name: str, limit: float, *arguments: object, show: int = 25, **environment: str) -> bool:
        return self.run(name, limit, sys.executable, *arguments, show=show, **environment)

    def note(self, name: str, code: int, seconds: float, said: str = "") -> bool:
        self.result.setdefault("steps", {})[name] = {"passed": code == 0, "seconds": round(seconds, 1)}
        if said:
            self.result["steps"][name]["said"] = said
        self.save()
        self.say(f"{name}: {'passed' if code == 0 else 'FAILED'}, {seconds:.0f} s{': ' + said if said else ''}")
        return code == 0


@dataclass
class Step:
    """A process that runs."""

    check: Check
    name: str
    output: Path
    process: subprocess.Popen[bytes]
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def end(self, limit: float, show: int, judge: re.Pattern[str] | None = None) -> bool:
        """Waits; notes whether it passed, for a tool of the sanitizer by its summary and the program's last line."""
        until = self.start + min(limit * self.check.slower, self.check.left() + self.seconds)
        said = ""
        try:
            code = self.process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # with its workers
            self.process.wait()
            code, said = 124, "timed out"
        text = self.output.read_text(errors="replace")
        if judge is not None and code == 0 and not (judge.search(text) and ALL_RIGHT in text):
            code, said = 1, "no summary without errors, or the program did not reach its end"
        lines = text.splitlines()[-show:] if code == 0 else text.splitlines()[-max(show, 60) :]
        if lines:
            self.check.say("\n".join(f"  {line[:400]}" for line in lines))
        summary = next((line for line in reversed(text.splitlines()) if re.search(r"SUMMARY|\d+ passed", line)), "")
        return self.check.note(self.name, code, self.seconds, said or summary.strip("= "))


def machine(check: Check) -> None:
    """What is there; fails nothing."""
    code = "import torch; print('torch', torch.__version__, 'CUDA', torch.version.cuda, torch.cuda.is_available())"
    commands = [
        "nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.max.sm --format=csv,noheader",
        "nvcc --version | tail -1; c++ --version | head -1; cmake --version | head -1; nproc",
        f"'{sys.executable}' --version; '{sys.executable}' -c \"{code}\"; command -v compute-sanitizer",
    ]
    check.run("machine", 30, "sh", "-c", "; ".join(commands) + "; true")


def packages(check: Check) -> None:
    """Installs the wheels, where there are some, beside the work."""
    found = sorted(check.wheels.glob("*.whl"))
    if not found:
        return
    site = check.work / "site"
    options = "-q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --upgrade --target"
    check.python("wheels", 60, "-m", "pip", "install", *options.split(), site, *found)
    check.environment["PYTHONPATH"] += os.pathsep + str(site)


def architecture() -> str:
    """The compute capability of the GPU, as CMake takes it."""
    code = "import torch; print('%d%d' % torch.cuda.get_device_capability())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def build(check: Check) -> bool:
    """The library in place, for this GPU alone; nothing where the one that is there runs on it."""
    ready = (
        "import torch; from tracin_ext.backends.native import reason_against as r; "
        f"w = r(torch.device('{check.device}')); print(w or 'runs'); raise SystemExit(bool(w))"
    )
    libraries = list((ROOT / "tracin_ext").glob("libtracin_ext.*"))
    if libraries and check.python("built before", 60, "-c", ready):
        return True
    folder, cuda = check.work / "cmake", ["-DTRACIN_CUDA=OFF"]
    if check.device == "cuda":
        cuda = ["-DTRACIN_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architecture()}"]
    options = ["-G", "Ninja", "--log-level=WARNING", f"-DPython_EXECUTABLE={sys.executable}", *cuda]
    # Another host compiler may warn of something new.
    for flags in ([], ["-DCMAKE_CUDA_FLAGS=-Wno-error=all-warnings"]):
        name = "build" if not flags else "build, warnings allowed"
        if check.run(name, 150, "cmake", "-S", ROOT, "-B", folder, *options, *flags) and check.run(
            name, 150, "cmake", "--build", folder, "--target", "ops", show=3
        ):
            break
    else:
        return False
    for library in folder.glob("libtracin_ext.*"):
        shutil.copy2(library, ROOT / "tracin_ext" / library.name)
    (ROOT / "tracin_ext" / "_build_error.txt").unlink(missing_ok=True)
    return check.python("built", 60, "-c", ready)


def tests(check: Check) -> None:
    """The tests named after the device, and the tiny program under every tool of the sanitizer, side by side."""
    workers = ["-n", str(min(12, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    select = f"{check.device} and not compiled and not sequential"
    options = ["-q", *workers, *"-p no:cacheprovider -p no:benchmark --durations=5 -k".split(), select]
    alone = {"OMP_NUM_THREADS": "1"}  # each of those that run side by side
    running = {"tests": check.begin("tests", [sys.executable, "-m", "pytest", *options, *TESTS], **alone)}
    sanitizer = shutil.which("compute-sanitizer", path=check.environment["PATH"])
    if sanitizer is None:
        check.note("sanitizer", NOT_RUN, 0, "compute-sanitizer is not on PATH; it comes with the CUDA toolkit")
    for tool, (options, parts) in TOOLS.items() if sanitizer else ():
        reached = () if check.device == "cuda" else ("--require-cuda-init", "no")
        common = "--error-exitcode 9 --print-limit 30 --show-backtrace no".split()
        watched = [sys.executable, "-m", TINY, check.device, *parts]
        command = [sanitizer, "--tool", tool, *common, *options, *reached, *watched]
        # Without torch's caching allocator every tensor is an allocation of its own, whose end memcheck knows.
        running[tool] = check.begin(tool, command, PYTORCH_NO_CUDA_MEMORY_CACHING="1", **alone)
    limit = 170
    while running:
        time.sleep(0.2)
        late = check.left() < 1 or any(step.seconds > limit * check.slower for step in running.values())
        for name in [name for name, step in running.items() if late or step.process.poll() is not None]:
            running.pop(name).end(limit, 30, None if name == "tests" else NO_ERRORS)


def benchmark(check: Check, steps: Sequence[str]) -> None:
    """W1 and W2, alone on the machine, and what the card can do; `jobs` writes what it finds as it goes."""
    quick = ["--quick"] if check.quick else []
    for name in steps:
        if name == "card" and check.device != "cuda":
            continue
        found = check.out / f"{name}.json"
        found.unlink(missing_ok=True)
        check.python(name, 240, "-m", f"bench.gpu_check.{name}", check.device, check.out, *quick, show=90)
        if found.exists():
            check.result[name] = json.loads(found.read_text())
            found.unlink()
    check.save()


def environment() -> dict[str, str]:
    """For all steps: the tree's packages, and CUDA's tools on PATH."""
    here = [str(ROOT), str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    cuda = sorted(folder for pattern in CUDA_FOLDERS for folder in glob.glob(pattern))
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), *cuda]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(here),
        "PATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes in the benchmark")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a rehearsal without a GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu-check", help="folder of the results")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="folder of wheels of missing packages")
    parser.add_argument("--seconds", type=float, default=465, help="for everything")
    parser.add_argument("--slower", type=float, default=1, help="all limits are so many times longer")
    parser.add_argument("--only", nargs="+", default=STEPS, choices=STEPS, help="beside the build")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exits with 0 if every step passed."""
    given = parse(arguments)
    check = Check(
        given.device,
        given.quick,
        given.out.resolve(),
        given.wheels.resolve(),
        given.seconds,
        given.slower,
        environment(),
    )
    check.out.mkdir(parents=True, exist_ok=True)
    check.work.mkdir(parents=True, exist_ok=True)
    (check.out / "log").write_text("")
    machine(check)
    packages(check)
    versions = f"import importlib.metadata as m; print({{name: m.version(name) for name in {PACKAGES}}})"
    check.python("packages", 60, "-c", f"import {', '.join(PACKAGES)}; {versions}")
    sees = "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'PyTorch sees no CUDA device')"
    if (check.device != "cuda" or check.python("gpu", 60, "-c", sees)) and build(check):
        if check.python("tiny", 90, "-m", TINY, check.device):
            benchmark(check, [step for step in ("card", "jobs") if step in given.only])
        if "tests" in given.only:
            tests(check)
    steps = check.result["steps"]
    failed = [name for name, step in steps.items() if not step["passed"] and name != "built before"]
    check.say(f"all in {time.monotonic() - check.start:.0f} s; results in {check.out}")
    check.say(f"FAILED: {', '.join(failed)}" if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
