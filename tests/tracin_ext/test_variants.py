"""The same scores from every instruction set that this processor can run, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tracin_ext
from tests.samples.models import pairs_of_triples, random_model
from tracin import TracIn

ROOT = Path(__file__).resolve().parents[2]
SCORES = """
import sys, torch, tracin
from tests.samples.models import pairs_of_triples, random_model
test, train = pairs_of_triples(300)
ti = tracin.TracIn(random_model(sys.argv[2]), backend="native")
torch.save((ti.description, ti.influence(train, test), ti.self_influence(train)), sys.argv[1])
"""


@pytest.mark.parametrize("variant", ["plain", "everything odd"])
@pytest.mark.parametrize("isa", tracin_ext.status()["isa_variants"])
@pytest.mark.slow
def test_scores_of_a_variant_are_those_of_float64(isa: str, variant: str, tmp_path: Path) -> None:
    environment = os.environ | {"TRACIN_CPU": isa, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")])}
    command = [sys.executable, "-c", SCORES, str(tmp_path / "scores.pt"), variant]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "processor can run" in process.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert process.returncode == 0, process.stderr
    description, scores, own = torch.load(tmp_path / "scores.pt")
    assert f"({isa})" in description
    test, train = pairs_of_triples(300)
    exact = TracIn(random_model(variant), backend="factored", precision="float64", device="cpu")
    expected = exact.influence(train, test)
    assert ((scores - expected).norm(dim=1) <= 1e-5 * expected.norm(dim=1)).all()
    assert (own - exact.self_influence(train)).norm() <= 1e-5 * own.norm()
