"""Residual vector quantization: each codebook codes what the ones before it left over.

Source: Zeghidour et al. 2021 (SoundStream), section III-C; the gradient as in quantize/base.py.

>>> Residual(ResidualConfig(codebook_size=16, n_codebooks=3), dim=8).encode(torch.zeros(1, 8, 5), 2).shape
torch.Size([1, 2, 5])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.vq import CodebookConfig, VectorQuantizer


@dataclass(frozen=True)
class ResidualConfig(CodebookConfig):
    """Options of the bottleneck `residual`."""

    n_codebooks: int = 8

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.n_codebooks < 1:
            raise ConfigError(f"n_codebooks: must be at least 1, found {self.n_codebooks}")


class Residual(Bottleneck):
    """R codebooks of the full width, one after another."""

    def __init__(self, config: ResidualConfig, dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(VectorQuantizer(config, dim) for _ in range(config.n_codebooks))

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Coarse to fine."""
        return tuple(level for level in self.levels if isinstance(level, VectorQuantizer))

    @property
    def stages(self) -> tuple[int, ...]:
        """Each level starts alone."""
        return tuple(range(len(self.levels)))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Any number."""
        return tuple(range(1, len(self.levels) + 1))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Level by level; row b sums its first `levels[b]` entries, but every level sees every row."""
        return quantize_in_turn(self.codebooks, latent, levels, n_stages, tables)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Sum of the entries: (B, Q', F) -> (B, D, F)."""
        return sum_entries(self.codebooks, codes)


def quantize_in_turn(
    books: tuple[VectorQuantizer, ...], latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None
) -> Quantized:
    """The residual loop over `books`, stage = place in `books`; arguments as in `Bottleneck.quantize`.

    What is subtracted is detached: every level's commitment reaches the encoder.
    """
    batch, dim, frames = latent.shape
    residual = latent.transpose(1, 2).reshape(-1, dim)
    rows = levels.repeat_interleave(frames)[:, None]  # (B * F, 1)
    total = torch.zeros_like(residual)
    codes = torch.zeros(batch, len(books), frames, dtype=torch.int64, device=latent.device)
    inputs: list[Tensor | None] = [None] * len(books)
    loss = latent.new_zeros(())
    for i, book in enumerate(books[:n_stages]):
        inputs[i] = residual.detach()
        flat = book.search(residual.detach(), None if tables is None else tables[i])
        entries = book.lookup(flat)
        codes[:, i] = flat.view(batch, frames)
        loss = loss + book.loss(residual, entries)
        total = total + torch.where(rows > i, entries, 0.0)
        residual = residual - entries.detach()
    if n_stages < len(books):
        inputs[n_stages] = residual.detach()
    latent_hat = total.view(batch, frames, dim).transpose(1, 2)
    return Quantized(latent_hat, codes, loss / max(1, len(books)), tuple(inputs))


def sum_entries(books: tuple[VectorQuantizer, ...], codes: Tensor) -> Tensor:
    """Entries of codes (B, Q', F) summed from the first codebook on: (B, D, F)."""
    total = books[0].lookup(codes[:, 0])
    for i in range(1, codes.shape[1]):
        total = total + books[i].lookup(codes[:, i])
    return total.transpose(1, 2)
