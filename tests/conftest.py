"""Fixtures that lead to the test data, named by environment variables; a test without its data is visibly skipped."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.samples.small_graph import Graph, write_graph

os.environ["TRACIN_FILL"] = "nan"  # buffers of the native extension are NaN until something is written
DATA_FIXTURES = {"data_dir", "checkpoints_dir", "fixtures_dir", "fb15k237"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the data fixtures have the marker `data`."""
    for item in items:
        if DATA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("data")


def _folder(variable: str) -> Path:
    """The folder that the environment variable names; skips the test if unset, fails it if there is no such folder."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"the environment variable {variable} is not set")
    folder = Path(value).resolve()
    assert folder.is_dir(), f"{variable}={value} is not a folder"
    return folder


@pytest.fixture(scope="session", autouse=True)
def pykeen_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """PyKEEN, once imported, leaves the home directory alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSTOW_HOME", str(tmp_path_factory.getbasetemp() / "pystow"))
        patch.setenv("PYKEEN_HOME", str(tmp_path_factory.getbasetemp() / "pykeen"))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """TRACIN_DATA: data sets, each packed as <name>.tar.gz."""
    return _folder("TRACIN_DATA")


@pytest.fixture(scope="session")
def checkpoints_dir() -> Path:
    """TRACIN_CHECKPOINTS: a folder of checkpoints and dictionaries per data set."""
    return _folder("TRACIN_CHECKPOINTS")


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """TRACIN_FIXTURES: a graph of 123 training triples, models in every format, expected outputs."""
    return _folder("TRACIN_FIXTURES")


@pytest.fixture(scope="session")
def fb15k237(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt, valid.txt and test.txt of FB15k-237, as published (train.txt ends its lines in CRLF)."""
    folder = tmp_path_factory.mktemp("fb15k-237")
    with tarfile.open(data_dir / "FB15k-237.tar.gz") as archive:
        for member in archive.getmembers():
            name = Path(member.name).name
            source = archive.extractfile(member) if name in {"train.txt", "valid.txt", "test.txt"} else None
            if source is not None:
                (folder / name).write_bytes(source.read())
    missing = {"train.txt", "valid.txt", "test.txt"} - {path.name for path in folder.iterdir()}
    assert not missing, f"FB15k-237.tar.gz lacks {sorted(missing)}"
    return folder


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """A folder with a random model and graph, and the same in memory."""
    return write_graph(tmp_path)
