"""Streaming STFT front-end and inverse-STFT head.

Both use a periodic Hann window, scaled by its energy, so that white noise of deviation s has bins of magnitude s.

>>> front, head = Stft(64, hop_length=16), InverseStft(64, hop_length=16)
>>> audio = torch.randn(1, 1, 160)
>>> spec = front(audio)
>>> y = head(spec)
>>> torch.allclose(y[..., head.delay:], audio[..., :-head.delay], atol=1e-5)
True
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.nn.layers import Layer, State


class Stft(Layer):
    """Frames of the newest `n_fft` samples: (B, 1, n * hop) -> (B, 2 * bins, n), real parts then imaginary parts."""

    window: Tensor

    def __init__(self, n_fft: int, *, hop_length: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.down = hop_length
        self.register_buffer("window", _window(n_fft), persistent=False)

    @property
    def receptive_field(self) -> int:
        """The window but for its first sample, which has weight 0."""
        return self.n_fft - 1

    def init_state(self, batch: int) -> State:
        """Silence before the signal: (B, n_fft - hop)."""
        return (self._zeros(batch, self.n_fft - self.down),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Real FFT of each windowed frame."""
        seen = torch.cat((state[0], x[:, 0]), -1)
        frames = seen.unfold(-1, self.n_fft, self.down)  # (B, n, n_fft)
        spec = torch.view_as_real(torch.fft.rfft(frames * self.window))  # (B, n, bins, 2)
        y = torch.cat((spec[..., 0], spec[..., 1]), -1).transpose(1, 2)
        return y, (seen[:, seen.shape[-1] - (self.n_fft - self.down) :],)


class InverseStft(Layer):
    """Overlap-add of inverse FFTs: (B, 2 * bins, n) -> (B, 1, n * hop), late by `n_fft - hop` samples.

    The overlap-add envelope of the squared window is a known constant where all frames are present; where the first
    ones are missing, the output lies before the signal and is what the delay trims.
    """

    window: Tensor

    def __init__(self, n_fft: int, *, hop_length: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.up = hop_length
        self.delay = n_fft - hop_length
        window = _window(n_fft)
        envelope = (window**2).unfold(-1, hop_length, hop_length).sum(0).mean()
        self.register_buffer("window", window / envelope, persistent=False)

    @property
    def receptive_field(self) -> int:
        """Frames that overlap one hop."""
        return self.n_fft // self.up

    def init_state(self, batch: int) -> State:
        """Nothing overlaps yet: (B, n_fft - hop)."""
        return (self._zeros(batch, self.delay),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Each frame's inverse FFT, windowed, added to what the earlier ones left."""
        bins = self.n_fft // 2 + 1
        spec = torch.complex(x[:, :bins], x[:, bins:]).transpose(1, 2)  # (B, n, bins)
        frames = torch.fft.irfft(spec, self.n_fft) * self.window
        size = frames.shape[1] * self.up
        y = F.fold(
            frames.transpose(1, 2), (1, size + self.delay), kernel_size=(1, self.n_fft), stride=(1, self.up)
        ).flatten(1)
        y = torch.cat((y[:, : self.delay] + state[0], y[:, self.delay :]), -1)
        return y[:, None, :size], (y[:, size:],)


def _window(n_fft: int) -> Tensor:
    window = torch.hann_window(n_fft, dtype=torch.float64)
    return (window / window.square().sum().sqrt()).float()
