"""Clusters of vectors: where codebooks start, and what hits their entries.

>>> points = torch.tensor([[0.0], [0.2], [9.0], [9.2]])
>>> entries, counts = kmeans(points, 2, iterations=5, generator=torch.Generator().manual_seed(0))
>>> sorted(round(x, 1) for x in entries[:, 0].tolist()), counts.tolist()
([0.1, 9.1], [2.0, 2.0])
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec.quantize.search import nearest


def sum_hits(x: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What hits each of `k` entries: counts (k,) and sums (k, D) of vectors `x` (N, D) with codes (N,), in x's type."""
    # Not bincount: on a GPU it waits for the device to learn the largest code.
    counts = x.new_zeros(k).index_add_(0, codes, x.new_ones(len(x)))
    return counts, x.new_zeros(k, x.shape[1]).index_add_(0, codes, x)


def kmeans(x: Tensor, k: int, *, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means from k points of `x`; an empty cluster starts again from a random point.

    Args:
        x: (N, D) float32. With fewer than k points some entries begin as equal points.
        k: clusters.
        iterations: rounds.
        generator: on the CPU. How much is drawn depends on N, k and iterations alone.

    Returns:
        Centres (k, D), and the points of each (k,), half a point for an empty one.
    """
    order = torch.randperm(len(x), generator=generator)
    entries = x[order[torch.arange(k) % len(x)].to(x.device)]
    counts = x.new_zeros(k)
    for _ in range(iterations):
        counts, sums = sum_hits(x, nearest(x, entries), k)
        others = x[torch.randint(len(x), (k,), generator=generator).to(x.device)]
        entries = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], others)
    return entries, counts.clamp(min=0.5)
