"""The nearest entry of a codebook in torch: a product in float32 finds candidates, float64 decides between them.

On a CPU the result is the index of `quantize.lookup.nearest`, exactly: it depends on the vector and the codebook alone,
not on how many vectors came together, on the tiling or on the number of threads. How: the float32 score of an entry,
|e|^2 / 2 - (x, e), is off by at most

    g = (D + 2) u / (1 - (D + 2) u) * (|x| R + R^2 / 2),    u = 2^-24, R the largest |e|,

in any order of summation (Higham 2002, Accuracy and Stability, section 3.1), beside what underflows;
`table.find_margin` adds that, and the rounding of the reference. So the nearest entry's score is within 2 g of the
smallest. Only the entries that near the smallest are candidates; mostly there is one. Between several the float64
distances of the reference decide, and the lowest index between equal ones.

Where the CPU multiplies int8 or bfloat16 faster, a shortlist by such products comes first (`quantize.shortlist`). Among
what the CPU has instructions for, a measurement at first use chooses, once for each size of codebook; it takes about
the time of ten searches for 256 vectors, and nothing on a CPU that has none.

On any other device it is the smallest float32 score, which may be another entry whose distance^2 / 2 is within 2 g of
the nearest; nothing is checked there, for a check waits for the device.

>>> nearest(torch.tensor([[0.9], [0.1]]), torch.tensor([[0.0], [1.0], [1.0]])).tolist()
[1, 0]
"""

from __future__ import annotations

import functools
import time

import numpy as np
import torch
from torch import Tensor

from codec.quantize import lookup
from codec.quantize.table import FLOAT32, Table, find_margin, make_table
from codec.quantize.tiles import decide, search_tiles

__all__ = ["Table", "make_table", "nearest"]

# Below this no score, norm or margin overflows in float32; vectors or entries beyond go to the reference.
LARGE = 1e18
FEW = 16  # vectors up to which the number of calls counts, and numpy's are cheaper than torch's
MEASURED = 256  # vectors in the measurement


def nearest(vectors: Tensor, codebook: Tensor | Table, *, cosine: bool = False) -> Tensor:
    """Index of the nearest entry, the lowest of several at the same distance.

    Args:
        vectors: (N, D) float32.
        codebook: (K, D) float32, or its table; the table says itself whether it is by cosine.
        cosine: by angle, whatever the lengths; a vector of zeros is at right angles to everything.

    Returns:
        (N,) int64.

    Raises:
        CodesError: shapes that do not fit, an empty codebook; on a CPU, NaN or infinite numbers.
    """
    table = codebook if isinstance(codebook, Table) else make_table(codebook, cosine=cosine)
    x = vectors.detach()
    if x.dtype is not torch.float32:
        x = x.float()
    shape = x.shape
    lookup.check_shapes(shape, table.codebook.shape)
    if table.radius is None:
        return _search_elsewhere(x, table)
    if not table.radius < LARGE:
        return _search_reference(x, table)
    if shape[0] == 1:
        return _search_one(x, table)
    if 1 < shape[0] <= FEW:
        return _search_few(x, table)
    return _search_many(x, table, find_path(table, shape[0]))


def find_path(table: Table, n: int) -> str:
    """The precision of the first products for `n` vectors: as asked for, else the fastest measured."""
    if table.path is not None:
        return table.path
    if not table.shortlists or n < MEASURED // 2:
        return FLOAT32
    size, dim = table.codebook.shape
    return _fastest(size, dim, tuple(table.shortlists), torch.get_num_threads())


@functools.lru_cache(maxsize=64)
def _fastest(size: int, dim: int, kinds: tuple[str, ...], n_threads: int) -> str:
    """By the best of three searches each, of random vectors: structure would leave fewer candidates, seldom more."""
    generator = torch.Generator().manual_seed(0)
    x, codebook = (torch.randn(k, dim, generator=generator) for k in (MEASURED, size))
    times: dict[str, float] = {}
    for path in (FLOAT32, *kinds):
        table = make_table(codebook, path=path)
        _search_many(x, table, path)
        for _ in range(3):
            start = time.perf_counter()
            _search_many(x, table, path)
            times[path] = min(times.get(path, float("inf")), time.perf_counter() - start)
    return min(times, key=times.__getitem__)


def _search_elsewhere(x: Tensor, table: Table) -> Tensor:
    """On a GPU: smallest float32 score, in tiles that bound the memory."""
    rows = max(1, (1 << 26) // len(table.half_norms))
    parts = [torch.addmm(table.half_norms, part, table.columns, alpha=-1).argmin(1) for part in torch.split(x, rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _search_reference(x: Tensor, table: Table) -> Tensor:
    return torch.from_numpy(lookup.nearest(x.numpy(), table.codebook.numpy(), cosine=table.cosine))


def _search_one(x: Tensor, table: Table) -> Tensor:
    """For a frame, where each call counts."""
    vector = x.numpy()[0]
    wide = vector.astype(np.float64)  # no overflow, of which numpy would warn
    square = float(wide.dot(wide))
    if not square < LARGE**2:  # NaN, infinite or huge
        return _search_reference(x, table)
    half_norms, entries = table.arrays
    scores = half_norms - entries.dot(vector)
    index = scores.argmin(keepdims=True)
    smallest = scores[index[0]]
    fine, share, least = table.margin
    limit = smallest + (fine * square + share * square**0.5 + least)
    scores[index[0]] = np.inf
    if scores[scores.argmin()] > limit:
        return torch.from_numpy(index)
    scores[index[0]] = smallest
    codes = (scores <= limit).nonzero()[0]
    return decide(x, table, np.zeros_like(codes), codes)


def _search_few(x: Tensor, table: Table) -> Tensor:
    """For some frames: a product by torch, the rest by numpy."""
    vectors = x.numpy()
    squares = np.einsum("nd,nd->n", vectors, vectors)  # unlike a sum it does not warn of overflow
    if not squares.max() < LARGE**2:
        return _search_reference(x, table)
    half_norms = table.arrays[0]
    # Into memory given: autocast, which would give half precision, leaves that form alone.
    product = torch.empty(len(vectors), len(half_norms))
    torch.mm(x, table.columns, out=product)
    scores = product.numpy()
    np.subtract(half_norms, scores, out=scores)
    indices = scores.argmin(1)
    fine, share, least = _margin_now(table)
    limits = scores[np.arange(len(vectors)), indices] + (fine * squares + share * np.sqrt(squares) + least)
    near = scores <= limits[:, None]
    if np.count_nonzero(near) == len(vectors):
        return torch.from_numpy(indices)
    return decide(x, table, *near.nonzero())


def _margin_now(table: Table) -> tuple[float, float, float]:
    """With the rounding of products that the caller allows torch."""
    if torch.get_float32_matmul_precision() == "highest":
        return table.margin
    return find_margin(table.codebook.shape[1], table.radius or 0.0, rounded=True)


def _search_many(x: Tensor, table: Table, path: str) -> Tensor:
    """Ordinary rows by product, those that are NaN, infinite or huge by the reference, which refuses or decides."""
    norms = torch.linalg.vector_norm(x, dim=1)
    ordinary = norms < LARGE
    fine, share, least = _margin_now(table)
    margins = (fine * norms + share) * norms + least
    short = table.shortlists.get(path)
    if bool(ordinary.all()):
        return search_tiles(x, table, margins, short)
    indices = torch.empty(x.shape[0], dtype=torch.int64)
    indices[~ordinary] = _search_reference(x[~ordinary], table)
    indices[ordinary] = search_tiles(x[ordinary], table, margins[ordinary], short)
    return indices
