"""Sections of docs/cuda-performance.md on what was asked of the model: is it worth it, and why is it as it is."""

from __future__ import annotations

import json
from pathlib import Path

# Counted on FB15k-237 (W2): pairs of a training and a test triple that share their relation, or an entity.
PAIRS, OF_RELATIONS, OF_ENTITIES = 272_115 * 20_466, 103_228_931, 15_831_167
# Instructions of pair_scores in float32, of a warp, counted in the machine code for sm_90.
DENSE, CHECKED, OF_RELATION, OF_ENTITY = 51, 20, 480, 100  # a test; a test's ids; eight tests; one
TESTS_AT_ONCE = 8
ISSUED = 132 * 4 * 1.755e9  # instructions a second of an H200's warps
H200 = 4.21e12  # bytes a second, measured


def pair_scores() -> str:
    warps = PAIRS / 32
    dense, checks = warps * DENSE / ISSUED, warps * CHECKED / ISSUED
    joins = (OF_RELATIONS / TESTS_AT_ONCE * OF_RELATION + OF_ENTITIES * OF_ENTITY) / ISSUED
    memory = (3 * 4 * PAIRS + 5.6e9) / H200
    written_again = (OF_RELATIONS + OF_ENTITIES) * 64 / H200
    least, most = max(memory + written_again, dense + checks + joins), memory + written_again + dense + checks + joins
    return f"""## pair_scores

On the H200 it took 113 ms of W2, in float32 and mixed alike, where its bytes need {memory * 1e3:.0f}. The machine
code says why: of a join's 200 numbers the compiler had its two rests loaded one after the other before the other four
loads, so that a join waited for three round trips and a sum over the warp, and a warp did its joins one by one.
{OF_RELATIONS / 1e6:.0f} million pairs of W2 share their relation and {OF_ENTITIES / 1e6:.0f} million an entity: 119
million joins of 4,000 clocks each, at 24 warps a multiprocessor, are 119 M x 4,000 / (132 x 24 x 1.755 GHz) = 86 ms.

Now tests come in the order of their relation, 32 to a block of threads, with their rows in shared memory; a sample's
q is loaded once for all tests of its relation, all of its 200 numbers at once, and eight inner products are summed up
side by side. Dense terms come first, in rounds of 40 loads of a thread that nothing waits for in between; joins add
to what is written. No array lives in local memory any more, and 64 registers (80 before) let half of the threads fit.

| of W2 on an H200, by the model | |
| :-- | --: |
| bytes: two reads and a write a pair, grams | {memory * 1e3:.0f} ms |
| joined scores read and written again | {written_again * 1e3:.1f} ms |
| instructions: dense terms, {DENSE} a test and warp (107 before) | {dense * 1e3:.1f} ms |
| whether entities meet, {CHECKED} | {checks * 1e3:.1f} ms |
| joins, {OF_RELATION} for a sample and eight tests of its relation, {OF_ENTITY} of an entity | {joins * 1e3:.1f} ms |
| **predicted**, all hidden behind the slowest, or nothing | {least * 1e3:.0f} to {most * 1e3:.0f} ms |

Not measured yet.
"""


def launches(few: int) -> str:
    return f"""## Launches and operations of the host

Of a block of training triples, counted in the emulation and by the profiler on the H200:

| | float32 | mixed |
| :-- | --: | --: |
| kernels of `csrc/cuda` (`merge_top_k` included) | 11 | 13 |
| products | 6 | 6 |
| copies to the GPU: eight indices a triple, from pinned memory; the block's places | 2 | 2 |
| PyTorch's own on the GPU: the sum of the scores, which tells whether all are finite; into file order | 2 | 2 |
| PyTorch's calls on the host, these included (with lists) | 19 (20) | 19 (20) |
| waits for the GPU: whether all scores are finite | 1 | 1 |

Of a call: the test factors, 7 kernels and 2 products for 1,024 tests, and results in file order: they are gathered on
the GPU and copied once. That copy took 8 of W1's 23 ms where the CPU's memory was fresh and 0.9 where it was not;
results of up to 64 MB now go to memory that PyTorch keeps pinned: 13 MB in 0.24 ms at the 54 GB/s measured. Memory
that PyTorch holds is given back after a call only where it is more than 1/32 of the GPU's: not after W1, whose next
call would take it again. Models of small embeddings have larger blocks, as many bytes as those of d = 200: W3 takes
{few} blocks where it took 2,271, of which each costs the host about a millisecond.

The wait of each block lets the GPU idle while the host groups the next one: about 50 ms of W2's 524. To look at all
blocks at the end would save them; what has been saved by then (`partial`) would have to be looked at first.
"""


