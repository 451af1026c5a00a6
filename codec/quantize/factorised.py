"""Factorised residual quantization: each level looks its code up in few dimensions, by angle, between two matrices.

A level may code several frames at once (SNAC): it sees their mean, and its code stands for all of them.

>>> bottleneck = Factorised(FactorisedConfig(codebook_size=16, n_codebooks=2, divisors=(2, 1)), dim=12)
>>> bottleneck.encode(torch.zeros(1, 12, 4)).shape
torch.Size([1, 2, 4])

Source: Kumar et al. 2023 (DAC), section 3.2; Siuzdak et al. 2024 (SNAC), section 3.1; Yu et al. 2021 (ViT-VQGAN).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.vq import CodebookConfig, VectorQuantizer


@dataclass(frozen=True)
class FactorisedConfig(CodebookConfig):
    """Options of the bottleneck `factorised`; the defaults are DAC's."""

    learn: str = "gradient"
    commitment: float = 0.25
    n_codebooks: int = 9
    codebook_dim: int = 8  # numbers of an entry
    divisors: tuple[int, ...] = ()  # frames per code of each codebook, coarse to fine; empty where all are 1

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.n_codebooks < 1 or self.codebook_dim < 1:
            raise ConfigError(
                f"n_codebooks, codebook_dim: must be at least 1, found {self.n_codebooks}, {self.codebook_dim}"
            )
        if self.divisors and (len(self.divisors) != self.n_codebooks or min(self.divisors) < 1):
            raise ConfigError(f"divisors: expected {self.n_codebooks} numbers, found {list(self.divisors)}")


class Level(nn.Module):
    """One codebook of few dimensions between two matrices."""

    def __init__(self, config: FactorisedConfig, dim: int, divisor: int) -> None:
        super().__init__()
        self.divisor = divisor
        self.project_in = nn.Linear(dim, config.codebook_dim)
        self.book = VectorQuantizer(config, config.codebook_dim, cosine=True)
        self.project_out = nn.Linear(config.codebook_dim, dim)

    def shrink(self, latent: Tensor) -> Tensor:
        """(B, D, F) -> (B, ceil(F / divisor), d): the mean of the frames of a code, in few dimensions."""
        if self.divisor > 1:
            latent = F.avg_pool1d(latent, self.divisor, self.divisor, ceil_mode=True)
        small: Tensor = self.project_in(latent.transpose(1, 2))
        return small

    def repeat(self, x: Tensor, frames: int) -> Tensor:
        """(..., n) -> (..., F): what belongs to a code, for each of its frames."""
        return x.repeat_interleave(self.divisor, -1)[..., :frames] if self.divisor > 1 else x


class Factorised(Bottleneck):
    """R levels, one after another, each with its own matrices."""

    own_gradient = True  # the matrices learn from the decoder: the gradient passes through the levels

    def __init__(self, config: FactorisedConfig, dim: int) -> None:
        super().__init__()
        self.divisors = config.divisors
        self.levels = nn.ModuleList(
            Level(config, dim, divisor) for divisor in config.divisors or (1,) * config.n_codebooks
        )

    @property
    def parts(self) -> tuple[Level, ...]:
        """The levels, coarse to fine."""
        return tuple(level for level in self.levels if isinstance(level, Level))

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Coarse to fine."""
        return tuple(level.book for level in self.parts)

    @property
    def stages(self) -> tuple[int, ...]:
        """Each level starts alone."""
        return tuple(range(len(self.levels)))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Any number."""
        return tuple(range(1, len(self.levels) + 1))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Level by level; what a level gives is subtracted with its gradient, as in DAC."""
        batch, _, frames = latent.shape
        residual, total, loss = latent, torch.zeros_like(latent), latent.new_zeros(())
        codes = torch.zeros(batch, len(self.levels), frames, dtype=torch.int64, device=latent.device)
        inputs: list[Tensor | None] = [None] * len(self.levels)
        for i, level in enumerate(self.parts[:n_stages]):
            small = level.shrink(residual)
            rows = small.flatten(0, 1)
            inputs[i] = rows.detach()
            flat = level.book.search(rows.detach(), None if tables is None else tables[i])
            entries = level.book.lookup(flat)
            loss = loss + level.book.loss(rows, entries)
            hard = (rows + (entries - rows).detach()).view_as(small)
            given = level.repeat(level.project_out(hard).transpose(1, 2), frames)
            codes[:, i] = level.repeat(flat.view(batch, -1), frames)
            total = total + torch.where((levels > i)[:, None, None], given, 0.0)
            residual = residual - given
        if n_stages < len(self.levels):
            inputs[n_stages] = self.parts[n_stages].shrink(residual).flatten(0, 1).detach()
        return Quantized(total, codes, loss / len(self.levels), tuple(inputs))

    def dequantize(self, codes: Tensor) -> Tensor:
        """Each frame alone, so that a window may begin within a code of several frames."""
        parts = zip(self.parts, codes.unbind(1), strict=False)
        given = [level.project_out(level.book.lookup(code)) for level, code in parts]
        return torch.stack(given).sum(0).transpose(1, 2)
