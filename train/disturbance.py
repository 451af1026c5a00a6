"""The disturbance of P.862 as a loss: how much louder or softer each band of speech became, as an ear would weigh it.

What the standard does and a loss can follow: both signals at one level, the power of Bark bands, the colour of a room
and the gain of a frame taken out, Zwicker's loudness, a dead zone where one sound masks the other, and a heavier weight
for what was added than for what went missing. What it leaves out: time alignment, bad intervals, the mapping to a MOS.
Source: ITU-T P.862 (2001), clause 10.2, with the weights of P.862.2; the bands are this package's.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

N_FFT = 512  # samples: 32 ms at 16 kHz
LEVEL = 1e7  # power of speech in its telephone band; the thresholds below count from it
BAND = (350.0, 3250.0)  # Hz, where the level is measured
QUIET = 1e-5  # power in that band, of full scale 1: what is softer is not lifted to the level of speech
WIDTH = 0.43  # Bark a band
# Hz and dB: what is just heard alone, at that level; above, the last
THRESHOLD = ((31, 64.0), (64, 48.5), (96, 36.9), (130, 30.7), (200, 20.0), (300, 9.9), (500, 0.0), (1000, -3.5))
RUN = 40  # frames that the worst of them speaks for, 0.32 s
LOUDEST = 45.0  # no frame counts more


def disturbance(target: Tensor, made: Tensor, sample_rate: int) -> Tensor:
    """How far MOS falls for it, before P.862's mapping: 0 for equal signals, about 2 at PESQ-WB 2.7.

    Args:
        target: magnitudes (B, bins, frames) of a Hann STFT of `N_FFT` at 75 % overlap, white noise of deviation s
            having bins of magnitude s.
        made: the same of the signal to judge.
        sample_rate: of both, Hz.
    """
    bank, threshold, power = _bands(sample_rate, target.device)
    clean, heard = (bank @ _level(x, sample_rate) for x in (target, made))  # (B, bands, frames)
    spoken = (_audible(clean, 100 * threshold).sum(1, keepdim=True) > 1e7).float()
    colour = [(_audible(x, 100 * threshold) * spoken).mean(2, keepdim=True) + 1000 for x in (clean, heard)]
    clean = clean * (colour[1] / colour[0]).clamp(0.01, 100)
    total = _audible(clean, threshold).sum(1, keepdim=True)
    gain = (total + 5e3) / (_audible(heard, threshold).sum(1, keepdim=True) + 5e3)
    heard = heard * _smooth(gain).clamp(3e-4, 5)
    a, b = (_loudness(x, threshold, power) for x in (clean, heard))
    apart = ((a - b).abs() - 0.25 * torch.minimum(a, b)).clamp(min=0)
    added = ((heard + 50) / (clean + 50)).detach() ** 1.2
    added = torch.where(added < 3, torch.zeros_like(added), added.clamp(max=12))
    scale = ((total + 1e5) / 1e7)[:, 0] ** 0.04
    both = (WIDTH * math.sqrt(WIDTH * len(bank)) * torch.linalg.vector_norm(apart, dim=1) / scale).clamp(max=LOUDEST)
    more = (WIDTH * (apart * added).sum(1) / scale).clamp(max=LOUDEST)
    return (0.1 * _worst(both) + 0.0309 * _worst(more)).mean()


def _level(magnitude: Tensor, sample_rate: int) -> Tensor:
    """Power (B, bins, frames) of the signal at the level of speech."""
    power = magnitude.square()
    low, high = (round(hz * N_FFT / sample_rate) for hz in BAND)
    mean = power[:, low:high].sum(1).mean(1) / (N_FFT / 2)
    return power * (LEVEL / mean.clamp(min=QUIET))[:, None, None]


def _audible(power: Tensor, threshold: Tensor) -> Tensor:
    return power * (power > threshold)


def _smooth(gain: Tensor) -> Tensor:
    """Each frame's gain with a fifth of that of the frame 16 ms before it."""
    return torch.cat([gain[..., :2], 0.8 * gain[..., 2:] + 0.2 * gain[..., :-2]], dim=-1)


def _loudness(power: Tensor, threshold: Tensor, exponent: Tensor) -> Tensor:
    """Sone of each band, 0 below its threshold."""
    ratio = (power / threshold).clamp(min=1)
    return 0.1866 * (2 * threshold) ** exponent * ((0.5 + 0.5 * ratio) ** exponent - 1)


def _worst(frames: Tensor) -> Tensor:
    """(B, frames) to (B,): the sixth-power mean over runs of frames, the mean square over runs."""
    runs = frames.unfold(1, min(RUN, frames.shape[1]), RUN // 2)
    worst: Tensor = torch.linalg.vector_norm(runs, 6, dim=2) / runs.shape[2] ** (1 / 6)
    over_runs: Tensor = torch.linalg.vector_norm(worst, dim=1)
    return over_runs / math.sqrt(worst.shape[1])


@functools.cache
def _bands(sample_rate: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each band: the bins it sums, (bands, bins), its threshold, (bands, 1), and loudness exponent, (bands, 1)."""
    freqs = torch.arange(1, N_FFT // 2 + 1, dtype=torch.float64) * sample_rate / N_FFT
    freqs = freqs[freqs <= 8000]
    bark = 7 * torch.asinh(freqs / 650)  # Schroeder et al. 1979
    band = (bark / WIDTH).floor().long()
    band = torch.unique(band, return_inverse=True)[1]  # the lowest bands hold a bin or none
    bank = torch.zeros(int(band.max()) + 1, N_FFT // 2 + 1, dtype=torch.float64)
    bank[band, torch.arange(1, len(freqs) + 1)] = 1
    count = bank[:, 1 : len(freqs) + 1].sum(1)
    centre = (bank[:, 1 : len(freqs) + 1] @ freqs) / count
    heard = torch.tensor([_threshold(float(hz)) for hz in centre])[:, None]
    exponent = 0.23 * (6 / (7 * torch.asinh(centre / 650) + 2)).clamp(1, 2)[:, None] ** 0.15
    return tuple(x.float().to(device) for x in (bank, heard, exponent))  # type: ignore[return-value]


def _threshold(hz: float) -> float:
    """Power at which a tone of `hz` is just heard: straight lines in dB over the logarithm of frequency."""
    below = [point for point in THRESHOLD if point[0] <= hz] or [THRESHOLD[0]]
    above = [point for point in THRESHOLD if point[0] > hz] or [THRESHOLD[-1]]
    (f, p), (g, q) = below[-1], above[0]
    share = 0.0 if f == g else min(1.0, max(0.0, math.log(hz / f) / math.log(g / f)))
    return 10 ** ((p + share * (q - p)) / 10)
