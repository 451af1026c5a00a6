"""Masks for models that guess hidden tokens: how many to hide, and which. Numpy; randomness from a generator argument.

True is hidden. Sequences of a batch are drawn alone, each with its own share.

>>> rng = np.random.default_rng(0)
>>> int(random_mask((2, 8), 0.5, rng).sum())
8
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import is_torch, like
from codec.errors import CodesError

Mask = npt.NDArray[np.bool_]

# Progress 0 to 1 -> share that is still hidden, 1 to 0. Source: MaskGIT (Chang et al. 2022), section 3.3.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: math.cos(math.pi / 2 * progress),
    "linear": lambda progress: 1 - progress,
    "square": lambda progress: 1 - progress**2,
    "root": lambda progress: 1 - math.sqrt(progress),
}


def hidden_share(progress: float, schedule: str = "cosine") -> float:
    """Share of tokens that is hidden at a point between 0, all, and 1, none. Raises: CodesError: unknown schedule."""
    if schedule not in SCHEDULES:
        raise CodesError(f"schedule {schedule!r}: known are {', '.join(SCHEDULES)}")
    if not 0 <= progress <= 1:
        raise CodesError(f"progress={progress}: expected 0 to 1")
    return min(1.0, max(0.0, SCHEDULES[schedule](progress)))


def reveal_counts(n_tokens: int, n_steps: int, schedule: str = "cosine") -> list[int]:
    """How many tokens each of `n_steps` decoding steps reveals; they add up to `n_tokens`.

    >>> reveal_counts(100, 4)
    [8, 21, 33, 38]

    Raises:
        CodesError: an unknown schedule, or no steps.
    """
    if n_steps < 1:
        raise CodesError(f"n_steps={n_steps}: expected at least 1")
    shares = [hidden_share(step / n_steps, schedule) for step in range(n_steps + 1)]
    hidden = [n_tokens, *(round(n_tokens * share) for share in shares[1:-1]), 0]
    return [before - after for before, after in itertools.pairwise(hidden)]


def sample_shares(n: int, rng: np.random.Generator, schedule: str = "cosine") -> npt.NDArray[np.float64]:
    """A share to hide for each of `n` training items: the schedule at a uniform point."""
    return np.array([hidden_share(point, schedule) for point in rng.random(n)])


def random_mask(shape: tuple[int, ...], share: Any, rng: np.random.Generator) -> Mask:
    """Hide an exact share of each row, anywhere, for masked and for absorbing-state diffusion models.

    Args:
        shape: of the tokens; the last axis is the row.
        share: 0 to 1; a number, or one per row.
        rng: the generator.
    """
    counts = np.rint(np.broadcast_to(np.asarray(share), shape[:-1]) * shape[-1])
    ranks = rng.random(shape).argsort(-1).argsort(-1)
    mask: Mask = ranks < counts[..., None]
    return mask


def span_mask(shape: tuple[int, ...], share: Any, rng: np.random.Generator, *, span: int = 10) -> Mask:
    """Hide whole spans of a row, about the share asked for; the last axis is the row.

    Source: wav2vec 2.0 (Baevski et al. 2020), section 3.1, for spans at random starts.
    """
    starts_share = 1 - (1 - np.broadcast_to(np.asarray(share, np.float64), shape[:-1])) ** (1 / span)
    starts = rng.random((*shape[:-1], shape[-1] + span - 1)) < starts_share[..., None]
    before = np.cumsum(starts, -1)
    counts = before[..., span - 1 :] - np.concatenate(
        (np.zeros((*shape[:-1], 1), int), before[..., : shape[-1] - 1]), -1
    )
    mask: Mask = counts > 0
    return mask


def uniform_noise(tokens: Any, sizes: Any, share: Any, rng: np.random.Generator) -> Any:
    """Replace a share of each row by random codes, for discrete diffusion with uniform noise.

    Args:
        tokens: codes (..., Q, F), numpy or torch.
        sizes: codebook sizes, Q numbers.
        share: 0 to 1; a number, or one per row.
        rng: the generator.

    Source: D3PM (Austin et al. 2021), section 3.1.
    """
    array = np.asarray(tokens)
    noise = rng.integers(0, np.asarray(sizes)[:, None], array.shape)
    noised = np.where(random_mask(array.shape, share, rng), noise, array)
    return like(noised, is_torch(tokens))


def depth_mask(n_codebooks: int, n_frames: int, share: float, rng: np.random.Generator) -> Mask:
    """Hide an exact share of (Q, F), in each frame the finest codebooks first.

    What is seen of a frame is always a prefix of its codebooks, so that the model guesses the sum of the rest.

    Source: ResGen (Kim et al. 2024), section 3.1: counts per position drawn without replacement, depth from the finest.
    """
    n_hidden = round(share * n_codebooks * n_frames)
    counts = rng.multivariate_hypergeometric([n_codebooks] * n_frames, n_hidden) if n_frames else np.zeros(0, int)
    mask: Mask = np.arange(n_codebooks)[:, None] >= n_codebooks - counts
    return mask


def codebook_mask(n_codebooks: int, n_frames: int, share: float, rng: np.random.Generator) -> Mask:
    """Hide a share of one codebook, drawn at random, and all finer ones; coarser ones are seen, (Q, F).

    Source: SoundStorm (Borsos et al. 2023), section 3.3.
    """
    book = int(rng.integers(n_codebooks))
    mask = np.zeros((n_codebooks, n_frames), bool)
    mask[book] = random_mask((n_frames,), share, rng)
    mask[book + 1 :] = True
    return mask
