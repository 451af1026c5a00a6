"""Nearest-entry search beside others, in one process: milliseconds, and how many times the bare matrix product.

    OMP_NUM_THREADS=1 python -m benchmarks.lookup [--quick]      # with faiss-cpu, vector-quantize-pytorch

Times are CPU time of this process, so that others on the machine count for less; with one thread that is the wall time
of a quiet core. The candidates take turns.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from codec.quantize.search import make_table, nearest
from codec.timing import Spread, ratios, take_turns

SHAPES = [(1500, 1024, 256), (12000, 1024, 256), (1500, 8192, 32), (1500, 32768, 64), (1, 1024, 64)]
PRODUCT = "matrix product alone"
TILE = 1 << 20  # scores of one tile: 4 MB of int32
SHARE = 1 / 8  # of the tiles that run in low precision; their time is scaled up


def encodec(x: Tensor, codebook: Tensor) -> Tensor:
    """Source: encodec 0.1.1, encodec/quantization/core_vq.py, EuclideanCodebook.quantize."""
    embed = codebook.t()
    dist = -(x.pow(2).sum(1, keepdim=True) - 2 * x @ embed + embed.pow(2).sum(0, keepdim=True))
    return dist.max(dim=-1).indices


def candidates(n: int, size: int, dim: int) -> dict[str, Callable[[], Any]]:
    """What runs, by name."""
    generator = torch.Generator().manual_seed(0)
    x, codebook = (torch.randn(k, dim, generator=generator) for k in (n, size))
    table, half_norms = make_table(codebook), codebook.square().sum(1) / 2
    out = torch.empty(n, size)
    found: dict[str, Callable[[], Any]] = {
        "ours, codebook given": lambda: nearest(x, codebook),
        "ours, table given": lambda: nearest(x, table),
        PRODUCT: lambda: torch.mm(x, codebook.t()),
        "the same, into memory in use": lambda: torch.mm(x, codebook.t(), out=out),
        "precomputed norms, addmm, argmin": lambda: torch.addmm(half_norms, x, codebook.t(), alpha=-1).argmin(1),
        "EnCodec's formula": lambda: encodec(x, codebook),
        "torch.cdist, argmin": lambda: torch.cdist(x, codebook).argmin(1),
    }
    if n > 1:
        found |= low_precision(x, codebook)
    return {**found, **peers(x, codebook)}


def peers(x: Tensor, codebook: Tensor) -> dict[str, Callable[[], Any]]:
    """Those that are installed."""
    found: dict[str, Callable[[], Any]] = {}
    try:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(codebook.shape[1])
        index.add(codebook.numpy())
        found["faiss IndexFlatL2"] = lambda: index.search(x.numpy(), 1)
    except ImportError:
        pass
    try:
        from vector_quantize_pytorch import VectorQuantize

        vq = VectorQuantize(dim=codebook.shape[1], codebook_size=codebook.shape[0]).eval()
        vq.codebook = codebook
        found["vector-quantize-pytorch"] = lambda: vq(x[None])
    except ImportError:
        pass
    return found


def low_precision(x: Tensor, codebook: Tensor) -> dict[str, Callable[[], Any]]:
    """Products alone in int8 and bfloat16, tiled so that the output of one stays in cache: what the CPU could do.

    Where a CPU has no units for them they are many times slower than float32, so only `SHARE` of the tiles run.
    """
    rows = max(32, TILE // codebook.shape[0])
    found: dict[str, Callable[[], Any]] = {}
    for name, kind, product in (("int8", torch.int8, torch._int_mm), ("bf16", torch.bfloat16, torch.mm)):
        tiles, columns = x.mul(30).to(kind).split(rows), codebook.mul(30).to(kind).t()
        some = tiles[: shared(len(tiles))]
        found[f"{name} product alone, tiled"] = lambda f=product, t=some, c=columns: [f(y, c) for y in t]
    return found


def shared(n_tiles: int) -> int:
    """How many of the tiles run."""
    return max(1, round(n_tiles * SHARE))


def part_of(name: str, shape: tuple[int, int, int]) -> float:
    """The share of the work that a job does."""
    if not name.endswith("tiled"):
        return 1.0
    rows = max(32, TILE // shape[1])
    return min(rows * shared(-(-shape[0] // rows)), shape[0]) / shape[0]


def measure_lookup(*, quick: bool) -> list[dict[str, Any]]:
    """One entry per shape: ms of each search, and how many times the matrix product of the same turn."""
    results: list[dict[str, Any]] = []
    with torch.inference_mode():
        for shape in (SHAPES[0], SHAPES[-1]) if quick else SHAPES:
            repeat = 1 if shape[0] > 1 else 200
            jobs = {name: repeated(job, repeat) for name, job in candidates(*shape).items()}
            times = take_turns(
                jobs, rounds=3 if quick else 9, seconds=0.1 if quick else 0.6, least=1, clock=time.process_time
            )
            rows = {}
            for name, values in times.items():
                factor = 1 / part_of(name, shape)
                spread = Spread.of(values).scaled(1e3 * factor / repeat)
                ratio = ratios(values, times[PRODUCT]).scaled(factor)
                rows[name] = {"ms": dataclasses.asdict(spread), "products": dataclasses.asdict(ratio)}
            results.append({"shape": list(shape), "searches": rows})
    return results


def repeated(job: Callable[[], Any], n: int) -> Callable[[], None]:
    """The same n times, for what is too short for the clock of CPU time."""

    def run() -> None:
        for _ in range(n):
            job()

    return run


def main() -> None:
    """Print the tables of this part alone."""
    torch.set_num_threads(1)
    for entry in measure_lookup(quick="--quick" in sys.argv):
        print("\n{} vectors, {} entries, {} dimensions".format(*entry["shape"]))
        for name, row in entry["searches"].items():
            print(f"{row['ms']['median']:10.4g} ms {row['products']['median']:8.2f} products   {name}")


if __name__ == "__main__":
    main()
