"""Nearest-entry search beside others, in one process: milliseconds, and how many times the bare matrix product.

OMP_NUM_THREADS=1 python benchmarks/lookup.py [--json FILE] [--rounds 9]   (faiss-cpu, vector-quantize-pytorch)

Times are CPU time of this process, so that others on the machine count for less; with one thread that is the wall time
of a quiet core. In each round every candidate runs once, in turn; the table gives the median and (lowest to highest).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.quantize.search import make_table, nearest

SHAPES = [(1500, 1024, 256), (12000, 1024, 256), (1500, 8192, 32), (1500, 32768, 64), (1, 1024, 64)]
PRODUCT = "matrix product alone"


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


def measure(functions: dict[str, Callable[[], Any]], rounds: int, repeat: int) -> dict[str, list[float]]:
    """Milliseconds of each, per round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            for _ in range(repeat):
                function()
            if turn:  # the first is to warm up
                times[name].append((time.process_time() - start) * 1e3 / repeat)
    return times


def summary(times: list[float], product: list[float]) -> dict[str, float]:
    """Median, spread, and the median over rounds of the ratio to the product of the same round."""
    ratios = [a / b for a, b in zip(times, product, strict=True)]
    return {
        "median_ms": statistics.median(times),
        "low_ms": min(times),
        "high_ms": max(times),
        "ratio": statistics.median(ratios),
    }


def report(shape: tuple[int, int, int], rows: dict[str, dict[str, float]]) -> None:
    """One table."""
    print("\n**{} vectors, {} entries, {} dimensions**\n".format(*shape))
    print(f"| search | ms | times {PRODUCT} |\n|---|---|---|")
    for name, row in rows.items():
        spread = f"{row['median_ms']:.3g} ({row['low_ms']:.3g} to {row['high_ms']:.3g})"
        print(f"| {name} | {spread} | {row['ratio']:.2f} |", flush=True)


def main() -> None:
    """All shapes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    print(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} thread(s), {options.rounds} rounds")
    results: list[dict[str, Any]] = []
    with torch.inference_mode():
        for shape in SHAPES:
            times = measure(candidates(*shape), options.rounds, repeat=1 if shape[0] > 1 else 200)
            rows = {name: summary(values, times[PRODUCT]) for name, values in times.items()}
            report(shape, rows)
            results.append({"shape": shape, "searches": rows})
    if options.json:
        about = {"torch": torch.__version__, "machine": machine, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({**about, "rounds": options.rounds, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
