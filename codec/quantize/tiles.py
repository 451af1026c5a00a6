"""The search for many vectors on a CPU: tile by tile, so that the (N, K) scores are never written whole.

>>> from codec.quantize.table import make_table
>>> table = make_table(torch.tensor([[0.0], [1.0]]))
>>> search_tiles(torch.tensor([[0.9], [0.1]]), table, torch.full((2,), 1e-6)).tolist()
[1, 0]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec.quantize import lookup, shortlist
from codec.quantize.shortlist import Shortlist
from codec.quantize.table import Table

Indices = npt.NDArray[np.int64]
GROUP = 64  # entries whose smallest score is looked at first: one pass that costs a hundredth of the product
# Rows of a tile, so that its scores are in cache when the minimum is taken: of 8 MB a search took 1.2 or 1.6 times the
# product, run by run; of 3 MB 0.93 to 0.96 of what it took of 2. Fewer rows make the product itself slower (it packs
# the codebook again for every tile): measured, benchmarks/lookup.py.
MIN_ROWS, MAX_ROWS, TILE = 128, 1024, 3 << 18
# A tile with more candidates per row than this has learnt nothing from low precision: float32 looks again.
CROWD = 32


def search_tiles(x: Tensor, table: Table, margins: Tensor, short: Shortlist | None = None) -> Tensor:
    """Index of the nearest entry.

    Args:
        x: (N, D) float32, lengths below `search.LARGE`.
        table: of the codebook.
        margins: (N,), how far above the smallest float32 score the nearest entry's may be.
        short: one of the table's shortlists to look in first.

    Returns:
        (N,) int64.
    """
    size = len(table.half_norms)
    n_rows = min(len(x), max(MIN_ROWS, min(MAX_ROWS, TILE // size)))
    n_groups = -(-size // GROUP)
    buffer = torch.empty(n_rows, n_groups * GROUP)
    buffer[:, size:] = torch.inf  # entries that fill the last group
    indices = torch.empty(len(x), dtype=torch.int64)
    for start in range(0, len(x), max(1, n_rows)):
        part, margin = x[start : start + n_rows], margins[start : start + n_rows, None]
        scores = buffer[: len(part)].view(len(part), n_groups, GROUP)
        pairs = None if short is None else _shortlisted(part, table, margin, short, scores)
        rows, codes = _ranked(part, table, margin, scores) if pairs is None else pairs
        single = len(codes) == len(part)  # then it is one for each row
        indices[start : start + n_rows] = codes if single else decide(part, table, rows.numpy(), codes.numpy())
    return indices


def _ranked(x: Tensor, table: Table, margins: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates by scores in float32, written into `scores` (n, G, GROUP)."""
    # Into memory given: autocast, which would give half precision, leaves that form alone.
    out = scores.view(len(x), -1)[:, : len(table.half_norms)]
    torch.addmm(table.half_norms, x, table.columns, alpha=-1, out=out)
    return _candidates(scores, margins)


def _shortlisted(
    x: Tensor, table: Table, margins: Tensor, short: Shortlist, scores: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Candidates by scores in low precision, then by float32 among those; None where there are too many."""
    out = scores.view(len(x), -1)[:, : len(table.half_norms)]
    bound = shortlist.score(x, short, table.half_norms, out)
    rows, codes = _candidates(scores, 2 * bound + margins)
    if len(codes) == len(x):
        return rows, codes
    if len(codes) > CROWD * len(x):
        return None
    entries = table.columns.t().index_select(0, codes)
    products = x.index_select(0, rows).mul_(entries).sum(1)
    exact = table.half_norms.index_select(0, codes) - products
    smallest = torch.full((len(x),), torch.inf).scatter_reduce_(0, rows, exact, "amin")
    near = exact <= (smallest + margins[:, 0]).index_select(0, rows)
    return rows[near], codes[near]


def _candidates(scores: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and codes of all scores (n, G, GROUP) within `margins` (n, 1) of their row's smallest, row by row."""
    n_groups = scores.shape[1]
    smallest = scores.amin(2)  # (n, G)
    limits = smallest.amin(1, keepdim=True) + margins
    rows, groups = (smallest <= limits).nonzero().unbind(1)
    near = scores.view(-1, GROUP).index_select(0, rows * n_groups + groups)  # (m, GROUP)
    pairs, places = (near <= limits.index_select(0, rows)).nonzero().unbind(1)
    return rows[pairs], groups[pairs] * GROUP + places


def decide(x: Tensor, table: Table, rows: Indices, codes: Indices) -> Tensor:
    """Of each row's candidates the nearest in float64, the lowest code between equal ones: (n,).

    The candidates stand row by row, and every row has one.
    """
    same = np.zeros(len(rows) + 1, bool)  # of neighbours
    np.equal(rows[1:], rows[:-1], out=same[1:-1])
    indices = codes[~same[:-1]]
    shared = same[:-1] | same[1:]
    rows, codes = rows[shared], codes[shared]
    if not len(rows):
        return torch.from_numpy(indices)
    vectors, codebook = x.numpy(), table.codebook.numpy()
    step = max(1, lookup.BLOCK // max(1, x.shape[1]))
    parts = [
        lookup.distances(vectors[rows[i : i + step]], codebook[codes[i : i + step]], cosine=table.cosine)
        for i in range(0, len(rows), step)
    ]
    order = np.lexsort((codes, np.concatenate(parts), rows))
    first, places = np.unique(rows[order], return_index=True)
    indices[first] = codes[order][places]
    return torch.from_numpy(indices)
