"""How codebooks learn: k-means start, moving averages, revival of dead entries.

The trainer calls `Learner.update` after each optimiser step; nothing here runs while encoding. On several ranks all see
the same statistics, and what is drawn at random is rank 0's, so that codebooks stay equal; every rank brings as many
frames a step.

Source: Zeghidour et al. 2021 (SoundStream), section III-C; van den Oord et al. 2017 (VQ-VAE), appendix A.1. The revival
resets entry, average and count together: resetting the entry alone (encodec#61) is undone by the next average.

>>> from codec.quantize.vq import VqConfig
>>> learner = Learner(VectorQuantizer(VqConfig(codebook_size=4), dim=2), LearnConfig(start_step=0, pool=8))
>>> quantized = learner.bottleneck(torch.arange(16.0).view(1, 2, 8), n_stages=learner.n_started)
>>> revived = learner.update(quantized, 0, torch.Generator().manual_seed(0))
>>> learner.n_started
1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized
from codec.quantize.kmeans import kmeans, sum_hits
from codec.quantize.ranks import gather_ranks, same_on_ranks, sum_over_ranks
from codec.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class LearnConfig:
    """How codebooks start and learn."""

    start_step: int = 200  # training steps without a bottleneck before the first stage collects
    pool: int = 8192  # vectors collected, over many batches, for the k-means start of a stage
    iterations: int = 20  # of k-means
    decay: float = 0.99  # of the moving averages, per step
    revive_below: float = 0.05  # an entry is dead below this share of the uniform count
    revive_every: int = 10  # steps between looks for dead entries

    def __post_init__(self) -> None:
        """Check values."""
        if not 0 < self.decay < 1:
            raise ConfigError(f"learn.decay: must be between 0 and 1, found {self.decay}")
        if not 0 <= self.revive_below < 1:
            raise ConfigError(f"learn.revive_below: must be at least 0 and below 1, found {self.revive_below}")
        if self.start_step < 0:
            raise ConfigError(f"learn.start_step: must be at least 0, found {self.start_step}; 0 starts at once")
        for name in ("pool", "iterations", "revive_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learn.{name}: must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class Revived:
    """Entries that began anew in a codebook trained by gradient; see `zero_moments`.

    Attributes:
        embed: the codebook's parameter, (K, D).
        rows: (K,) bool, true where an entry was replaced; often all false.
    """

    embed: Tensor
    rows: Tensor


class Averages:
    """Count and sum of what hits one codebook's entries in a step, as moving averages."""

    def __init__(self, book: VectorQuantizer) -> None:
        self.cluster_size = torch.zeros(book.codebook_size, device=book.embed.device)  # (K,), over all ranks
        self.embed_avg = torch.zeros_like(book.embed, requires_grad=False)  # (K, D)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"cluster_size": self.cluster_size, "embed_avg": self.embed_avg}

    def begin(self, embed: Tensor, cluster_size: Tensor) -> None:
        """As if entries (K, D) had long been hit `cluster_size` (K,) times a step."""
        self.cluster_size = cluster_size
        self.embed_avg = embed.detach() * cluster_size[:, None]

    def add(self, counts: Tensor, sums: Tensor, decay: float) -> None:
        """One step's hits."""
        # New tensors, not in place: a state_dict taken before stays what it was.
        self.cluster_size = self.cluster_size.mul(decay).add(counts, alpha=1 - decay)
        self.embed_avg = self.embed_avg.mul(decay).add(sums, alpha=1 - decay)

    def entries(self) -> Tensor:
        """Sum / count (K, D), the count smoothed (Laplace) so that a rare entry does not blow up."""
        total = self.cluster_size.sum()
        eps = 1e-5
        size = (self.cluster_size + eps) / (total + len(self.cluster_size) * eps) * total
        return self.embed_avg / size[:, None]


