"""Layouts by name.

>>> make_layout("coarse", TokenIds((16,) * 4), {"n_coarse": 1}).sections
(1, 3)
>>> make_layout("delay:delays=0,2", TokenIds((16,) * 2)).delays
(0, 2)
"""

from __future__ import annotations

import inspect
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


# Kinds that keep codebooks apart, so that all may take the same range of ids.
APART = ("parallel", "delay", "depth")
LISTS = ("delays", "divisors")  # options that are a number for each codebook

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
        kind: parallel, frame, codebook, delay, coarse, semantic, multirate or depth; its options may stand behind it,
            as in `semantic:n_semantic=1:n_coarse=2`.
        ids: the token ids.
        options: delay: `delays`; coarse: `n_coarse`; semantic: `n_semantic`, `n_coarse`; multirate: `divisors`;
            depth: `n_groups`.

    Raises:
        CodesError: an unknown kind or option, or an option that cannot be.
    """
    kind, written = parse_layout(kind)
    options = written | dict(options or {})
    known = [name for name in inspect.signature(LAYOUTS[kind]).parameters if name != "ids"]
    if unknown := [name for name in options if name not in known]:
        raise CodesError(f"layout {kind}: no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    try:
        return LAYOUTS[kind](ids, **options)
    except TypeError as failure:
        raise CodesError(f"layout {kind}: options {options}: {failure}") from None


def parse_layout(text: str) -> tuple[str, dict[str, Any]]:
    """A layout as one writes it, `coarse:n_coarse=2`, to its kind and options.

    >>> parse_layout("multirate:divisors=4,2,1"), parse_layout("frame")
    (('multirate', {'divisors': (4, 2, 1)}), ('frame', {}))

    Raises:
        CodesError: an unknown kind, or an option that is no number.
    """
    kind, *parts = text.split(":")
    if kind not in LAYOUTS:
        raise CodesError(f"layout {kind!r}: known are {', '.join(LAYOUTS)}")
    options: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        try:
            numbers = tuple(int(number) for number in value.split(","))
        except ValueError:
            raise CodesError(f"layout {text!r}: write options as {kind}:name=1, or name=1,2,3") from None
        options[name] = numbers if name in LISTS or len(numbers) > 1 else numbers[0]
    return kind, options
