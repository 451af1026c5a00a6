"""What discriminators and generator lose: hinge or least squares, in the sums that published systems make.

Scores are one tensor for each discriminator; families are how many there are of each kind, in that order.

>>> config = AdversaryConfig(loss="least_squares", total="sum")
>>> float(generator_loss([torch.zeros(2), torch.ones(2)], config, (1, 1)))
1.0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.train.config import AdversaryConfig


def hinge(scores: Tensor, *, real: bool) -> Tensor:
    """How far scores are short of 1, or beyond -1. Source: Lim and Ye 2017."""
    return F.relu(1 - scores if real else 1 + scores).mean()


def least_squares(scores: Tensor, *, real: bool) -> Tensor:
    """Squared distance of scores to 1, or to 0. Source: Mao et al. 2017, with the targets of HiFi-GAN."""
    return (scores - 1 if real else scores).square().mean()


PENALTIES: dict[str, Callable[..., Tensor]] = {"hinge": hinge, "least_squares": least_squares}


def discriminator_loss(
    real: Sequence[Tensor], fake: Sequence[Tensor], config: AdversaryConfig, families: Sequence[int]
) -> Tensor:
    """Loss of the discriminators; chance is 2 with hinge and 1/2 with least squares, each."""
    penalty = PENALTIES[config.loss]
    each = [penalty(a, real=True) + penalty(b, real=False) for a, b in zip(real, fake, strict=True)]
    return add_up(each, config.total, families)


def generator_loss(fake: Sequence[Tensor], config: AdversaryConfig, families: Sequence[int]) -> Tensor:
    """The generator's side: its reconstructions shall be scored as recordings."""
    penalty = PENALTIES[config.loss]
    return add_up([penalty(scores, real=True) for scores in fake], config.total, families)


def feature_matching(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], config: AdversaryConfig, families: Sequence[int]
) -> Tensor:
    """L1 distance of the discriminators' features; no gradient goes into those of recordings.

    `adversary.matching` says how layers count: `relative`, over the mean of the recording's features, and the mean
    over layers (EnCodec, section 3.4); `mean` over layers (SoundStream, section III-D); `sum` of layers (HiFi-GAN,
    section 2.3).
    """
    each = []
    for layers_a, layers_b in zip(real, fake, strict=True):
        pairs = [(a.detach(), b) for a, b in zip(layers_a, layers_b, strict=True)]
        distances = torch.stack([(a - b).abs().mean() for a, b in pairs])
        if config.matching == "relative":
            distances = distances / torch.stack([a.abs().mean() for a, _ in pairs]).clamp(min=1e-6)
        each.append(distances.sum() if config.matching == "sum" else distances.mean())
    return add_up(each, config.total, families)


def add_up(each: Sequence[Tensor], total: str, families: Sequence[int]) -> Tensor:
    """One value of one for each discriminator: the mean, the sum, or the sum over families of the mean in each.

    >>> values = [torch.tensor(x) for x in (1.0, 3.0, 5.0)]
    >>> [float(add_up(values, total, (2, 1))) for total in ("mean", "sum", "family")]
    [3.0, 9.0, 7.0]
    """
    values = torch.stack(list(each))
    if total == "family":
        return torch.stack([part.mean() for part in torch.split(values, list(families))]).sum()
    return values.sum() if total == "sum" else values.mean()
