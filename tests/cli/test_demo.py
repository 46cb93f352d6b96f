"""The demo with few epochs: what it prints is what it writes, and both are the influences of its own model."""

from __future__ import annotations

import csv
import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tracin.checkpoints.load import load_checkpoint
from tracin.cli.demo import SHOWN, demo
from tracin.influence.tracin import TracIn
from tracin.triples.read import read_triples


@pytest.mark.slow
def test_demo_prints_and_writes_its_influences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    threads = torch.get_num_threads()
    result = CliRunner().invoke(demo, ["--output", str(tmp_path), "--epochs", "3"])
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == threads

    checkpoint = load_checkpoint(tmp_path / "epoch_003.pt")
    entities, relations = checkpoint.entity_to_id, checkpoint.relation_to_id
    assert entities is not None and relations is not None
    folder = Path(str(resources.files("tracin") / "data" / "umls"))
    train, test = (read_triples(folder / f"{name}.txt.gz", entities, relations) for name in ("train", "test"))
    records = json.loads((tmp_path / "influences.json").read_text())
    assert len(records) == 4
    assert len({record["test_relation"] for record in records[:3]}) == 3
    for record in records:
        index = record["test_triple_index"]
        assert record["test_triple"] == test[index].tolist()
        assert f"{record['test_head_label']} --{record['test_relation_label']}->" in result.output
        scores = [item["influence"] for item in record["influences"]]
        dense = TracIn(checkpoint, backend="factored", device="cpu").influence(train, test[[index]])[0].sort().values
        expected = torch.cat([dense[:SHOWN], dense[-SHOWN:]])
        torch.testing.assert_close(torch.tensor(scores).sort().values, expected, rtol=1e-4, atol=1e-8)
        assert scores == sorted(scores, key=abs, reverse=True)
        for score in scores:
            assert f"{score:+.2e}" in result.output
        with open(tmp_path / f"influences_test_{index}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["TracInScore"]) for row in rows] == scores
        for path in (f"influences_test_{index}.csv", "influences.json", "epoch_003.pt"):
            assert f"wrote {tmp_path / path}" in result.output
    assert result.output.count("right tail ranked") == 4
