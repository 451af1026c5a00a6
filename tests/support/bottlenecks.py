"""Small bottlenecks as after training, for the tests of codec.quantize."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.config import Part
from codec.quantize.base import Bottleneck
from codec.quantize.build import build_bottleneck

DIM = 16  # 3 does not divide it: the masked parts differ in width
KINDS: dict[str, dict[str, Any]] = {
    "attributes": {"codebook_dim": 6},
    "factorised": {"n_codebooks": 4, "codebook_dim": 6},
    "vq": {},
    "residual": {"n_codebooks": 4},
    "grouped": {"n_groups": 2, "n_levels": 3},
    "masked": {"n_masked": 3, "n_codebooks": 5},
    "projected": {"n_groups": 2, "n_levels": 2, "codebook_dim": 6},
    "split": {"n_semantic": 1, "n_codebooks": 4},
}


def make(kind: str, learn: str = "ema", *, dim: int = DIM, **options: Any) -> Bottleneck:
    """A bottleneck as after training: entries of later stages are smaller."""
    bottleneck = build_bottleneck(Part(kind, {"codebook_size": 32, "learn": learn, **KINDS[kind], **options}), dim)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for book, stage in zip(bottleneck.codebooks, bottleneck.stages, strict=True):
            book.embed.copy_(torch.randn(book.embed.shape, generator=generator) * 0.7**stage)
    return bottleneck


def make_latent(batch: int = 3, frames: int = 7, seed: int = 0, dim: int = DIM) -> Tensor:
    return torch.randn(batch, dim, frames, generator=torch.Generator().manual_seed(seed))


def entries_of(bottleneck: Bottleneck) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    return [book.embed.detach().double().numpy() for book in bottleneck.codebooks]
