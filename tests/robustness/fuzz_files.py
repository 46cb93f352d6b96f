"""Damaged files of every kind: a right number, one sentence, or a fault.

    python -m tests.robustness.fuzz_files --inputs 10000 --seed 0

prints counts by kind and outcome, and the faults with what reproduces them: `--only NUMBER ...` with the same seed.
Faults are: crash, hang (above 10 s), memory (1 GiB above the baseline), another exception than InputError (traceback),
a message that is no sentence, and a wrong number. "As the file says": the damage made another well-formed file.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

import tracin
from tests.robustness import known, pool
from tests.robustness.command_kinds import run_kinds, tracin_command
from tests.robustness.file_kinds import (
    ANY,
    Kind,
    NotFinite,
    checkpoint_kinds,
    resume_kinds,
    text_kinds,
    use_dictionary,
)  # fmt: skip
from tests.robustness.mutations import ARRAYS, BYTES, SAID, TEXT
from tests.robustness.objects import OBJECTS
from tests.robustness.special_files import SLOW, SPECIAL

Verdict = tuple[str, str, str]  # outcome, label, detail
SPECIAL_FROM = 1_000_000_000  # numbers of the special files
FAMILIES = {  # kinds that are read by the same code
    "checkpoints": (
        "pykeen state dict", "pykeen callback", "pykeen whole model", "pykeen training loop", "width stacked", "libkge",
        "older torch format", "own checkpoint", "pykeen folder",
    ),
    "partials": ("partial of top k", "partial of self-influence"),
    "batch outputs": ("batch output json", "batch output csv"),
}  # fmt: skip
NAMED = {"objects": OBJECTS, "bytes": BYTES, "text": TEXT, "pickle": SAID, "values": ARRAYS}
GROUPS = {mutation.__name__: group for group, mutations in NAMED.items() for mutation in mutations}


class Fuzz:
    """Inputs by number; the same number and seed are the same input."""

    def __init__(self, seed: int, kinds: list[Kind], folder: Path, fixtures: Path) -> None:
        self.seed, self.kinds, self.folder, self.fixtures = seed, kinds, folder, fixtures
        self.schedule = [kind for kind in kinds for _ in range(kind.weight)]
        Random(0).shuffle(self.schedule)
        self.checked: set[str] = set()  # kinds whose undamaged file this worker has read

    def kind(self, number: int) -> Kind:
        return self.schedule[number % len(self.schedule)]

    def choice(self, number: int) -> tuple[Kind, Random, Callable[[bytes, Random], bytes]]:
        kind, rng = self.kind(number), Random(f"{self.seed} {number}")
        return kind, rng, rng.choice(kind.mutations)

    def name(self, number: int) -> str:
        if number >= SPECIAL_FROM:
            return list(SPECIAL)[number - SPECIAL_FROM]
        kind, _, mutation = self.choice(number)
        return f"{kind.name}, {mutation.__name__}"

    def judge(self, number: int) -> Verdict:
        try:
            return self.judge_special(number) if number >= SPECIAL_FROM else self.judge_mutated(number)
        except Exception:
            return "harness", self.name(number), traceback.format_exc()

    def judge_mutated(self, number: int) -> Verdict:
        kind, rng, mutation = self.choice(number)
        path = self.folder / f"{os.getpid()}{kind.suffix}"
        if kind.name not in self.checked:
            path.write_bytes(kind.original)
            assert kind.use(path) == kind.expected(kind.original), f"the undamaged {kind.name} is not read right"
            self.checked.add(kind.name)
        data = mutation(kind.original, rng)
        path.write_bytes(data)
        outcome, detail, found = attempt(lambda: kind.use(path))
        label = self.name(number)
        if outcome != "right":
            return outcome, label, detail
        expected = kind.expected(data)
        if expected is ANY or found == expected:
            return "right", label, ""
        if mutation.__name__ in kind.said:
            return "as the file says", label, ""
        if isinstance(expected, list) and len(str(found)) < 200:
            return "wrong number", label, f"{found} instead of {expected}"
        what = "accepted, though no such file" if expected is None else "another result than of the undamaged file"
        return "wrong number", label, what

    def judge_special(self, number: int) -> Verdict:
        label = self.name(number)
        reader, make = SPECIAL[label]
        path = self.folder / f"{os.getpid()}.special"
        path.write_bytes(make())
        readers: dict[str, Callable[[], object]] = {
            "checkpoint": lambda: tracin.load_checkpoint(path),
            "dictionary": lambda: use_dictionary(path),
            "edge map": lambda: read_edge_map(self.fixtures, path),
            "triples": lambda: tracin.read_triples(
                path, {f"CHEBI:{i}": i for i in range(30)}, {f"predicate:{i}": i for i in range(4)}
            ),
        }
        outcome, detail, _ = attempt(readers[reader])
        return outcome, label, detail


def read_edge_map(fixtures: Path, path: Path) -> None:
    tracin_command(
        "run", "--model-path", fixtures / "models/pykeen_model_state_dict.pt", "--train", fixtures / "train.txt",
        "--entity-to-id", fixtures / "node_dict.txt", "--relation-to-id", fixtures / "rel_dict.txt",
        "--embedding-height", 8, "--embedding-width", 4, "--test", fixtures / "test.txt", "--top-k", 1,
        "--edge-map", path, "--output", path.with_suffix(".json"), "--threads", 1, "--quiet",
    )  # fmt: skip


def attempt(work: Callable[[], object]) -> tuple[str, str, object]:
    """Outcome, detail, and what came of it."""
    try:
        return "right", "", work()
    except tracin.InputError as error:
        wrong = pool.one_sentence(str(error))
        return ("message" if wrong else "refused"), wrong or str(error), None
    except NotFinite as error:
        return "not finite", str(error), None
    except MemoryError:
        return "memory", "MemoryError", None
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{f.filename.rpartition('python/')[2]}:{f.lineno}" for f in frames if "/tracin/" in f.filename]
        where = places[-1] if places else "?"
        return "traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:150]} ({where})", None


def all_kinds(fixtures: Path) -> list[Kind]:
    return [*checkpoint_kinds(fixtures), *text_kinds(fixtures), *resume_kinds(), *run_kinds(fixtures)]


def key_of(outcome: pool.Outcome) -> str:
    """Faults of one key are taken for one fault: of a kind of file, a group of mutations, an outcome, an exception."""
    error = f" {outcome.detail.partition(':')[0]}" if outcome.kind == "traceback" else ""
    if outcome.number >= SPECIAL_FROM:
        return f"{outcome.label}: {outcome.kind}{error}"
    kind, _, mutation = outcome.label.partition(", ")
    family = next((family for family, members in FAMILIES.items() if kind in members), kind)
    group = "" if outcome.kind in ("not finite", "message") else f", {GROUPS.get(mutation, mutation)}"
    return f"{family}{group}: {outcome.kind}{error}"


def numbers_of(start: int, inputs: int, special: bool, quick: bool) -> list[int]:
    names = [name for name in SPECIAL if special and not (quick and name in SLOW)]
    return [SPECIAL_FROM + list(SPECIAL).index(name) for name in names] + list(range(start, start + inputs))


def table(outcomes: list[pool.Outcome]) -> str:
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        group = "special" if outcome.number >= SPECIAL_FROM else outcome.label.partition(",")[0]
        counts.setdefault(group, Counter())[outcome.kind] += 1
    kinds = sorted({kind for counter in counts.values() for kind in counter})
    lines = [f"{'':26}" + "".join(f"{kind:>18}" for kind in kinds)]
    lines += [f"{group:26}" + "".join(f"{counts[group][kind]:18}" for kind in kinds) for group in sorted(counts)]
    total = sum(counts.values(), Counter())
    return "\n".join([*lines, f"{'all':26}" + "".join(f"{total[kind]:18}" for kind in kinds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of inputs, instead of these")
    parser.add_argument("--also", type=int, nargs="*", default=[], help="numbers of inputs, besides these")
    parser.add_argument("--quick", action="store_true", help="without the special files that take seconds")
    parser.add_argument("--no-special", action="store_true", help="mutated files only")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the faults: key -> number, detail")
    given = parser.parse_args()
    torch.set_num_threads(1)  # before anything starts a thread: workers are forked
    fixtures = Path(os.environ["TRACIN_FIXTURES"]).resolve()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(given.seed, all_kinds(fixtures), Path(folder), fixtures)
        numbers = numbers_of(given.start, given.inputs, not given.no_special, given.quick) + given.also
        numbers = list(dict.fromkeys(numbers)) if given.only is None else given.only
        outcomes = list(pool.run(numbers, fuzz.judge, fuzz.name, given.workers))
    seconds = time.monotonic() - begin
    faults: dict[str, list[pool.Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.number):
        if outcome.fault:
            faults.setdefault(key_of(outcome), []).append(outcome)
    print(table(outcomes))
    print(f"{len(outcomes)} inputs in {seconds:.0f} s, {len(outcomes) / seconds:.0f} a second; {len(faults)} faults")
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.seconds)[:5]:
        print(f"  slow: {outcome.label}, {outcome.kind}, {outcome.seconds:.1f} s")
    for key, group in faults.items():
        print(f"  {len(group):4} x {key}; --seed {given.seed} --only {group[0].number}: {group[0].detail}")
    print(known.report("files", {key: group[0].detail for key, group in faults.items()}))
    if given.json:
        told = {key: {"number": group[0].number, "detail": group[0].detail} for key, group in faults.items()}
        given.json.write_text(json.dumps({"inputs": len(outcomes), "faults": told}, indent=1))


if __name__ == "__main__":
    main()
