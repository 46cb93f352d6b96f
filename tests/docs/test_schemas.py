"""The JSON outputs against the schemas in docs/schemas, of which the keywords used there are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.samples.jobs import write_job
from tracin.cli import main

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
KEYWORDS = {"$schema", "title", "type", "enum", "required", "properties", "additionalProperties", "items"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
OUTPUTS = {
    "test": ((), "out/out.json"),
    "per-triple": (("--output-per-triple", "--node-name-dict", "names.txt"), "out/tracin_test_1.json"),
    "single": (("--mode", "single", "--test-indices", "0", "1", "--top-k", "3"), "out/out.json"),
    "self": (("--mode", "self", "--node-name-dict", "names.txt"), "out/out.json"),
}


def check(value: Any, schema: dict[str, Any], place: str = "") -> None:
    assert set(schema) <= KEYWORDS, place
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    assert not kinds or any(isinstance(value, TYPES[kind]) and not isinstance(value, bool) for kind in kinds), place
    assert value in schema.get("enum", [value]), place
    if isinstance(value, dict):
        properties = schema["properties"]
        assert set(schema["required"]) <= set(value) <= set(properties) and not schema["additionalProperties"], place
        for key, item in value.items():
            check(item, properties[key], f"{place}/{key}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            check(item, schema["items"], f"{place}/{index}")


def schema_of(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_job(tmp_path, 60, 3)
    (tmp_path / "names.txt").write_text("a name\t1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_run(job: Path, name: str) -> None:
    more, output = OUTPUTS[name]
    files = ["--model-path", "model.pt", "--train", "train.txt", "--test", "test.txt", "--output", "out/out.json"]
    result = CliRunner().invoke(main, ["run", *files, *more])
    assert result.exit_code == 0, result.stderr
    content = json.loads((job / output).read_text())
    check(content, schema_of(name))
    first = content[0] if isinstance(content, list) else content
    assert first["run"]["training_triples"] == 60
    lines = (job / "train.txt").read_text().splitlines()
    records = {"test": lambda: content["results"][0]["top_influences"], "single": lambda: first["influences"]}
    for record in records.get(name, lambda: content if name == "self" else first["top_influences"])():
        prefix = "" if name == "self" else "train_"
        ids = [record[f"{prefix}{part}"] for part in ("head", "relation", "tail")]
        assert lines[record["index"]] == "e{}\tr{}\te{}".format(*ids)


@pytest.mark.parametrize("method", ["none", "pyg"])
def test_outputs_of_batch(job: Path, method: str) -> None:
    files = ["--model-path", "model.pt", "--train", "train.txt", "--test-triples", "test.txt", "--output-dir", "out"]
    CliRunner().invoke(main, ["batch", *files, "--filter-method", method, "--n-hops", "3", "--min-degree", "0"])
    outputs = list((job / "out").glob("*_tracin.json"))
    for path in outputs:
        check(json.loads(path.read_text()), schema_of("batch"))
    assert outputs


def test_what_is_not_of_the_schema_is_noticed() -> None:
    for wrong in ([{}], [{"head": 1}], {}, [{"head": 1.5, "relation": 0, "tail": 0, "self_influence": 1, "index": 0}]):
        with pytest.raises(AssertionError):
            check(wrong, schema_of("self"))
