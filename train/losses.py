"""Losses as pure functions of audio and audio_hat, both (B, T) float32; all are scalars that fall to 0.

>>> x = torch.randn(1, 4096)
>>> float(waveform(x, x)), round(float(waveform(x, torch.zeros_like(x))), 3)
(0.0, 1.0)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.train import mels
from codec.train.config import MelsConfig
from codec.train.disturbance import N_FFT, disturbance
from codec.train.spectrum import Spectrum, stft

MEL_WINDOWS = (128, 256, 512, 1024, 2048)  # samples; hop is a quarter of each
COMPLEX_WINDOWS = (256, 512, 1024)
COSINE_BAND = (500.0, 2500.0)  # Hz, the lower formants
LOUDNESS_WINDOWS = (512, 1024)  # 32 and 64 ms at 16 kHz, about what the ear sums over
# Hz; above it the complex loss fades. Few phases up there are told at a few kbit/s, and what is not told costs least
# as silence: unweighted, the loss holds the output duller than its input (docs/design.md, the race).
COMPLEX_CORNER = 1200.0
FLOOR = 1e-4  # magnitude below which nothing is heard: -80 dB, white noise of deviation s has bins of magnitude s


@dataclass(frozen=True)
class Spectra:
    """The STFTs of one signal, made once for all terms, by window length."""

    audio: Tensor
    specs: Mapping[int, Spectrum]


def spectra(audio: Tensor) -> Spectra:
    """All STFTs that the terms look at, of audio (B, T)."""
    return Spectra(audio, {n_fft: stft(audio, n_fft) for n_fft in MEL_WINDOWS})


def mel(target: Spectra, made: Spectra, sample_rate: int) -> Tensor:
    """Mean over windows of the L1 distance of log10 mel magnitudes.

    Source: Kumar et al. 2023 (DAC), section 3.4: many windows, so that neither pitch nor clicks are blurred.
    """
    total = target.audio.new_zeros(())
    for n_fft in MEL_WINDOWS:
        bank = mel_bank(n_fft, sample_rate, target.audio.device)
        a, b = (_bands(s.specs[n_fft], bank).clamp(min=FLOOR).log10() for s in (target, made))
        total = total + (a - b).abs().mean()
    return total / len(MEL_WINDOWS)


def loudness(target: Spectra, made: Spectra, sample_rate: int) -> Tensor:
    """Mean over windows of the L1 distance of the root of mel magnitudes, over the target's mean.

    Loudness grows about so (Stevens 1957; Zwicker and Fastl 1990, section 8.7: power ** 0.23): loud parts count more,
    where the logarithm of `mel` gives the noise of a pause as much weight as a vowel.
    """
    total = target.audio.new_zeros(())
    for n_fft in LOUDNESS_WINDOWS:
        bank = mel_bank(n_fft, sample_rate, target.audio.device)
        a, b = ((_bands(s.specs[n_fft], bank) + FLOOR).sqrt() for s in (target, made))
        total = total + (a - b).abs().mean() / a.mean()
    return total / len(LOUDNESS_WINDOWS)


def complex_stft(target: Spectra, made: Spectra, sample_rate: int) -> Tensor:
    """Mean over windows of the squared distance of compressed complex STFTs, over the target's energy.

    Both spectra are divided by their magnitude ** 0.7: phase counts, and quiet parts too. Bins count by
    1 / (1 + (f / COMPLEX_CORNER) ** 4).
    Source: Braun and Tashev 2021, complex compressed mean squared error; the weight is this package's.
    """
    total = target.audio.new_zeros(())
    for n_fft in COMPLEX_WINDOWS:
        a, b = target.specs[n_fft], made.specs[n_fft]
        root = _fade(n_fft, sample_rate, target.audio.device).sqrt()
        # Not pow, whose gradient computes it once more.
        gain_a, gain_b = (((x.magnitude + FLOOR).log() * -0.7).exp() * root for x in (a, b))
        error = F.mse_loss(b.real * gain_b, a.real * gain_a, reduction="sum")
        error = error + F.mse_loss(b.imag * gain_b, a.imag * gain_a, reduction="sum")
        total = total + error / (a.magnitude * gain_a).square().sum().clamp(min=1e-6)
    return total / len(COMPLEX_WINDOWS)


def phase(target: Spectra, made: Spectra) -> Tensor:
    """Anti-wrapping distance of phase, group delay and instantaneous frequency, weighted by the target's magnitude.

    Source: Ai and Ling 2023 (APNet), section III-C. Without the weight, the phase of silence is noise that dominates.
    """
    total = target.audio.new_zeros(())
    for n_fft in COMPLEX_WINDOWS:
        a, b = target.specs[n_fft], made.specs[n_fft]
        weight = a.magnitude**0.3
        # The angle of the quotient; the floor keeps its gradient finite where the magnitude is tiny.
        real = b.real * a.real + b.imag * a.imag + FLOOR**2
        difference = torch.atan2(b.imag * a.real - b.real * a.imag, real)
        for axis in (None, 1, 2):
            d = difference if axis is None else difference.diff(dim=axis)
            w = weight if axis is None else weight.narrow(axis, 1, weight.shape[axis] - 1)
            total = total + (w * _anti_wrap(d)).sum() / w.sum()
    return total / (3 * len(COMPLEX_WINDOWS))


def cosine(target: Spectra, made: Spectra, sample_rate: int) -> Tensor:
    """1 - the cosine of the phase difference in the band of the lower formants, weighted by the target's magnitude.

    `complex` weighs each band by its share of the energy, which is small there, and costs least at silence where phases
    cannot be told; this does neither.
    """
    total = target.audio.new_zeros(())
    for n_fft in COMPLEX_WINDOWS:
        low, high = (round(hz * n_fft / sample_rate) for hz in COSINE_BAND)
        a, b = (
            Spectrum(*(plane[:, low:high] for plane in (x.real, x.imag, x.magnitude)))
            for x in (target.specs[n_fft], made.specs[n_fft])
        )
        weight = (a.magnitude + FLOOR) ** 0.6
        same = (a.real * b.real + a.imag * b.imag + FLOOR**2) / (a.magnitude * b.magnitude + FLOOR**2)
        total = total + (weight * (1 - same)).sum() / weight.sum()
    return total / len(COMPLEX_WINDOWS)


def waveform(target: Tensor, made: Tensor) -> Tensor:
    """L1 distance over the target's mean magnitude."""
    return (target - made).abs().mean() / target.abs().mean().clamp(min=1e-4)


