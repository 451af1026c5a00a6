"""The training loop: one step, its optimisers, when to write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from codec.errors import TrainError
from codec.network import Network, Output
from codec.quantize.learn import Learner
from codec.train import losses
from codec.train.config import Recipe
from codec.train.data import Batch
from codec.train.optim import Average, make_adamw, rate_at, set_rate


@dataclass(frozen=True)
class StepReport:
    """What one step measured: the loss terms, the gradient's norm, the rate."""

    values: Mapping[str, Tensor]
    grad_norm: float
    rate: float
    skipped: bool


class Trainer:
    """Network, learner, optimiser and averages of one run; `step` is the next step's number."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        self.network = Network(recipe.model).to(device)
        for part in recipe.optim.freeze:
            getattr(self.network, part).requires_grad_(False)
        self.learner = Learner(self.network.bottleneck, recipe.learn)
        self.optimizer = make_adamw(self.network.parameters(), recipe.optim, rate=recipe.optim.rate)
        self.average = Average(self.network, recipe.optim.ema)
        self.weights = {key: float(value) for key, value in asdict(recipe.loss).items()}
        self.step = 0
        self.skipped = 0  # in all
        self.skipped_in_a_row = 0
        self.precision = choose_precision(recipe.optim.precision, device)

    def run_step(self, batch: Batch) -> StepReport:
        """One training step.

        Raises:
            TrainError: too many steps in a row without a finite gradient.
        """
        recipe = self.recipe
        rate = rate_at(self.step, recipe.optim)
        set_rate(self.optimizer, rate)
        output, values = self._forward(batch)
        loss = losses.weigh(values, self.weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optim.clip)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
            if "bottleneck" not in recipe.optim.freeze:
                generator = torch.Generator().manual_seed(recipe.run.seed * 7_000_003 + self.step)
                self.learner.update(output.quantized, self.step, generator)
            self.average.update(self.network)
        self._count_skips(finite)
        self.step += 1
        return StepReport({k: v.detach() for k, v in values.items()}, float(norm), rate, not finite)

    def _forward(self, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
        with self.autocast():
            output: Output = self.network(batch.audio, batch.levels, n_stages=self.learner.n_started)
        delay = self.network.delay
        audio = batch.audio[:, 0, : batch.audio.shape[-1] - delay]
        audio_hat = output.audio_hat[:, 0, delay:].float()
        values = losses.terms(audio, audio_hat, self.weights, self.recipe.model.sample_rate)
        values["commitment"] = output.quantized.loss
        return output, values

    @torch.no_grad()
    def measure(self, audio: Tensor) -> dict[str, float]:
        """Loss terms of the averaged weights on audio (B, 1, T), all codebooks in use."""
        current = {key: x.clone() for key, x in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.weights)
        try:
            levels = torch.full((len(audio),), self.network.bottleneck.n_codebooks, device=audio.device)
            _, values = self._forward(Batch(audio, levels))
        finally:
            self.network.load_state_dict(current)
        return {key: float(value) for key, value in values.items()}

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Bfloat16 for matrix products, where chosen."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs; random numbers come from seed and step."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "learner": self.learner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step, self.skipped = int(state["step"]), int(state["skipped"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.learner.load_state_dict(state["learner"])

    def warm_start(self, weights: Mapping[str, Tensor]) -> None:
        """Begin from the weights of a model, with fresh optimisers.

        Raises:
            TrainError: weights that do not fit this recipe's network.
        """
        mine = self.network.state_dict()
        wrong = sorted(set(mine) ^ set(weights)) or [k for k, x in mine.items() if x.shape != weights[k].shape]
        if wrong:
            raise TrainError(f"warm start: {wrong[0]} does not fit this recipe's network; use the recipe of those weights")
        self.network.load_state_dict({key: x.float() for key, x in weights.items()})
        self.average = Average(self.network, self.recipe.optim.ema)
        frames = self.recipe.data.crop * self.recipe.model.frame_rate * self.recipe.data.batch
        self.learner.restart(frames / max(self.network.bottleneck.codebook_sizes))

    def _count_skips(self, finite: bool) -> None:
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row > self.recipe.optim.max_skips:
            raise TrainError(
                f"step {self.step}: {self.skipped_in_a_row} steps in a row without a finite gradient; "
                "lower optim.rate, or start again from an earlier checkpoint"
            )


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises: TrainError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if (name.startswith("cuda") and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    ):
        raise TrainError(f"run.device={name}: this machine has none; use run.device=cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of matrix products. A CPU without bfloat16 units computes them 40 times slower than float32."""
    if name == "auto":
        gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if gains else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


class Stopwatch:
    """Seconds since the last look, and the share of them spent waiting for data."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.waited = 0.0
        self.steps = 0

    @contextlib.contextmanager
    def waiting(self) -> Any:
        """Around what fetches data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def lap(self) -> tuple[float, float]:
        """Steps per second and waiting share since the last lap."""
        seconds = time.perf_counter() - self.begin
        result = self.steps / max(seconds, 1e-9), self.waited / max(seconds, 1e-9)
        self.begin, self.waited, self.steps = time.perf_counter(), 0.0, 0
        return result
