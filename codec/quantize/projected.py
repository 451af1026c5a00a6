"""Grouped residual quantization in a width of its own.

Each group of channels goes through a matrix, is coded level by level, and comes back through another.

One group of one level with 32,768 entries is DistilCodec; its teacher has four groups of eight levels.

>>> import torch
>>> config = ProjectedConfig(codebook_size=16, n_groups=2, n_levels=3, codebook_dim=6)
>>> Projected(config, dim=8).encode(torch.zeros(1, 8, 5), 4).shape
torch.Size([1, 4, 5])

Source: Wang et al. 2025 (DistilCodec), its code; Yang et al. 2023 (HiFi-Codec), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from codec.errors import ConfigError
from codec.quantize.base import Quantized, Tables
from codec.quantize.grouped import GroupedConfig, SideBySide
from codec.quantize.residual import quantize_in_turn, sum_entries
from codec.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class ProjectedConfig(GroupedConfig):
    """Options of the bottleneck `projected`; the defaults are DistilCodec's."""

    codebook_size: int = 32768
    n_groups: int = 1
    n_levels: int = 1
    codebook_dim: int = 3584  # numbers of an entry; theirs is the width of a language model of 7 billion parameters

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.codebook_dim < 1:
            raise ConfigError(f"codebook_dim: must be at least 1, found {self.codebook_dim}")


class ProjectedGroup(nn.Module):
    """The levels of one group between two matrices."""

    def __init__(self, config: ProjectedConfig, dim: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, config.codebook_dim)
        self.levels = nn.ModuleList(VectorQuantizer(config, config.codebook_dim) for _ in range(config.n_levels))
        self.project_out = nn.Linear(config.codebook_dim, dim)

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Coarse to fine."""
        return tuple(level for level in self.levels if isinstance(level, VectorQuantizer))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """The straight-through gradient goes once around all levels, and reaches both matrices."""
        small = self.project_in(latent.transpose(1, 2)).transpose(1, 2)  # (B, d, F)
        part = quantize_in_turn(self.codebooks, small, levels, n_stages, tables)
        return replace(part, latent=self._expand(small + (part.latent - small).detach()))

    def dequantize(self, codes: Tensor) -> Tensor:
        """(B, R', F) -> (B, D / G, F)."""
        return self._expand(sum_entries(self.codebooks, codes))

    def _expand(self, small: Tensor) -> Tensor:
        """(B, d, F) -> (B, D / G, F)."""
        y: Tensor = self.project_out(small.transpose(1, 2))
        return y.transpose(1, 2)


class Projected(SideBySide):
    """G groups side by side, each of R levels in `codebook_dim` dimensions."""

    own_gradient = True  # the matrices learn from the decoder

    def __init__(self, config: ProjectedConfig, dim: int) -> None:
        super().__init__(config, dim, lambda size: ProjectedGroup(config, size))
