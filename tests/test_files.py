"""Files that are written whole or not at all, and places where none can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import tracin
from tracin.errors import InputError
from tracin.files import check_writable, locked, remove_parts, replacing, replacing_bytes, replacing_path
from tracin.results.frames import parquet_file


def text(path: Path, content: str) -> None:
    with replacing(path) as file:
        file.write(content)


def binary(path: Path, content: str) -> None:
    with replacing_bytes(path) as file:
        file.write(content.encode())


def by_path(path: Path, content: str) -> None:
    with replacing_path(path) as part:
        part.write_text(content)


def parquet(path: Path, content: str) -> None:
    with parquet_file(path) as write:
        for letter in content:
            write(pl.DataFrame({"text": [letter]}))


def checkpoint(path: Path, content: str) -> None:
    tracin.save_checkpoint(path, tracin.ConvE(3, 2, 9, embedding_height=3, embedding_width=3))


WRITERS = [text, binary, by_path, parquet, checkpoint]


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_stays_a_link_and_nothing_else_is_left(tmp_path: Path, write: Any) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_text("earlier")
    link.symlink_to(target)
    write(link, "new")
    assert link.is_symlink() and target.read_bytes() != b"earlier"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["target"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


@pytest.mark.parametrize("open_", [replacing, replacing_bytes, replacing_path, parquet_file])
@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt("lost")])
def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, open_: Any, error: BaseException) -> None:
    path = tmp_path / "out"
    path.write_text("earlier")
    opened: AbstractContextManager[Any] = open_(path)
    with pytest.raises(type(error), match="lost"), opened:
        assert path.read_text() == "earlier"
        raise error
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tracin.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as file: file.write('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    names = ["out[1].json", "other.json"]
    for name in names:
        (tmp_path / name).write_text("earlier")
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], env=environment)
    assert len(list(tmp_path.iterdir())) == 4
    remove_parts(tmp_path / "out[1].json")
    assert sum(path.name.startswith(".other.json.") for path in tmp_path.iterdir()) == 1
    assert len(list(tmp_path.iterdir())) == 3
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_what_others_write_and_what_is_the_user_s_stays(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".notes.part", ".notes.7.part", ".out.7.tracin-part.bak", "out.7.tracin-part")]
    for path in mine:
        path.touch()
    with replacing(tmp_path / "out") as file:
        file.write("half")
        remove_parts(tmp_path)
        file.write(" and half")
    assert (tmp_path / "out").read_text() == "half and half"
    assert sorted(tmp_path.iterdir()) == sorted([*mine, tmp_path / "out"])


@pytest.mark.parametrize("write", WRITERS)
def test_a_private_file_stays_private(tmp_path: Path, write: Any) -> None:
    (tmp_path / "out").touch(0o600)
    write(tmp_path / "out", "new")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600 and (tmp_path / "out").stat().st_size


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_named(tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises((OSError, InputError)) as raised:
        write(tmp_path / "out", "new")
    assert str(tmp_path / "out") in str(raised.value)
    assert "No space left on device; free some space or choose another place" in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [200, 236, 255])
def test_long_names(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("n" * length)
    check_writable(path)
    with locked(path):
        text(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="the name has 256 bytes, at most 255 are possible; shorten it"):
        check_writable(tmp_path / ("n" * 256))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_ends_with_its_process(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tracin.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=rf"another run \(process {other.pid}\) is working on .*out"), locked(path):
            pytest.fail("two have the lock")
        other.kill()
        other.wait()
        with locked(path):
            pass
    assert not [entry for entry in tmp_path.rglob("*") if entry != path]


def test_links_and_devices_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    target.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(target)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    for path in (link, fifo):
        check_writable(path)
        with replacing(path) as file:
            file.write("new")
    assert link.is_symlink() and target.read_text() == "new"
    assert fifo.is_fifo() and os.read(reader, 10) == b"new"
    os.close(reader)


@pytest.mark.slow
def test_standard_output_is_written_to_also_where_it_is_a_file(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom tracin.files import check_writable, replacing\n"
        "path = Path('/dev/stdout')\ncheck_writable(path)\nwith replacing(path) as file: file.write('{}')"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    piped = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (piped.stdout, piped.stderr) == ("{}", "")
    with open(tmp_path / "out", "w+") as file:
        subprocess.run(command, env=environment, stdout=file, check=True)
        assert file.read() == "{}"


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "none" / "out.json", "does not exist; create the folder"),
        (tmp_path / "file" / "out.json", "is a file, not a folder"),
        (tmp_path, "is a folder; name a file in it"),
    ):
        with pytest.raises(InputError, match=message):
            check_writable(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc, a folder that nobody can write to, does not exist")
def test_check_writable_tries_rather_than_asks() -> None:
    with pytest.raises(InputError, match="cannot write to /proc"):
        check_writable(Path("/proc/out.json"))
