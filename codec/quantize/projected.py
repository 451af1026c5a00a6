"""Grouped residual quantization in a width of its own.

Each group of channels goes through a matrix, is coded level by level, and comes back through another.

One group of one level with 32,768 entries is DistilCodec; its teacher has four groups of eight levels.

>>> config = ProjectedConfig(codebook_size=16, n_groups=2, n_levels=3, codebook_dim=6)
>>> Projected(config, dim=8).encode(torch.zeros(1, 8, 5), 4).shape
torch.Size([1, 4, 5])

Source: Wang et al. 2025 (DistilCodec), its code; Yang et al. 2023 (HiFi-Codec), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.grouped import GroupedConfig
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


class Group(nn.Module):
    """The levels of one group between two matrices."""

    def __init__(self, config: ProjectedConfig, dim: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, config.codebook_dim)
        self.levels = nn.ModuleList(VectorQuantizer(config, config.codebook_dim) for _ in range(config.n_levels))
        self.project_out = nn.Linear(config.codebook_dim, dim)

    @property
    def books(self) -> tuple[VectorQuantizer, ...]:
        """Coarse to fine."""
        return tuple(level for level in self.levels if isinstance(level, VectorQuantizer))

    def expand(self, x: Tensor) -> Tensor:
        """(B, d, F) -> (B, D / G, F)."""
        y: Tensor = self.project_out(x.transpose(1, 2))
        return y.transpose(1, 2)


class Projected(Bottleneck):
    """G groups side by side, each of R levels in `codebook_dim` dimensions; code l * G + g is level l of group g."""

    own_gradient = True  # the matrices learn from the decoder

    def __init__(self, config: ProjectedConfig, dim: int) -> None:
        super().__init__()
        if dim % config.n_groups:
            raise ConfigError(f"n_groups: {config.n_groups} does not divide latent_dim {dim}")
        self.n_levels = config.n_levels
        self.groups = nn.ModuleList(Group(config, dim // config.n_groups) for _ in range(config.n_groups))

    @property
    def _parts(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if isinstance(group, Group))

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Level-major."""
        return tuple(part.books[level] for level in range(self.n_levels) for part in self._parts)

    @property
    def stages(self) -> tuple[int, ...]:
        """The groups of one level start together."""
        return tuple(level for level in range(self.n_levels) for _ in self._parts)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Whole levels."""
        return tuple(range(len(self.groups), self.n_codebooks + 1, len(self.groups)))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Each group alone; the straight-through gradient goes once around all levels of a group."""
        n, parts, given = len(self._parts), list[Quantized](), list[Tensor]()
        for g, (group, x) in enumerate(zip(self._parts, latent.chunk(n, 1), strict=True)):
            small = group.project_in(x.transpose(1, 2)).transpose(1, 2)
            own = None if tables is None else tables[g::n]
            part = quantize_in_turn(group.books, small, levels // n, n_stages, own)
            parts.append(part)
            given.append(group.expand(small + (part.latent - small).detach()))
        codes = torch.stack([part.codes for part in parts], 2).flatten(1, 2)  # (B, R, G, F) -> (B, Q, F)
        inputs = tuple(part.inputs[level] for level in range(self.n_levels) for part in parts)
        loss = torch.stack([part.loss for part in parts]).mean()
        return Quantized(torch.cat(given, 1), codes, loss, inputs)

    def dequantize(self, codes: Tensor) -> Tensor:
        """(B, Q', F), Q' a multiple of G, -> (B, D, F)."""
        n = len(self._parts)
        given = [group.expand(sum_entries(group.books, codes[:, g::n])) for g, group in enumerate(self._parts)]
        return torch.cat(given, 1)
