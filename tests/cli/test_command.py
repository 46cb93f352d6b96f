"""The command line as a whole: its commands, what `tracin info` says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

import tracin
from tracin.cli import main


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
    assert loaded == {"command", "options", "outputs", "run", "session"}
