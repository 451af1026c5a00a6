"""Layouts of one row of tokens: section after section, and the interleaving of codebooks of several rates.

>>> ids = TokenIds((8, 8, 8))
>>> codes = np.arange(6).reshape(3, 2)
>>> Sections(ids, (3,)).arrange(codes).tolist(), Sections(ids, (1, 2)).arrange(codes).tolist()
([0, 10, 20, 1, 11, 21], [0, 1, 10, 20, 11, 21])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from codec.errors import CodesError
from codec.tokens.base import Array, Facts, Layout
from codec.tokens.ids import TokenIds

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sections(Layout):
    """Codebooks in sections, one after the other; within a section frame after frame, (N,).

    One section is frame-major, as many as codebooks codebook-major; two are coarse then fine, three semantic, coarse,
    fine.

    Source: AudioLM (Borsos et al. 2022), section III.C, for the order of the three stages.

    Raises:
        CodesError: sections that do not add up to the codebooks, or several with shared ids, which do not say where
            one ends.
    """

    ids: TokenIds
    sections: tuple[int, ...]  # codebooks of each

    def __post_init__(self) -> None:
        """Check."""
        if min(self.sections, default=0) < 1 or sum(self.sections) != self.ids.n_codebooks:
            raise CodesError(f"sections {self.sections}: must add up to {self.ids.n_codebooks} codebooks")
        if len(self.sections) > 1 and self.ids.shared:
            raise CodesError("sections: shared ids do not say where a section ends; use TokenIds(..., shared=False)")

    @property
    def step(self) -> tuple[int, ...]:
        """One token."""
        return (1,)

    @property
    def axis(self) -> int:
        """The row."""
        return -1

    @property
    def divisors(self) -> tuple[int, ...]:
        """Every codebook in every frame."""
        return (1,) * self.ids.n_codebooks

    def _lay(self, shifted: Array) -> Array:
        *batch, n_codebooks, n_frames = shifted.shape
        tokens = np.empty((*batch, n_codebooks * n_frames), shifted.dtype)
        for first, n in self._starts():
            piece = tokens[..., first * n_frames : (first + n) * n_frames]
            piece.reshape(*batch, n_frames, n)[...] = shifted[..., first : first + n, :].swapaxes(-1, -2)
        return tokens

    def _whole(self, tokens: Array) -> Array | None:
        n_items, n_tokens = tokens.shape
        if n_tokens % self.ids.n_codebooks:
            return None
        n_frames = n_tokens // self.ids.n_codebooks
        if len(self.sections) == 1:
            return tokens.reshape(n_items, n_frames, -1).swapaxes(-1, -2) if n_tokens else None
        ids = np.empty((n_items, self.ids.n_codebooks, n_frames), tokens.dtype)
        for first, n in self._starts():
            piece = tokens[:, first * n_frames : (first + n) * n_frames]
            ids[:, first : first + n] = piece.reshape(n_items, n_frames, n).swapaxes(-1, -2)
        return ids

    def _count(self, tokens: Array, is_code: Facts) -> list[int]:
        """Where each section ends: at the first id of a later one."""
        ends = [0]
        for first, _ in self._starts()[1:]:
            later = tokens[ends[-1] :] >= self.ids.offsets[first]
            end = int(later.argmax()) if len(later) else 0
            ends.append(ends[-1] + (end if len(later) and later[end] else len(later)))
        return [*ends[1:], len(tokens)]

    def _pick(self, tokens: Array, counts: list[int]) -> list[Array]:
        pieces = [tokens[start:end] for start, end in zip([0, *counts], counts, strict=False)]
        return [piece[q::n] for piece, n in zip(pieces, self.sections, strict=True) for q in range(n)]

    def _starts(self) -> list[tuple[int, int]]:
        """First codebook and number of codebooks of each section."""
        return list(zip(accumulate(self.sections[:-1], initial=0), self.sections, strict=True))


@dataclass(frozen=True)
class MultiRate(Layout):
    """Codebooks of several rates in order of time, (N,): of each frame the codes that begin there.

    Codes are (Q, F) at the finest rate, those of a slow codebook repeated for `divisors[q]` frames, as a codec with
    such codebooks gives them. Divisors (4, 2, 1) are the seven tokens a frame of SNAC: 0, 1, 2, 2, 1, 2, 2.

    Source: SNAC (Siuzdak et al. 2024), section 2.1, for the rates.

    Raises:
        CodesError: not one divisor per codebook, none of them 1 (the number of frames would be lost), or too large.
    """

    ids: TokenIds
    divisors: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check."""
        object.__setattr__(self, "divisors", tuple(self.divisors))
        if len(self.divisors) != self.ids.n_codebooks or min(self.divisors) != 1:
            raise CodesError(f"divisors {self.divisors}: expected {self.ids.n_codebooks} numbers, the least of them 1")
        if math.lcm(*self.divisors) > 4096:
            raise CodesError(f"divisors {self.divisors}: they meet only every {math.lcm(*self.divisors)} frames")

    @property
    def step(self) -> tuple[int, ...]:
        """One token."""
        return (1,)

    @property
    def axis(self) -> int:
        """The row."""
        return -1

    @property
    def _order(self) -> list[tuple[int, int]]:
        """(codebook, frame) of each token of a period."""
        return _order_of(self.divisors)

    def _lay(self, shifted: Array) -> Array:
        tokens: Array = shifted.reshape(*shifted.shape[:-2], -1).take(_sources(self.divisors, shifted.shape[-1]), -1)
        differs = tokens.take(_places(self.divisors, shifted.shape[-1]), -1) != shifted
        if differs.any():
            where = [int(i) for i in np.argwhere(differs)[0]]
            n = self.divisors[where[-2]]
            raise CodesError(f"codes{where}: codebook {where[-2]} has one code for {n} frames; these differ")
        return tokens

    def _whole(self, tokens: Array) -> Array | None:
        n_periods, rest = divmod(tokens.shape[-1], len(self._order))
        begins = _begins_of(self.divisors)
        if rest not in begins:  # it ends inside a frame
            return None
        n_frames = n_periods * math.lcm(*self.divisors) + begins.index(rest)
        return tokens.take(_places(self.divisors, n_frames), -1)

    def _count(self, tokens: Array, is_code: Facts) -> list[int]:
        return [len(tokens)]

    def _pick(self, tokens: Array, counts: list[int]) -> list[Array]:
        order = self._order
        rows = []
        for q in range(self.ids.n_codebooks):
            places = [i for i, (book, _) in enumerate(order) if book == q]
            pieces = [tokens[i :: len(order)] for i in places]
            row = np.empty(sum(map(len, pieces)), tokens.dtype)
            for j, piece in enumerate(pieces):
                row[j :: len(pieces)] = piece
            rows.append(row)
        return rows


