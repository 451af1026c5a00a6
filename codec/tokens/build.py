"""Layouts by name.

>>> make_layout("coarse", TokenIds((16,) * 4), {"n_coarse": 1}).sections
(1, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from codec.errors import CodesError
from codec.tokens.base import Layout
from codec.tokens.flat import MultiRate, Sections
from codec.tokens.grid import Delay, Depth, Parallel
from codec.tokens.ids import TokenIds


def _frame(ids: TokenIds) -> Sections:
    return Sections(ids, (ids.n_codebooks,))


def _codebook(ids: TokenIds) -> Sections:
    return Sections(ids, (1,) * ids.n_codebooks)


def _coarse(ids: TokenIds, n_coarse: int = 0) -> Sections:
    n_coarse = n_coarse or max(1, ids.n_codebooks // 2)
    return Sections(ids, _positive((n_coarse, ids.n_codebooks - n_coarse)))


def _semantic(ids: TokenIds, n_semantic: int = 1, n_coarse: int = 0) -> Sections:
    """Semantic codebooks first, then the acoustic ones: all together, or coarse and fine apart."""
    return Sections(ids, _positive((n_semantic, n_coarse, ids.n_codebooks - n_semantic - n_coarse)))


def _positive(sections: tuple[int, ...]) -> tuple[int, ...]:
    """Without empty sections; what is below 0 stays, to be refused."""
    return tuple(n for n in sections if n)


LAYOUTS: dict[str, Callable[..., Layout]] = {
    "parallel": Parallel,
    "frame": _frame,
    "codebook": _codebook,
    "delay": Delay,
    "coarse": _coarse,
    "semantic": _semantic,
    "multirate": MultiRate,
    "depth": Depth,
}


def make_layout(kind: str, ids: TokenIds, options: Mapping[str, Any] | None = None) -> Layout:
    """A layout of `LAYOUTS`.

    Args:
        kind: parallel, frame, codebook, delay, coarse, semantic, multirate or depth.
        ids: the token ids.
        options: delay: `delays`; coarse: `n_coarse`; semantic: `n_semantic`, `n_coarse`; multirate: `divisors`;
            depth: `n_groups`.

    Raises:
        CodesError: an unknown kind or option, or an option that cannot be.
    """
    if kind not in LAYOUTS:
        raise CodesError(f"layout {kind!r}: known are {', '.join(LAYOUTS)}")
    try:
        return LAYOUTS[kind](ids, **(options or {}))
    except TypeError as failure:
        raise CodesError(f"layout {kind}: options {dict(options or {})}: {str(failure).split('() ')[-1]}") from None
