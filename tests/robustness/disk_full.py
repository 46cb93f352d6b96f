"""A full disk at every kind of output: one sentence that names the file, older results intact, nothing left lying.

    python -m tests.robustness.disk_full

needs the right to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tests.robustness import known
from tests.robustness.jobs import Job, batch_job, finish, outputs_of, run_job, start, train_job, write_inputs

OLDER = b"results of an older run\n"
PAGE = 4096
OUTPUTS: dict[str, Job] = {
    "JSON of mode test": run_job("run", "--top-k", "300", csv=None),
    "CSV of mode test": run_job("run", "--top-k", "300"),
    "JSON without top k": run_job("run", csv=None),
    "Parquet": run_job("run", "--top-k", "300", csv=None, json="out.parquet"),
    "CSV as Parquet": run_job("run", "--top-k", "300", csv="out.parquet"),
    "files per triple": run_job("run", "--top-k", "300", "--output-per-triple"),
    "mode single": run_job("run", "--top-k", "300", "--mode", "single", "--test-indices", "0", "3"),
    "mode self": run_job("run", "--mode", "self", csv=None),
    "batch": batch_job(),
    "train": train_job(),
}


def can_mount() -> str:
    """Why not; empty if a tmpfs can be mounted."""
    if os.geteuid() != 0:
        return "mounting a tmpfs takes root"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode:
            return f"a tmpfs cannot be mounted: {done.stderr.strip()}"
        unmount(Path(folder))
    return ""


def unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        unmount(folder)
        folder.rmdir()


def free(folder: Path) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def fill(folder: Path, room: int) -> None:
    with open(folder / "filler", "wb") as file:
        file.write(bytes(max(0, free(folder) - room)))


def whole_of(job: Job, inputs: Path, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    log = folder.with_suffix(".log")
    ended = finish(start(job.command(inputs, folder), log), log)
    assert ended.code == 0, ended.stderr
    return outputs_of(folder)


def check(name: str, job: Job, inputs: Path, place: Path, expected: dict[str, bytes], share: float) -> dict[str, str]:
    """Faults of one kind of output where there is room for this share of it; key -> what happens."""
    log = place.with_suffix(".log")
    size = sum(-(-len(content) // PAGE) * PAGE for content in expected.values())
    with small_disk(place, size + (1 << 20)) as disk:
        for path in expected:
            (disk / path).parent.mkdir(parents=True, exist_ok=True)
            (disk / path).write_bytes(OLDER)
        fill(disk, int(size * share) // PAGE * PAGE)
        ended = finish(start(job.command(inputs, disk), log), log)
        found = {path: content for path, content in outputs_of(disk).items() if path != "filler"}
    return dict(judge(name, ended.code, ended.stderr, found, expected))


def judge(
    name: str, code: int, stderr: str, found: dict[str, bytes], expected: dict[str, bytes]
) -> Iterator[tuple[str, str]]:
    lines = [line for line in stderr.splitlines() if "warning:" not in line and not line.startswith("note:")]
    names = [Path(path).name for path in expected]
    if code == 0 and found == expected:
        return  # there was room: pages of older results became free
    if code == 0:
        yield f"{name}: exit code 0", stderr[-200:]
    if "Traceback" in stderr or "unexpected" in stderr:
        yield f"{name}: traceback", stderr[-300:]
    elif not lines or (len(lines) > 1 and name != "batch"):
        yield f"{name}: {len(lines)} lines instead of a sentence", " / ".join(lines)[:300]
    elif not any(part in lines[0] for part in (*names, "are free in ")):  # found before the work: their folder
        yield f"{name}: the message names no file", lines[0][-200:]
    changed = [path for path, content in found.items() if path in expected and content not in (OLDER, expected[path])]
    if [path for path in changed if not path.endswith("summary.json")]:
        yield f"{name}: a result is neither the older one nor the new one", ", ".join(changed)[:200]
    lost = set(expected) - set(found)
    if lost:
        yield f"{name}: an older result is gone", ", ".join(sorted(lost))[:200]
    debris = [path for path in set(found) - set(expected) if not path.endswith(".partial")]
    if debris:
        yield f"{name}: something is left lying", ", ".join(sorted(debris))[:200]


def faults(names: list[str], shares: tuple[float, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        inputs = Path(place) / "inputs"
        inputs.mkdir()
        write_inputs(inputs, 400, 8)
        for number, name in enumerate(names):
            expected = whole_of(OUTPUTS[name], inputs, Path(place) / f"whole{number}")
            for share in shares:
                disk = Path(place) / f"disk{number}"
                for key, what in check(name, OUTPUTS[name], inputs, disk, expected, share).items():
                    found.setdefault(key, f"with room for {share:.0%}: {what}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, 0.2, 0.5, 0.9], help="room, of what is needed")
    parser.add_argument("--json", type=Path, help="file for the faults: key -> what happens")
    given = parser.parse_args()
    torch.set_num_threads(1)  # before anything starts a thread: runs are forked
    against = can_mount()
    if against:
        raise SystemExit(against)
    found = faults(list(OUTPUTS), tuple(given.shares))
    shares = ", ".join(f"{share:.0%}" for share in given.shares)
    print(f"{len(OUTPUTS)} kinds of outputs, each with room for {shares} of it")
    print(f"{len(found)} faults")
    for key, what in found.items():
        print(f"  {key}: {what}")
    print(known.report("full disks", found))
    if given.json:
        given.json.write_text(json.dumps({"inputs": len(OUTPUTS) * len(given.shares), "faults": found}, indent=1))


if __name__ == "__main__":
    main()
