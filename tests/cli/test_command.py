"""The command line as a whole: its commands, what `tracin info` says."""

from __future__ import annotations

import inspect
import os
import runpy
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

import tracin
from docs.reference import commands
from tracin.cli import main

SCRIPTS = Path(__file__).resolve().parents[2] / "python"


def test_info_says_what_runs() -> None:
    facts = tracin.info()
    assert set(facts) == {
        "version",
        "backend",
        "reason",
        "extension",
        "isa",
        "cuda",
        "cuda_backend",
        "cuda_reason",
        "threads",
        "torch",
    }
    assert facts["torch"] == torch.__version__ and facts["cuda"] == torch.cuda.is_available()
    assert (facts["backend"] == "native") == (facts["reason"] is None)
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0
    for text in (torch.__version__, f"backend {facts['backend']}", facts["reason"] or "fastest"):
        assert text in result.stdout


def test_no_arguments_show_help() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert all(name in result.stderr for name in ("run", "train", "info"))


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"tracin {tracin.__version__}\n")


def test_the_device_is_the_same_one_everywhere() -> None:
    options = {name: {option.name: option for option in command.params} for name, command in commands()}
    found = {name: of["device"].default for name, of in options.items() if "device" in of}
    assert set(found.values()) == {"auto"}
    assert {"audit", "batch", "explain", "explore", "run", "train"} <= set(found)
    for function in (tracin.TracIn.__init__, tracin.train):
        assert inspect.signature(function).parameters["device"].default == "auto"


@pytest.mark.parametrize(("script", "device"), [("run_tracin", "cpu"), ("batch_tracin_with_filtering", "auto")])
def test_the_scripts_keep_their_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, device: str
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    text = " ".join(capsys.readouterr().out.split())
    assert f"auto takes CUDA where there is some. [default: {device}]" in text


def test_every_output_has_a_short_flag() -> None:
    for name, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and option.name in ("output", "output_dir"):
                assert "-o" in option.opts, name


LOADED = """
import sys
from tracin.cli import main
try:
    main(["run", "--help"])
except SystemExit:
    print(*sorted(name for name in sys.modules if name.startswith("tracin.cli.")))
"""


@pytest.mark.slow
def test_a_command_imports_none_of_the_others() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("tracin.cli.") for name in done.stdout.splitlines()[-1].split()}
    of_an_index = {"index", "indexed"}  # which stands for model and triples
    assert loaded == {"command", "manifest", "options", "outputs", "run", "session"} | of_an_index
