"""The command `tracin replay`: runs the command of a manifest again, and compares what comes of it."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import torch

from tracin.cli.command import Command
from tracin.cli.manifest import (
    LEFT_OUT,
    OUTPUTS,
    VARYING,
    digest_of_output,
    digests,
    paths_in,
    read_manifest,
    versions,
)
from tracin.cli.options import FILE, Options, argument, flag, json_option, option, takes
from tracin.errors import InputError, quote
from tracin.files import is_device
from tracin.streams import say, show_text

COMMANDS = ("audit", "batch", "demo", "evaluate", "explain", "index", "run", "train")  # that have outputs
GOING_ON = ("resume", "skip_existing")  # flags that take over what is there; a replay does all of it again
LARGEST = 64 << 20  # bytes of JSON files that are compared value by value


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(Options):
    manifest: Path = argument(type=FILE)
    into: Path | None = option(
        "--output",
        "-o",
        type=FILE,
        help="New or empty folder that keeps what is written; without, it is compared only.",
    )
    folder: Path | None = option(
        "--folder",
        type=FILE,
        help="From which relative paths start.  [default: the folder that the command ran in, or this one]",
    )
    allow_changed: bool = flag("--allow-changed", help="Run it although inputs are not as they were.")
    as_json: bool = json_option()


@dataclass(frozen=True)
class Compared:
    """An output, as it was recorded and as it is written now.

    Args:
        path: of the output, as the manifest has it.
        same: bit for bit, or but for times.
        told: the same in words.
    """

    path: str
    same: bool
    told: str


@click.command("replay", cls=Command, context_settings={"max_content_width": 120})
@takes(ReplayOptions)
def replay(options: ReplayOptions) -> int:
    """Run the command of MANIFEST again, and say whether its outputs are the same. The exit code is 0 if so, else 1.

    MANIFEST is the file NAME.manifest.json beside an output NAME. The recorded outputs stay as they are: what is
    written now goes to a folder of its own, and is compared with the digests in the manifest.
    """
    manifest = read_manifest(options.manifest)
    check_into(options.into)
    kept = None if options.into is None else options.into.resolve()
    with within(folder_of(manifest, options.folder)), tempfile.TemporaryDirectory() as temporary:
        changes = list(changed(manifest))
        for line in changes:
            if not options.allow_changed:
                raise InputError(f"{line}; --allow-changed runs it all the same")
            say(f"note: {line}")
        for line in notes(manifest):
            say(f"note: {line}")
        target = Path(temporary) if kept is None else kept
        moved = run_again(manifest, target)
        found = [compared(path, digest, moved) for path, digest in manifest["outputs"].items()]
    same = all(each.same for each in found)
    if options.as_json:
        whole = {"command": manifest["command"], "same": same, "changed": changes, "outputs": list(map(asdict, found))}
        show_text(json.dumps(whole, indent=2))
    else:
        show_text(manifest["command"])
        show_text("\n".join(f"  {each.path}: {each.told}" for each in found))
        if kept is not None:
            show_text(f"what was written now is in {options.into}")
    return 0 if same else 1


def check_into(folder: Path | None) -> None:
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "has files in it" if folder.is_dir() else "is a file"
        raise InputError(f"--output {folder} {what}; name a new or an empty folder")


def folder_of(manifest: Mapping[str, Any], given: Path | None) -> Path:
    recorded = Path(manifest["folder"])
    if given is not None and not given.is_dir():
        raise InputError(f"--folder {given} is no folder; name the one from which the manifest's paths start")
    return given or (recorded if recorded.is_dir() else Path())


@contextmanager
def within(folder: Path) -> Iterator[None]:
    """In another working folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def changed(manifest: Mapping[str, Any]) -> Iterator[str]:
    """A line for each input that is not as it was.

    Raises:
        InputError: for one that is missing, or cannot be read again.
    """
    for name, recorded in manifest["inputs"].items():
        path = Path(name)
        if recorded is None:
            raise InputError(f"the input {name} was a stream, which cannot be read again; run it by hand, from a file")
        if not path.exists():
            raise InputError(
                f"the input {name} is missing in {Path.cwd()}; put it back, or name the folder from which paths start "
                "with --folder"
            )
        now = digests(path)
        if isinstance(recorded, str):
            if now != recorded:
                yield f"the input {name} is not as it was"
            continue
        files = now if isinstance(now, dict) else {}
        for file, digest in recorded.items():
            if files.get(file) != digest:
                yield f"{file} of the input {name} {'is not as it was' if file in files else 'is missing'}"


