"""The mel distances of published systems, as data: windows, bands, and how magnitudes are compared.

>>> config = MelsConfig(windows=(1024,), n_mels=(80,))
>>> x = torch.randn(1, 4096)
>>> float(distance(x, x, config, 24000)), round(float(distance(x, x * math.e, config, 24000)), 3)
(0.0, 1.0)
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.train.config import MelsConfig


def distance(target: Tensor, made: Tensor, config: MelsConfig, sample_rate: int) -> Tensor:
    """Sum over the windows of the distances that have a weight; of audio (B, T), scalar.

    Source: Kong et al. 2020 (HiFi-GAN), section 2.3, for logarithms of one window; Zeghidour et al. 2021 (SoundStream),
    section III-D, for magnitudes and squares of several.
    """
    total = target.new_zeros(())
    for i, window in enumerate(config.windows):
        n_fft = config.of(config.n_ffts, i) or window
        bank = filters(n_fft, sample_rate, config.of(config.n_mels, i), config.scale, target.device)
        hop = config.of(config.hops, i) or window // 4
        a, b = (bank @ magnitudes(x, window, hop, n_fft, config.normalized) for x in (target, made))
        if config.of(config.linear, i):
            total = total + config.of(config.linear, i) * (a - b).abs().mean()
        difference = a.clamp(min=config.floor).log() - b.clamp(min=config.floor).log()
        if config.decimal:
            difference = difference / math.log(10)
        if config.of(config.log, i):
            total = total + config.of(config.log, i) * difference.abs().mean()
        if config.of(config.square, i):
            # The floor keeps the root's gradient finite where both are the same.
            total = total + config.of(config.square, i) * (difference.square().mean(1) + 1e-12).sqrt().mean()
    return total


def magnitudes(audio: Tensor, window: int, hop: int, n_fft: int, normalized: bool) -> Tensor:
    """Magnitudes (B, bins, T / hop) of audio (B, T), mirrored at its ends; Hann window, zeros up to n_fft.

    `window`, `hop` and `n_fft` are samples; `normalized` is over the root of the window's energy.
    """
    pad = (window - hop) // 2
    frames = F.pad(audio[:, None], (pad, pad), mode="reflect")[:, 0].unfold(-1, window, hop)
    spec = torch.fft.rfft(frames * hann(window, normalized, audio.device), n=n_fft)
    magnitude: Tensor = (spec.real.square() + spec.imag.square() + 1e-12).sqrt()
    return magnitude.transpose(1, 2)


@functools.cache
def filters(n_fft: int, sample_rate: int, n_mels: int, scale: str, device: torch.device) -> Tensor:
    """Triangular mel filters (n_mels, bins) from 0 Hz to half of the rate.

    `slaney` is librosa's default, linear below 1 kHz, each filter of area 1; `htk` is torchaudio's, each of height 1. A
    filter narrower than a bin is empty, as theirs: such a band is 0 in target and result.
    """
    nyquist = torch.tensor(sample_rate / 2, dtype=torch.float64)
    steps = torch.linspace(0, 1, n_mels + 2, dtype=torch.float64)
    if scale == "htk":
        edges = 700 * ((1 + nyquist / 700) ** steps - 1)
    else:
        # 1 kHz is 15 mels of 200/3 Hz; above it 27 mels are a factor of 6.4.
        mels = steps * (15 + 27 * torch.log(nyquist / 1000) / math.log(6.4) if nyquist > 1000 else nyquist * 0.015)
        edges = torch.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    freqs = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = torch.minimum((freqs - low) / (centre - low), (high - freqs) / (high - centre)).clamp(min=0)
    return (bank if scale == "htk" else bank * 2 / (high - low)).float().to(device)


@functools.cache
def hann(window: int, normalized: bool, device: torch.device) -> Tensor:
    """A Hann window (window,), over the root of its energy where asked."""
    values = torch.hann_window(window, dtype=torch.float64)
    return (values / values.square().sum().sqrt() if normalized else values).float().to(device)
