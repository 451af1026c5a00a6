"""Split residual vector quantization: semantic and acoustic codebooks side by side, neither a residual of the other.

The latent's first half is for the semantic codebooks, its second half for the acoustic ones; the encoder projects the
same features to both, and the decoder adds what both give. So the semantic code says nothing about what the acoustic
ones leave over, and a teacher can shape it without harm to them.

Source: Défossez et al. 2024 (Mimi), section 3.3.3.

>>> Split(SplitConfig(codebook_size=16, n_codebooks=4), dim=8).stages
(0, 0, 1, 2)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.residual import Residual, ResidualConfig, quantize_in_turn
from codec.quantize.vq import CodebookConfig, VectorQuantizer


@dataclass(frozen=True)
class SplitConfig(CodebookConfig):
    """Options of the bottleneck `split`."""

    n_semantic: int = 1  # codebooks of the first half
    n_codebooks: int = 8  # all codebooks, the semantic ones included

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if not 1 <= self.n_semantic < self.n_codebooks:
            raise ConfigError(
                f"n_semantic: must be 1 or more and below n_codebooks {self.n_codebooks}, found {self.n_semantic}"
            )


class Split(Bottleneck):
    """Two residual quantizers side by side, each on half of the channels; the semantic codes come first."""

    def __init__(self, config: SplitConfig, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise ConfigError(f"split: latent_dim must be even, a half for each part, found {dim}")
        counts = (config.n_semantic, config.n_codebooks - config.n_semantic)
        book = (config.codebook_size, config.learn, config.commitment)
        self.semantic, self.acoustic = (Residual(ResidualConfig(*book, n_codebooks=n), dim // 2) for n in counts)

    @property
    def n_semantic(self) -> int:
        """Codebooks of the first half."""
        return self.semantic.n_codebooks

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Semantic, then acoustic, each coarse to fine."""
        return self.semantic.codebooks + self.acoustic.codebooks

    @property
    def stages(self) -> tuple[int, ...]:
        """The first acoustic codebook starts with the last semantic one."""
        last = self.n_semantic - 1
        return (*range(self.n_semantic), *(last + i for i in range(self.acoustic.n_codebooks)))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """All the semantic ones, and any number of acoustic ones."""
        return tuple(range(self.n_semantic, self.n_codebooks + 1))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Each part alone."""
        n, acoustic_stages = self.n_semantic, max(0, n_stages - self.n_semantic + 1)
        of_part = (None, None) if tables is None else (tables[:n], tables[n:])
        first, second = latent.chunk(2, 1)
        semantic = quantize_in_turn(self.semantic.codebooks, first, levels, min(n_stages, n), of_part[0])
        acoustic = quantize_in_turn(self.acoustic.codebooks, second, levels - n, acoustic_stages, of_part[1])
        inputs = zip(self.stages, semantic.inputs + acoustic.inputs, strict=True)
        return Quantized(
            torch.cat((semantic.latent, acoustic.latent), 1),
            torch.cat((semantic.codes, acoustic.codes), 1),
            (semantic.loss * n + acoustic.loss * self.acoustic.n_codebooks) / self.n_codebooks,
            tuple(x if stage <= n_stages else None for stage, x in inputs),
        )

    def dequantize(self, codes: Tensor) -> Tensor:
        """(B, Q', F) -> (B, D, F); without acoustic codes their half is zero."""
        n = self.n_semantic
        semantic = self.semantic.dequantize(codes[:, :n])
        if codes.shape[1] == n:
            return torch.cat((semantic, torch.zeros_like(semantic)), 1)
        return torch.cat((semantic, self.acoustic.dequantize(codes[:, n:])), 1)