def kept_factors(few: int) -> str:
    return f"""## Bounds and kept factors: not on CUDA

On a CPU `top_k` leaves out pairs by bounds, and keeps the training triples' factors for the next call. On CUDA it
scores all of them, and says so ("in blocks: the backend scores no single pairs"). Of W2 on the H200, by kernel:

| | float32 | mixed |
| :-- | --: | --: |
| factors of training triples, which bounds need as well | 77 ms | 53 ms |
| products and `pair_scores` of all pairs, lists, as they were measured | 390 ms | 175 ms |
| the same with the new `pair_scores` | 300 ms | 90 ms |
| the 0.07 % of pairs that bounds leave, alone: 4 million rows of 24 KB | 23 ms | 23 ms |
| whole call now, predicted | 0.44 s | 0.21 s |
| with bounds, if comparing them cost nothing | 0.16 s | 0.14 s |

That is 0.07 s in mixed precision and 0.3 s in float32, once in a run over all tests, for kernels as long as all that
are there. **Dense it stays.** With few tests (W1) the factors are nearly all of the GPU's time: bounds save nothing.

One question is another matter. To 272,115 triples it costs 77 ms of kernels and about 50 of the host for what does
not depend on the question. Factors in the GPU's memory (1.3 GB: v of distinct heads and middles 445 MB, S 348, e and
e un 435, z 75) would be read in 0.3 ms; with the test's factors, lists and launches an answer would take about 2 ms,
**sixty times less**, without any bound. To the biomedical graph's 18.6 million (d = 32) they are 35 GB, read in 8 ms
instead of computed in 0.18 s and {few} blocks; an H100 has the room. Estimated, not built.
"""


def split_products(folder: Path) -> str:
    path = folder / "split_products.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    rows = "\n".join(f"| {row['way']} | {row['error']:.1e} |" for row in found["rows"])
    return f"""## Products of float32 on tensor cores: left out

An operand split into parts of few bits, and a product into those of the parts (`python -m bench.split_products`): the
worst error of {found["tests"]} test triples over {found["train"]:,} training triples ({found["graph"]}), emulated
with sums to the nearest float32, or cut off after every eight terms as tensor cores do.

| products | worst error |
| :-- | --: |
{rows}

bfloat16's figure is the one that the H200 gave (2.3e-03). The bound is 1e-5 for every test triple. Time of W2 in
float32 on an H200, whose products take 293 ms, 281 of them in question; those in bfloat16 took 46, about 20 for their
bytes:

| products | their time | whole call |
| :-- | --: | --: |
| float32 as it is | 281 ms | 0.44 s |
| two parts in TF32, three products at half of bfloat16's rate | 180 to 280 ms | 0.34 to 0.44 s |
| two parts in bfloat16, three products | 100 to 140 ms | 0.26 to 0.30 s |
| bfloat16 (mixed) | 46 ms | 0.21 s |

Operands take two to three times the memory, and writing the parts another 2 ms. Three products in TF32 may win
nothing: at these shapes bfloat16 reaches 300 TFLOP/s, TF32 no more than half of that, and a third is what float32 has
already. Two parts in bfloat16 win more, at half of the error allowed, on one model. Neither is an option before a GPU
has measured both (`bench.gpu_check.card` now measures TF32 at W2's shapes); `precision="float32"` stays exact.
"""


def sections(
    folder: Path,
    few: int,  # blocks of W3
) -> list[str]:
    return [pair_scores(), launches(few), kept_factors(few), split_products(folder)]