def notes(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What is otherwise than it was, and may lead to other results."""
    now = versions()
    other = [f"{name} {then}, now {now[name]}" for name, then in manifest["versions"].items() if then != now.get(name)]
    if other:
        yield f"it was written with {'; '.join(other)}"
    if manifest["threads"] != torch.get_num_threads() and "--threads" not in manifest["arguments"]:
        yield f"it was written by {manifest['threads']} threads, now {torch.get_num_threads()}"
    if manifest["ranks"] > 1:
        yield f"it was written by {manifest['ranks']} ranks, and runs in one process now"


def run_again(manifest: Mapping[str, Any], target: Path) -> dict[Path, Path]:
    """Runs the command with its outputs in `target`; what it prints on stdout is left out.

    Returns:
        The new place of the folder of each output.
    """
    command, arguments, name = command_of(manifest["arguments"])
    with command.make_context(name, arguments, default_map=manifest.get("defaults")) as ctx:
        named = [path for _, path in paths_in(ctx.params, (*OUTPUTS, "runs")) if not is_device(path) or path.is_dir()]
        folders = list(dict.fromkeys(path.resolve().parent for path in named))
        moved = {folder: target / str(place) if len(folders) > 1 else target for place, folder in enumerate(folders)}
        for folder in moved.values():
            folder.mkdir(parents=True, exist_ok=True)

        def elsewhere(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(elsewhere, value))
            if not isinstance(value, Path):
                return value
            whole = value.resolve()
            return moved[whole.parent] / whole.name if whole.parent in moved and value in named else Path(os.devnull)

        for each in (*OUTPUTS, "runs"):
            if each in ctx.params:
                ctx.params[each] = elsewhere(ctx.params[each])
        ctx.params.update({each: False for each in GOING_ON if ctx.params.get(each) is True})
        ctx.meta[LEFT_OUT] = True
        with redirect_stdout(io.StringIO()):
            try:
                command.invoke(ctx)
            except (SystemExit, click.exceptions.Exit) as error:
                if error.code if isinstance(error, SystemExit) else error.exit_code:
                    say("note: the command ended with an error code; what it wrote is compared")
    return moved


def command_of(arguments: list[str]) -> tuple[click.Command, list[str], str]:
    """The command, its own arguments, and its name."""
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"the manifest is of {quote(name)}; expected one of {', '.join(COMMANDS)}")
    command: click.Command = getattr(import_module(f"tracin.cli.{name}"), name)
    while isinstance(command, click.Group):
        name, *rest = rest
        inner = command.get_command(click.Context(command), name)
        if inner is None:
            raise InputError(f"this tracin has no command {quote(name)}")
        command = inner
    return command, rest, name


def compared(path: str, digest: str, moved: Mapping[Path, Path]) -> Compared:
    earlier = Path(path).resolve()
    now = next((moved[folder] / earlier.relative_to(folder) for folder in earlier.parents if folder in moved), None)
    if now is None or not now.is_file():
        return Compared(path, False, "is not written any more")
    if digest_of_output(now) == digest:
        return Compared(
            path,
            True,
            "the same, but for times and names of folders" if now.name in VARYING else "the same, bit for bit",
        )
    if not earlier.is_file() or digest_of_output(earlier) != digest:
        return Compared(path, False, "differs; the file that was written then is gone, or is not as it was")
    return Compared(path, False, f"differs{difference(earlier, now)}")


def difference(earlier: Path, now: Path) -> str:
    """Where two files differ first, of JSON."""
    if earlier.suffix.lower() != ".json" or earlier.stat().st_size > LARGEST:
        return ""
    try:
        place, then, found = next(_differing(*(json.loads(path.read_bytes()) for path in (earlier, now))))
    except (ValueError, RecursionError, StopIteration):
        return ""
    return f", first in {place or 'the whole'}: {quote(then)}, now {quote(found)}"


def _differing(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differing(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for row, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, f"{place}/{row}")
    elif one != other:
        yield place, one, other
