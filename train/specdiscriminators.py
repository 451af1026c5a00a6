"""Networks that tell recordings from reconstructions by a complex STFT, all of it or in bands, or by a mel spectrogram.

Each takes audio (B, T) and gives a score (B, 1, frames, ...), high for a recording, and the features of its layers.

>>> score, features = StftDiscriminator(256, channels=4)(torch.zeros(1, 2048))
>>> score.shape, len(features)
(torch.Size([1, 1, 29, 17]), 5)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.train.losses import FLOOR, mel_bank
from codec.train.spectrum import stft
from codec.train.wavediscriminators import Scored, conv2d, run_layers


class StftDiscriminator(nn.Module):
    """Convolutions over one complex STFT, time x frequency, real and imaginary part as channels.

    Source: Défossez et al. 2022 (EnCodec), section 3.4 and figure 2.
    """

    def __init__(self, window: int, *, channels: int) -> None:
        super().__init__()
        self.window = window
        self.layers = _layers(2, channels)
        self.last = conv2d(channels, 1, (3, 3))

    def forward(self, audio: Tensor) -> Scored:
        """Audio (B, T) to the score (B, 1, frames, bins / 8) and the features of five layers."""
        return run_layers(self.layers, self.last, planes(audio, self.window), slope=0.2)


class MelDiscriminator(nn.Module):
    """Convolutions over one log mel spectrogram, time x frequency: formants and their movements, and no phase at all.

    A decoder that learns distances alone blurs what the codes leave open, and its formants lack contrast
    (docs/design.md); this hears that at a tenth of a complex STFT discriminator's cost.
    """

    def __init__(self, window: int, *, channels: int, sample_rate: int) -> None:
        super().__init__()
        self.window = window
        self.sample_rate = sample_rate
        self.layers = _layers(1, channels)
        self.last = conv2d(channels, 1, (3, 3))

    def forward(self, audio: Tensor) -> Scored:
        """Audio (B, T) to the score (B, 1, frames, bands / 8) and the features of five layers."""
        with torch.autocast(audio.device.type, enabled=False):
            bank = mel_bank(self.window, self.sample_rate, audio.device)
            bands = F.linear(stft(audio.float(), self.window).magnitude.transpose(1, 2), bank)
            x = bands.clamp(min=FLOOR).log10()[:, None] + 2  # about from -2 to 3
        return run_layers(self.layers, self.last, x, slope=0.2)


class BandDiscriminator(nn.Module):
    """Convolutions over bands of one complex STFT, each band with its own; one score over all of them.

    Source: Kumar et al. 2023 (DAC), section 3.3, and its code; Siuzdak 2023 (Vocos) has it too.

    Args:
        window: of the STFT, samples; its hop is a quarter.
        edges: of the bands, rising shares of the bins from 0 to 1.
        channels: of each layer.
    """

    def __init__(self, window: int, *, edges: Sequence[float], channels: int) -> None:
        super().__init__()
        self.window = window
        n_bins = window // 2 + 1
        self.bands = tuple(itertools.pairwise(int(edge * n_bins) for edge in edges))
        self.each = nn.ModuleList(
            nn.ModuleList(
                [
                    conv2d(2, channels, (3, 9)),
                    *(conv2d(channels, channels, (3, 9), stride=(1, 2)) for _ in range(3)),
                    conv2d(channels, channels, (3, 3)),
                ]
            )
            for _ in self.bands
        )
        self.last = conv2d(channels, 1, (3, 3))

    def forward(self, audio: Tensor) -> Scored:
        """Audio (B, T) to the score (B, 1, frames, bins / 8) and the features of five layers of each band."""
        spec = planes(audio, self.window)
        tops, features = [], []
        for (low, high), layers in zip(self.bands, self.each, strict=True):
            assert isinstance(layers, nn.ModuleList)
            top, each = run_layers(layers, nn.Identity(), spec[..., low:high], slope=0.1)
            tops.append(top)
            features += each
        return self.last(torch.cat(tops, -1)), features


def _layers(n_planes: int, channels: int) -> nn.ModuleList:
    """Five layers over planes (B, n_planes, frames, bins), each of `channels`; three of them halve the bins."""
    layers = [conv2d(n_planes, channels, (3, 9))]
    layers += [conv2d(channels, channels, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in (1, 2, 4)]
    return nn.ModuleList([*layers, conv2d(channels, channels, (3, 3))])


def planes(audio: Tensor, window: int) -> Tensor:
    """Audio (B, T) to real and imaginary part of its STFT (B, 2, frames, bins), in float32."""
    with torch.autocast(audio.device.type, enabled=False):
        spec = stft(audio.float(), window)
    return torch.stack((spec.real, spec.imag), 1).transpose(2, 3)
