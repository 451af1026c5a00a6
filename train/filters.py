"""Speech as if it had come another way: through other microphones, rooms, telephones and lossy files.

A few hours of speech hold a few recording channels, and a codec that knows no other codes what has no upper band, or a
bright or thin sound, worse than what it learned from. So a share of the crops is filtered; input and target alike.

>>> generator = torch.Generator().manual_seed(0)
>>> audio = torch.randn(3, 800, generator=generator)
>>> curves = draw_curves(3, 800, 16000, share=1.0, generator=generator)
>>> through(audio, curves).shape
torch.Size([3, 800])
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UPPER = (0.35, 0.95)  # of the band: where a low pass begins; a telephone's 3.4 kHz is 0.42 of 16 kHz speech's
LOWER = (50.0, 400.0)  # Hz, where a high pass begins
ORDERS = (1.0, 4.0)  # of a high pass, as Butterworth counts them
STEEP = (4.0, 40.0)  # of a low pass: a microphone's to a lossy file's
TILT = 3.0  # dB an octave at most, up or down
WAVES, DEPTH = 3, 4.0  # slow waves over the octaves, and dB at most of each
CENTRE = 1000.0  # Hz, where a tilt changes nothing
RANGE = 20.0  # dB that tilt and waves change a bin by at most


def draw_curves(count: int, length: int, sample_rate: int, *, share: float, generator: torch.Generator) -> Tensor:
    """Gains (count, length // 2 + 1) of the bins of `length` samples; a row of ones where the crop stays as it is.

    Args:
        count: rows.
        length: samples.
        sample_rate: Hz.
        share: of the rows that get a filter: half of them a low pass, half a high pass, all a colour.
        generator: on the CPU; the same draws whatever the share, but for which rows.
    """

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    def draw_log(low: float, high: float) -> Tensor:
        return draw(math.log(low), math.log(high)).exp()

    freqs = torch.linspace(0, sample_rate / 2, length // 2 + 1).clamp(min=1.0)
    octaves = (freqs / CENTRE).log2()
    wanted, high_passed, low_passed = (draw(0, 1) < chance for chance in (share, 0.5, 0.5))
    decibels = draw(-TILT, TILT) * octaves
    for period in range(2, 2 + WAVES):
        decibels = decibels + draw(-DEPTH, DEPTH) * torch.cos(2 * math.pi * (octaves / period + draw(0, 1)))
    gains = 10 ** (decibels.clamp(-RANGE, RANGE) / 20)
    high = (1 + (draw_log(*LOWER) / freqs) ** (2 * draw(*ORDERS))).rsqrt()
    low = (1 + (freqs / (draw(*UPPER) * sample_rate / 2)) ** (2 * draw_log(*STEEP))).rsqrt()
    gains = gains * torch.where(high_passed, high, 1.0) * torch.where(low_passed, low, 1.0)
    return torch.where(wanted, gains, 1.0)


def through(audio: Tensor, curves: Tensor) -> Tensor:
    """Crops (B, T) filtered without a change of phase, each as loud as it was; the crop is taken for a period."""
    made = torch.fft.irfft(torch.fft.rfft(audio) * curves, audio.shape[1])
    power, now = (x.square().mean(1, keepdim=True) for x in (audio, made))
    levelled: Tensor = made * (power / now.clamp(min=1e-12)).sqrt()
    return levelled
