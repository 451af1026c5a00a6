"""The phases of a fixed noise, for the bins of a spectrum whose own phases no code tells.

A decoder that works frame by frame knows the magnitudes of the upper bins, not their phases. Left alone it gives them
the same ones in every frame, and its hiss then repeats itself at the frame rate, as a hum: unvoiced sounds of this
package's earlier weights were like themselves 20 ms later by 0.8, those of speech by 0.0 (docs/design.md).

>>> layer = NoisePhase(64, hop_length=16, bins=(4, 8), period=10)
>>> x = torch.ones(1, 66, 5)
>>> y = layer(x)
>>> bool((y[:, :5] == 1).all()), bool((y[:, 8:32] == 1).any())
(True, False)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.layers import Layer, State


class NoisePhase(Layer):
    """Turns each bin by a phase of a noise that repeats after `period` frames: (B, 2 * bins, n) -> the same.

    Neighbouring frames overlap and have to agree, so the phases are those of the STFT of one noise, not drawn bin by
    bin. The state is the place in it, (B,) int64.

    Raises:
        ConfigError: bins that do not rise or are not there, or an empty period.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, n_fft: int, *, hop_length: int, bins: tuple[int, int], period: int) -> None:
        """Sizes.

        Args:
            n_fft: samples of a window, which is Hann's.
            hop_length: samples.
            bins: last one that keeps its phase, first one that has the noise's alone.
            period: frames.
        """
        super().__init__()
        if not 0 <= bins[0] < bins[1] <= n_fft // 2 + 1:
            raise ConfigError(f"noise_bins: {list(bins)} do not rise within the {n_fft // 2 + 1} bins")
        if period < 1:
            raise ConfigError(f"noise_period: must be at least 1 frame, found {period}")
        self.n_fft, self.period = n_fft, period
        turns = _turns(n_fft, hop_length, bins, period)
        self.register_buffer("cos", torch.from_numpy(turns.real.astype(np.float32)), persistent=False)
        self.register_buffer("sin", torch.from_numpy(turns.imag.astype(np.float32)), persistent=False)

    @property
    def receptive_field(self) -> int:
        """The frame itself, and where it stands."""
        return 1

    def init_state(self, batch: int) -> State:
        """The first frame of the noise."""
        return (torch.zeros(batch, dtype=torch.int64, device=self.cos.device),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Bin by bin."""
        (place,) = state
        frames = x.shape[-1]
        at = (place[:, None] + torch.arange(frames, device=x.device)) % self.period  # (B, n)
        cos, sin = (table[at].transpose(1, 2).to(x.dtype) for table in (self.cos, self.sin))
        real, imag = x.chunk(2, 1)
        y = torch.cat((real * cos - imag * sin, real * sin + imag * cos), 1)
        return y, ((place + frames) % self.period,)


def _turns(n_fft: int, hop: int, bins: tuple[int, int], period: int) -> NDArray[np.complex128]:
    """Unit vectors (period, n_fft // 2 + 1)."""
    size = period * hop
    noise = np.resize(_noise(size), size + n_fft)
    frames = np.lib.stride_tricks.sliding_window_view(noise, n_fft)[:size:hop]
    spectrum = np.fft.rfft(frames * np.hanning(n_fft + 1)[:-1])
    share = np.clip((np.arange(n_fft // 2 + 1) - bins[0]) / (bins[1] - bins[0]), 0, 1)
    mixed = 1 - share + share * spectrum / np.maximum(np.abs(spectrum), 1e-9)
    return mixed / np.maximum(np.abs(mixed), 1e-9)


def _noise(size: int) -> NDArray[np.float64]:
    """`size` numbers from -0.5 to 0.5, the same on every machine and for ever: decoders are trained with them.

    Source: Steele et al. 2014, SplitMix64: the hash of each index.
    """
    with np.errstate(over="ignore"):
        x = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return np.asarray(x >> np.uint64(11), np.float64) / 2.0**53 - 0.5
