"""W1 and W2 on a device, verified against float64 on the CPU before they are timed; then where the time goes.

    python -m bench.gpu_check.jobs cuda FOLDER [--quick]      # writes FOLDER/jobs.json, FOLDER/profile.txt

FB15k-237 and its trained ConvE where TRACIN_DATA and TRACIN_CHECKPOINTS lead to them, else a synthetic graph of its
shape.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cuda_model import GPUS, steps
from bench.graphs import Graph, load_fb15k237
from bench.jobs import FULL, QUICK, RATE, Sizes
from bench.limits import Work, work_of
from bench.measure import machine, measure
from bench.report import write_json
from bench.verify import Mismatch, reference_of, verify_top_k
from tracin import TracIn

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = {"float32": 1e-5, "mixed": 1e-2}  # -> error allowed of the worst test triple
BLOCKS = (4096, 16384)  # tried beside what is chosen
Row = dict[str, Any]


def predicted(work: Work, precision: str) -> dict[str, float]:
    """Seconds that the data-sheets allow (docs/cuda-performance.md), by GPU."""
    mixed = precision == "mixed"
    return {gpu.name: sum(step.seconds(gpu, mixed) for step in steps(work, mixed)) for gpu in GPUS}


def native(graph: Graph, precision: str, device: str, **options: Any) -> TracIn:
    return TracIn(graph.model, RATE, precision=precision, backend="native", device=device, progress=False, **options)


def w1(graph: Graph, sizes: Sizes, device: str) -> Iterator[Row]:
    """32,768 training by 100 test triples; the time includes the copy of the scores to the CPU."""
    train, test = graph.train[: sizes.w1_train], graph.test[: sizes.w1_test]
    reference, work = reference_of(graph.model, train, test, RATE), work_of(graph.model, train, test)
    for precision, tolerance in PRECISIONS.items():
        ti = native(graph, precision, device)
        error = reference.verify(ti.description, ti.influence(train, test), tolerance)
        timing, _ = measure(lambda ti=ti: ti.influence(train, test), sizes.repeats)  # type: ignore[misc]
        own, _ = measure(lambda ti=ti: ti.self_influence(train), sizes.repeats)  # type: ignore[misc]
        yield {
            "job": "W1",
            "runs": ti.description,
            "seconds": timing.median,
            "spread": timing.spread,
            "error": error,
            "self_influence_s": own.median,
            "predicted_s": predicted(work, precision),
        }


def w2(graph: Graph, sizes: Sizes, device: str) -> Iterator[Row]:
    """The top 10 of every test triple over all training triples."""
    train, test = graph.train[: sizes.w2_train], graph.test[: sizes.w2_test]
    checked = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: sizes.w2_checked]
    exact, work = reference_of(graph.model, train, test[checked], RATE).scores, work_of(graph.model, train, test)
    for precision, tolerance in PRECISIONS.items():
        ti = native(graph, precision, device)
        timing, top = measure(lambda ti=ti: ti.top_k(train, test), min(3, sizes.repeats))  # type: ignore[misc]
        error, overlap = verify_top_k(ti.description, top.indices[checked], top.scores[checked], exact, tolerance)
        yield {
            "job": "W2",
            "runs": ti.description,
            "seconds": timing.median,
            "spread": timing.spread,
            "error": error,
            "top_10_overlap": overlap,
            "predicted_s": predicted(work, precision),
        }


def variants(graph: Graph, sizes: Sizes, device: str) -> Iterator[Row]:
    """Other sizes of blocks, not verified again: how much the choice matters."""
    train, test = graph.train[: sizes.w2_train], graph.test[: sizes.w2_test]
    for precision in PRECISIONS:
        for block in BLOCKS:
            ti = native(graph, precision, device, batch_size=block)
            timing, _ = measure(lambda ti=ti: ti.top_k(train, test), 1)  # type: ignore[misc]
            yield {"job": "W2", "precision": precision, "block": block, "seconds": timing.best}


def profile(graph: Graph, sizes: Sizes, file: Path) -> Iterator[Row]:
    """Where a call's time goes, by the profiler: tables in a text file, and the kernels that take longest."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    def w1(ti: TracIn) -> Tensor:
        return ti.influence(graph.train[: sizes.w1_train], graph.test[: sizes.w1_test])

    def w2(ti: TracIn) -> Tensor:
        return ti.top_k(graph.train[: sizes.w2_train], graph.test[: sizes.w2_test]).scores

    file.write_text("")
    for job, precision in ((w1, "float32"), (w1, "mixed"), (w2, "float32"), (w2, "mixed")):
        ti = native(graph, precision, "cuda")
        job(ti)
        torch.cuda.synchronize()
        with profiled(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
            job(ti)
            torch.cuda.synchronize()
        averages = found.key_averages()
        with file.open("a") as out:
            for by in ("self_device_time_total", "self_cpu_time_total"):
                table = averages.table(sort_by=by, row_limit=30, max_name_column_width=80)
                out.write(f"##### {job.__name__} {precision}, by {by}\n{table}\n")
        for event in sorted(averages, key=lambda event: -event.self_device_time_total)[:24]:
            taken = round(event.self_device_time_total / 1e3, 3)
            name = re.sub(r"void |\(anonymous namespace\)::|tracin::cuda::", "", event.key)[:60]
            yield {"job": job.__name__, "precision": precision, "ms": taken, "calls": event.count, "name": name}


def folder_of(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def main() -> None:
    device, folder, sizes = sys.argv[1], Path(sys.argv[2]), QUICK if "--quick" in sys.argv else FULL
    graph, _ = load_fb15k237(folder_of("TRACIN_DATA"), folder_of("TRACIN_CHECKPOINTS"), ROOT / "build" / "bench")
    found: dict[str, Any] = {"graph": graph.source, "machine": machine(), "rows": [], "variants": [], "kernels": []}
    print(graph.source, flush=True)

    def keep(kind: str, row: Row) -> None:
        found[kind].append(row)
        write_json(folder / "jobs.json", found)
        print({key: value for key, value in row.items() if key != "predicted_s"}, flush=True)

    for job in (w1, w2):
        try:
            for row in job(graph, sizes, device):
                keep("rows", row)
        except Mismatch as wrong:  # what follows still tells how fast, and where the time goes
            found.setdefault("wrong", []).append(str(wrong))
            write_json(folder / "jobs.json", found)
            print(f"WRONG: {wrong}", flush=True)
    for row in variants(graph, sizes, device):
        keep("variants", row)
    if device == "cuda":
        for row in profile(graph, sizes, folder / "profile.txt"):
            keep("kernels", row)
    if "wrong" in found:
        sys.exit(1)


if __name__ == "__main__":
    main()
