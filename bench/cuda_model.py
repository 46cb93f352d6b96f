"""Writes docs/cuda-performance.md: what the CUDA ops move and compute, and the time that public ceilings allow for it.

    python -m bench.cuda_model

Predictions stand beside what `bench.gpu_check` measured, in results/gpu-*.json. A step's time is the larger of
FLOPs / peak rate and bytes / peak bandwidth; steps add up. Sizes of the jobs are those of results/w1.json, w2.json,
w3.json; registers are the compiler's (needs nvcc).

Sizes: B training triples, G distinct (head, relation), Q tests, D embedding, F features, C channels, J taps,
P = F / C positions, S = C (J + 1) statistics.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.cuda_questions import sections
from bench.limits import Work
from tracin.influence.memory import GPU_BLOCK_BYTES, MAX_BLOCK, WHOLE_BLOCK

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "cuda-performance.md"
REAL, ID = 4, 4  # bytes of a float32, of an index
THREADS, WARP = 256, 32  # of a block of threads, as csrc/cuda/launch.h sets them
CHECKS = ("tests", "memcheck", "racecheck", "initcheck", "synccheck")  # steps of bench.gpu_check
JOBS = {"w1": "W1", "w2": "W2", "w3": "W3"}


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a data-sheet, without sparsity, and what a multiprocessor holds."""

    name: str
    architecture: str
    float32: float  # FLOP/s
    bfloat16: float
    bandwidth: float  # bytes/s
    shared: int  # bytes of shared memory of a multiprocessor


GPUS = (
    Gpu("A100 SXM", "sm_80", 19.5e12, 312e12, 2.039e12, 164 << 10),
    Gpu("H100 SXM", "sm_90", 66.9e12, 989e12, 3.35e12, 228 << 10),
    Gpu("H200 SXM", "sm_90", 66.9e12, 989e12, 4.8e12, 228 << 10),
    Gpu("B200", "sm_100", 75e12, 2250e12, 7.7e12, 228 << 10),
)
REGISTERS, RESIDENT, BLOCKS = 65536, 2048, 32  # of a multiprocessor: registers, threads, blocks of threads
REPORT = ("-Werror=all-warnings", "-Xptxas=-v,-warn-spills")  # a spill is an error, as in the build
RESERVED = 1 << 10  # shared memory that the system takes of each block of threads


@dataclass(frozen=True)
class Step:
    """A kernel or a product, over a whole job."""

    name: str
    flops: float
    bytes: float
    product: bool = False
    narrow: bool = False  # in bfloat16 in mixed precision

    def seconds(self, gpu: Gpu, mixed: bool) -> float:
        rate = gpu.bfloat16 if mixed and self.narrow else gpu.float32
        return max(self.flops / rate, self.bytes / gpu.bandwidth)


