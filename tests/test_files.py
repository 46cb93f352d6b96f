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
from tracin.files import check_writable, remove_parts, replacing, replacing_bytes, replacing_path
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
