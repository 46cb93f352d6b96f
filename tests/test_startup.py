"""A library that is loaded when it is first used."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tracin.startup import load_later, seconds, timed

SOURCE = "import sys\nvalue = 3\nloaded = sys.modules[__name__]\n"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that can be imported, and a module in it."""
    folder = tmp_path / "slow_library"
    folder.mkdir()
    (folder / "__init__.py").write_text(SOURCE)
    (folder / "part.py").write_text("from slow_library import value\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("slow_library", "slow_library.part"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "slow_library"


def test_a_module_is_executed_at_its_first_use(library: str) -> None:
    load_later(library)
    later = import_module(library)
    assert "value" not in vars(later)
    assert inspect.getmodule(test_a_module_is_executed_at_its_first_use) is not None  # looks at all modules
    assert sys.modules[library] is later
    assert later.value == 3
    assert sys.modules[library] is later.loaded is not later
    assert later.__path__ and import_module(f"{library}.part").value == 3
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = later.other


def test_a_part_of_it_is_imported_as_usual(library: str) -> None:
    load_later(library)
    assert import_module(f"{library}.part").value == 3
    assert import_module(library).value == 3


def test_what_is_loaded_or_not_there_is_left_alone(library: str) -> None:
    loaded = import_module(library)
    load_later(library)
    assert sys.modules[library] is loaded
    load_later("there_is_no_such_library")
    assert "there_is_no_such_library" not in sys.modules


def test_stages_are_timed() -> None:
    with pytest.raises(ValueError, match="stop"), timed("a stage"):
        raise ValueError("stop")
    assert seconds.pop("a stage") >= 0
