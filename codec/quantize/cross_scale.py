"""Cross-scale product quantization: quantizers between the decoder's stages.

Each codes what the stages before it left over at its scale.

The bottleneck owns those stages: they run at encoding and at decoding. So its latents differ, the encoder's (all coded
scales) from the decoder's (the finest scale), and a frame depends on others: it codes whole signals.

>>> config = CrossScaleConfig(codebook_size=8, widths=(4, 6), n_heads=(2,), n_blocks=1, codebook_dims=(3, 3))
>>> bottleneck = CrossScale(config, dim=384)
>>> bottleneck.encode(torch.zeros(1, 384, 5)).shape, bottleneck.prefixes
(torch.Size([1, 6, 5]), (3, 6))

Source: Gu and Diao 2024 (ESC), sections 3.2 and 3.3, and its code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.esc import JOINED, EscConfig, join, part
from codec.nn.swin import SwinStage
from codec.quantize.base import Bottleneck, Quantized, Tables
from codec.quantize.vq import CodebookConfig, VectorQuantizer


@dataclass(frozen=True)
class CrossScaleConfig(CodebookConfig):
    """Options of the bottleneck `cross_scale`; the defaults are those of ESC's base model."""

    learn: str = "gradient"
    commitment: float = 0.25
    widths: tuple[int, ...] = EscConfig.widths  # as the encoder's
    n_heads: tuple[int, ...] = EscConfig.n_heads
    n_blocks: int = EscConfig.n_blocks
    n_groups: int = 3  # equal parts of a vector, each with a codebook
    codebook_dims: tuple[int, ...] = (8, 8, 8, 8, 8, 8)  # numbers of an entry, of each stream

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if len(self.codebook_dims) != len(self.widths) or min(*self.codebook_dims, self.n_groups) < 1:
            raise ConfigError(f"codebook_dims: expected {len(self.widths)} numbers, found {list(self.codebook_dims)}")

    @property
    def network(self) -> EscConfig:
        """The sizes of the network around it."""
        return EscConfig(self.widths, self.n_heads, self.n_blocks)


class Group(nn.Module):
    """One part of a vector: a codebook, looked up by angle, between two matrices."""

    def __init__(self, config: CodebookConfig, dim: int, codebook_dim: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, codebook_dim, bias=False)
        self.book = VectorQuantizer(config, codebook_dim, cosine=True)
        self.project_out = nn.Linear(codebook_dim, dim, bias=False)


