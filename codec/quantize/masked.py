"""Masked-channel residual vector quantization (MCRVQ).

The first N codebooks work in parallel: codebook i sees the latent with all channels outside the i-th of N parts set to
zero. The others follow as residual steps on what the N together left over. The mask holds in every path, encode
included. (In the published code its plain encode leaves the mask out and gives other codes than training.)

Source: Ji et al. 2024 (Language-Codec), section 3.2.

>>> Masked(MaskedConfig(codebook_size=16, n_masked=3, n_codebooks=5), dim=128).get_buffer("masks").sum(1).tolist()
[42.0, 43.0, 43.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.residual import quantize_in_turn, sum_entries
from codec.quantize.vq import CodebookConfig, VectorQuantizer


@dataclass(frozen=True)
class MaskedConfig(CodebookConfig):
    """Options of the bottleneck `masked`."""

    n_masked: int = 3  # N, codebooks in parallel on disjoint channels
    n_codebooks: int = 8  # all codebooks, the masked ones included

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if not 1 <= self.n_masked <= self.n_codebooks:
            raise ConfigError(f"n_masked: must be 1 to n_codebooks {self.n_codebooks}, found {self.n_masked}")


class Masked(Bottleneck):
    """N codebooks on disjoint channels, then residual ones on all channels; every codebook has the full width D."""

    def __init__(self, config: MaskedConfig, dim: int) -> None:
        super().__init__()
        if config.n_masked > dim:
            raise ConfigError(f"n_masked: {config.n_masked} parts of latent_dim {dim} leave some without a channel")
        self.n_masked = config.n_masked
        self.books = nn.ModuleList(VectorQuantizer(config, dim) for _ in range(config.n_codebooks))
        edges = [i * dim // config.n_masked for i in range(config.n_masked + 1)]
        masks = torch.zeros(config.n_masked, dim)
        for i in range(config.n_masked):
            masks[i, edges[i] : edges[i + 1]] = 1
        self.register_buffer("masks", masks, persistent=False)

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Masked ones first."""
        return tuple(book for book in self.books if isinstance(book, VectorQuantizer))

    @property
    def stages(self) -> tuple[int, ...]:
        """The masked ones start together, the others one by one."""
        return tuple(max(0, i - self.n_masked + 1) for i in range(len(self.books)))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """At least the masked ones: fewer would leave channels out."""
        return tuple(range(self.n_masked, len(self.books) + 1))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """The masked codebooks on their channels, then the residual loop."""
        batch, dim, frames = latent.shape
        x = latent.transpose(1, 2).reshape(-1, dim)
        seen = [x * mask for mask in self.get_buffer("masks")]
        if n_stages == 0:
            codes = torch.zeros(batch, self.n_codebooks, frames, dtype=torch.int64, device=latent.device)
            inputs = (*(part.detach() for part in seen), *[None] * (self.n_codebooks - self.n_masked))
            return Quantized(torch.zeros_like(latent), codes, latent.new_zeros(()), inputs)
        first = self.codebooks[: self.n_masked]
        own = (None,) * self.n_masked if tables is None else tables[: self.n_masked]
        flats = [book.search(part.detach(), table) for book, part, table in zip(first, seen, own, strict=True)]
        entries = [book.lookup(flat) for book, flat in zip(first, flats, strict=True)]
        loss = torch.stack([b.loss(p, e) for b, p, e in zip(first, seen, entries, strict=True)]).sum()
        total = torch.stack(entries).sum(0)
        left = (x - total.detach()).view(batch, frames, dim).transpose(1, 2)
        later = None if tables is None else tables[self.n_masked :]
        after = quantize_in_turn(self.codebooks[self.n_masked :], left, levels - self.n_masked, n_stages - 1, later)
        codes = torch.cat((torch.stack(flats).view(self.n_masked, batch, frames).transpose(0, 1), after.codes), 1)
        latent_hat = total.view(batch, frames, dim).transpose(1, 2) + after.latent
        loss = (loss + after.loss * (self.n_codebooks - self.n_masked)) / self.n_codebooks
        return Quantized(latent_hat, codes, loss, (*(part.detach() for part in seen), *after.inputs))

    def dequantize(self, codes: Tensor) -> Tensor:
        """Sum of the entries: (B, Q', F) -> (B, D, F)."""
        return sum_entries(self.codebooks, codes)
