"""codec.quantize.kmeans: where codebooks start."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec.quantize.kmeans import kmeans, sum_hits


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int, centres: Tensor, seed: int = 0) -> Tensor:
    """(n, D) points close around `centres` (K, D)."""
    generator = seeded(seed)
    which = torch.randint(len(centres), (n,), generator=generator)
    return centres[which] + 0.01 * torch.randn(n, centres.shape[1], generator=generator)


def test_kmeans_finds_well_separated_clusters() -> None:
    centres = 10 * torch.eye(6, 8)
    for seed in range(5):
        entries, counts = kmeans(clusters(600, centres), 24, iterations=10, generator=seeded(seed))
        distances = torch.cdist(centres, entries)
        assert (distances.min(1).values < 0.05).all()  # each cluster has an entry in its middle
        assert (distances.min(0).values < 0.05).all()  # each entry is in a cluster, the once empty ones too
        assert counts.min() >= 0.5
        assert counts[counts >= 1].sum() == 600


def test_kmeans_without_randomness_is_lloyds_algorithm() -> None:
    x, k = torch.randn(300, 4, generator=seeded(1)), 8
    entries, counts = kmeans(x, k, iterations=3, generator=seeded(2))
    points = x.double().numpy()
    expected = points[torch.randperm(300, generator=seeded(2))[:k].numpy()]
    for _ in range(3):
        codes = ((points[:, None] - expected[None]) ** 2).sum(2).argmin(1)
        expected = np.stack([points[codes == i].mean(0) for i in range(k)])
    np.testing.assert_allclose(entries.numpy(), expected, atol=1e-5)
    assert counts.tolist() == np.bincount(codes, minlength=k).tolist()


def test_kmeans_of_fewer_points_than_entries_gives_those_points() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    entries, counts = kmeans(x, 7, iterations=4, generator=seeded(0))
    assert entries.shape == (7, 2)
    assert {tuple(row) for row in entries.tolist()} <= {tuple(row) for row in x.tolist()}
    assert bool((counts > 0).all())


def test_hits_are_counted_and_summed() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    counts, sums = sum_hits(x, torch.tensor([2, 0, 2]), 4)
    assert counts.tolist() == [1, 0, 2, 0]
    assert sums.tolist() == [[3, 4], [0, 0], [6, 8], [0, 0]]
