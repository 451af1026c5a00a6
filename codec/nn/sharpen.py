"""A postfilter: deeper valleys between the formants, as speech codecs have had it since CELP.

What the codes leave open comes out blurred: above 2.5 kHz decoded spectra had half the contrast of recorded ones
(docs/design.md). Noise in the valleys between formants is heard most; where they are deeper it is heard less.

>>> layer = Sharpen(64, strength=0.5, bins=(4, 8)).eval()
>>> x = torch.ones(1, 66, 2)
>>> torch.allclose(layer(x), x)  # a flat spectrum stays as it is
True
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.layers import Stateless

SPACING = 4  # bins from one band to the next: 100 Hz where a window is 40 ms
REACH = 5  # bands on each side that a band is compared with
FLOOR = 1e-9  # power: 90 dB below a full-scale bin


class Sharpen(Stateless):
    """Raises each frame's contrast between near bands: (B, 2 * bins, n) spectrum -> the same.

    Not while a network learns: the distances that it learns by would undo it.

    The gain in a bin is (p / q) ** (strength / 2): p the power of the band about it, q the mean power within `REACH`
    bands of it. What stands out rises a little, what lies between falls more.
    Source: Chen and Gersho 1995, Adaptive postfiltering, for what it is good for; the form is this package's.

    Raises:
        ConfigError: bins that do not rise or are not there, or a negative strength.
    """

    near: Tensor
    far: Tensor
    between: Tensor

    def __init__(self, n_fft: int, *, strength: float, bins: tuple[int, int]) -> None:
        """Sizes.

        Args:
            n_fft: of the spectrum, samples.
            strength: 0 changes nothing; 1 doubles decibels of contrast.
            bins: last one that stays as it is, first one that is sharpened in full.
        """
        super().__init__()
        n_bins = n_fft // 2 + 1
        if not 0 <= bins[0] < bins[1] <= n_bins:
            raise ConfigError(f"sharp_bins: {list(bins)} do not rise within the {n_bins} bins")
        if strength < 0:
            raise ConfigError(f"sharpness: must be at least 0, found {strength}")
        k = torch.arange(n_bins, dtype=torch.float64)
        centres = torch.arange(0, n_bins, SPACING, dtype=torch.float64)
        near = (1 - (k - centres[:, None]).abs() / SPACING).clamp(min=0)  # (bands, bins), triangles
        far = ((centres - centres[:, None]).abs() <= REACH * SPACING).double()  # (bands, bands)
        share = ((k - bins[0]) / (bins[1] - bins[0])).clamp(0, 1)
        between = strength / 2 * share[:, None] * (near / near.sum(0)).T  # (bins, bands), linear from band to band
        self.register_buffer("near", (near / near.sum(1, keepdim=True)).float(), persistent=False)
        self.register_buffer("far", (far / far.sum(1, keepdim=True)).float(), persistent=False)
        self.register_buffer("between", between.float(), persistent=False)

    def apply_to(self, x: Tensor) -> Tensor:
        """Frame by frame."""
        if self.training:
            return x
        real, imag = x.transpose(1, 2).chunk(2, -1)
        with torch.autocast(x.device.type, enabled=False):  # powers span 90 dB
            power = (real.square() + imag.square()) @ self.near.T + FLOOR
            gain = ((power.log() - (power @ self.far.T).log()) @ self.between.T).exp()
        return torch.cat((real * gain, imag * gain), -1).transpose(1, 2)
