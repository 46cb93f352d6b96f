"""Outputs that are read back: the JSON file of one test triple, which says what made it and whether it is whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tracin.digests import CHECKSUM, DIGEST
from tracin.files import replacing_bytes
from tracin.results.writers import Form, Influences, encode, finite, single_record
from tracin.triples.labels import Labels

NO_CHECKSUM = DIGEST + "0" * 64  # what stands for a file's checksum while it is computed
END = 1 << 14  # bytes at the end of a file that hold all of `run`
RUN = b'"run": '


def write_sealed(path: Path, result: Influences, labels: Labels, form: Form) -> None:
    """The file of one test triple as `write_single` writes it, whose `run` ends with a checksum of the whole file."""
    run = {**(form.run or {}), CHECKSUM: NO_CHECKSUM}
    (checked,) = finite([result])
    state = hashlib.sha256()
    with replacing_bytes(path) as file:
        for text in encode([single_record(checked, labels) | {"run": run}]):
            data = text.encode()
            state.update(data)
            file.write(data)
        size = file.tell()
        file.seek(max(0, size - END))
        file.seek(max(0, size - END) + file.read().rindex(NO_CHECKSUM.encode()))
        file.write((DIGEST + state.hexdigest()).encode())


def read_seal(path: Path) -> dict[str, Any] | None:
    """The `run` of a file that `write_sealed` wrote; None if the file is not as it was written."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        left = max(0, path.stat().st_size - END)
        while left and (some := file.read(min(left, 1 << 20))):
            state.update(some)
            left -= len(some)
        end = file.read()
    start = end.rfind(RUN)
    try:
        run = json.JSONDecoder().raw_decode(end[start + len(RUN) :].decode())[0] if start >= 0 else None
    except ValueError:
        return None
    checksum = run.pop(CHECKSUM, None) if isinstance(run, dict) else None
    if not isinstance(checksum, str):
        return None
    before, after = end[: end.rindex(checksum.encode())], end[end.rindex(checksum.encode()) + len(checksum.encode()) :]
    state.update(before + NO_CHECKSUM.encode() + after)
    return run if checksum == DIGEST + state.hexdigest() else None
