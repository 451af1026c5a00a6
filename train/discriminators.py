"""All discriminators of a recipe as one network, needed only while learning.

>>> import torch
>>> config = AdversaryConfig(kinds=("stft", "scale"), windows=(256,), scales=(1, 2), channels=1)
>>> judges = Discriminators(config, 16000)
>>> scores, features = judges(torch.zeros(1, 2048))
>>> len(scores), judges.families
(3, (1, 2))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from codec.train.config import AdversaryConfig
from codec.train.specdiscriminators import BandDiscriminator, MelDiscriminator, StftDiscriminator
from codec.train.wavediscriminators import PeriodDiscriminator, ScaleDiscriminator

# kind -> its discriminators; the order is that of the network
KINDS: dict[str, Callable[[AdversaryConfig, int], list[nn.Module]]] = {
    "stft": lambda c, _: [StftDiscriminator(window, channels=c.channels) for window in c.windows],
    "period": lambda c, _: [PeriodDiscriminator(period, channels=c.channels) for period in c.periods],
    "scale": lambda c, _: [ScaleDiscriminator(factor, channels=c.channels) for factor in c.scales],
    "band": lambda c, _: [BandDiscriminator(window, edges=c.edges, channels=c.channels) for window in c.windows],
    "mel": lambda c, rate: [MelDiscriminator(window, channels=c.channels, sample_rate=rate) for window in c.windows],
}


class Discriminators(nn.Module):
    """All discriminators of a recipe.

    Attributes:
        families: how many there are of each kind, in the order of the scores.
    """

    def __init__(self, config: AdversaryConfig, sample_rate: int) -> None:
        super().__init__()
        self.peak = config.peak
        groups = [make(config, sample_rate) for kind, make in KINDS.items() if kind in config.kinds]
        self.families = tuple(len(group) for group in groups)
        self.each = nn.ModuleList(module for group in groups for module in group)

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Audio (B, T) to the scores and the features of each."""
        if self.peak:
            audio = level(audio, self.peak)
        scored = [module(audio) for module in self.each]
        return [score for score, _ in scored], [features for _, features in scored]

    def frozen(self) -> Mapping[str, Tensor]:
        """Its weights without gradient, for a pass in which only the generator learns."""
        return {key: x.detach() for key, x in self.named_parameters()}


def level(audio: Tensor, peak: float) -> Tensor:
    """Audio (B, T) without its mean, each row as loud as `peak`, so that loudness tells nothing.

    Source: Kumar et al. 2023 (DAC), its code.

    >>> import torch
    >>> [round(x, 3) for x in level(torch.tensor([[0.0, 0.2, -0.2]]), 0.8).tolist()[0]]
    [0.0, 0.8, -0.8]
    """
    centred = audio - audio.mean(-1, keepdim=True)
    return peak * centred / centred.abs().amax(-1, keepdim=True).clamp(min=1e-9)
