"""Plain vector quantization: the nearest entry of one codebook.

Source: van den Oord et al. 2017 (VQ-VAE), sections 3.1 and 3.2.

>>> VectorQuantizer(VqConfig(codebook_size=4), dim=2).encode(torch.zeros(1, 2, 3)).tolist()
[[[0, 0, 0]]]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.search import Table, nearest


@dataclass(frozen=True)
class CodebookConfig:
    """One codebook; the same for all codebooks of a bottleneck."""

    codebook_size: int = 1024  # K, entries
    learn: str = "ema"  # ema: moving averages by quantize.learn; gradient: codebook loss
    commitment: float = 1.0  # weight of |latent - sg(entry)|^2; 0.25 is usual beside a codebook loss

    def __post_init__(self) -> None:
        """Check values."""
        if self.codebook_size < 1:
            raise ConfigError(f"codebook_size: must be at least 1, found {self.codebook_size}")
        if self.learn not in ("ema", "gradient"):
            raise ConfigError(f"learn: expected ema or gradient, found {self.learn!r}")


@dataclass(frozen=True)
class VqConfig(CodebookConfig):
    """Options of the bottleneck `vq`."""


class VectorQuantizer(Bottleneck):
    """One codebook of K entries of D numbers."""

    embed: Tensor

    def __init__(self, config: CodebookConfig, dim: int, *, cosine: bool = False) -> None:
        super().__init__()
        self.cosine = cosine  # nearest by angle
        self.codebook_size = config.codebook_size
        self.dim = dim
        self.learn = config.learn
        self.commitment = config.commitment
        # Zeros until `quantize.learn` starts it from real latents: there is no good random codebook.
        entries = torch.zeros(config.codebook_size, dim)
        if config.learn == "gradient":
            self.embed = nn.Parameter(entries)
        else:
            self.register_buffer("embed", entries)

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Itself."""
        return (self,)

    @property
    def stages(self) -> tuple[int, ...]:
        """One stage."""
        return (0,)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """One codebook."""
        return (1,)

    def search(self, x: Tensor, table: Table | None = None) -> Tensor:
        """Index of the nearest entry: (N, D) float32 -> (N,) int64; `table` is of `embed` as it is now."""
        return nearest(x, self.embed if table is None else table, cosine=self.cosine)

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries of codes: (..., ) int64 -> (..., D)."""
        return F.embedding(codes, self.embed)

    def loss(self, x: Tensor, entries: Tensor) -> Tensor:
        """Commitment, and the codebook's own loss where it learns by gradient. Both (N, D); scalar."""
        loss = self.commitment * F.mse_loss(x, entries.detach())
        if self.learn == "gradient":
            loss = loss + F.mse_loss(entries, x.detach())
        return loss

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Nearest entry of each frame."""
        batch, dim, frames = latent.shape
        x = latent.transpose(1, 2).reshape(-1, dim)
        if n_stages == 0:
            codes = torch.zeros(batch, 1, frames, dtype=torch.int64, device=latent.device)
            return Quantized(torch.zeros_like(latent), codes, latent.new_zeros(()), (x.detach(),))
        flat = self.search(x.detach(), None if tables is None else tables[0])
        entries = self.lookup(flat)
        latent_hat = entries.view(batch, frames, dim).transpose(1, 2)
        return Quantized(latent_hat, flat.view(batch, 1, frames), self.loss(x, entries), (x.detach(),))

    def dequantize(self, codes: Tensor) -> Tensor:
        """(B, 1, F) -> (B, D, F)."""
        return self.lookup(codes[:, 0]).transpose(1, 2)
