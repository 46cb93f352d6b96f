"""The folder of an index: whole or not there, and refused where it is not as it was written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.robustness.fuzz_index import fuzz
from tracin.digests import CHECKSUM, sealed
from tracin.errors import InputError
from tracin.files import LOCK
from tracin.index import folder
from tracin.index.folder import MANIFEST, building, check_place, open_arrays, read_manifest

BUILDS = """
import sys, time, torch
from pathlib import Path
from tracin.index.folder import building
with building(Path(sys.argv[1])) as (writer, facts):
    for _ in range(int(sys.argv[3])):
        writer.add("values", torch.full((1000,), int(sys.argv[2])))
    facts["value"] = int(sys.argv[2])
    print("written", flush=True)
    time.sleep(float(sys.argv[4]))
"""


def write(directory: Path, value: int = 1) -> None:
    with building(directory) as (writer, facts):
        writer.add("values", torch.full((3, 2), value))
        writer.add("values", torch.full((1, 2), value))
        writer.add("none", torch.empty(0, 5))
        writer.add("one", torch.tensor(2.5, dtype=torch.float64))
        facts["value"] = value


def builder(directory: Path, value: int, blocks: int = 1, seconds: float = 0) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", BUILDS, str(directory), str(value), str(blocks), str(seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed_while_it_writes(directory: Path, blocks: int) -> None:
    with builder(directory, 1, blocks, seconds=60) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)


def test_arrays_come_back_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PIECE", 24)
    write(tmp_path / "a" / "index")
    manifest = read_manifest(tmp_path / "a" / "index")
    arrays = open_arrays(tmp_path / "a" / "index", manifest)
    assert (manifest["value"], len(manifest["arrays"]["values"]["crc32"])) == (1, 3)
    assert torch.equal(arrays["values"], torch.ones(4, 2, dtype=torch.int64))
    assert arrays["none"].shape == (0, 5)
    assert torch.equal(arrays["one"], torch.tensor(2.5, dtype=torch.float64))


def test_changes_in_memory_do_not_reach_the_files(tmp_path: Path) -> None:
    write(tmp_path)
    for _ in range(2):
        arrays = open_arrays(tmp_path, read_manifest(tmp_path))
        assert int(arrays["values"][0, 0]) == 1
        arrays["values"].fill_(7)


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="root may write anywhere")
def test_a_folder_may_be_moved_and_read_only(tmp_path: Path) -> None:
    write(tmp_path / "one")
    moved = (tmp_path / "one").rename(tmp_path / "two")
    (arrays,) = [each for each in moved.iterdir() if each.is_dir()]
    for path in (*arrays.iterdir(), arrays, moved / MANIFEST, moved):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert int(open_arrays(moved, read_manifest(moved))["values"].sum()) == 8
    finally:
        moved.chmod(0o755)
        arrays.chmod(0o755)


def test_a_new_index_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path)
    earlier = open_arrays(tmp_path, read_manifest(tmp_path))
    write(tmp_path, 2)
    assert read_manifest(tmp_path)["value"] == 2
    assert int(earlier["values"][0, 0]) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_build_leaves_what_was_there(tmp_path: Path) -> None:
    for before in ([], [3]):
        for value in before:
            write(tmp_path / "index", value)
        with pytest.raises(RuntimeError, match="stop"), building(tmp_path / "index") as (writer, _):
            writer.add("values", torch.ones(4))
            raise RuntimeError("stop")
        assert (tmp_path / "index").exists() == bool(before)
    assert read_manifest(tmp_path / "index")["value"] == 3
    assert len(list((tmp_path / "index").iterdir())) == 2


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.Writer, "add", full)
    with pytest.raises(OSError, match="free some space"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_opens(tmp_path: Path) -> None:
    killed_while_it_writes(tmp_path / "index", 3)
    with pytest.raises(InputError, match="not finished; build it again"):
        read_manifest(tmp_path / "index")
    write(tmp_path / "index", 5)
    assert sorted(path.name for path in (tmp_path / "index").iterdir())[1:] == [MANIFEST]
    killed_while_it_writes(tmp_path / "index", 1)
    assert int(open_arrays(tmp_path / "index", read_manifest(tmp_path / "index"))["values"].sum()) == 40


@pytest.mark.slow
def test_of_two_builds_one_wins_whole(tmp_path: Path) -> None:
    started = time.monotonic()
    both = [builder(tmp_path / "index", value, blocks=200, seconds=2) for value in (1, 2)]
    ended = [(each.wait(), each.communicate()[1]) for each in both]
    assert sorted(code for code, _ in ended) == [0, 1], ended
    ((_, told),) = [each for each in ended if each[0]]
    assert "is working on" in told or "cannot be made" in told
    value = 1 + [code for code, _ in ended].index(0)
    arrays = open_arrays(tmp_path / "index", read_manifest(tmp_path / "index"))
    assert torch.equal(arrays["values"], torch.full((200_000,), value))
    assert time.monotonic() - started < 60


def refused(directory: Path) -> str:
    with pytest.raises(InputError) as raised:
        open_arrays(directory, read_manifest(directory))
    assert str(directory) in str(raised.value)
    return str(raised.value)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    assert "does not exist; name the folder" in refused(tmp_path / "nowhere")
    assert f"has no {MANIFEST}" in refused(tmp_path)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")
    for text in ("", "{", "[]", '"x"', "[" * 10**5, "{}", "\xff", '{"format": 3}', "9" * 10**4):
        (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
        assert "is damaged" in (told := refused(tmp_path)) or "is not the manifest" in told


@pytest.mark.parametrize("version", [0, 2, 4, "3", None])
def test_another_version_is_refused(version: object, tmp_path: Path) -> None:
    write(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content[CHECKSUM]
    (tmp_path / MANIFEST).write_text(json.dumps(sealed(content | {"version": version})))
    assert f"of version {version!r}, this program reads 3; build it again" in refused(tmp_path)


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    write(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content[CHECKSUM]
    for change in ({"folder": ".."}, {"folder": "arrays-1-" + "0" * 16 + "/.."}, {"arrays": {"../x": {"bytes": 0}}}):
        (tmp_path / MANIFEST).write_text(json.dumps(sealed(content | change)))
        assert "names files elsewhere" in refused(tmp_path)


def test_an_index_is_not_built_over_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="has other files in it, such as 'thesis.tex'"):
        write(tmp_path)
    (tmp_path / "thesis.tex").rename(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_text('{"format": "another"}')
    with pytest.raises(InputError, match="has other files in it, such as 'manifest.json'"):
        write(tmp_path)
    with pytest.raises(InputError, match="is a file; name a folder"):
        check_place(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_text("{")  # a damaged manifest is replaced
    (tmp_path / LOCK).write_text("")
    write(tmp_path)
    assert read_manifest(tmp_path)["value"] == 1


def test_damaged_folders_are_refused_or_right() -> None:
    outcomes, faults = fuzz(40)
    assert faults == []
    assert outcomes["refused"] > 20
