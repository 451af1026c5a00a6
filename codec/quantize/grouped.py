"""Group-residual vector quantization (GRVQ): G groups of channels, each with its own R residual codebooks.

Codes are level-major, as HiFi-Codec writes them: [level 0 group 0, level 0 group 1, level 1 group 0, ...], so that a
prefix that is a multiple of G decodes.

Source: Yang et al. 2023 (HiFi-Codec), section 3.2.

>>> Grouped(GroupedConfig(codebook_size=16, n_groups=2, n_levels=3), dim=8).prefixes
(2, 4, 6)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.residual import Residual, ResidualConfig
from codec.quantize.vq import CodebookConfig, VectorQuantizer


@dataclass(frozen=True)
class GroupedConfig(CodebookConfig):
    """Options of the bottleneck `grouped`: n_groups * n_levels codebooks."""

    n_groups: int = 2  # G, equal parts of the channel axis
    n_levels: int = 4  # R, residual steps in each group

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.n_groups < 1 or self.n_levels < 1:
            raise ConfigError(f"n_groups, n_levels: must be at least 1, found {self.n_groups}, {self.n_levels}")


class Group(Protocol):
    """What codes the channels of one group; its methods are those of a `Bottleneck`."""

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Coarse to fine."""

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """(B, D / G, F); `levels` counts those of this group."""

    def dequantize(self, codes: Tensor) -> Tensor:
        """(B, R', F) -> (B, D / G, F)."""


class SideBySide(Bottleneck):
    """G groups of R levels; a kind gives only what codes a group. Code l * G + g is level l of group g."""

    def __init__(self, config: GroupedConfig, dim: int, make: Callable[[int], nn.Module]) -> None:
        """`make`: from the channels of a group, D / G, to its `Group`."""
        super().__init__()
        if dim % config.n_groups:
            raise ConfigError(f"n_groups: {config.n_groups} does not divide latent_dim {dim}")
        self.n_levels = config.n_levels
        self.groups = nn.ModuleList(make(dim // config.n_groups) for _ in range(config.n_groups))

    @property
    def _parts(self) -> tuple[Group, ...]:
        return cast("tuple[Group, ...]", tuple(self.groups))

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Level-major."""
        return tuple(part.codebooks[level] for level in range(self.n_levels) for part in self._parts)

    @property
    def stages(self) -> tuple[int, ...]:
        """The groups of one level start together."""
        return tuple(level for level in range(self.n_levels) for _ in self.groups)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Whole levels."""
        return tuple(range(len(self.groups), self.n_codebooks + 1, len(self.groups)))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Each group alone."""
        n = len(self.groups)
        of_group = [None if tables is None else tables[g::n] for g in range(n)]
        parts = [
            part.quantize(x, levels // n, n_stages, own)
            for part, x, own in zip(self._parts, latent.chunk(n, 1), of_group, strict=True)
        ]
        codes = torch.stack([part.codes for part in parts], 2).flatten(1, 2)  # (B, R, G, F) -> (B, Q, F)
        inputs = tuple(part.inputs[level] for level in range(self.n_levels) for part in parts)
        loss = torch.stack([part.loss for part in parts]).mean()
        return Quantized(torch.cat([part.latent for part in parts], 1), codes, loss, inputs)

    def dequantize(self, codes: Tensor) -> Tensor:
        """(B, Q', F), Q' a multiple of G, -> (B, D, F)."""
        n = len(self.groups)
        return torch.cat([part.dequantize(codes[:, g::n]) for g, part in enumerate(self._parts)], 1)


class Grouped(SideBySide):
    """G residual quantizers side by side, each on D / G channels."""

    def __init__(self, config: GroupedConfig, dim: int) -> None:
        inner = ResidualConfig(config.codebook_size, config.learn, config.commitment, n_codebooks=config.n_levels)
        super().__init__(config, dim, lambda size: Residual(inner, size))
