"""Learning rate, gradient norm, averaged weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codec.train.config import OptimConfig


def rate_at(step: int, config: OptimConfig, *, begin: int = 0) -> float:
    """Learning rate of a step: linear warm-up, constant, then a cosine down to `final_rate` of the peak.

    Args:
        step: number of the step, from 0.
        config: of the schedule.
        begin: step at which the optimisers began afresh; the warm-up starts there, the schedule goes on.

    >>> config = OptimConfig(steps=100, rate=1.0, warmup=10, decay_share=0.5, final_rate=0.0)
    >>> [round(rate_at(step, config), 2) for step in (0, 9, 50, 75, 100)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    >>> [round(rate_at(step, config, begin=20), 2) for step in (20, 29, 50)]
    [0.1, 1.0, 1.0]
    """
    fall_begin = config.steps * (1 - config.decay_share)
    done = min(1.0, max(0.0, (step - fall_begin) / max(1.0, config.steps - fall_begin)))
    fall = (1 + math.cos(math.pi * done)) / 2
    rate = config.rate * (config.final_rate + (1 - config.final_rate) * fall)
    return rate * (step - begin + 1) / config.warmup if step < begin + config.warmup else rate


def make_adamw(
    module: nn.Module,
    *,
    rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms, scales) and codebooks are not decayed: entries are places, not slopes."""
    learning = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    shrinks = [p.ndim > 1 and not name.endswith("embed") for name, p in learning]
    groups = [
        {"params": [p for (_, p), yes in zip(learning, shrinks, strict=True) if yes], "weight_decay": weight_decay},
        {"params": [p for (_, p), yes in zip(learning, shrinks, strict=True) if not yes], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)


def step_if_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> Tensor:
    """Step unless the gradient's norm is NaN or infinite, without waiting for the device.

    Returns:
        Scalar bool on the device: whether it stepped.
    """
    finite = torch.isfinite(norm)
    # What torch's GradScaler does with a fused optimiser: the kernel itself leaves weights, moments and count alone.
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
    return finite


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Average:
    """Moving average of a module's parameters and codebooks, the weights that are shipped."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {key: x.detach().clone() for key, x in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """One step; the decay grows from 0.1 so that the first random weights are soon forgotten."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = module.state_dict()
        mine = [x for x in self.weights.values() if x.is_floating_point()]
        theirs = [current[key] for key, x in self.weights.items() if x.is_floating_point()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    @torch.no_grad()
    def take(self, module: nn.Module, prefix: str) -> None:
        """Take the tensors whose names begin with `prefix` as they are."""
        current = module.state_dict()
        for key, x in self.weights.items():
            if key.startswith(prefix):
                x.copy_(current[key])

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take back what `state_dict` gave."""
        steps, weights = state["steps"], state["weights"]
        assert isinstance(steps, int)
        assert isinstance(weights, dict)
        self.steps = steps
        for key, x in self.weights.items():
            x.copy_(weights[key])
