"""Frames of unlike numbers of codebooks: a code of -1 was not sent, and adds nothing.

Of a frame only the last codebooks can be missing, and what remains must be a number that decodes alone.

>>> codes = np.array([[7, 7, 7], [5, -1, -1], [3, -1, 2]])
>>> counts_of(codes).tolist(), frame_bits(codes, (1024, 1024, 256), (1, 3))
([3, 1, 2], 59.0)
>>> is_wrong(codes, (1024, 1024, 256), (1, 3)).any(axis=0).tolist()
[False, False, True]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codec.errors import CodesError

MISSING = -1
MAX_COUNTS = 64  # different numbers of codebooks in one file

Ints = npt.NDArray[np.int64]


def counts_of(codes: Ints) -> Ints:
    """How many codebooks each frame of codes (..., Q, F) has: (..., F)."""
    counts: Ints = (codes >= 0).sum(-2)
    return counts


def frame_bits(codes: Ints, sizes: Sequence[int], frame_codebooks: Sequence[int]) -> float:
    """Bits of the codes (..., Q, F) that are there and of the frames' choices: log2 of how many there are of each."""
    n_books = codes.shape[-2]
    n_sent = np.moveaxis(codes >= 0, -2, 0).reshape(n_books, -1).sum(1)
    n_choices = codes.size // n_books if n_books else 0
    return float(n_sent @ np.log2(sizes[:n_books]) + n_choices * np.log2(len(frame_codebooks)))


def is_wrong(codes: Ints, sizes: Sequence[int], allowed: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which codes (..., Q, F) cannot be: outside their codebook, or missing where a frame may not end.

    Args:
        codes: any integers.
        sizes: entries of each of the Q codebooks.
        allowed: numbers of codebooks that a frame may have.
    """
    wrong: npt.NDArray[np.bool_] = (codes < 0) | (codes >= np.array(sizes)[:, None])
    if not wrong.any():  # nearly always
        return wrong
    counts = counts_of(codes)[..., None, :]
    is_behind = np.arange(codes.shape[-2])[:, None] >= counts
    may_be: npt.NDArray[np.bool_] = (codes == MISSING) & is_behind & np.isin(counts, list(allowed))
    return wrong & np.logical_not(may_be)


def allowed_counts(prefixes: Sequence[int], divisors: Sequence[int]) -> tuple[int, ...]:
    """How many of codebooks with these divisors a frame may have; all where one code stands for several frames."""
    n_codebooks = len(divisors)
    return (n_codebooks,) if max(divisors) > 1 else tuple(count for count in prefixes if count <= n_codebooks)


def cut_counts(counts: Sequence[int], n_codebooks: int) -> tuple[int, ...]:
    """What `counts` become where only the first codebooks are kept; nothing stays nothing.

    >>> cut_counts((2, 4, 6), 5), cut_counts((), 5)
    ((2, 4, 5), ())
    """
    return tuple(sorted({min(count, n_codebooks) for count in counts}))


def check_counts(counts: Sequence[int], divisors: Sequence[int]) -> None:
    """Check a header's `frame_codebooks`; an empty one means all in every frame.

    Raises: CodesError: not ascending up to the number of codebooks, too many, or codebooks with divisors.
    """
    if not counts:
        return
    n_codebooks, said = len(divisors), f"header: frame_codebooks {', '.join(map(str, counts))}"
    if list(counts) != sorted(set(counts)) or counts[0] < 1 or counts[-1] != n_codebooks or len(counts) > MAX_COUNTS:
        raise CodesError(
            f"{said}: not at most {MAX_COUNTS} ascending numbers from 1 to {n_codebooks}, the last included"
        )
    if max(divisors) > 1:
        raise CodesError(f"{said}: codebooks with divisors are in every frame; encode with a constant number")
