"""Writes docs/api.md, the page of the Python interface, from its docstrings and signatures: python -m docs.api."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tracin

PAGE = Path(__file__).with_name("api.md")
ALSO = (
    "tracin.index.build",
    "tracin.sets.SetOptions",
    "tracin.sets.SmallestSet",
    "tracin.training.TrainingOptions",
)  # what public docstrings refer to
HEADINGS = ("Args", "Attributes", "Returns", "Raises", "Example", "Source")
HEADING = re.compile(rf"({'|'.join(HEADINGS)}):(?: (.*))?$")
ENTRY = re.compile(r"(\w+(?:, \w+)*): ")  # of Args and Attributes


def names() -> list[str]:
    """Dotted names of all that the page explains, in its order."""
    return [*(f"tracin.{name}" for name in tracin.__all__), *ALSO]


def page() -> str:
    parts = [
        "# Python interface",
        "Written by `python -m docs.api` from the docstrings. `import tracin` gives these names; arrays are PyTorch\n"
        "tensors, whose shapes stand in brackets. The flags of the commands are in [reference.md](reference.md).",
        "\n".join(f"- [`{name}`](#{anchor(name)}): {summary(named(name))}" for name in names()),
    ]
    for name in names():
        parts += section(name, named(name))
    return "\n\n".join(parts) + "\n"


def named(name: str) -> Any:
    return pkgutil.resolve_name(name) if name in ALSO else getattr(tracin, name.removeprefix("tracin."))


def anchor(name: str) -> str:
    return name.lower().replace(".", "")


def summary(item: Any) -> str:
    """The first sentence of its docstring, on one line."""
    first = " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.][.]) (?=[A-Z])", first)[0]


def section(name: str, item: Any) -> Iterator[str]:
    yield f"## {name}"
    short = name.rpartition(".")[2]
    if not inspect.isclass(item):
        yield from explained(f"```python\n{signature(item)}\n```", item)
        return
    head = fields(item) if dataclasses.is_dataclass(item) else initialiser(item)
    yield from explained(f"```python\n{head}\n```", item)
    for own, member in public_members(item):
        yield f"### {short}.{own}"
        text = signature(member.fget if isinstance(member, property) else member)
        if isinstance(member, property):
            text = text.removeprefix("def ").replace("() ->", ":")
        yield from explained(f"```python\n{text}\n```", member)


def public_members(item: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties that the class itself defines, in its order."""
    for own, member in vars(item).items():
        if not own.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield own, member


def signature(function: Any) -> str:
    """`def name(...) -> ...` as the source says it, shapes in comments included, without self."""
    source = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    text = "\n".join(line for line in lines if line.strip() != "self,")
    text = re.sub(r"\(self(, )?", "(", text)
    return re.sub(r":( *#.*)?$", lambda end: end[1] or "", text)


def initialiser(item: type) -> str:
    """How an object is made."""
    if "__init__" not in vars(item):
        bases = ", ".join(base.__name__ for base in item.__bases__)
        return f"class {item.__name__}({bases})"
    text = signature(vars(item)["__init__"]).removesuffix(" -> None")
    return text.replace("def __init__", f"class {item.__name__}", 1)


def fields(item: type) -> str:
    """The fields of a dataclass as the source says them, shapes in comments included."""
    source = textwrap.dedent(inspect.getsource(item))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.ClassDef)
    lines = source.splitlines()
    found = [lines[part.lineno - 1 : part.end_lineno] for part in node.body if isinstance(part, ast.AnnAssign)]
    return "\n".join([f"class {item.__name__}:", *(line for part in found for line in part)])


def explained(head: str, item: Any) -> Iterator[str]:
    """The head, then the docstring: its text as it is, its sections as lists and code."""
    yield head
    before, sections = divided(inspect.getdoc(item) or "")
    if before:
        yield before
    for heading, body in sections:
        yield f"**{heading}**" if heading != "Source" else f"**Source:** {joined(body)}"
        if heading in ("Args", "Attributes"):
            yield "\n".join(entries(body))
        elif heading == "Example":
            yield "```python\n" + "\n".join(body) + "\n```"
        elif heading != "Source":
            yield joined(body)


def divided(doc: str) -> tuple[str, list[tuple[str, list[str]]]]:
    """The text before the first section, and each section's heading and lines, not indented."""
    before: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    for line in doc.splitlines():
        heading = HEADING.match(line)
        if heading:
            sections.append((heading[1], [heading[2]] if heading[2] else []))
        elif sections:
            sections[-1][1].append(line)
        else:
            before.append(line)
    return escaped("\n".join(before).strip()), [
        (heading, textwrap.dedent("\n".join(body)).strip().splitlines()) for heading, body in sections
    ]


def entries(body: list[str]) -> Iterator[str]:
    """`name: text` lines and those that go on from them, as list items."""
    for item in re.split(r"\n(?=\S)", "\n".join(body)):
        found = ENTRY.match(item)
        assert found is not None, f"{item!r} is not `name: text`"
        yield f"- `{found[1]}`: {joined(item[found.end() :].splitlines())}"


def joined(body: list[str]) -> str:
    return escaped(" ".join(line.strip() for line in body))


def escaped(text: str) -> str:
    """Text for Markdown: < outside of code would begin a tag."""
    pieces = re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.M)
    return "".join(piece if index % 2 else piece.replace("<", "&lt;") for index, piece in enumerate(pieces))


if __name__ == "__main__":
    PAGE.write_text(page())
