"""Layouts that keep codebooks apart: parallel, delayed, and depth-wise groups.

>>> Delay(TokenIds((8, 8), shared=True)).arrange(np.array([[1, 2, 3], [4, 5, 6]])).tolist()
[[1, 2, 3, 8], [8, 4, 5, 6]]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codec.errors import CodesError
from codec.tokens.base import Array, Facts, Layout
from codec.tokens.ids import TokenIds


@dataclass(frozen=True)
class Delay(Layout):
    """Codebook q comes `delays[q]` steps late, (Q, F + the largest delay), so that a step sees the codebooks before it.

    Corners are filled with `pad`, which with shared ids and no text is the codebook's size, as in MusicGen.

    Source: MusicGen (Copet et al. 2023), section 2.2, delay pattern.

    Raises:
        CodesError: not one delay, at least 0, per codebook.
    """

    ids: TokenIds
    delays: tuple[int, ...] = ()  # steps; 0, 1, 2 ... when empty

    def __post_init__(self) -> None:
        """Fill and check."""
        object.__setattr__(self, "delays", tuple(self.delays) or tuple(range(self.ids.n_codebooks)))
        if len(self.delays) != self.ids.n_codebooks or min(self.delays) < 0:
            raise CodesError(f"delays {self.delays}: expected {self.ids.n_codebooks} numbers, at least 0")

    @property
    def step(self) -> tuple[int, ...]:
        """One column."""
        return (self.ids.n_codebooks, 1)

    @property
    def axis(self) -> int:
        """Columns."""
        return -1

    @property
    def divisors(self) -> tuple[int, ...]:
        """Every codebook in every frame."""
        return (1,) * self.ids.n_codebooks

    def _lay(self, shifted: Array) -> Array:
        *batch, n_codebooks, n_frames = shifted.shape
        if not any(self.delays):
            return shifted
        tokens = np.empty((*batch, n_codebooks, n_frames + max(self.delays)), shifted.dtype)
        for q, delay in enumerate(self.delays):
            tokens[..., q, :delay] = self.ids.pad
            tokens[..., q, delay : delay + n_frames] = shifted[..., q, :]
            tokens[..., q, delay + n_frames :] = self.ids.pad
        return tokens

    def _count(self, tokens: Array, is_code: Facts) -> list[int]:
        """Codes of each row, from its delay to its first special token."""
        counts = []
        for row, delay in zip(is_code, self.delays, strict=True):
            row = row[delay:]
            counts.append(len(row) if row.all() else int(row.argmin()))
        return counts

    def _whole(self, tokens: Array) -> Array | None:
        n_frames = tokens.shape[-1] - max(self.delays)
        if not any(self.delays) or n_frames < 0:
            return tokens if n_frames >= 0 else None
        ids = np.empty((*tokens.shape[:-1], n_frames), tokens.dtype)
        for q, delay in enumerate(self.delays):
            for corner in (tokens[:, q, :delay], tokens[:, q, delay + n_frames :]):
                if (corner != self.ids.pad).any():
                    return None
            ids[:, q] = tokens[:, q, delay : delay + n_frames]
        return ids

    def _pick(self, tokens: Array, counts: list[int]) -> list[Array]:
        return [row[d : d + n] for row, d, n in zip(tokens, self.delays, counts, strict=True)]


def Parallel(ids: TokenIds) -> Delay:  # noqa: N802, stands among the classes
    """All codebooks of a frame in one step, (Q, F): a delay of nothing."""
    return Delay(ids, (0,) * ids.n_codebooks)


@dataclass(frozen=True)
class Depth(Layout):
    """Frames outside, groups of codebooks inside, (F, G, Q / G), for a model over time and a smaller one over depth.

    With as many groups as codebooks this is the stack of an RQ-Transformer; with fewer, a group is guessed at once.
    `codec.lm.masks.depth_mask` gives the masks for models that guess the depth in several passes.

    Source: RQ-Transformer (Lee et al. 2022), section 3.2; ResGen (Kim et al. 2024), section 3, for masking by depth.

    Raises:
        CodesError: groups of unequal size.
    """

    ids: TokenIds
    n_groups: int = 0  # as many as codebooks when 0

    def __post_init__(self) -> None:
        """Fill and check."""
        object.__setattr__(self, "n_groups", self.n_groups or self.ids.n_codebooks)
        if self.n_groups < 1 or self.ids.n_codebooks % self.n_groups:
            raise CodesError(f"n_groups={self.n_groups}: {self.ids.n_codebooks} codebooks cannot be shared out equally")

    @property
    def step(self) -> tuple[int, ...]:
        """One frame."""
        return (1, self.n_groups, self.ids.n_codebooks // self.n_groups)

    @property
    def axis(self) -> int:
        """Frames."""
        return -3

    @property
    def divisors(self) -> tuple[int, ...]:
        """Every codebook in every frame."""
        return (1,) * self.ids.n_codebooks

    def _lay(self, shifted: Array) -> Array:
        turned = np.ascontiguousarray(shifted.swapaxes(-1, -2))
        return turned.reshape(*turned.shape[:-1], *self.step[1:])

    def _whole(self, tokens: Array) -> Array | None:
        return tokens.reshape(*tokens.shape[:2], self.ids.n_codebooks).swapaxes(-1, -2)

    def _count(self, tokens: Array, is_code: Facts) -> list[int]:
        """Codes of each codebook before its first special token."""
        if is_code.all():
            return [len(tokens)] * self.ids.n_codebooks
        rows = is_code.reshape(len(tokens), self.ids.n_codebooks).T
        return [len(row) if row.all() else int(row.argmin()) for row in rows]

    def _pick(self, tokens: Array, counts: list[int]) -> list[Array]:
        rows = tokens.reshape(len(tokens), self.ids.n_codebooks).T
        return [row[:n] for row, n in zip(rows, counts, strict=True)]
