"""The nearest entry of a codebook in torch: a product in float32 finds candidates, float64 decides between them.

On a CPU the result is the index of `quantize.lookup.nearest`, exactly: it depends on the vector and the codebook alone,
not on how many vectors came together, on the tiling or on the number of threads. How: the float32 score of an entry,
|e|^2 / 2 - (x, e), is off by at most

    g = (D + 2) u / (1 - (D + 2) u) * (|x| R + R^2 / 2),    u = 2^-24, R the largest |e|,

in any order of summation (Higham 2002, Accuracy and Stability, section 3.1), beside what underflows; `_margin` adds
that, and the rounding of the reference. So the nearest
entry's score is within 2 g of the smallest. Only the entries that near the smallest are candidates; mostly there is
one. Between several the float64 distances of the reference decide, and the lowest index between equal ones.

On any other device it is the smallest float32 score, which may be another entry whose distance^2 / 2 is within 2 g of
the nearest; nothing is checked there, for a check waits for the device.

>>> nearest(torch.tensor([[0.9], [0.1]]), torch.tensor([[0.0], [1.0], [1.0]])).tolist()
[1, 0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec.quantize import lookup

ROUNDOFF = 2.0**-24
# Below this no score, norm or margin overflows in float32; vectors or entries beyond go to the reference.
LARGE = 1e18
Indices = npt.NDArray[np.int64]
GROUP = 32  # entries whose smallest score is looked at first: one pass that costs a hundredth of the product
# Rows of a tile, so that its scores are in cache when the minimum is taken. Fewer rows make the product itself slower
# (it packs the codebook again for every tile): measured, benchmarks/lookup.py.
MIN_ROWS, MAX_ROWS, TILE = 128, 1024, 1 << 20


@dataclass(frozen=True)
class Table:
    """A codebook with what is worth computing once, while it does not change. Made by `make_table`.

    Attributes:
        codebook: (K, D) float32, as given.
        columns: (D, K), the codebook's transpose, its entries scaled to length 1 for cosine.
        half_norms: (K,), half of the squared lengths; zeros for cosine.
        cosine: by angle.
        radius: the largest length in `columns`; None on other devices than a CPU, where reading it waits.
        margin: of `_margin`, with products in float32.
        array: `half_norms` in numpy, on a CPU the same memory, elsewhere empty.
    """

    codebook: Tensor
    columns: Tensor
    half_norms: Tensor
    cosine: bool
    radius: float | None
    margin: tuple[float, float, float]
    array: npt.NDArray[np.float32]


def make_table(codebook: Tensor, *, cosine: bool = False) -> Table:
    """The table of a codebook (K, D); it holds the codebook itself, and is wrong once that changes."""
    codebook = codebook.detach().float().contiguous()
    lookup.check_shapes((0, codebook.shape[-1]), codebook.shape)
    on_cpu = codebook.device.type == "cpu"
    # float64: the squares of float32 numbers neither overflow nor vanish. (MPS has none.)
    norms = torch.linalg.vector_norm(codebook, dim=1, dtype=torch.float64 if on_cpu else None)
    entries, half_norms = codebook, norms.square().mul(0.5).float()
    if cosine:
        entries = (codebook / torch.where(norms > 0, norms, 1)[:, None]).float()
        half_norms = torch.zeros_like(half_norms)
    if not on_cpu:
        return Table(codebook, entries.t(), half_norms, cosine, None, (0.0, 0.0, 0.0), np.empty(0, np.float32))
    longest = float(norms.max())
    radius = 1.0 if cosine and longest < float("inf") else longest
    margin = _margin(codebook.shape[1], radius)
    return Table(codebook, entries.t(), half_norms, cosine, radius, margin, half_norms.numpy())


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
    lookup.check_shapes(x.shape, table.codebook.shape)
    if table.radius is None:
        return _search_elsewhere(x, table)
    if not table.radius < LARGE:
        return _search_reference(x, table)
    margin = table.margin
    if torch.get_float32_matmul_precision() != "highest":
        margin = _margin(x.shape[1], table.radius, rounded=True)
    return _search_one(x, table, margin) if x.shape[0] == 1 else _search_many(x, table, margin)


def _search_elsewhere(x: Tensor, table: Table) -> Tensor:
    """On a GPU: smallest float32 score, in tiles that bound the memory."""
    rows = max(1, (1 << 26) // len(table.half_norms))
    parts = [torch.addmm(table.half_norms, part, table.columns, alpha=-1).argmin(1) for part in torch.split(x, rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _search_reference(x: Tensor, table: Table) -> Tensor:
    return torch.from_numpy(lookup.nearest(x.numpy(), table.codebook.numpy(), cosine=table.cosine))


def _margin(dim: int, radius: float, *, rounded: bool = False) -> tuple[float, float, float]:
    """(a, b, c): an entry whose score is within (a * |x| + b) * |x| + c of the smallest may be the nearest."""
    # The reference's own rounding, which counts for an |x| far beyond the codebook.
    fine = (dim + 8) * 2.0**-52
    # 2 g, six roundings more for the scaling of entries, norms and threshold, 2 % for second-order terms.
    share = 2.04 * (dim + 8) * ROUNDOFF
    if rounded:
        share += 2.0**-5  # the caller lets products round their factors to bfloat16
    # |x| is too small by up to `lost` where its squares vanish; each product may vanish below 2^-126.
    lost = 2.0**-62 * dim**0.5
    least = share * (radius * lost + radius**2 / 2) + fine * radius**2 + 2.0**-124 * (dim + 2)
    return fine, share * radius, least


def _search_one(x: Tensor, table: Table, margin: tuple[float, float, float]) -> Tensor:
    """For a frame, where each call counts: numpy's are cheaper than torch's."""
    vector = x.numpy()[0].astype(np.float64)
    square = float(vector.dot(vector))
    if not square < LARGE**2:  # NaN, infinite or huge
        return _search_reference(x, table)
    # Into memory given, here and below: autocast, which would give half precision, leaves that form alone.
    product = torch.empty(1, len(table.array))
    torch.mm(x, table.columns, out=product)
    scores = table.array - product.numpy()[0]
    index = scores.argmin(keepdims=True)
    limit = scores[index[0]] + ((margin[0] * square + margin[2]) + margin[1] * square**0.5)
    scores[index[0]] = np.inf
    return torch.from_numpy(index) if scores[scores.argmin()] > limit else _search_reference(x, table)


def _search_many(x: Tensor, table: Table, margin: tuple[float, float, float]) -> Tensor:
    """Ordinary rows by product, those that are NaN, infinite or huge by the reference, which refuses or decides."""
    norms = torch.linalg.vector_norm(x, dim=1)
    ordinary = norms < LARGE
    margins = (margin[0] * norms + margin[1]) * norms + margin[2]
    if bool(ordinary.all()):
        return _search_tiled(x, table, margins)
    indices = torch.empty(x.shape[0], dtype=torch.int64)
    indices[~ordinary] = _search_reference(x[~ordinary], table)
    indices[ordinary] = _search_tiled(x[ordinary], table, margins[ordinary])
    return indices


def _search_tiled(x: Tensor, table: Table, margins: Tensor) -> Tensor:
    """Tile by tile, so that the (N, K) scores are never written whole."""
    size = len(table.half_norms)
    n_rows = min(len(x), max(MIN_ROWS, min(MAX_ROWS, TILE // size)))
    n_groups = -(-size // GROUP)
    buffer = torch.empty(n_rows, n_groups * GROUP)
    buffer[:, size:] = torch.inf  # entries that fill the last group
    indices = torch.empty(len(x), dtype=torch.int64)
    for start in range(0, len(x), max(1, n_rows)):
        part = x[start : start + n_rows]
        n = len(part)
        torch.addmm(table.half_norms, part, table.columns, alpha=-1, out=buffer[:n, :size])
        rows, codes = _candidates(buffer[:n].view(n, n_groups, GROUP), margins[start : start + n, None])
        found = codes if len(codes) == n else _decide(part, table, rows.numpy(), codes.numpy())
        indices[start : start + n] = found
    return indices


def _candidates(scores: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and codes of all scores (n, G, GROUP) within `margins` (n, 1) of their row's smallest, row by row."""
    n_groups = scores.shape[1]
    smallest = scores.amin(2)  # (n, G)
    limits = smallest.amin(1, keepdim=True) + margins
    rows, groups = (smallest <= limits).nonzero().unbind(1)
    near = scores.view(-1, GROUP).index_select(0, rows * n_groups + groups)  # (m, GROUP)
    pairs, places = (near <= limits.index_select(0, rows)).nonzero().unbind(1)
    return rows[pairs], groups[pairs] * GROUP + places


def _decide(x: Tensor, table: Table, rows: Indices, codes: Indices) -> Tensor:
    """Of each row's candidates the nearest in float64, the lowest code between equal ones: (n,), every row has one."""
    counts = np.bincount(rows, minlength=len(x))
    indices = np.zeros(len(x), np.int64)
    alone = counts[rows] == 1
    indices[rows[alone]] = codes[alone]
    rows, codes = rows[~alone], codes[~alone]
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
