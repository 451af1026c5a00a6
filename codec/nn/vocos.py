"""The Vocos decoder: ConvNeXt blocks at the frame rate, a spectrum as magnitude and phase, an inverse STFT.

>>> config = VocosDecoderConfig(dim=8, hidden_dim=16, n_blocks=2, n_fft=64)
>>> decoder = vocos_decoder(config, 4, hop_length=16)
>>> decoder(torch.randn(1, 4, 10)).shape, decoder.delay
(torch.Size([1, 1, 160]), 0)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.convnext import convnext_block
from codec.nn.convs import CausalConv, ConvNeXt
from codec.nn.layers import Chain, ChannelNorm, Layer, Linear, Stateless
from codec.nn.stft import InverseStft
from codec.nn.symmetric import SymmetricConv, WholeLayer

LOUDEST = 100.0  # magnitude at which a bin is cut, so that one bad frame does not overflow


@dataclass(frozen=True)
class VocosDecoderConfig:
    """Options of the decoder `vocos`; the defaults are Language-Codec's.

    Raises:
        ConfigError: a size that cannot be.
    """

    dim: int = 384  # channels of the blocks
    hidden_dim: int = 1152  # channels inside a block
    n_blocks: int = 12
    kernel_size: int = 7  # frames that a block's depthwise conv sees
    n_fft: int = 1280  # samples of an inverse-STFT window
    causal: bool = False  # true: convolutions look back only, and the output is late by n_fft - hop_length samples

    def __post_init__(self) -> None:
        """Check values."""
        for name in ("dim", "hidden_dim", "n_blocks", "kernel_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"VocosDecoderConfig.{name}: must be at least 1, found {getattr(self, name)}")
        if self.n_fft < 2 or self.n_fft % 2:
            raise ConfigError(f"VocosDecoderConfig.n_fft: must be even and at least 2, found {self.n_fft}")


class PolarSpectrum(Stateless):
    """Log magnitudes and phases to a complex spectrum: (B, 2 * bins, F), both halves in this order -> real, imaginary.

    A phase wraps by itself: only its cosine and sine are used.

    Source: Siuzdak 2023 (Vocos), section 3.2.
    """

    def apply_to(self, x: Tensor) -> Tensor:
        """Bin by bin, at least in float32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        level, phase = x.chunk(2, 1)
        magnitude = level.exp().clamp(max=LOUDEST)
        return torch.cat((magnitude * phase.cos(), magnitude * phase.sin()), 1)


class CentredInverseStft(WholeLayer):
    """Overlap-add of inverse FFTs, each window centred on its frame's hop: (B, 2 * bins, n) -> (B, 1, n * hop).

    The windows reach `(n_fft - hop) / 2` samples beyond the signal on both sides, which is cut; the sum is divided by
    that of the squared windows that are there, so nothing is late and the edges are as loud as the rest.

    Raises:
        ConfigError: a window that cannot stand centred on a hop.

    Source: Siuzdak 2023 (Vocos), the inverse STFT with padding "same".
    """

    window: Tensor

    def __init__(self, n_fft: int, *, hop_length: int) -> None:
        super().__init__()
        if n_fft < 2 * hop_length or (n_fft - hop_length) % 2:
            raise ConfigError(
                f"n_fft: {n_fft} cannot stand centred on hop_length {hop_length}; "
                "use at least twice the hop, and both even or both odd"
            )
        self.n_fft = n_fft
        self.up = hop_length
        self.cut = (n_fft - hop_length) // 2
        places = range(self.cut, self.cut + hop_length)  # of a group's samples before the cut, frame 0 at 0
        # A window's first sample has weight 0.
        self.edges = tuple((-(-(place + 1 - n_fft) // hop_length), (place - 1) // hop_length) for place in places)
        self.lookahead = self.edges[-1][1]
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @property
    def receptive_field(self) -> int:
        """The own frame and the earlier ones whose windows reach the own samples."""
        return 1 - self.edges[0][0]

    def apply_to(self, x: Tensor) -> Tensor:
        """Each frame's inverse FFT, windowed and added."""
        bins = self.n_fft // 2 + 1
        spec = torch.complex(x[:, :bins], x[:, bins:])
        window = self.window[:, None]
        audio = self._overlap_add(torch.fft.irfft(spec, self.n_fft, dim=1) * window)
        envelope = self._overlap_add(window.square().expand(1, -1, x.shape[-1]))
        return audio / envelope

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, n_fft, n) -> (B, 1, n * hop)."""
        size = frames.shape[-1] * self.up
        y = F.fold(frames, (1, size + 2 * self.cut), kernel_size=(1, self.n_fft), stride=(1, self.up))
        return y[:, :, 0, self.cut : self.cut + size]


def vocos_decoder(config: VocosDecoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Latent (B, D, F) to audio (B, 1, F * hop).

    Raises:
        ConfigError: a window that does not fit the hop.

    Source: Siuzdak 2023 (Vocos), section 3; Ji et al. 2024 (Language-Codec), section 3.3.
    """
    if config.causal and config.n_fft <= hop_length:
        raise ConfigError(f"decoder.n_fft: {config.n_fft} is not longer than hop_length {hop_length}")
    conv: type[CausalConv] | type[SymmetricConv] = CausalConv if config.causal else SymmetricConv
    inverse: type[InverseStft] | type[CentredInverseStft] = InverseStft if config.causal else CentredInverseStft
    body = Chain(
        [
            conv(latent_dim, config.dim, kernel_size=config.kernel_size),
            ChannelNorm(config.dim),
            Chain([_block(config) for _ in range(config.n_blocks)]),
            ChannelNorm(config.dim),
            Linear(config.dim, config.n_fft + 2),
        ]
    )
    body.apply(_begin)
    return Chain([body, PolarSpectrum(), inverse(config.n_fft, hop_length=hop_length)])


def _block(config: VocosDecoderConfig) -> Layer:
    """A ConvNeXt block, its scale one over their number."""
    dim, scale = config.dim, 1 / config.n_blocks
    if config.causal:
        return ConvNeXt(dim, config.hidden_dim, kernel_size=config.kernel_size, scale=scale)
    return convnext_block(dim, hidden_dim=config.hidden_dim, kernel_size=config.kernel_size, scale=scale)


def _begin(module: nn.Module) -> None:
    """Small weights and no bias, as Vocos begins: the first spectrum is near magnitude 1 and phase 0.

    Vocos cuts its normal distribution at 2, which is a hundred deviations away.
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
