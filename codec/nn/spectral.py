"""The spectral family: all work at the frame rate, STFT in, inverse STFT out. Causal, and cheap enough for one core.

>>> config = SpectralDecoderConfig(dim=8, hidden_dim=16, n_blocks=1, n_fine_blocks=1)
>>> decoder = spectral_decoder(config, 4, hop_length=320)
>>> decoder(torch.randn(1, 4, 3)).shape, decoder.delay
(torch.Size([1, 1, 960]), 480)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.convs import CausalConv, ConvNeXt
from codec.nn.layers import Chain, ChannelNorm, Layer, Linear, Split, Stateless
from codec.nn.noisephase import NoisePhase
from codec.nn.stft import InverseStft, Stft


@dataclass(frozen=True)
class SpectralEncoderConfig:
    """Sizes of the spectral encoder."""

    dim: int = 256  # channels of the blocks
    hidden_dim: int = 768  # channels inside a block
    n_blocks: int = 6
    kernel_size: int = 7  # frames that a block's depthwise conv sees
    n_fft: int = 640  # samples of the analysis window; the newest ones, so no look-ahead
    exponent: float = 0.3  # magnitudes enter as |X| ** exponent, near to loudness


@dataclass(frozen=True)
class SpectralDecoderConfig:
    """Sizes of the spectral decoder."""

    dim: int = 256
    hidden_dim: int = 768
    n_blocks: int = 8  # at the frame rate
    n_fine_blocks: int = 2  # at the sub-frame rate
    n_subframes: int = 2  # sub-frames per frame; one inverse FFT each
    kernel_size: int = 7
    overlap: int = 4  # inverse-STFT windows over each sample: n_fft = overlap * hop_length / n_subframes
    noise_bins: tuple[int, ...] = ()  # the last with a phase of its own, the first with a noise's alone; empty: none
    noise_period: int = 32  # frames after which that noise repeats
    exponent: float = 0.3  # the head's outputs are X * |X| ** (exponent - 1)


class CompressedSpectrum(Stateless):
    """Spectrum to features: 0.3 * log magnitude, and the complex value with its magnitude compressed.

    (B, 2 * bins, F) -> (B, 3 * bins, F).
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def apply_to(self, x: Tensor) -> Tensor:
        """Bin by bin."""
        real, imag = x.chunk(2, 1)
        power = real.square() + imag.square() + 1e-7  # -70 dB below a full-scale bin: the quantisation noise of 16 bit
        gain = power ** ((self.exponent - 1) / 2)
        return torch.cat((0.15 * power.log(), real * gain, imag * gain), 1)


class ExpandSpectrum(Stateless):
    """Head outputs to spectrum: c * |c| ** (1 / exponent - 1), the inverse of the compression.

    Two outputs a bin, not magnitude and phase: the path from input to output is nearly linear in the compressed domain,
    and learns the waveform several times faster.
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.power = (1 / exponent - 1) / 2

    def apply_to(self, x: Tensor) -> Tensor:
        """Bin by bin, at least in float32: the power spans 80 dB."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        real, imag = x.chunk(2, 1)
        gain = (real.square() + imag.square() + 1e-8) ** self.power
        return x * torch.cat((gain, gain), 1)


def spectral_encoder(config: SpectralEncoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Audio (B, 1, F * hop) to latent (B, D, F).

    Raises:
        ConfigError: a window shorter than the hop.
    """
    if config.n_fft < hop_length:
        raise ConfigError(f"encoder.n_fft: {config.n_fft} is shorter than hop_length {hop_length}")
    bins = config.n_fft // 2 + 1
    blocks = [ConvNeXt(config.dim, config.hidden_dim, kernel_size=config.kernel_size) for _ in range(config.n_blocks)]
    return Chain(
        [
            Stft(config.n_fft, hop_length=hop_length),
            CompressedSpectrum(config.exponent),
            # Two frames: enough to see how far each phase has turned.
            CausalConv(3 * bins, config.dim, kernel_size=2),
            *blocks,
            ChannelNorm(config.dim),
            Linear(config.dim, latent_dim),
        ]
    )


def spectral_decoder(config: SpectralDecoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Latent (B, D, F) to audio (B, 1, F * hop), late by the inverse STFT's overlap.

    Raises:
        ConfigError: a hop that does not divide into the sub-frames, or bins of noise that are not there.
    """
    hop, rest = divmod(hop_length, config.n_subframes)
    if rest:
        raise ConfigError(f"decoder.n_subframes: {config.n_subframes} does not divide hop_length {hop_length}")
    n_fft = config.overlap * hop
    if n_fft % 2 or config.overlap < 3:
        raise ConfigError(f"decoder.overlap: {config.overlap} gives windows of {n_fft}; use an even size, overlap >= 3")

    noise: list[Layer] = []
    if config.noise_bins:
        if len(config.noise_bins) != 2:
            raise ConfigError(f"decoder.noise_bins: two bins or none, found {list(config.noise_bins)}")
        first, last = config.noise_bins
        period = config.noise_period * config.n_subframes
        noise = [NoisePhase(n_fft, hop_length=hop, bins=(first, last), period=period)]

    def blocks(count: int) -> list[Layer]:
        return [ConvNeXt(config.dim, config.hidden_dim, kernel_size=config.kernel_size) for _ in range(count)]

    return Chain(
        [
            CausalConv(latent_dim, config.dim, kernel_size=3),
            *blocks(config.n_blocks),
            Linear(config.dim, config.dim * config.n_subframes),
            Split(config.n_subframes),
            *blocks(config.n_fine_blocks),
            ChannelNorm(config.dim),
            Linear(config.dim, n_fft + 2),
            ExpandSpectrum(config.exponent),
            *noise,
            InverseStft(n_fft, hop_length=hop),
        ]
    )
