"""Networks that tell recordings from reconstructions, needed only while learning.

Each takes audio (B, T) and gives a score (B, ...), high for a recording, and the features of its layers.

>>> score, features = StftDiscriminator(256, channels=4)(torch.zeros(1, 2048))
>>> score.shape, len(features)
(torch.Size([1, 1, 29, 17]), 5)
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from codec.errors import ConfigError
from codec.train.config import AdversaryConfig
from codec.train.losses import stft

Scored = tuple[Tensor, list[Tensor]]


class StftDiscriminator(nn.Module):
    """Convolutions over one complex STFT, time x frequency, real and imaginary part as channels.

    Source: Défossez et al. 2022 (EnCodec), section 3.4 and figure 2.
    """

    def __init__(self, window: int, *, channels: int) -> None:
        super().__init__()
        self.window = window
        layers = [_conv(2, channels, (3, 9))]
        layers += [_conv(channels, channels, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in (1, 2, 4)]
        layers += [_conv(channels, channels, (3, 3))]
        self.layers = nn.ModuleList(layers)
        self.last = _conv(channels, 1, (3, 3))

    def forward(self, audio: Tensor) -> Scored:
        """Audio (B, T) to the score (B, 1, frames, bins / 8) and the features of five layers."""
        with torch.autocast(audio.device.type, enabled=False):
            spec = stft(audio.float(), self.window)
        x = torch.stack((spec.real, spec.imag), 1).transpose(2, 3)  # (B, 2, frames, bins)
        return _run(self.layers, self.last, x, slope=0.2)


class PeriodDiscriminator(nn.Module):
    """Convolutions over every p-th sample, for p phases side by side.

    Source: Kong et al. 2020 (HiFi-GAN), section 2.3. A length that is a multiple of the period is not padded (dac pads
    a whole period there).
    """

    def __init__(self, period: int, *, channels: int) -> None:
        super().__init__()
        self.period = period
        sizes = (1, channels, 4 * channels, 16 * channels, 32 * channels)
        layers = [_conv(a, b, (5, 1), stride=(3, 1)) for a, b in itertools.pairwise(sizes)]
        layers += [_conv(sizes[-1], sizes[-1], (5, 1))]
        self.layers = nn.ModuleList(layers)
        self.last = _conv(sizes[-1], 1, (3, 1))

    def forward(self, audio: Tensor) -> Scored:
        """Audio (B, T) to the score (B, 1, ceil(T / period) / 81, period) and the features of five layers."""
        return _run(self.layers, self.last, fold(audio, self.period), slope=0.1)


class Discriminators(nn.Module):
    """All discriminators of a recipe."""

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        unknown = sorted(set(config.kinds) - {"stft", "period"})
        if unknown or not config.kinds:
            raise ConfigError(f"adversary.kinds: expected stft and period, found {list(config.kinds)}")
        each: list[nn.Module] = []
        if "stft" in config.kinds:
            each += [StftDiscriminator(window, channels=config.channels) for window in config.windows]
        if "period" in config.kinds:
            each += [PeriodDiscriminator(period, channels=config.channels) for period in config.periods]
        self.each = nn.ModuleList(each)

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Audio (B, T) to the scores and the features of each."""
        scored: list[Scored] = [module(audio) for module in self.each]
        return [score for score, _ in scored], [features for _, features in scored]

    def frozen(self) -> Mapping[str, Tensor]:
        """Its weights without gradient, for a pass in which only the generator learns."""
        return {key: x.detach() for key, x in self.named_parameters()}


def fold(audio: Tensor, period: int) -> Tensor:
    """Audio (B, T) to (B, 1, ceil(T / period), period), mirrored at the end where it must be.

    >>> fold(torch.arange(4.0)[None], 2).shape, fold(torch.arange(5.0)[None], 2)[0, 0, -1].tolist()
    (torch.Size([1, 1, 2, 2]), [4.0, 3.0])
    """
    missing = -audio.shape[-1] % period
    padded = F.pad(audio[:, None], (0, missing), mode="reflect") if missing else audio[:, None]
    return padded.view(*padded.shape[:-1], -1, period)


def _conv(
    n_in: int,
    n_out: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, dilation=dilation, padding=(padding[0], padding[1]))
    return typing.cast(nn.Module, weight_norm(conv))


def _run(layers: nn.ModuleList, last: nn.Module, x: Tensor, *, slope: float) -> Scored:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), slope)
        features.append(x)
    return last(x), features
