"""A manifest beside every output: what was run, on what and with what, and what came of it.

It is a JSON file NAME.manifest.json beside the output NAME, be that a file or a folder, and is written last: an output
without one is of a command that was stopped, or of --no-manifest. From it `tracin replay` runs the command again.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import torch

from tracin.digests import digest_bytes, digest_file, intact, sealed
from tracin.distributed.ranks import Ranks
from tracin.errors import InputError, quote
from tracin.files import is_device, replacing, watched
from tracin.index.folder import MANIFEST as OF_AN_INDEX
from tracin.machine import version
from tracin.streams import say

ENDING = ".manifest.json"
FORMAT, VERSION = "tracin-manifest", 1
OUTPUTS = ("output", "csv_output", "output_dir", "plot")  # names of options: what the command writes
WRITTEN = (*OUTPUTS, "runs", "cache")  # that are no inputs
ARGUMENTS = "tracin.arguments"  # in Context.meta: the command's name and arguments, from which it can be started again
LEFT_OUT = "tracin.no_manifest"  # in Context.meta
# Of files of these names, what tells the time or the process that wrote them, and the checksum of that.
VARYING = {
    "batch_tracin_summary.json": re.compile(rb'"elapsed_time_\w+": [^\n]*'),
    OF_AN_INDEX: re.compile(rb'"arrays-\d+-[0-9a-f]{16}"|"checksum": "[^"]*"'),
}

no_manifest_option = click.Option(
    ["--no-manifest"],
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, param, value: ctx.meta.update({LEFT_OUT: value}),
    help=f"Write no NAME{ENDING} beside the outputs, from which tracin replay could run this again.",
)


def manifest_of(output: Path) -> Path:
    """Where the manifest of an output is."""
    whole = output.resolve()
    return whole.parent / (whole.name + ENDING)


@contextmanager
def manifested(ctx: click.Context, ranks: Ranks) -> Iterator[None]:
    """Around a command: writes the manifests of its outputs, by rank 0, once all of them are there.

    Those of earlier outputs go when the first of the new ones takes its place.
    """
    named = [path for _, path in paths_in(ctx.params, OUTPUTS) if not is_device(path) or path.is_dir()]
    if not named or ranks.rank:
        yield
        return
    given = [path for _, path in paths_in(ctx.params) if path.exists()]
    manifests = {path.resolve(): manifest_of(path) for path in named}
    for place in manifests.values():
        if any(path.resolve() == place for path in given):
            raise InputError(f"{place} is an input, and the manifest of an output would be written there; rename it")
    before = {path: _changed_at(path) for path in given}
    written: dict[Path, None] = {}

    def replaced(target: Path) -> None:
        written[target] = None
        for place in manifests.values():
            with suppress(OSError):
                place.unlink()

    started, start, ended = datetime.now(timezone.utc), time.perf_counter(), None
    with watched(replaced):
        try:
            yield
        except (SystemExit, click.exceptions.Exit) as error:
            ended = error
    present = [path for path in written if path.is_file()]
    if present and not ctx.meta.get(LEFT_OUT):
        seconds = time.perf_counter() - start
        for path in given:
            if _changed_at(path) != before[path]:
                say(f"note: {path} changed while the command ran; the manifest tells what it is now")
        content = {
            "format": FORMAT,
            "version": VERSION,
            **command_line(ctx),
            "folder": os.getcwd(),
            "versions": versions(),
            "seeds": {name: value for name, value in ctx.params.items() if name == "seed"},
            "ranks": ranks.size,
            "threads": torch.get_num_threads(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "inputs": {os.fspath(path): digests(path, written, manifests) for path in given},
            "outputs": {_shown(path): digest_of_output(path) for path in present},
        }
        for place in manifests.values():
            try:
                with replacing(place) as file:
                    json.dump(sealed(content), file, indent=1)
                    file.write("\n")
            except OSError as error:
                say(f"note: there is no manifest {place} ({error.strerror}); the outputs are whole")
    if ended is not None:
        raise ended


def paths_in(params: Mapping[str, Any], names: Iterable[str] | None = None) -> Iterator[tuple[str, Path]]:
    """The paths among a command's parameters: those of the names, or, without any, those that it reads."""
    for name, value in params.items():
        if (name not in WRITTEN) if names is None else (name in names):
            yield from ((name, path) for path in (value if isinstance(value, tuple) else (value,)) if _is_path(path))


def _is_path(value: object) -> bool:
    return isinstance(value, Path)


def command_line(ctx: click.Context) -> dict[str, Any]:
    """The command's name and arguments as given, and its defaults where a script has others."""
    names: list[str] = []
    each: click.Context | None = ctx
    while each is not None and (each.parent is not None or not isinstance(each.command, click.Group)):
        names.insert(0, str(each.command.name))
        each = each.parent
    arguments = [*names, *ctx.meta[ARGUMENTS][1:]]
    defaults = {"defaults": dict(ctx.default_map)} if ctx.default_map else {}
    return {"command": shlex.join(["tracin", *arguments]), "arguments": arguments, **defaults}


def versions() -> dict[str, str]:
    return {
        "tracin": version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def digests(path: Path, written: Iterable[Path] = (), outputs: Iterable[Path] = ()) -> None | str | dict[str, str]:
    """Of an input: of a folder those of its files; None of a stream, which cannot be read twice.

    Left out are hidden files, manifests, and what the command itself has written there.
    """
    if not path.is_dir():
        return None if is_device(path) else digest_file(path)
    if (path / OF_AN_INDEX).is_file():  # which has the checksums of all else in the folder
        return {OF_AN_INDEX: digest_file(path / OF_AN_INDEX)}
    own, folders = set(written), {folder for folder in outputs if folder.is_dir()}
    found = {}
    for file in sorted(path.rglob("*")):
        relative, whole = file.relative_to(path), file.resolve()
        hidden = any(part.startswith(".") for part in relative.parts) or file.name.endswith(ENDING)
        if file.is_file() and not hidden and whole not in own and not folders & set(whole.parents):
            found[relative.as_posix()] = digest_file(file)
    return found


def digest_of_output(path: Path) -> str:
    """Of its bytes, but for what tells the time or the process."""
    varying = VARYING.get(path.name)
    return digest_file(path) if varying is None else digest_bytes(varying.sub(b"", path.read_bytes()))


def _changed_at(path: Path) -> object:
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _shown(path: Path) -> str:
    """From the working folder on, where it is in it."""
    with suppress(ValueError):
        return os.fspath(path.relative_to(Path.cwd().resolve()))
    return os.fspath(path)


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of a manifest.

    Raises:
        InputError: if it is none, of another version, or not as it was written.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not the manifest of an output; name the file NAME{ENDING} beside the output NAME")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} is a manifest of version {quote(content.get('version'))}, this program reads {VERSION}; replay it "
            "with the tracin that wrote it"
        )
    if not intact(content):
        raise InputError(f"{path} is not as it was written; run its command by hand: {quote(content.get('command'))}")
    return content
