"""`tracin run` as a script: `python run_tracin.py ...` in this folder, `python -m run_tracin ...` where installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("tracin_ext") is None:  # run from a source tree that is not installed
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from tracin.__main__ import start  # noqa: E402

if __name__ == "__main__":
    start("tracin.cli.run", "run", "run_tracin.py", device="cpu")