class Learner:
    """Starts the stages of a bottleneck one after another and keeps its codebooks learning.

    Make it when the bottleneck is on its device.

    Attributes:
        n_started: stages in use; pass it to the bottleneck as `n_stages`.
        averages: of each codebook, in code order.
        pools: of each codebook, what was collected for its start; empty once it is started.
    """

    def __init__(self, bottleneck: Bottleneck, config: LearnConfig) -> None:
        self.bottleneck = bottleneck
        self.config = config
        self.n_started = 0
        self.averages = [Averages(book) for book in bottleneck.codebooks]
        self.pools: list[list[Tensor]] = [[] for _ in bottleneck.codebooks]

    @torch.no_grad()
    def update(self, quantized: Quantized, step: int, generator: torch.Generator) -> list[Revived]:
        """Learn from one training step.

        Args:
            quantized: what `bottleneck(latent, n_stages=learner.n_started)` gave.
            step: number of the training step, from 0.
            generator: on the CPU; rank 0's counts.

        Returns:
            Rows whose optimiser moments are to be zeroed: `zero_moments(optimizer, revived)`.
        """
        started = [i for i, stage in enumerate(self.bottleneck.stages) if stage < self.n_started]
        revived = []
        with torch.autocast(quantized.latent.device.type, enabled=False):
            self._average(quantized, started)
            if step % self.config.revive_every == 0:
                revived = [self._revive(i, quantized.inputs[i], generator) for i in started]
            if self.n_started < self.bottleneck.n_stages and step >= self.config.start_step:
                self._collect(quantized, generator)
        return [x for x in revived if x.embed.requires_grad]

    def usage(self) -> list[dict[str, float]]:
        """Per codebook, over the moving averages: share of entries in use, perplexity, number of dead entries."""
        rows = []
        for averages in self.averages:
            size = averages.cluster_size
            share = size / size.sum().clamp(min=1e-9)
            dead = share < self.config.revive_below / len(share)
            entropy = -(share * share.clamp(min=1e-12).log()).sum()
            rows.append(
                {
                    "usage": float((~dead).float().mean()),
                    "perplexity": float(entropy.exp()),
                    "dead": float(dead.sum()),
                }
            )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs."""
        return {
            "n_started": self.n_started,
            "averages": [averages.tensors() for averages in self.averages],
            "pools": [list(pool) for pool in self.pools],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, onto the bottleneck's device."""
        self.n_started = int(state["n_started"])
        for averages, saved in zip(self.averages, state["averages"], strict=True):
            device = averages.cluster_size.device
            averages.cluster_size = saved["cluster_size"].to(device, copy=True)
            averages.embed_avg = saved["embed_avg"].to(device, copy=True)
        books = zip(self.bottleneck.codebooks, state["pools"], strict=True)
        self.pools = [[x.to(book.embed.device, copy=True) for x in pool] for book, pool in books]

    def restart(self, hits: float) -> None:
        """Begin from entries that exist already (a warm start), as if each had been hit `hits` times a step."""
        assert hits > 0
        self.n_started = self.bottleneck.n_stages
        self.pools = [[] for _ in self.pools]
        for averages, book in zip(self.averages, self.bottleneck.codebooks, strict=True):
            averages.begin(book.embed, torch.full_like(averages.cluster_size, hits))

    def _average(self, quantized: Quantized, started: list[int]) -> None:
        divisors = self.bottleneck.divisors or (1,) * self.bottleneck.n_codebooks
        hits: list[Tensor] = []
        for i in started:
            x = quantized.inputs[i]
            assert x is not None
            codes = quantized.codes[:, i, :: divisors[i]].flatten()
            hits.extend(sum_hits(x, codes, self.bottleneck.codebooks[i].codebook_size))
        hits = sum_over_ranks(hits)
        for i, counts, sums in zip(started, hits[::2], hits[1::2], strict=True):
            book, averages = self.bottleneck.codebooks[i], self.averages[i]
            averages.add(counts, sums, self.config.decay)
            if book.learn == "ema":
                book.embed.copy_(averages.entries())

    def _revive(self, i: int, x: Tensor | None, generator: torch.Generator) -> Revived:
        """Give each dead entry one of the vectors `x` (N, D) of this step, each vector once where there are enough."""
        assert x is not None
        book, averages = self.bottleneck.codebooks[i], self.averages[i]
        uniform = averages.cluster_size.sum() / book.codebook_size
        dead = averages.cluster_size < self.config.revive_below * uniform
        # All shapes are the same however many are dead: no waiting for the device, and no rank sends another length.
        x = gather_ranks(x)
        order = torch.randperm(len(x), generator=generator).to(x.device)
        turn = (dead.cumsum(0) - 1).clamp(min=0) % len(x)  # (K,), the first dead entry gets order[0], and so on
        fresh, rows = same_on_ranks(x[order[turn]]), dead[:, None]
        book.embed.copy_(torch.where(rows, fresh, book.embed))
        averages.cluster_size = torch.where(dead, uniform, averages.cluster_size)
        averages.embed_avg = torch.where(rows, fresh * uniform, averages.embed_avg)
        return Revived(book.embed, dead)

    def _collect(self, quantized: Quantized, generator: torch.Generator) -> None:
        """Gather inputs of the next stage; start it when the pool is full."""
        books = [i for i, stage in enumerate(self.bottleneck.stages) if stage == self.n_started]
        for i in books:
            x = quantized.inputs[i]
            assert x is not None
            self.pools[i].append(gather_ranks(x))
        if sum(len(x) for x in self.pools[books[0]]) < self.config.pool:
            return
        for i in books:
            self._start(i, torch.cat(self.pools[i]), generator, batch=len(self.pools[i][-1]))
            self.pools[i] = []
        self.n_started += 1

    def _start(self, i: int, pool: Tensor, generator: torch.Generator, *, batch: int) -> None:
        book = self.bottleneck.codebooks[i]
        entries, counts = kmeans(pool, book.codebook_size, iterations=self.config.iterations, generator=generator)
        book.embed.copy_(same_on_ranks(entries))
        self.averages[i].begin(book.embed, same_on_ranks(counts) * (batch / len(pool)))


def zero_moments(optimizer: torch.optim.Optimizer, revived: list[Revived]) -> None:
    """Let the optimiser forget what it knew of entries that began anew: its momentum would drag the new ones away."""
    for one in revived:
        state = optimizer.state.get(one.embed, {})
        for value in state.values():
            if isinstance(value, Tensor) and value.shape == one.embed.shape:
                value.masked_fill_(one.rows[:, None].to(value.device), 0)
