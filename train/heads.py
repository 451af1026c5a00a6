"""Heads: small networks that say what each part of a latent is for; of use in training alone.

A head reads a part of the quantized latent and tells pitch, phones or the speaker. A plain one makes the part hold
that; behind a reversed one the gradient changes its sign, so that the part forgets what the head could tell.

>>> x = torch.ones(2, requires_grad=True)
>>> reverse(x).sum().backward()
>>> x.grad.tolist()
[-1.0, -1.0]

Source: Ju et al. 2024 (NaturalSpeech 3), section 3.2; Ganin and Lempitsky 2015 (gradient reversal), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import TrainError
from codec.train.config import HeadsConfig, OptimConfig
from codec.train.labels import UNKNOWN, Labels
from codec.train.optim import make_adamw, set_rate, step_if_finite

CLIP = 100.0  # norm of the heads' own gradient
KERNEL = 5  # frames that one layer sees
PARTS = {"prosody": (0,), "content": (1,), "residual": (2,), "sum": (0, 1, 2)}  # which of `Quantized.parts` are added


class Kind(NamedTuple):
    """What a head reads, what it tells, and whether that is to be there or to be gone."""

    part: str  # of PARTS
    label: str  # pitch, phones or speaker
    reversed: bool


HEADS = {
    "pitch": Kind("prosody", "pitch", reversed=False),
    "phones": Kind("content", "phones", reversed=False),
    "content_pitch": Kind("content", "pitch", reversed=True),
    "prosody_phones": Kind("prosody", "phones", reversed=True),
    "residual_pitch": Kind("residual", "pitch", reversed=True),
    "residual_phones": Kind("residual", "phones", reversed=True),
    "speaker": Kind("sum", "speaker", reversed=True),
}


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse(x: Tensor) -> Tensor:
    """The same, its gradient with the other sign."""
    y: Tensor = _Reverse.apply(x)  # type: ignore[no-untyped-call]
    return y


class Head(nn.Module):
    """A part (B, D, F) to what is told of each frame (B, n_out, F); of the whole crop where `pooled`, (B, n_out)."""

    def __init__(self, dim: int, channels: int, n_out: int, *, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        sizes = ((dim, channels), (channels, channels))
        self.convs = nn.ModuleList(nn.Conv1d(a, b, KERNEL, padding=KERNEL // 2) for a, b in sizes)
        self.out = nn.Linear(channels, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions over frames, then one layer."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        y: Tensor = self.out(x.mean(-1) if self.pooled else x.transpose(1, 2))
        return y if self.pooled else y.transpose(1, 2)


class Heads:
    """The heads that have labels, and their optimiser.

    Args:
        config: which heads, and their weights.
        labels: of the corpus.
        dim: channels of a part.
        optim: of the network; heads learn at its rate.
        seed: of their first weights.
        device: where they run.

    Attributes:
        weights: of each head's term.
        missing: heads without labels: why.
    """

    def __init__(
        self, config: HeadsConfig, labels: Labels, *, dim: int, optim: OptimConfig, seed: int, device: torch.device
    ) -> None:
        self.classes = dict(labels.classes)
        self.missing = {n: labels.missing[HEADS[n].label] for n in config.wanted if HEADS[n].label in labels.missing}
        self.weights = {name: getattr(config, name) for name in config.wanted if name not in self.missing}
        # Seeded, as the network is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = {name: self._make(name, dim, config.channels) for name in self.weights}
        self.modules = nn.ModuleDict(made).to(device)
        self.optimizer = make_adamw(self.modules, rate=optim.rate, betas=optim.betas, weight_decay=optim.weight_decay)

    def _make(self, name: str, dim: int, channels: int) -> Head:
        label = HEADS[name].label
        n_out = 2 if label == "pitch" else len(self.classes[label])
        return Head(dim, channels, n_out, pooled=label == "speaker")

    def terms(self, parts: tuple[Tensor, ...], labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One loss for each head, of parts (B, D, F) and the labels that `Labels.cut` gave for them."""
        values = {}
        for name in self.weights:
            part, label, is_reversed = HEADS[name]
            x = torch.stack([parts[i].float() for i in PARTS[part]]).sum(0)
            told = self.modules[name](reverse(x) if is_reversed else x)
            values[name] = pitch_loss(told, labels[label]) if label == "pitch" else class_loss(told, labels[label])
        return values

    def step(self, rate: float, norm: Tensor) -> None:
        """Learn from the gradients of the network's own backward pass, unless its `norm` or theirs is not finite."""
        if not self.weights:
            return
        set_rate(self.optimizer, rate)
        own = torch.nn.utils.clip_grad_norm_(self.modules.parameters(), CLIP)
        step_if_finite(self.optimizer, norm + own)

    def lines(self) -> list[str]:
        """What a log says of them: which learn, and which have no labels, one line each."""
        counts = {"phones": "phones", "speaker": "speakers"}
        known = "".join(f", {len(names)} {counts[label]}" for label, names in self.classes.items() if names)
        said = [f"heads: {', '.join(self.weights) or 'none'}{known}"]
        return said + [f"head {name}: no labels, it does not learn: {why}" for name, why in self.missing.items()]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "classes": {label: list(names) for label, names in self.classes.items()},
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            TrainError: other heads, or other speakers or phones, than when the run began.
        """
        mine = {label: list(names) for label, names in self.classes.items()}
        if state["classes"] != mine or state["modules"].keys() != self.modules.state_dict().keys():
            raise TrainError(
                "heads: their labels (speakers, phones) are not those that the run began with; "
                "give the same data, or another run=FOLDER"
            )
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])


def pitch_loss(told: Tensor, pitch: Tensor) -> Tensor:
    """Of F0 and voicing (B, 2, F) to labels (B, F), nan where unvoiced: smooth L1 on voiced frames, and cross-entropy.

    >>> pitch_loss(torch.zeros(1, 2, 2), torch.tensor([[2.0, float("nan")]])).item()  # 2 - 1/2, and ln 2
    2.193147...
    """
    voiced = ~pitch.isnan()
    height = F.smooth_l1_loss(told[:, 0], pitch.nan_to_num(0.0), reduction="none")
    mean = (height * voiced).sum() / voiced.sum().clamp(min=1)
    return mean + F.binary_cross_entropy_with_logits(told[:, 1], voiced.float())


def class_loss(told: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of (B, n, ...) to classes (B, ...), over what has a label; 0 where nothing has.

    >>> class_loss(torch.zeros(2, 4), torch.tensor([1, -1])).item()  # ln 4
    1.386294...
    """
    total = F.cross_entropy(told, classes, ignore_index=UNKNOWN, reduction="sum")
    return total / (classes != UNKNOWN).sum().clamp(min=1)