class Stream(nn.Module):
    """The quantizer of one scale: (B, D, F) in equal parts, the last one with what is left."""

    def __init__(self, config: CrossScaleConfig, dim: int, codebook_dim: int) -> None:
        super().__init__()
        n = config.n_groups
        self.sizes = [dim // n] * (n - 1) + [dim - dim // n * (n - 1)]
        self.groups = nn.ModuleList(Group(config, size, codebook_dim) for size in self.sizes)

    @property
    def parts(self) -> tuple[Group, ...]:
        """In code order."""
        return tuple(group for group in self.groups if isinstance(group, Group))

    def shrink(self, x: Tensor) -> list[Tensor]:
        """(B, D, F) to (B, F, d) of each group."""
        rows = x.transpose(1, 2).split(self.sizes, -1)  # type: ignore[no-untyped-call]
        return [group.project_in(row) for group, row in zip(self.parts, rows, strict=True)]

    def expand(self, small: list[Tensor]) -> Tensor:
        """(B, F, d) of each group to (B, D, F)."""
        given = [group.project_out(x) for group, x in zip(self.parts, small, strict=True)]
        return torch.cat(given, -1).transpose(1, 2)


class CrossScale(Bottleneck):
    """Streams from coarse to fine, and the decoder's stages between them; code G * s + g is group g of stream s."""

    own_gradient = True  # the matrices and the stages learn from the decoder
    own_bypass = True  # with no stage started, the streams pass what their matrices let through

    def __init__(self, config: CrossScaleConfig, dim: int) -> None:
        super().__init__()
        sizes = config.network
        if dim != sizes.latent_dim:
            raise ConfigError(f"latent_dim: {dim}, the scales of widths {list(config.widths)} have {sizes.latent_dim}")
        self.scales = sizes.coded
        self.n_groups = config.n_groups
        targets = [self.scales[max(0, i - 1)] for i in range(len(config.widths))]  # the coarsest is coded twice
        self.widths = [JOINED * height * width for height, width in self.scales]
        dims = [self.widths[max(0, i - 1)] for i in range(len(targets))]
        self.streams = nn.ModuleList(Stream(config, a, b) for a, b in zip(dims, config.codebook_dims, strict=True))
        stages = zip(config.widths[1:], config.widths, config.n_heads, strict=False)
        self.inner = nn.ModuleList(
            SwinStage(a, b, n_heads=heads, n_blocks=config.n_blocks, scale="up") for a, b, heads in reversed([*stages])
        )

    @property
    def parts(self) -> tuple[Stream, ...]:
        """Coarse to fine."""
        return tuple(stream for stream in self.streams if isinstance(stream, Stream))

    @property
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """Stream after stream."""
        return tuple(group.book for stream in self.parts for group in stream.parts)

    @property
    def stages(self) -> tuple[int, ...]:
        """The groups of a stream start together."""
        return tuple(i for i in range(len(self.streams)) for _ in range(self.n_groups))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Whole streams."""
        return tuple(range(self.n_groups, self.n_codebooks + 1, self.n_groups))

    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """Stream after stream; row b adds its first `levels[b] / G` streams."""
        batch, _, frames = latent.shape
        targets = latent.split(self.widths, 1)  # type: ignore[no-untyped-call]
        codes = torch.zeros(batch, self.n_codebooks, frames, dtype=torch.int64, device=latent.device)
        inputs: list[Tensor | None] = [None] * self.n_codebooks
        loss, made = latent.new_zeros(()), torch.zeros_like(targets[0])
        for s, stream in enumerate(self.parts):
            first = s * self.n_groups
            if s <= n_stages or n_stages == 0:
                small = stream.shrink(targets[max(0, s - 1)] - made)
                for g, (group, x) in enumerate(zip(stream.parts, small, strict=True)):
                    i, rows = first + g, x.flatten(0, 1)
                    inputs[i] = rows.detach() if s <= n_stages else None
                    if s >= n_stages:
                        continue
                    flat = group.book.search(rows.detach(), None if tables is None else tables[i])
                    entries = group.book.lookup(flat)
                    loss = loss + group.book.loss(rows, entries)
                    codes[:, i] = flat.view(batch, frames)
                    small[g] = (rows + (entries - rows).detach()).view_as(x)
                if s < n_stages or n_stages == 0:
                    made = made + torch.where((levels > first)[:, None, None], stream.expand(small), 0.0)
            made = self._refine(made, s)
        return Quantized(made, codes, loss / self.n_codebooks, tuple(inputs))

    def dequantize(self, codes: Tensor) -> Tensor:
        """(B, Q', F), whole streams, to the finest scale (B, D', F)."""
        made = codes.new_zeros((codes.shape[0], self.widths[0], codes.shape[2]), dtype=self.codebooks[0].embed.dtype)
        for s, stream in enumerate(self.parts):
            own = codes[:, s * self.n_groups : (s + 1) * self.n_groups].unbind(1)
            if own:
                entries = [group.book.lookup(code) for group, code in zip(stream.parts, own, strict=True)]
                made = made + stream.expand(entries)
            made = self._refine(made, s)
        return made

    def _refine(self, made: Tensor, s: int) -> Tensor:
        """What follows stream s: nothing behind the first, then a stage to the next finer scale. (B, D, F)."""
        if s == 0:
            return made
        height, _ = self.scales[s - 1]
        return join(self.inner[s - 1](part(made, height)))
