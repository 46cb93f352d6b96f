"""read_torch_file against torch.load where that reads, and hostile files in a process of limited memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from tests.samples.hostile_files import HOSTILE, write_hostile
from tracin.checkpoints.torch_files import read_torch_file
from tracin.cli import main
from tracin.errors import InputError
from tracin.safe_pickle import Foreign

FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip, protocol 5": {"pickle_protocol": 5},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, Tensor):
        return isinstance(ours, Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return type(ours) is type(theirs) and all(map(same, ours, theirs)) and len(ours) == len(theirs)
    return bool(ours == theirs)


@pytest.mark.parametrize("form", FORMATS)
def test_agrees_with_torch(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    content = {
        "dtypes": [(100 * torch.randn(5, 3)).to(dtype) for dtype in DTYPES],
        "views": [base, base.T, base[1:, ::2], base[2], base.view(-1)[7:9]],
        "odd": [torch.tensor(3), torch.empty(0, 4), torch.zeros(1, 1, 1), torch.nn.Parameter(torch.ones(2))],
        "state": OrderedDict(a=torch.ones(3)),
        "optimizer": {"state": {0: {"step": 3}}, "betas": (0.9, 0.99)},
        "text": ["x", None, True, 1.5, 2**70],
    }
    path = tmp_path / "m.pt"
    torch.save(content, path, **FORMATS[form])
    ours = read_torch_file(str(path))
    assert same(ours, torch.load(path, weights_only=False))
    base_, transposed, *_ = ours["views"]
    assert base_.untyped_storage().data_ptr() == transposed.untyped_storage().data_ptr()
    assert isinstance(ours["odd"][3], Tensor) and not ours["odd"][3].requires_grad
    ours["views"][0].zero_()  # writable memory
    assert transposed.abs().sum() == 0


def test_other_objects_are_records(tmp_path: Path) -> None:
    torch.save({"array": np.arange(3), "path": tmp_path, "sparse": torch.eye(2).to_sparse()}, tmp_path / "m.pt")
    content = read_torch_file(str(tmp_path / "m.pt"))
    assert {key: type(value) for key, value in content.items()} == dict.fromkeys(("array", "path", "sparse"), Foreign)


@pytest.mark.parametrize(
    "member, value, words",
    [
        ("byteorder", b"big", "big-endian"),
        ("constants.pkl", b"", "TorchScript"),
        ("data.pkl", b"hello", "truncated, damaged"),
        ("data/0", b"1234", "another size than the pickle claims"),
        ("data/0", None, "truncated, damaged"),
        ("data.pkl", None, "truncated, damaged"),
    ],
)
def test_changed_members(member: str, value: bytes | None, words: str, tmp_path: Path) -> None:
    torch.save({"x": torch.arange(4.0)}, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        members: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    members[f"m/{member}"] = value
    with zipfile.ZipFile(tmp_path / "changed.pt", "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    with pytest.raises(InputError, match=words):
        read_torch_file(str(tmp_path / "changed.pt"))


READ_ALL = """
import json, resource, sys
import tracin
from tracin import *  # the whole of it, before memory is limited

files, limit = json.loads(sys.argv[1]), int(sys.argv[2])
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
said = {}
for name in files:
    try:
        tracin.load_checkpoint(name)
        said[name] = "loaded"
    except tracin.InputError as error:
        said[name] = str(error)
print(json.dumps([said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
@pytest.mark.slow
def test_hostile_files_in_little_memory(tmp_path: Path) -> None:
    """One sentence each, nothing run, in 400 MB of address space; 10 GB and more are claimed."""
    expected = write_hostile(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert max(path.stat().st_size for path in before) < 5 << 20
    arguments = [sys.executable, "-c", READ_ALL, json.dumps(list(expected)), str(400 << 20)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, grown = json.loads(done.stdout)
    for name, words in expected.items():
        assert words in said[name] and said[name].startswith(name), said[name]
        assert "\n" not in said[name] and len(said[name]) < 400
    assert grown < 300 << 20
    assert sorted(tmp_path.iterdir()) == before, "a file's code was run"


@pytest.mark.parametrize("name", ["system.pt", "bomb.pt", "large tensor.pt"])
def test_hostile_files_stop_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, words = HOSTILE[name]
    write(tmp_path / name)
    for file, content in (("ids.txt", "a\t0\n"), ("train.txt", "a\ta\ta\n")):
        (tmp_path / file).write_text(content)
    flags = {
        "--model-path": name,
        "--train": "train.txt",
        "--test": "train.txt",
        "--entity-to-id": "ids.txt",
        "--relation-to-id": "ids.txt",
        "--output": "out.json",
    }
    result = CliRunner().invoke(main, ["run", *(part for flag in flags.items() for part in flag)])
    errors = [line for line in result.stderr.splitlines() if line.startswith("tracin: error: ")]
    assert result.exit_code == 1 and len(errors) == 1 and words in errors[0], result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "ids.txt", "train.txt"])
