"""The scripts of examples/ run, and what they print is what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples"
SCRIPTS = {"explain_pykeen_model", "find_wrong_triples", "biomedical_graph"}

pytestmark = pytest.mark.slow


def printed(name: str) -> str:
    """What `python examples/<name>.py` prints, run on this tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")])}
    result = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")], capture_output=True, text=True, env=environment, timeout=240
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def answers(text: str) -> dict[tuple[str, ...], list[tuple[float, tuple[str, ...]]]]:
    """Explained triple -> scores and training triples, from lines `a r b, because` and `  +1.0e-02 ... c s d`."""
    found: dict[tuple[str, ...], list[tuple[float, tuple[str, ...]]]] = {}
    for line in text.splitlines():
        if line.endswith(", because"):
            rows = found.setdefault(tuple(line.removesuffix(", because").split()), [])
        elif row := re.match(r"  ([+-]\S+) .* (\S+) (\S+) (\S+)$", line):
            rows.append((float(row[1]), row.group(2, 3, 4)))
    return found


def test_each_script_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == SCRIPTS


def test_pykeen_predictions_are_explained_by_training_triples() -> None:
    training = pytest.importorskip("pykeen.datasets").Nations().training
    known = {tuple(triple) for triple in training.triples.tolist()}
    found = answers(printed("explain_pykeen_model"))
    assert len(found) == 3
    for predicted, rows in found.items():
        assert predicted not in known
        assert len(rows) == 3 and all(triple in known for _, triple in rows)
        scores = [score for score, _ in rows]
        assert scores == sorted(scores, reverse=True)


def test_wrong_triples_are_found() -> None:
    text = printed("find_wrong_triples")
    shares = {name: int(share) / 100 for name, share in re.findall(r"^  (\S+) +(\d+)%$", text, re.M)}
    assert shares["chance"] == 0.05
    assert shares["self-influence"] >= 0.5 and shares["loss"] >= 0.5
    verdicts = re.findall(r"^(wrong|right)  \S+  \S+ \S+ \S+$", text, re.M)
    assert len(verdicts) == 8 and verdicts.count("wrong") >= 6


def test_a_drug_is_explained_by_its_pathway() -> None:
    found = answers(printed("biomedical_graph"))
    assert len(found) == 3
    for (drug, relation, disease), rows in found.items():
        assert relation == "treats" and len(rows) == 5
        pathway = drug.split(":")[1].split(".")[0]
        assert disease.startswith(f"disease:{pathway}.")
        near = [head.split(":")[1].startswith(f"{pathway}.") for _, (head, _, _) in rows]
        assert sum(near) >= 4