@cache
def _order_of(divisors: tuple[int, ...]) -> list[tuple[int, int]]:
    frames = range(math.lcm(*divisors))
    return [(q, f) for f in frames for q, divisor in enumerate(divisors) if f % divisor == 0]


@cache
def _begins_of(divisors: tuple[int, ...]) -> list[int]:
    """Token of a period that each of its frames begins with."""
    frames = [frame for _, frame in _order_of(divisors)]
    return [frames.index(frame) for frame in range(math.lcm(*divisors))]


def _roomy(size: int) -> int:
    """The next power of two: tables of this size serve all shorter items."""
    return 1 << max(10, (size - 1).bit_length())


@lru_cache(maxsize=8)  # a data set has items of any length: few are kept, and made fast of the large tables
def _sources(divisors: tuple[int, ...], n_frames: int) -> Index:
    """Place in the codes (Q * F) of each token."""
    n_tokens = sum(-(-n_frames // divisor) for divisor in divisors)
    books, frames = _order_table(divisors, _roomy(n_tokens))
    places: Index = books[:n_tokens] * n_frames + frames[:n_tokens]
    return places


@lru_cache(maxsize=8)
def _places(divisors: tuple[int, ...], n_frames: int) -> Index:
    """Token that each frame of each codebook has, (Q, F)."""
    return np.ascontiguousarray(_place_table(divisors, _roomy(n_frames))[:, :n_frames])


@lru_cache(maxsize=8)
def _order_table(divisors: tuple[int, ...], n_tokens: int) -> tuple[Index, Index]:
    """Codebook and frame of each token."""
    order = np.array(_order_of(divisors))
    period, place = np.divmod(np.arange(n_tokens), len(order))
    return order[place, 0], period * math.lcm(*divisors) + order[place, 1]


@lru_cache(maxsize=8)
def _place_table(divisors: tuple[int, ...], n_frames: int) -> Index:
    """As `_places`."""
    order, length = _order_of(divisors), math.lcm(*divisors)
    at = {pair: i for i, pair in enumerate(order)}
    table = np.array([[at[q, f - f % divisor] for f in range(length)] for q, divisor in enumerate(divisors)])
    period, frame = np.divmod(np.arange(n_frames), length)
    places: Index = period * len(order) + table[:, frame]
    return places


def join_levels(levels: Sequence[Array], divisors: Sequence[int]) -> Array:
    """Codes of several rates, one array (..., n_q) per codebook as SNAC gives them, as codes (..., Q, F).

    >>> join_levels([np.array([5]), np.array([1, 2])], (2, 1)).tolist()
    [[5, 5], [1, 2]]

    Raises:
        CodesError: lengths that do not fit the divisors.
    """
    spread = [np.repeat(level, divisor, axis=-1) for level, divisor in zip(levels, divisors, strict=True)]
    n_frames = min(row.shape[-1] for row in spread)
    for q, (row, divisor) in enumerate(zip(spread, divisors, strict=True)):
        if row.shape[-1] - n_frames >= divisor:
            raise CodesError(f"levels: codebook {q} covers {row.shape[-1]} frames, another one {n_frames}")
    return np.stack([row[..., :n_frames] for row in spread], -2).astype(np.int64, copy=False)


def split_levels(codes: Array, divisors: Sequence[int]) -> list[Array]:
    """The inverse of `join_levels`: one array per codebook.

    >>> [level.tolist() for level in split_levels(np.array([[5, 5], [1, 2]]), (2, 1))]
    [[5], [1, 2]]
    """
    return [codes[..., q, ::divisor] for q, divisor in enumerate(divisors)]
