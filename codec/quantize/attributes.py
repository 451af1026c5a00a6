"""Attributes apart: prosody and content each code the latent itself, and a residual what both leave over.

>>> config = AttributesConfig(codebook_size=16, codebook_dim=4, n_passed=8)
>>> bottleneck = Attributes(config, dim=16)
>>> bottleneck.encode(torch.zeros(1, 16, 5), 3).shape, bottleneck.prefixes
(torch.Size([1, 3, 5]), (3, 4, 5, 6))

Source: Ju et al. 2024 (NaturalSpeech 3), section 3.2, and Amphion's code of FACodec.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.config import replace
from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.factorised import Factorised, FactorisedConfig
from codec.quantize.vq import CodebookConfig, VectorQuantizer


@dataclass(frozen=True)
class AttributesConfig(CodebookConfig):
    """Options of the bottleneck `attributes`; the defaults are FACodec's."""

    learn: str = "gradient"
    commitment: float = 0.005
    codebook_dim: int = 8  # numbers of an entry
    n_prosody: int = 1  # codebooks of each part
    n_content: int = 2
    n_residual: int = 3
    n_passed: int = 0  # last channels that no code carries: as they are in training, zeros when decoded
    apart: bool = False  # the decoder's gradient reaches prosody and content not at all: they have heads of their own

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if min(self.n_prosody, self.n_content, self.n_residual) < 1 or self.n_passed < 0:
            raise ConfigError("n_prosody, n_content, n_residual: at least 1; n_passed: at least 0")


class Attributes(Bottleneck):
    """Three factorised quantizers; the codes are prosody's, content's and the residual's, each coarse to fine."""

    own_gradient = True

    def __init__(self, config: AttributesConfig, dim: int) -> None:
        super().__init__()
        if config.n_passed >= dim:
            raise ConfigError(f"n_passed: {config.n_passed} of latent_dim {dim} leave nothing to code")
        self.n_passed = config.n_passed
        self.apart = config.apart
        book = FactorisedConfig(config.codebook_size, config.learn, config.commitment, codebook_dim=config.codebook_dim)
        counts = (config.n_prosody, config.n_content, config.n_residual)
        parts = (Factorised(replace(book, n_codebooks=n), dim - config.n_passed) for n in counts)
        self.prosody, self.content, self.residual = parts

    @property
    def parts(self) -> tuple[Factorised, Factorised, Factorised]:
        """In code order."""
        return self.prosody, self.content, self.residual

    @property
    def n_direct(self) -> int:
        """Codebooks of prosody and content."""
        return self.prosody.n_codebooks + self.content.n_codebooks

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Prosody, content, residual."""
        return tuple(book for part in self.parts for book in part.codebooks)

    @property
    def stages(self) -> tuple[int, ...]:
        """Prosody and content start side by side, the residual after both."""
        after = max(self.prosody.n_stages, self.content.n_stages)
        return (*self.prosody.stages, *self.content.stages, *(after + i for i in self.residual.stages))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """All of prosody and content, and any number of the residual's."""
        return tuple(range(self.n_direct, self.n_codebooks + 1))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Prosody and content of the latent, then what is left."""
        n_coded = latent.shape[1] - self.n_passed
        x, passed = latent[:, :n_coded], latent[:, n_coded:]
        edges = (0, self.prosody.n_codebooks, self.n_direct, self.n_codebooks)
        of_part = [None if tables is None else tables[a:b] for a, b in itertools.pairwise(edges)]
        prosody = self.prosody.quantize(x, levels, min(n_stages, self.prosody.n_stages), of_part[0])
        of_content = levels - self.prosody.n_codebooks
        content = self.content.quantize(x, of_content, min(n_stages, self.content.n_stages), of_part[1])
        direct = prosody.latent + content.latent
        started = max(0, n_stages - self.stages[self.n_direct])
        rest = self.residual.quantize(x - direct.detach(), levels - self.n_direct, started, of_part[2])
        made = (prosody, content, rest)
        whole = (direct.detach() if self.apart else direct) + rest.latent
        weighed = [one.loss * part.n_codebooks for one, part in zip(made, self.parts, strict=True)]
        inputs = zip(self.stages, (y for one in made for y in one.inputs), strict=True)
        return Quantized(
            torch.cat((whole, passed), 1),
            torch.cat([one.codes for one in made], 1),
            torch.stack(weighed).sum() / self.n_codebooks,
            tuple(y if stage <= n_stages else None for stage, y in inputs),
            (prosody.latent, content.latent, rest.latent),
        )

    def dequantize(self, codes: Tensor) -> Tensor:
        """The sum of the parts' entries, (B, Q', F) -> (B, D, F); what no code carries is zero."""
        n = self.prosody.n_codebooks
        x = self.prosody.dequantize(codes[:, :n]) + self.content.dequantize(codes[:, n : self.n_direct])
        if codes.shape[1] > self.n_direct:
            x = x + self.residual.dequantize(codes[:, self.n_direct :])
        return F.pad(x, (0, 0, 0, self.n_passed))