def power(target: Tensor, made: Tensor) -> Tensor:
    """Mean squared distance of the parts of a complex STFT, each to the power 0.3 with its sign.

    Source: Gu and Diao 2024 (ESC), its code; Wilson et al. 2018. Window 320, hop 80, 382 points, not scaled.
    """
    parts: list[Tensor] = []
    for x in (target, made):
        padded = F.pad(x[:, None], (160, 160), mode="reflect")[:, 0]
        frames = padded.unfold(-1, 320, 80) * torch.hann_window(320, device=x.device)
        spec = torch.view_as_real(torch.fft.rfft(frames, n=382))
        parts.append(spec.sign() * (spec.abs() + 1e-10) ** 0.3)
    return (parts[0] - parts[1]).square().mean()


# name -> term(target, made, sample_rate); the weights are fields of LossConfig
LOSSES: dict[str, Callable[[Spectra, Spectra, int], Tensor]] = {
    "mel": mel,
    "complex": complex_stft,
    "loudness": loudness,
    "cosine": cosine,
    "phase": lambda target, made, _: phase(target, made),
    "waveform": lambda target, made, _: waveform(target.audio, made.audio),
    "power": lambda target, made, _: power(target.audio, made.audio),
    "disturbance": lambda target, made, rate: disturbance(
        target.specs[N_FFT].magnitude, made.specs[N_FFT].magnitude, rate
    ),
}
SPECTRAL = ("mel", "complex", "loudness", "cosine", "phase", "disturbance")  # those that look at the shared spectra


def terms(
    audio: Tensor,
    audio_hat: Tensor,
    weights: Mapping[str, float],
    sample_rate: int,
    published: MelsConfig | None = None,
) -> dict[str, Tensor]:
    """The terms of `LOSSES` whose weight is not 0, of audio and audio_hat (B, T).

    With windows in `published`, `mel` is that system's distance instead of this package's.
    """
    used = {name: term for name, term in LOSSES.items() if weights.get(name, 0.0)}
    if "mel" in used and published is not None and published.windows:
        used["mel"] = lambda target, made, rate: mels.distance(target.audio, made.audio, published, rate)
        shared = any(name in used for name in SPECTRAL if name != "mel")
    else:
        shared = any(name in used for name in SPECTRAL)
    with torch.no_grad():
        target = spectra(audio) if shared else Spectra(audio, {})
    made = spectra(audio_hat) if shared else Spectra(audio_hat, {})
    return {name: term(target, made, sample_rate) for name, term in used.items()}


def weigh(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum."""
    return torch.stack([weights[name] * value for name, value in values.items()]).sum()


@functools.cache
def mel_bank(n_fft: int, sample_rate: int, device: torch.device) -> Tensor:
    """Triangular HTK mel filters (n_mels, bins), each summing to 1; n_mels grows with the window, 10 at 128."""
    n_mels = n_fft * 10 // 128
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, n_mels + 2, dtype=torch.float64) / 2595) - 1)
    freqs = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rise = (freqs - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - freqs) / (edges[2:] - edges[1:-1])[:, None]
    bank = torch.minimum(rise, fall).clamp(min=0)
    # A filter narrower than a bin would be empty: give it the bin nearest to its centre.
    nearest = (freqs - edges[1:-1, None]).abs().argmin(1)
    empty = bank.sum(1) == 0
    bank[empty, nearest[empty]] = 1
    return (bank / bank.sum(1, keepdim=True)).float().to(device)


@functools.cache
def _fade(n_fft: int, sample_rate: int, device: torch.device) -> Tensor:
    """Weight of each bin in the complex loss, (bins, 1)."""
    freqs = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, device=device)
    return (1 / (1 + (freqs / COMPLEX_CORNER) ** 4))[:, None]


def _bands(spec: Spectrum, bank: Tensor) -> Tensor:
    """Magnitudes (B, frames, n_mels) in the bands of a bank (n_mels, bins)."""
    return F.linear(spec.magnitude.transpose(1, 2), bank)


def _anti_wrap(x: Tensor) -> Tensor:
    return (x - 2 * math.pi * torch.round(x / (2 * math.pi))).abs()
