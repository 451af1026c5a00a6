"""A periodic activation without aliasing: at twice the rate, between two low passes.

>>> layer = AliasFreeSnake(3)
>>> layer(torch.randn(2, 3, 7)).shape, layer.receptive_field, layer.lookahead
(torch.Size([2, 3, 7]), 6, 5)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.nn.symmetric import WholeLayer

TAPS = 12  # of both low passes
CUTOFF, HALF_WIDTH = 0.25, 0.3  # of the double rate; half of the band in which the filter falls


class AliasFreeSnake(WholeLayer):
    """x + sin(exp(a) x)^2 / exp(b) at the double rate, a and b learned for each channel, (B, C, n) -> (B, C, n).

    Around the block stand its first and its last value.

    Source: Lee et al. 2023 (BigVGAN), section 3.2, with separate a and b; Karras et al. 2021 (StyleGAN3).
    """

    filter: Tensor
    lookahead = TAPS // 2 - 1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(dim))
        self.beta = nn.Parameter(torch.zeros(dim))
        self.register_buffer("filter", low_pass(), persistent=False)

    @property
    def receptive_field(self) -> int:
        """The own step and those that both filters see before it."""
        return TAPS // 2

    def apply_to(self, x: Tensor) -> Tensor:
        """Up, bend, down."""
        dim, side = x.shape[1], TAPS // 2 - 1
        taps = self.filter.to(x.dtype).expand(dim, 1, TAPS)
        y = 2 * F.conv_transpose1d(F.pad(x, (side, side), mode="replicate"), taps, stride=2, groups=dim)
        cut = 2 * side + (TAPS - 2) // 2
        y = y[..., cut : y.shape[-1] - cut]
        y = y + (self.beta.exp()[:, None] + 1e-9).reciprocal() * torch.sin(y * self.alpha.exp()[:, None]).square()
        return F.conv1d(F.pad(y, (side, side + 1), mode="replicate"), taps, stride=2, groups=dim)


def low_pass() -> Tensor:
    """The taps of a windowed sinc, their sum 1: (TAPS,).

    Source: Kaiser and Schafer 1980, the window's shape from attenuation; as BigVGAN's code applies it.
    """
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * HALF_WIDTH + 7.95  # dB, 51
    shape = 0.1102 * (attenuation - 8.7)  # above 50 dB
    window = torch.kaiser_window(TAPS, periodic=False, beta=shape, dtype=torch.float64)
    time = torch.arange(TAPS, dtype=torch.float64) - TAPS / 2 + 0.5
    taps = window * torch.sinc(2 * CUTOFF * time)
    return (taps / taps.sum()).float()
