"""Weigh losses by the size of their gradients instead of by value, so that a weight is a share of what is learnt.

>>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
>>> balancer = Balancer()
>>> balancer.gradient({"a": x.sum() * 100}, {"a": 2.0}, x).norm().item()
1.0
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codec.quantize.ranks import count_ranks, sum_over_ranks

TINY = 1e-12


class Balancer:
    """The gradient of several losses of audio_hat: each in its usual length 1, times its weight's share.

    Source: Défossez et al. 2022 (EnCodec), section 3.4, loss balancer.

    Args:
        decay: of the moving averages of the norms.
        total: norm of the whole where all agree.
    """

    def __init__(self, *, decay: float = 0.999, total: float = 1.0) -> None:
        self.decay, self.total = decay, total
        self.sums: dict[str, Tensor] = {}  # decayed sum of norms
        self.counts: dict[str, Tensor] = {}  # decayed number of steps: the mean is unbiased from the first step on

    def gradient(
        self, values: Mapping[str, Tensor], weights: Mapping[str, float], audio_hat: Tensor, *, parts: int = 1
    ) -> Tensor:
        """What to send back into audio_hat, in its shape; a step in which a norm is not finite counts for none.

        Args:
            values: losses, functions of audio_hat.
            weights: of each; only their ratios count.
            audio_hat: (B, T).
            parts: of a step, of which this is one; each goes into the averages by its share of the step.
        """
        share = sum(weights[name] for name in values)
        gradients = {k: torch.autograd.grad(x, audio_hat, retain_graph=True)[0] for k, x in values.items()}
        lengths = [x.flatten(1).norm(dim=1).mean() for x in gradients.values()]
        # Of the whole batch: each of n ranks has 1/n of its rows, and a loss that is a mean over so few has gradients
        # n times as long. These stay so: the mean of the parameters' gradients over ranks makes good for it.
        # So are those of the parts of a step.
        n = count_ranks()
        norms = {k: x / (n**2 * parts) for k, x in zip(gradients, sum_over_ranks(lengths), strict=True)}
        finite = torch.isfinite(torch.stack(list(norms.values()))).all()
        result = torch.zeros_like(audio_hat)
        for name, gradient in gradients.items():
            mean = self._average(name, norms[name], finite, self.decay ** (1 / parts))
            result += gradient * (weights[name] / share * self.total / (mean + TINY))
        return result

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """For a checkpoint."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]], device: torch.device) -> None:
        """Take back what `state_dict` gave."""
        self.sums = {name: x.to(device) for name, x in state["sums"].items()}
        self.counts = {name: x.to(device) for name, x in state["counts"].items()}

    def _average(self, name: str, norm: Tensor, finite: Tensor, decay: float) -> Tensor:
        zero = torch.zeros_like(norm)
        old_sum, old_count = self.sums.get(name, zero), self.counts.get(name, zero)
        # torch.where, not a branch: no waiting for the device.
        self.sums[name] = torch.where(finite, old_sum * decay + norm, old_sum)
        self.counts[name] = torch.where(finite, old_count * decay + 1, old_count)
        return self.sums[name] / self.counts[name].clamp(min=TINY)