def block_of(w: Work) -> int:
    """Training triples of a block, where memory is free (tracin.influence.memory)."""
    by_tap = w.features * w.taps * (w.taps + 1) // w.statistics
    triple = REAL * (3 * w.features + by_tap + 10 * w.dim + 3 * w.statistics)
    block = max(MAX_BLOCK, GPU_BLOCK_BYTES // triple)
    return min(w.train, block - block % WHOLE_BLOCK)


def steps(w: Work, mixed: bool) -> Iterator[Step]:
    """Every kernel of csrc/cuda, and the products between them, in the order of a block."""
    B, G, Q, D, F, S, J = w.train, w.pairs, w.test, w.dim, w.features, w.statistics, w.taps
    P = F * (J + 1) // S
    blocks, columns = -(-B // block_of(w)), 2 * D + S
    operand = 2 if mixed else REAL
    yield Step("taps", 0, blocks * 3.0 * P * J * ID)
    yield Step("features", 2.0 * J * F * G, REAL * G * (F + 2.0 * D))
    yield Step("u = v W", 2.0 * D * F * G, REAL * (G * (F + D) + blocks * D * F), product=True)
    yield Step("hidden", 4.0 * D * G, REAL * 3.0 * D * G)
    yield Step("loss", 5.0 * D * B, REAL * 6.0 * D * B)
    if mixed:
        yield Step("narrow", 0, (REAL + 2.0) * B * (D + columns))
    yield Step("y = delta W", 2.0 * D * F * B, operand * (B * D + blocks * D * F) + REAL * float(B) * F, True, True)
    yield Step("statistics", 2.0 * (J + 1) * F * B, REAL * (2.0 * F + S + 2 * D) * B)
    yield Step("tap_gradients", 2.0 * J * F * B, REAL * (2.0 * F + J * P) * B)
    yield Step("pixel_gradients", float(J * P) * B, REAL * (J * P + 2.0 * D) * B)
    yield Step("linear terms", 2.0 * columns * B * Q, operand * columns * (B + blocks * Q) + REAL * B * Q, True, True)
    yield Step("delta . delta'", 2.0 * D * B * Q, operand * D * (B + blocks * Q) + REAL * B * Q, True, True)
    H, middle, half = w.heads, w.mixed_features, w.half
    grams = [REAL * float(G) * w.test_pairs, REAL * float(H) * w.test_heads]
    yield Step("columns", 0, (REAL + operand) * (float(G) * middle + float(H) * half))
    of_middle = operand * middle * (G + blocks * w.test_pairs) + grams[0]
    of_heads = operand * half * (H + blocks * w.test_heads) + grams[1]
    yield Step("v . v', middle", 2.0 * middle * G * w.test_pairs, of_middle, True, True)
    yield Step("v . v', heads", 2.0 * half * H * w.test_heads, of_heads, True, True)
    yield Step("pair_scores", 6.0 * B * Q, REAL * 3.0 * B * Q + sum(grams))
    yield Step("merge_top_k", 0, float(REAL) * B * Q)


def resources(architecture: str, nvcc: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(kernel, "float" | "double") -> registers of a thread, static shared memory of a block."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
            command = [nvcc, "-std=c++17", "-O3", "-DNDEBUG", f"-arch={architecture}", "-cubin"]
            report = subprocess.run(
                [*command, *REPORT, "-o", f"{folder}/out", str(source)], capture_output=True, text=True, check=True
            ).stderr
            for entry in re.split(r"Compiling entry function", report)[1:]:
                name = re.search(r"\d([a-z][a-z_]*)_kernel(?:I([fd])E)?", entry)
                registers, shared = re.search(r"Used (\d+) registers", entry), re.search(r"(\d+) bytes smem", entry)
                if name and registers:
                    kind = "double" if name[2] == "d" else "float"
                    found[name[1], kind] = int(registers[1]), int(shared[1]) if shared else 0
    return found


def requested(kernel: str, w: Work) -> int:
    """Shared memory that a launch asks for, in float32 (csrc/cuda/*.cu)."""
    image = REAL * 2 * w.dim
    warps = THREADS // WARP
    of_kernels = {
        "features": image,
        "statistics": image,
        "hidden": warps * (8 + 4),
        "merge_top_k": 2048 * (8 + REAL) + 4,
        "pair_scores": 32 * 80,
    }
    return of_kernels.get(kernel, 0)


def occupancy(registers: int, shared: int, gpu: Gpu) -> float:
    """Share of a multiprocessor's threads that fit at a time."""
    of_warp = -(-registers * WARP // 256) * 256  # registers are given out by 256
    by_registers, by_shared = REGISTERS // (of_warp * (THREADS // WARP)), gpu.shared // (shared + RESERVED)
    return min(BLOCKS, RESIDENT // THREADS, by_registers, by_shared) * THREADS / RESIDENT


def quantity(x: float, unit: str) -> str:
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if x >= size:
            return f"{x / size:.3g} {prefix}{unit}"
    return f"{x / 1e3:.3g} k{unit}" if x else "-"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def table_head(first: str, *numbers: str) -> list[str]:
    return [row(first, *numbers), row(":--", *["--:"] * len(numbers))]


def job_table(w: Work) -> list[str]:
    """Steps of a job in float32, and totals in both precisions."""
    lines = table_head("step", "FLOPs", "bytes", *(gpu.name for gpu in GPUS))
    for step in steps(w, False):
        name = f"*{step.name}*" if step.product else f"`{step.name}`"
        times = [duration(step.seconds(gpu, False)) for gpu in GPUS]
        lines.append(row(name, quantity(step.flops, "FLOP"), quantity(step.bytes, "B"), *times))
    for mixed in (False, True):
        all_steps = list(steps(w, mixed))
        times = [duration(sum(step.seconds(gpu, mixed) for step in all_steps)) for gpu in GPUS]
        flops, size = sum(step.flops for step in all_steps), sum(step.bytes for step in all_steps)
        name = f"**predicted, {'mixed precision' if mixed else 'float32'}**"
        lines.append(row(name, quantity(flops, "FLOP"), quantity(size, "B"), *times))
    return lines


def resource_table(w: Work, nvcc: str) -> list[str]:
    cards = [gpu for gpu in GPUS if gpu.name != "H200 SXM"]  # the code of the H100
    lines = table_head("kernel", *(f"{gpu.name} ({gpu.architecture})" for gpu in cards))
    reports = [resources(gpu.architecture, nvcc) for gpu in cards]
    for kernel, kind in sorted(reports[0]):
        cells = []
        for gpu, report in zip(cards, reports, strict=True):
            registers, shared = report[kernel, kind]
            share = occupancy(registers, shared + requested(kernel, w), gpu) if kind == "float" else None
            cells.append(f"{registers}" + (f", {share:.0%}" if share is not None else ""))
        lines.append(row(f"`{kernel}` {kind}", *cells))
    return lines


def measured() -> list[str]:
    """What `bench.gpu_check` found on the GPUs it ran on, beside the prediction for the card of the same kind."""
    parts = []
    for path in sorted((ROOT / "results").glob("gpu-*.json")):
        found = json.loads(path.read_text())
        card, jobs, works = found["card"], found["jobs"], read_works(ROOT / "results")
        gpu = next((gpu for gpu in GPUS if gpu.name.split()[0] in card["name"]), GPUS[1])
        rates = {name: rate["8192 cubed"] for name, rate in card["product_TFLOP_s"].items()}
        lines = table_head("job", "measured", f"predicted, {gpu.name}", "of the card's product rate", "worst error")
        for measured_row in jobs["rows"]:
            mixed = ", mixed" in measured_row["runs"]
            precision, rate = ("mixed", rates["bfloat16"]) if mixed else ("float32", rates["float32"])
            of_job = list(steps(works[measured_row["job"].lower()], mixed))
            flops = sum(step.flops for step in of_job if step.product)
            now = sum(step.seconds(gpu, mixed) for step in of_job)
            lines.append(
                row(
                    f"{measured_row['job']}, {precision}",
                    duration(measured_row["seconds"]),
                    duration(measured_row["predicted_s"].get(gpu.name, now)),
                    f"{flops / measured_row['seconds'] / rate / 1e12:.0%}",
                    f"{measured_row['error']:.1e}",
                )
            )
        ended = {name: found["steps"][name]["passed"] for name in CHECKS if name in found["steps"]}
        checks = ", ".join(f"{name} {'passed' if passed else 'did not pass'}" for name, passed in ended.items())
        parts.append(
            f"## Measured: {card['name']} ({path.name})\n\n{found['note']}\n\n"
            f"torch {card['torch']}, CUDA {card['cuda']}; on this card copies reach {card['copy_TB_s']} TB/s, square "
            f"products {rates['float32']} TFLOP/s\nin float32 and {rates['bfloat16']} in bfloat16. {jobs['graph']}; "
            f"the worst error of a test triple is against float64\non the CPU. {checks}.\n\n" + "\n".join(lines) + "\n"
        )
        if kernels := jobs.get("kernels"):
            parts.append(kernel_table(kernels, works, gpu))
    return parts


def kernel_table(kernels: list[dict[str, Any]], works: dict[str, Work], gpu: Gpu, most: int = 10) -> str:
    """Each job's own kernels and its products: by torch's profiler, and by the model."""
    ours = re.compile(r"(\w+)_kernel\b")
    times: dict[str, dict[tuple[str, str], float]] = {}
    for kernel in kernels:
        found = ours.match(kernel["name"])
        name = "products" if kernel["name"] == "aten::mm" else found[1] if found else None
        if name is not None:
            times.setdefault(name, {})[kernel["job"], kernel["precision"]] = kernel["ms"]
    columns = list(dict.fromkeys(column for cells in times.values() for column in cells))

    def predicted(name: str, job: str, precision: str) -> float:
        mixed = precision == "mixed"
        chosen = (step for step in steps(works[job], mixed) if ("products" if step.product else step.name) == name)
        return sum(step.seconds(gpu, mixed) for step in chosen)

    lines = table_head("kernel: measured, predicted", *(f"{job.upper()}, {precision}" for job, precision in columns))
    for name, cells in sorted(times.items(), key=lambda item: -max(item[1].values()))[:most]:
        told = [
            f"{duration(cells[column] / 1e3)}, {duration(predicted(name, *column))}" if column in cells else "-"
            for column in columns
        ]
        lines.append(row(name if name == "products" else f"`{name}`", *told))
    return "\n".join(lines) + "\n"


def document(works: dict[str, Work], nvcc: str) -> str:
    ceilings = table_head("GPU", "float32", "bfloat16", "memory")
    for gpu in GPUS:
        rates = (f"{rate / 1e12:.4g} TFLOP/s" for rate in (gpu.float32, gpu.bfloat16))
        ceilings.append(row(gpu.name, *rates, f"{gpu.bandwidth / 1e12:.4g} TB/s"))
    parts = [
        "# CUDA: predicted and measured performance\n",
        "Written by `python -m bench.cuda_model`. Predictions are lower bounds: a step's time is the larger of\n"
        "FLOPs / peak rate and bytes / peak bandwidth of the data-sheets; steps add up. Real times are longer:\n"
        "products stay below peak, small kernels more so; sorting, test factors and copies from the GPU come on\n"
        "top. `make gpu-check` measures.\n",
        *measured(),
        "## Ceilings\n",
        "\n".join(ceilings) + "\n",
        "float32 products run without TF32. In mixed precision, all products but *u = v W* are in bfloat16 with\n"
        "float32 accumulation. Steps in italics are cuBLAS products, the others kernels of `csrc/cuda`.\n",
    ]
    for name, w in works.items():
        parts.append(
            f"## {JOBS[name]}: {w.train:,} training x {w.test:,} test triples, d = {w.dim}\n\n"
            f"{w.pairs:,} and {w.test_pairs:,} distinct (head, relation), {w.features:,} features, blocks of "
            f"{block_of(w):,}.\n\n" + "\n".join(job_table(w)) + "\n"
        )
    parts += sections(ROOT / "results", -(-works["w3"].train // block_of(works["w3"])))
    parts.append(
        "## Registers and occupancy\n\n"
        "Registers of a thread in the compiler's report, and for float32 the share of a multiprocessor's 2,048\n"
        "threads that fit at a time with the shared memory of W1's shapes. No kernel spills: the build would fail.\n"
    )
    parts.append("\n".join(resource_table(works["w1"], nvcc)) + "\n")
    return "\n".join(parts)


def read_works(folder: Path) -> dict[str, Work]:
    """The sizes of the jobs, as the benchmark found them."""
    return {name: Work(**json.loads((folder / f"{name}.json").read_text())["limits"]["work"]) for name in JOBS}


@click.command()
def main() -> None:
    """Writes docs/cuda-performance.md from results/w*.json and the compiler's report; needs nvcc."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise click.ClickException("nvcc was not found: install the CUDA toolkit and put nvcc on PATH")
    OUTPUT.write_text(document(read_works(ROOT / "results"), nvcc))
    click.echo(f"wrote {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
