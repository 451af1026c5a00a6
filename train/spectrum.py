"""One STFT of the many in a loss, with a backward pass of its own: autograd's way took twice as long.

>>> audio = torch.randn(1, 640, requires_grad=True)
>>> spectrum = stft(audio, 256)
>>> spectrum.magnitude.shape, spectrum.magnitude.sum().backward(), audio.grad.shape
(torch.Size([1, 129, 7]), None, torch.Size([1, 640]))
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """One STFT as planes of floats, (B, bins, frames) each, bins the fastest axis in memory.

    Reductions over complex pairs, and arithmetic on every other number, would take half of a step.
    """

    real: Tensor
    imag: Tensor
    magnitude: Tensor


def stft(audio: Tensor, n_fft: int) -> Spectrum:
    """Hann STFT of audio (B, T) with 75 % overlap, scaled by the window's energy; only whole windows."""
    planes = _Stft.apply(audio, window(n_fft, audio.device))  # type: ignore[no-untyped-call]
    real, imag, magnitude = (plane.transpose(1, 2) for plane in planes)
    return Spectrum(real, imag, magnitude)


@functools.cache
def window(n_fft: int, device: torch.device) -> Tensor:
    """A Hann window (n_fft,) over the root of its energy: white noise of deviation s has bins of magnitude s."""
    values = torch.hann_window(n_fft, dtype=torch.float64)
    return (values / values.square().sum().sqrt()).float().to(device)


class _Stft(torch.autograd.Function):
    """Audio (B, T) to planes (B, frames, bins).

    Autograd sends the gradient of a real FFT through a complex one of twice the work, by way of complex zeros that it
    fills and copies, and of an index for every sample of every frame.
    """

    @staticmethod
    def forward(ctx: Any, audio: Tensor, window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n_fft = len(window)
        spec = torch.fft.rfft(audio.unfold(-1, n_fft, n_fft // 4) * window)
        real, imag = spec.real.contiguous(), spec.imag.contiguous()
        magnitude = real.square().addcmul_(imag, imag).add_(1e-12).sqrt_()
        ctx.set_materialize_grads(False)  # most windows are looked at by their magnitudes alone
        ctx.save_for_backward(real, imag, magnitude, window)
        ctx.n_samples = audio.shape[-1]
        return real, imag, magnitude

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, to_real: Tensor | None, to_imag: Tensor | None, to_magnitude: Tensor | None
    ) -> tuple[Tensor | None, None]:
        real, imag, magnitude, window = ctx.saved_tensors
        slope = None if to_magnitude is None else to_magnitude / magnitude
        spec = torch.complex(_add_slope(to_real, slope, real), _add_slope(to_imag, slope, imag))
        n_fft, n_frames = len(window), real.shape[1]
        # The inverse transform counts all others twice, for themselves and for their mirrors.
        spec[..., :: n_fft // 2 if n_fft % 2 == 0 else n_fft] *= 2
        frames = torch.fft.irfft(spec, n_fft, norm="forward").mul_(window / 2)
        audio = frames.new_zeros(len(frames), ctx.n_samples)
        hop = n_fft // 4
        for start in range(0, n_fft, hop):  # pieces of a hop do not overlap those of the next frame
            piece = frames[..., start : start + hop]
            audio[:, start:].unfold(-1, piece.shape[-1], hop)[:, :n_frames] += piece
        return audio, None


def _add_slope(gradient: Tensor | None, slope: Tensor | None, plane: Tensor) -> Tensor:
    """The gradient to a plane, and what comes to it by way of the magnitude."""
    if slope is None:
        return torch.zeros_like(plane) if gradient is None else gradient
    return slope * plane if gradient is None else torch.addcmul(gradient, slope, plane)
