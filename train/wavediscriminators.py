"""Networks that tell recordings from reconstructions by the waveform: its phases, and its averages.

Each takes audio (B, T) and gives a score (B, 1, ...), high for a recording, and the features of its layers.

>>> import torch
>>> score, features = ScaleDiscriminator(2, channels=4)(torch.zeros(1, 2048))
>>> score.shape, len(features)
(torch.Size([1, 1, 17]), 7)
"""

from __future__ import annotations

import itertools
import math
import typing

import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

Scored = tuple[Tensor, list[Tensor]]

# Of the multi-scale discriminator: kernel, stride, groups, and width in `channels`, of each layer.
SCALE_LAYERS = (
    (15, 1, 1, 4),
    (41, 2, 4, 4),
    (41, 2, 16, 8),
    (41, 4, 16, 16),
    (41, 4, 16, 32),
    (41, 1, 16, 32),
    (5, 1, 1, 32),
)


class PeriodDiscriminator(nn.Module):
    """Convolutions over every p-th sample, for p phases side by side.

    Source: Kong et al. 2020 (HiFi-GAN), section 2.3. A length that is a multiple of the period is not padded (dac pads
    a whole period there).
    """

    def __init__(self, period: int, *, channels: int) -> None:
        super().__init__()
        self.period = period
        sizes = (1, channels, 4 * channels, 16 * channels, 32 * channels)
        layers = [conv2d(a, b, (5, 1), stride=(3, 1)) for a, b in itertools.pairwise(sizes)]
        layers += [conv2d(sizes[-1], sizes[-1], (5, 1))]
        self.layers = nn.ModuleList(layers)
        self.last = conv2d(sizes[-1], 1, (3, 1))

    def forward(self, audio: Tensor) -> Scored:
        """Audio (B, T) to the score (B, 1, ceil(T / period) / 81, period) and the features of five layers."""
        return run_layers(self.layers, self.last, fold(audio, self.period), slope=0.1)


class ScaleDiscriminator(nn.Module):
    """Grouped convolutions over the waveform, averaged to a half or a quarter of its rate before.

    The one at the full rate has spectral norm, whose vectors take a step at every pass while it learns; the others have
    weight norm.
    Source: Kumar et al. 2019 (MelGAN), section 2.2, with the sizes of Kong et al. 2020 (HiFi-GAN): 32 `channels`.

    Args:
        factor: to which share of the rate it listens: 1, 2, 4, ...
        channels: a quarter of the first layer's.
    """

    def __init__(self, factor: int, *, channels: int) -> None:
        super().__init__()
        self.n_halvings = factor.bit_length() - 1
        norm = weight_norm if self.n_halvings else spectral_norm
        layers: list[nn.Module] = []
        n_in = 1
        for kernel, stride, groups, width in SCALE_LAYERS:
            n_out = width * channels
            groups = math.gcd(groups, n_in)  # fewer where a small network has fewer channels
            layers.append(norm(nn.Conv1d(n_in, n_out, kernel, stride, kernel // 2, groups=groups)))
            n_in = n_out
        self.layers = nn.ModuleList(layers)
        self.last: nn.Module = norm(nn.Conv1d(n_in, 1, 3, 1, 1))

    def forward(self, audio: Tensor) -> Scored:
        """Audio (B, T) to the score (B, 1, T / factor / 64) and the features of seven layers."""
        x = audio[:, None]
        for _ in range(self.n_halvings):
            x = F.avg_pool1d(x, 4, 2, 2)
        return run_layers(self.layers, self.last, x, slope=0.1)


def fold(audio: Tensor, period: int) -> Tensor:
    """Audio (B, T) to (B, 1, ceil(T / period), period), mirrored at the end where it must be.

    >>> import torch
    >>> fold(torch.arange(4.0)[None], 2).shape, fold(torch.arange(5.0)[None], 2)[0, 0, -1].tolist()
    (torch.Size([1, 1, 2, 2]), [4.0, 3.0])
    """
    missing = -audio.shape[-1] % period
    padded = F.pad(audio[:, None], (0, missing), mode="reflect") if missing else audio[:, None]
    return padded.view(*padded.shape[:-1], -1, period)


def conv2d(
    n_in: int,
    n_out: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    """A convolution with weight norm that keeps the size where its stride is 1."""
    padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, dilation=dilation, padding=(padding[0], padding[1]))
    return typing.cast(nn.Module, weight_norm(conv))


def run_layers(layers: nn.ModuleList, last: nn.Module, x: Tensor, *, slope: float) -> Scored:
    """The score of `last`, and the features of the layers before it."""
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), slope)
        features.append(x)
    return last(x), features
