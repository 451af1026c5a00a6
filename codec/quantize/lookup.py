"""The nearest entry of a codebook in numpy, by brute force in float64: what `quantize.search` must agree with.

>>> nearest(np.array([[0.9], [0.1]]), np.array([[0.0], [1.0], [1.0]])).tolist()
[1, 0]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codec.errors import CodesError

Array = npt.NDArray[Any]
BLOCK = 1 << 22  # numbers of the largest array made at once, 32 MB in float64


def nearest(vectors: Array, codebook: Array, *, cosine: bool = False) -> npt.NDArray[np.int64]:
    """Index of the nearest entry, the lowest of several at the same distance.

    Args:
        vectors: (N, D).
        codebook: (K, D).
        cosine: by angle, whatever the lengths; a vector of zeros is at right angles to everything.

    Returns:
        (N,) int64.

    Raises:
        CodesError: shapes that do not fit, an empty codebook, NaN or infinite numbers.
    """
    check_shapes(vectors.shape, codebook.shape)
    if not (np.isfinite(vectors).all() and np.isfinite(codebook).all()):
        raise CodesError("nearest: NaN or infinite numbers in vectors or codebook; no entry is nearest to them")
    indices = np.zeros(len(vectors), np.int64)
    rows = max(1, BLOCK // max(1, codebook.size))
    for start in range(0, len(vectors), rows):
        block = vectors[start : start + rows, None]  # (n, 1, D)
        indices[start : start + rows] = distances(block, codebook, cosine=cosine).argmin(1)
    return indices


def distances(vectors: Array, entries: Array, *, cosine: bool = False) -> npt.NDArray[np.float64]:
    """What `nearest` compares, of (..., D) and (..., D) that broadcast: |x - e|^2, or -(x, e) / |e| by cosine."""
    x, e = vectors.astype(np.float64), entries.astype(np.float64)
    if not cosine:
        return np.asarray(np.square(x - e).sum(-1))
    lengths = np.sqrt(np.square(e).sum(-1))
    return np.asarray(-(x * e).sum(-1) / np.where(lengths > 0, lengths, 1))


def check_shapes(vectors: tuple[int, ...], codebook: tuple[int, ...]) -> None:
    """Check the shapes of vectors and codebook.

    Raises:
        CodesError: not (N, D) and (K, D) with K >= 1.
    """
    if len(vectors) != 2 or len(codebook) != 2 or vectors[1] != codebook[1] or not codebook[0]:
        raise CodesError(
            f"nearest: vectors {vectors} and codebook {codebook}: expected (N, D) and (K, D), K at least 1"
        )
