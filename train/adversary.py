"""The adversary: discriminators, their optimiser, and what they tell the generator.

>>> config = AdversaryConfig(windows=(256,), channels=4)
>>> adversary = Adversary(config, 16000, seed=0, device=torch.device("cpu"), begin=0)
>>> values = adversary.terms(torch.zeros(1, 2048), torch.zeros(1, 2048, requires_grad=True))
>>> sorted(values), values["feature_matching"].item()
(['adversarial', 'feature_matching'], 0.0)
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from codec.train import adversarial
from codec.train.config import AdversaryConfig
from codec.train.discriminators import Discriminators
from codec.train.launch import average_gradients
from codec.train.optim import make_adamw, set_rate, step_if_finite

CLIP = 10.0  # norm of the gradient. Source: Kumar et al. 2023 (DAC).


class Adversary:
    """Discriminators of one run, and how they learn.

    Attributes:
        begin: the step from which on it takes part; its weight in the generator's loss grows from there.
        last: the newest loss of the discriminators, for the log; None before the first update of this process.
    """

    def __init__(
        self,
        config: AdversaryConfig,
        sample_rate: int,
        *,
        seed: int,
        device: torch.device,
        begin: int,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.sample_rate = config, sample_rate
        self.device, self.precision = device, precision
        self.begin = begin
        self.last: Tensor | None = None
        # Seeded, so that a run that is killed before its first checkpoint with an adversary gets the same one again.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminators = Discriminators(config, sample_rate).to(device)
        self.optimizer = make_adamw(self.discriminators, rate=config.rate, betas=config.betas, weight_decay=0.0)

    def hear(self, audio: Tensor, audio_hat: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Of recordings and reconstructions (B, T) what it hears: `crop` seconds at one random place, that of the step.

        Most of a step's time is the adversary's on a CPU; a third of the sound tells it as much about the codec.
        """
        length = round(self.config.crop * self.sample_rate)
        if not 0 < length < audio.shape[-1]:
            return audio, audio_hat
        generator = torch.Generator().manual_seed(step)
        at = int(torch.randint(audio.shape[-1] - length + 1, (), generator=generator))
        return audio[:, at : at + length], audio_hat[:, at : at + length]

    def learn(self, audio: Tensor, audio_hat: Tensor, *, rate: float, parts: int = 1) -> Tensor:
        """One update of the discriminators; a gradient that is not finite is left out.

        Args:
            audio: recordings (B, T).
            audio_hat: reconstructions (B, T); no gradient goes back into them.
            rate: learning rate.
            parts: equal parts of the rows that go through one after another, for less memory.

        Returns:
            Their loss, scalar, detached; chance is 2 with hinge, 1/2 with least squares, for each that is added up.
        """
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for recorded, made in zip(audio.chunk(parts), audio_hat.detach().chunk(parts), strict=True):
            with self._autocast():
                real, _ = self.discriminators(recorded)
                fake, _ = self.discriminators(made)
            scores, scores_hat = ([x.float() for x in side] for side in (real, fake))
            loss = adversarial.discriminator_loss(scores, scores_hat, self.config, self.discriminators.families) / parts
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        average_gradients(self.discriminators)
        norm = torch.nn.utils.clip_grad_norm_(self.discriminators.parameters(), CLIP)
        step_if_finite(self.optimizer, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.last = torch.stack(losses).sum()
        return self.last

    def terms(self, audio: Tensor, audio_hat: Tensor) -> dict[str, Tensor]:
        """The generator's terms, of audio and audio_hat (B, T); the gradient goes into audio_hat alone."""
        weights = dict(self.discriminators.frozen())
        with self._autocast():
            with torch.no_grad():
                _, real = self.discriminators(audio)
            scores, fake = functional_call(self.discriminators, weights, (audio_hat,))
        families = self.discriminators.families
        return {
            "adversarial": adversarial.generator_loss([x.float() for x in scores], self.config, families),
            "feature_matching": adversarial.feature_matching(_floats(real), _floats(fake), self.config, families),
        }

    def ramp(self, step: int) -> float:
        """Share of its weight at a step: grows to 1 within `warmup` steps."""
        return min(1.0, (step - self.begin + 1) / max(1, self.config.warmup))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "begin": self.begin,
            "discriminators": self.discriminators.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.begin = int(state["begin"])
        self.discriminators.load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)


def _floats(features: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[x.float() for x in layers] for layers in features]
