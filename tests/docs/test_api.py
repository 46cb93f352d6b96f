"""docs/api.md is what the public docstrings say, and these say what a reader needs."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

import tracin
import tracin_ext
from docs.api import PAGE, divided, entries, named, names, page, public_members

ENTITIES, RELATIONS = 30, 5  # of the graph that the examples run on


def documented() -> Iterator[tuple[str, Any]]:
    """Public functions, classes and methods, by the name a user calls them."""
    for name in names():
        item = named(name)
        yield name.removeprefix("tracin."), item
        if inspect.isclass(item):
            for own, member in public_members(item):
                yield f"{item.__name__}.{own}", member


CASES = dict(documented())


def section(name: str, heading: str) -> list[str] | None:
    return dict(divided(inspect.getdoc(CASES[name]) or "")[1]).get(heading)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m docs.api"


def test_every_public_name_has_a_section() -> None:
    text = PAGE.read_text()
    assert all(f"\n## tracin.{name}\n" in text for name in tracin.__all__)


def test_links_to_sections_lead_there() -> None:
    text = PAGE.read_text()
    anchors = {title.lower().replace(".", "") for title in re.findall(r"^#+ (.+)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@pytest.mark.parametrize("name", CASES)
def test_every_public_thing_is_explained(name: str) -> None:
    doc = inspect.getdoc(CASES[name])
    assert doc and doc.split("\n\n")[0].rstrip().endswith("."), "its docstring begins with a sentence"


@pytest.mark.parametrize("name", [name for name in CASES if section(name, "Args") is not None])
def test_arguments_are_explained_all_and_in_order(name: str) -> None:
    explained = [
        argument for entry in entries(section(name, "Args") or []) for argument in entry.split("`")[1].split(", ")
    ]
    assert explained == [argument for argument in inspect.signature(CASES[name]).parameters if argument != "self"]


# from_pykeen's trains a model; examples/explain_pykeen_model.py does the same and is run.
OF_INDEXES = () if tracin_ext.status()["available"] else ("Index", "Index.top_k", "index.build")
RUN = [name for name in CASES if section(name, "Example") is not None and name not in ("from_pykeen", *OF_INDEXES)]


@pytest.fixture
def names_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What docstrings take as given: names, and files in the current folder."""
    monkeypatch.chdir(tmp_path)
    entities = {f"entity {i}": i for i in range(ENTITIES)}
    relations = {f"predicate:{i}": i for i in range(RELATIONS)}
    for name, labels in (("node_dict.txt", entities), ("rel_dict.txt", relations)):
        Path(name).write_text("".join(f"{label}\t{i}\n" for label, i in labels.items()))
    generator = torch.Generator().manual_seed(0)
    bounds = (ENTITIES, RELATIONS, ENTITIES)
    train = torch.stack([torch.randint(bound, (40,), generator=generator) for bound in bounds], 1)
    train[0] = torch.tensor([20, 3, 17])
    Path("train.txt").write_text("".join(f"entity {h}\tpredicate:{r}\tentity {t}\n" for h, r, t in train.tolist()))
    model = tracin.ConvE(ENTITIES, RELATIONS, 12, embedding_height=4, embedding_width=3, output_channels=2).eval()
    tracin.save_checkpoint("model.pt", model, entity_to_id=entities, relation_to_id=relations)
    if tracin_ext.status()["available"]:
        tracin.index.build(tracin.load_checkpoint("model.pt"), train, "my_index")
    public = {name: getattr(tracin, name) for name in tracin.__all__}
    return public | {
        "tracin": tracin, "torch": torch, "model": model, "checkpoint": tracin.load_checkpoint("model.pt"),
        "train": train, "test": train[:6].clone(), "triples": train, "entities": entities, "relations": relations,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:using the factored backend")
@pytest.mark.parametrize("name", RUN)
def test_examples_run_and_give_what_they_show(name: str, names_of_examples: dict[str, Any]) -> None:
    if name == "train":  # elsewhere the training triples
        names_of_examples["train"] = tracin.train
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(CASES[name]) or ""):
        code = ast.parse(example.source)
        last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
        with redirect_stdout(StringIO()) as printed:
            exec(compile(code, name, "exec"), names_of_examples)
            if last is not None:
                assert isinstance(last, ast.Expr)
                print(repr(eval(compile(ast.Expression(last.value), name, "eval"), names_of_examples)))
        if example.want and name != "info":  # which backend there is hangs on the machine
            assert printed.getvalue() == example.want
