"""One training step, and all that a run carries from step to step."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from codec.errors import ConfigError, TrainError
from codec.network import Network
from codec.quantize.base import Quantized, join
from codec.quantize.learn import Learner, zero_moments
from codec.train import losses
from codec.train.adversary import Adversary
from codec.train.balancer import Balancer
from codec.train.config import Recipe
from codec.train.data import Batch
from codec.train.device import Skips, choose_precision, compile_part
from codec.train.distill import open_teacher
from codec.train.heads import HEADS, Heads
from codec.train.labels import Labels
from codec.train.launch import average_gradients, drawing
from codec.train.optim import Average, make_adamw, rate_at, set_rate, step_if_finite


@dataclass(frozen=True)
class StepReport:
    """What one step measured, on the device: reading it waits.

    Attributes:
        values: loss terms, of this process's rows; with an adversary also `discriminator`, its own loss
            (`Adversary.learn`).
        grad_norm: before clipping.
        rate: learning rate.
        finite: whether the step was taken.
    """

    values: Mapping[str, Tensor]
    grad_norm: Tensor
    rate: float
    finite: Tensor


@dataclass(frozen=True)
class Passed:
    """One pass: audio and audio_hat (B, T), aligned; what the bottleneck made; the whole audio (B, 1, F * hop)."""

    audio: Tensor
    audio_hat: Tensor
    quantized: Quantized
    whole: Tensor


class Trainer:
    """Network, learner, adversary, optimisers and averages of one run; equal on all of its processes (`launch`).

    Args:
        recipe: of the run.
        device: where it runs.
        deferred: whether steps run on without waiting for the device, and bad ones are counted when a line is written
            (on CUDA), or each is looked at before the next (elsewhere).

    Attributes:
        step: number of the next step.
        begin: the step at which the optimisers began afresh; 0 unless the run was unpacked.
    """

    def __init__(self, recipe: Recipe, device: torch.device, *, deferred: bool | None = None) -> None:
        self.recipe = recipe
        self.device = device
        self.deferred = device.type == "cuda" if deferred is None else deferred
        # Seeded: a run that is killed before its first checkpoint begins with the same weights again.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.run.seed)
            self.network = Network(recipe.model).to(device)
        for part in recipe.optim.freeze:
            getattr(self.network, part).requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise ConfigError("optim.freeze: leaves nothing that learns by gradient; name fewer parts")
        self._encoder = compile_part(self.network.encoder, recipe.optim.compile, device)
        self._decoder = compile_part(self.network.decoder, recipe.optim.compile, device)
        self.learner = Learner(self.network.bottleneck, recipe.learn)
        optim = recipe.optim
        self.optimizer = make_adamw(self.network, rate=optim.rate, betas=optim.betas, weight_decay=optim.weight_decay)
        self.average = Average(self.network, optim.ema)
        self.weights = {key: float(value) for key, value in asdict(recipe.loss).items() if key != "balance"}
        self.balancer = Balancer() if recipe.loss.balance else None
        self.teacher = open_teacher(recipe, device)
        self.adversary: Adversary | None = None
        self.heads: Heads | None = None  # from `begin_heads` on: they have as many classes as the data
        self._kept_heads: dict[str, Any] | None = None
        self.step = self.begin = 0
        self.skips = Skips(device)
        self.precision = choose_precision(optim.precision, device)
        _check_crop(recipe, self.network.delay)

    @property
    def skipped(self) -> int:
        """Steps left out in all, as of the last look."""
        return self.skips.total

    def run_step(self, batch: Batch) -> StepReport:
        """One training step.

        Raises:
            TrainError: too many steps in a row without a finite gradient.
        """
        optim = self.recipe.optim
        rate = rate_at(self.step, optim, begin=self.begin)
        set_rate(self.optimizer, rate)
        parts = batch.split(optim.accumulate)
        # One part is passed once; of several each is passed again for its gradient, after the adversary heard all.
        only = [self._forward(batch.audio, batch.levels)] if len(parts) == 1 else []
        weights, extra = self._oppose(only or parts, rate / optim.rate)
        self.optimizer.zero_grad(set_to_none=True)
        if self.heads is not None:
            self.heads.optimizer.zero_grad(set_to_none=True)
        learnt: list[Quantized] = []
        seen: list[dict[str, Tensor]] = []
        for i, part in enumerate(parts):
            passed = only.pop() if only else self._forward(part.audio, part.levels, i, len(parts))
            values = self._values(passed) | self._opposed(passed)
            if self.heads is not None:
                values |= self.heads.terms(passed.quantized.parts, part.labels)
            self._backward(passed, values, weights, len(parts))
            learnt.append(join([passed.quantized]))  # without its graph
            seen.append({name: value.detach() for name, value in values.items()})
            del passed, values  # and what they keep for the gradient
        average_gradients(self.network, *([] if self.heads is None else [self.heads.modules]))
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), optim.clip)
        if self.heads is not None:
            self.heads.step(rate, norm)
        finite = self._advance(join(learnt), norm)
        self.step += 1
        self.skips.count(finite)
        if not self.deferred:
            self.check()
        values = {name: torch.stack([one[name] for one in seen]).mean() for name in seen[0]}
        return StepReport(values | extra, norm.detach(), rate, finite)

    def check(self) -> None:
        """Look at the count of steps left out; waits for the device.

        Raises:
            TrainError: too many of them in a row.
        """
        in_a_row = self.skips.read()
        if in_a_row > self.recipe.optim.max_skips:
            raise TrainError(
                f"step {self.step}: {in_a_row} steps in a row without a finite gradient; "
                "lower optim.rate, or start again from an earlier checkpoint"
            )

    def _forward(self, audio: Tensor, levels: Tensor, part: int = 0, parts: int = 1) -> Passed:
        with self.autocast(), drawing(self.recipe.run.seed, self.step, part, parts):
            latent = self._encoder(audio)
            quantized = self.network.bottleneck(latent, levels, n_stages=self.learner.n_started)
            audio_hat = self._decoder(quantized.latent)
        delay = self.network.delay
        return Passed(audio[:, 0, : audio.shape[-1] - delay], audio_hat[:, 0, delay:].float(), quantized, audio)

    def _values(self, passed: Passed) -> dict[str, Tensor]:
        rate, published = self.recipe.model.sample_rate, self.recipe.mels
        values = losses.terms(passed.audio, passed.audio_hat, self.weights, rate, published)
        values["commitment"] = passed.quantized.loss
        if self.teacher is not None and self.weights["distill"]:
            values["distill"] = self.teacher.distance(passed.whole, passed.quantized.latent)
        return values

    def _oppose(self, parts: Sequence[Passed | Batch], share: float) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Let the adversary learn from a step's parts; gives the weights of all terms, and more to log.

        Args:
            parts: the only one as it was passed, or several that are passed here without a gradient.
            share: of the full learning rate.
        """
        config = self.recipe.adversary
        if config.start_step < 0 or self.step < config.start_step:
            return self.weights, {}
        if self.adversary is None:
            self.adversary = self.make_adversary()
        if (self.step - self.adversary.begin) % config.every == 0:
            pairs = [self._outline(part, i, len(parts)) for i, part in enumerate(parts)]
            audio, audio_hat = (torch.cat(side) for side in zip(*pairs, strict=True))
            self.adversary.learn(audio, audio_hat, rate=config.rate * share, parts=len(parts))
        ramp = self.adversary.ramp(self.step)
        extra = {} if self.adversary.last is None else {"discriminator": self.adversary.last}
        return self.weights | {k: self.weights[k] * ramp for k in ("adversarial", "feature_matching")}, extra

    @torch.no_grad()
    def _outline(self, part: Passed | Batch, i: int, count: int) -> tuple[Tensor, Tensor]:
        """What the adversary hears of part i, audio and audio_hat (B, T)."""
        passed = part if isinstance(part, Passed) else self._forward(part.audio, part.levels, i, count)
        return self._heard(passed)

    def _heard(self, passed: Passed) -> tuple[Tensor, Tensor]:
        assert self.adversary is not None
        return self.adversary.hear(passed.audio, passed.audio_hat, self.step)

    def _opposed(self, passed: Passed) -> dict[str, Tensor]:
        """The adversary's terms; none before it takes part."""
        if self.adversary is None or not 0 <= self.recipe.adversary.start_step <= self.step:
            return {}
        return self.adversary.terms(*self._heard(passed))

    def make_adversary(self) -> Adversary:
        """A fresh adversary that begins now."""
        return Adversary(
            self.recipe.adversary,
            self.recipe.model.sample_rate,
            seed=self.recipe.run.seed,
            device=self.device,
            begin=self.step,
            precision=self.precision,
        )

    def _backward(self, passed: Passed, values: dict[str, Tensor], weights: dict[str, float], parts: int) -> None:
        """Add the gradient of one of the step's parts."""
        if self.balancer is None:
            (losses.weigh(values, weights) / parts).backward()  # type: ignore[no-untyped-call]
            return
        # Of the latent, no functions of audio_hat: by their own weights, beside the others.
        inner = {name: value for name, value in values.items() if name in ("commitment", "distill", *HEADS)}
        others = {name: value for name, value in values.items() if name not in inner}
        gradient = self.balancer.gradient(others, weights, passed.audio_hat, parts=parts) / parts
        beside = losses.weigh(inner, weights)
        if not beside.requires_grad:  # no stage has started
            torch.autograd.backward([passed.audio_hat], [gradient])
        else:
            torch.autograd.backward([passed.audio_hat, beside], [gradient, torch.ones_like(beside) / parts])

    def _advance(self, quantized: Quantized, norm: Tensor) -> Tensor:
        """Optimiser, codebooks and average take a step, unless the gradient is not finite: (), bool."""
        if self.deferred and self.learner.n_started == self.network.bottleneck.n_stages:
            finite = step_if_finite(self.optimizer, norm)
            with _undone_unless(finite, self.learner):
                self._learn(quantized)
            self.average.update(self.network)
            return finite
        finite = torch.isfinite(norm)
        if finite:
            self.optimizer.step()
            self._learn(quantized)
            self.average.update(self.network)
        return finite

    def _learn(self, quantized: Quantized) -> None:
        if "bottleneck" in self.recipe.optim.freeze:
            return
        generator = torch.Generator().manual_seed(self.recipe.run.seed * 7_000_003 + self.step)
        started = self.learner.n_started
        zero_moments(self.optimizer, self.learner.update(quantized, self.step, generator))
        if self.learner.n_started > started:
            # An average that began with a codebook's zeros would take thousands of steps to forget them.
            self.average.take(self.network, "bottleneck.")

    @torch.no_grad()
    def measure(self, audio: Tensor) -> tuple[dict[str, float], Tensor]:
        """Loss terms of the averaged weights on audio (B, 1, T), all codebooks in use; and audio_hat (B, T - delay)."""
        current = {key: x.clone() for key, x in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.weights)
        self.network.eval()  # nothing is dropped
        try:
            levels = torch.full((len(audio),), self.network.bottleneck.n_codebooks, device=audio.device)
            passed = self._forward(audio, levels)
            values = {key: float(value) for key, value in self._values(passed).items()}
        finally:
            self.network.train().load_state_dict(current)
        return values, passed.audio_hat

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Bfloat16 for matrix products, where chosen."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs; random numbers come from seed and step."""
        self.check()
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "learner": self.learner.state_dict(),
        }
        if self.begin:
            state["begin"] = self.begin
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        if self.balancer is not None:
            state["balancer"] = self.balancer.state_dict()
        heads = self._kept_heads if self.heads is None else self.heads.state_dict()
        return state if heads is None else state | {"heads": heads}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. What the recipe has and the state has not begins afresh."""
        self.step, self.begin = int(state["step"]), int(state.get("begin", 0))
        self.skips.total = int(state["skipped"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.learner.load_state_dict(state["learner"])
        if self.recipe.adversary.start_step >= 0 and "adversary" in state:
            self.adversary = self.make_adversary()
            self.adversary.load_state_dict(state["adversary"])
        if self.balancer is not None and "balancer" in state:
            self.balancer.load_state_dict(state["balancer"], self.device)
        self._kept_heads = state.get("heads")

    def begin_heads(self, labels: Labels | None) -> list[str]:
        """Make the recipe's heads for the labels of the data, as they were in the state that was loaded; for the log.

        Raises:
            TrainError: the state's heads had other labels.
        """
        config = self.recipe.heads
        if not config.wanted or labels is None:
            return []
        optim, seed = self.recipe.optim, self.recipe.run.seed
        dim = self.recipe.model.latent_dim - self.network.bottleneck.n_passed
        self.heads = Heads(config, labels, dim=dim, optim=optim, seed=seed, device=self.device)
        if self._kept_heads is not None:
            self.heads.load_state_dict(self._kept_heads)
        self.weights |= self.heads.weights
        return self.heads.lines()

    def begin_from_teacher(self) -> str:
        """Take the teacher's weights for the parts that the recipe names; a line that says so.

        Raises:
            TrainError: parts of other sizes.
        """
        assert self.teacher is not None
        parts = self.recipe.distill.parts
        self.teacher.give(self.network, parts)
        self.average = Average(self.network, self.recipe.optim.ema)
        return f"teacher {self.teacher.name}: gives " + (", ".join(parts) or "no weights")

    def warm_start(self, weights: Mapping[str, Tensor]) -> None:
        """Begin from the weights of a model, with fresh optimisers.

        Raises:
            TrainError: weights that do not fit this recipe's network.
        """
        mine = self.network.state_dict()
        wrong = sorted(set(mine) ^ set(weights)) or [k for k, x in mine.items() if x.shape != weights[k].shape]
        if wrong:
            raise TrainError(
                f"warm start: {wrong[0]} does not fit this recipe's network; use the recipe of those weights"
            )
        self.network.load_state_dict({key: x.float() if x.is_floating_point() else x for key, x in weights.items()})
        self.average = Average(self.network, self.recipe.optim.ema)
        frames = self.recipe.data.crop * self.recipe.model.frame_rate * self.recipe.data.batch
        self.learner.restart(frames / max(self.network.bottleneck.codebook_sizes))


@contextlib.contextmanager
def _undone_unless(finite: Tensor, learner: Learner) -> Any:
    """What the codebooks learn inside is taken back where `finite` is false, without waiting for the device."""
    books = learner.bottleneck.codebooks
    before = [(x.cluster_size, x.embed_avg, book.embed.detach().clone()) for x, book in _pairs(learner)]
    yield
    with torch.no_grad():
        for averages, book, (size, total, embed) in zip(learner.averages, books, before, strict=True):
            averages.cluster_size = torch.where(finite, averages.cluster_size, size)
            averages.embed_avg = torch.where(finite, averages.embed_avg, total)
            book.embed.copy_(torch.where(finite, book.embed, embed))


def _pairs(learner: Learner) -> Any:
    return zip(learner.averages, learner.bottleneck.codebooks, strict=True)


def _check_crop(recipe: Recipe, delay: int) -> None:
    """Refuse a crop that is shorter than the longest window of losses and discriminators."""
    rate, hop = recipe.model.sample_rate, recipe.model.hop_length
    windows: tuple[int, ...] = recipe.mels.windows or losses.MEL_WINDOWS
    seen = recipe.adversary.windows if {"stft", "band", "mel"} & set(recipe.adversary.kinds) else (1,)
    if recipe.adversary.start_step >= 0:
        windows += seen
    length = round(recipe.data.crop * rate / hop) * hop - delay
    if length < max(windows):
        needed = (max(windows) + delay + hop) / rate
        raise ConfigError(
            f"data.crop: {recipe.data.crop} s is shorter than the longest window; at least {needed:.2f} s"
        )
    if 0 < round(recipe.adversary.crop * rate) < max(seen):
        raise ConfigError(
            f"adversary.crop: {recipe.adversary.crop} s is shorter than the longest of adversary.windows; "
            f"at least {max(seen) / rate:.2f} s, or 0 for the whole crop"
        )
