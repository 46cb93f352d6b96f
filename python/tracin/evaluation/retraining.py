"""Models trained anew without some of the training triples, and what they say about test triples.

Each trained model leaves one small file, written whole, with a digest of all that went into it: a run that was stopped
goes on, a damaged file is computed again, and a file of other triples or options is refused.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.digests import digest_of, intact, sealed
from tracin.errors import InputError
from tracin.evaluation.graph import Graph, Recipe
from tracin.evaluation.outcomes import Outcomes, outcomes
from tracin.files import locked, remove_parts, replacing
from tracin.progress import progress_stages
from tracin.streams import say
from tracin.training.loop import train

ENDING = ".json"


@dataclass(frozen=True)
class Job:
    """One model to train.

    Args:
        name: of its file.
        kept: [k] int64, the training triples that it sees, by index, ascending.
        seed: of initial weights, order and dropout.
        queries: [q, 3] the triples that it is asked about.
    """

    name: str
    kept: Tensor
    seed: int
    queries: Tensor


def half_subsets(
    n: int,
    number: int,
    seed: int,
    share: float = 0.5,
) -> Tensor:  # [number, max(1, share n)] int64
    """Random subsets of n training triples, each ascending; subset i depends on seed and i alone.

    Example:
        >>> half_subsets(4, 2, seed=0).shape
        torch.Size([2, 2])
    """
    if not 0 < share < 1:
        raise InputError(f"share is {share}; expected a number between 0 and 1")
    size = max(1, round(share * n))
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=generator)[:size].sort().values for _ in range(number)])


def retrain(
    graph: Graph,
    recipe: Recipe,
    jobs: Sequence[Job],
    folder: Path,
    *,
    processes: int = 1,
    progress: bool | None = None,
) -> list[Outcomes]:
    """Trains a model for each job that has no result in the folder yet; each on one thread.

    Args:
        graph: the triples; rankings are filtered by all of them, whatever a job left out.
        recipe: how each model is trained.
        jobs: what to train, under different names.
        folder: where results are kept, one file a job; created if missing.
        processes: how many models are trained at a time. Results do not depend on it.
        progress: whether to show progress on stderr; None shows it on a terminal.

    Returns:
        The outcomes of each job's queries, in the order of the jobs.

    Raises:
        InputError: if a result in the folder is that of other triples or options, if training diverges, or if a
            process ends without an answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done: dict[str, Outcomes] = {}
    with locked(folder):
        remove_parts(folder)
        missing = []
        for job in jobs:
            result = read_result(folder, graph, recipe, job)
            if result is None:
                missing.append(job)
            else:
                done[job.name] = result
        with progress_stages(progress) as stage:
            advance = stage("retraining", len(jobs), "models", len(done))
            advance(0)
            with _trained(graph, recipe, missing, min(processes, len(missing))) as results:
                for job, result in results:
                    _write_result(folder, graph, recipe, job, result)
                    done[job.name] = result
                    advance(1)
    return [done[job.name] for job in jobs]


@contextmanager
def _trained(
    graph: Graph, recipe: Recipe, jobs: Sequence[Job], processes: int
) -> Iterator[Iterator[tuple[Job, Outcomes]]]:
    """The jobs with their results, as they are done."""
    if processes <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield ((job, _outcomes_of(graph, recipe, job)) for job in jobs)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin)
    try:
        futures = {pool.submit(_outcomes_of, graph, recipe, job): job for job in jobs}
        yield ((futures[future], future.result()) for future in as_completed(futures))
    except BrokenProcessPool:
        raise InputError(
            "a process that trained a model ended without an answer (out of memory?); what is finished is kept: "
            "start again with fewer processes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a process of the pool: on one thread, and not longer than the process that wants its results."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcomes_of(graph: Graph, recipe: Recipe, job: Job) -> Outcomes:
    trained = train(
        graph.train[job.kept],
        num_entities=graph.num_entities,
        num_relations=graph.num_relations,
        epochs=recipe.epochs,
        device="cpu",
        progress=False,
        **asdict(recipe.seeded(job.seed)),
    )
    return outcomes(trained.model, job.queries, graph.known)


def inputs_of(graph: Graph, recipe: Recipe, job: Job) -> str:
    """Digest of all that decides a job's result."""
    return digest_of([graph.digest, recipe.epochs, asdict(recipe.seeded(job.seed)), job.kept, job.queries])


def _write_result(folder: Path, graph: Graph, recipe: Recipe, job: Job, result: Outcomes) -> None:
    values = {name: values.tolist() for name, values in vars(result).items()}
    content = sealed({"job": job.name, "inputs": inputs_of(graph, recipe, job), **values})
    with replacing(folder / f"{job.name}{ENDING}") as file:
        json.dump(content, file)


def read_sealed(path: Path, then: str) -> dict[str, Any] | None:
    """A sealed JSON file; None if there is none, or none whole, which is said with what happens then."""
    try:
        content: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not intact(content):
        say(f"tracin: warning: {path} is damaged; {then}")
        return None
    return content


def read_result(folder: Path, graph: Graph, recipe: Recipe, job: Job) -> Outcomes | None:
    """What an earlier run found; None if there is nothing, or nothing whole, which is said.

    Raises:
        InputError: if it is the result of other triples or options.
    """
    path = folder / f"{job.name}{ENDING}"
    content = read_sealed(path, "that model is trained again")
    if content is None:
        return None
    if content["inputs"] != inputs_of(graph, recipe, job):
        raise InputError(f"{path} is the result of other triples or training options; name another folder")
    return Outcomes(**{name: torch.tensor(content[name], dtype=torch.float64) for name in ("margin", "ce", "rank")})
