"""Residual levels in one compiled graph: product, minimum and subtraction of all levels, tile by tile.

An option, on any device that torch.compile has a backend for; `search.nearest` does not need it. The graph works on
tiles of a fixed number of rows, the last one filled up with zeros, so that there is one graph for a set of tables
whatever the lengths. A tile's scores are made, reduced and dropped: (N, K) is never written whole. Between levels
nothing returns to Python.

Beside each code the graph says whether it is sure: only one entry's score is within the margin of the smallest
(`table.find_margin`). Rows with an unsure level, NaN or huge numbers go through `search.nearest`, level by level: on a
CPU the codes are exactly those of the loop in `quantize.residual`. What the compiler does to the order of the
sums does not matter, the margin holds for any.

The first call compiles: 17 to 76 seconds measured on a busy CPU core, with a C++ compiler; Triton on a GPU. torch keeps
the result in its own cache on disk. On an AVX2 CPU it was slower than `search.nearest` (1.3 to 1.8 times as long).
Without them, `backend="eager"` runs the same function uncompiled.

>>> from codec.quantize.table import make_table
>>> tables = (make_table(torch.tensor([[0.0], [4.0]])), make_table(torch.tensor([[0.0], [1.0]])))
>>> Chain(tables, backend="eager")(torch.tensor([[4.9], [0.2]])).tolist()
[[1, 0], [1, 0]]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from codec.errors import CodesError, ConfigError
from codec.quantize.search import LARGE, nearest
from codec.quantize.table import Table, find_margin

Level = tuple[Tensor, Tensor, Tensor]  # columns (D, K), half_norms (K,), codebook (K, D)
Backend = str | Callable[..., Any]  # of torch.compile
ROWS = {"cpu": 256, "cuda": 8192}  # of a tile: on a CPU in cache, on a GPU enough work for all of it


class Chain:
    """Codes of residual levels: what each codebook leaves, the next one codes.

    Args:
        tables: of the codebooks, coarse to fine, all of one width D, by distance. Wrong once a codebook changes.
        rows: vectors of a tile; None: by device.
        backend: of torch.compile, or eager.
    """

    def __init__(self, tables: tuple[Table, ...], *, rows: int | None = None, backend: Backend = "inductor") -> None:
        if not tables or any(table.cosine for table in tables):
            raise ConfigError("Chain: needs at least one table, and tables by distance, not by angle")
        device = tables[0].codebook.device.type
        self.tables = tables
        self.rows = ROWS.get(device, ROWS["cuda"]) if rows is None else rows
        self.levels = [(table.columns, table.half_norms, table.codebook) for table in tables]
        dim = tables[0].codebook.shape[1]
        # Elsewhere than on a CPU the margin is as if the radius were read, which happens here once.
        radii = [float(torch.linalg.vector_norm(table.codebook, dim=1).max()) * 1.0001 for table in tables]
        self.usable = all(radius < LARGE for radius in radii)
        margins = [[find_margin(dim, radius, rounded=rounded) for radius in radii] for rounded in (False, True)]
        self.margins = torch.tensor(margins, dtype=torch.float32, device=tables[0].codebook.device)  # (2, Q, 3)
        self._tile = compile_tile(backend, device)

    @torch.no_grad()
    def __call__(self, vectors: Tensor) -> Tensor:
        """Codes (Q, N), int64, of vectors (N, D) float32 on the tables' device.

        Raises:
            CodesError: another width; on a CPU, NaN or infinite numbers.
        """
        x = vectors.detach().float()
        dim = self.tables[0].codebook.shape[1]
        if x.ndim != 2 or x.shape[1] != dim:
            raise CodesError(f"Chain: vectors {tuple(x.shape)}: expected (N, {dim})")
        if not self.usable:
            return chain_plain(x, self.tables)
        margins = self.margins[0 if torch.get_float32_matmul_precision() == "highest" else 1]
        codes, sure = [x.new_zeros(len(self.tables), 0, dtype=torch.int64)], [x.new_zeros(0, dtype=torch.bool)]
        for part in torch.split(x, self.rows) if len(x) else ():
            missing = self.rows - len(part)
            full = torch.nn.functional.pad(part, (0, 0, 0, missing)) if missing else part.contiguous()
            with torch.autocast(full.device.type, enabled=False):
                found, certain = self._tile(full, self.levels, margins)
            codes.append(found[:, : len(part)])
            sure.append(certain[: len(part)])
        result, unsure = torch.cat(codes, 1), (~torch.cat(sure)).nonzero()[:, 0]
        if len(unsure):
            result[:, unsure] = chain_plain(x[unsure], self.tables)
        return result


def chain_plain(x: Tensor, tables: tuple[Table, ...]) -> Tensor:
    """Codes (Q, N) of vectors (N, D), level by level in Python."""
    codes = []
    for table in tables:
        codes.append(nearest(x, table))
        x = x - table.codebook[codes[-1]]
    return torch.stack(codes)


def search_tile(x: Tensor, levels: list[Level], margins: Tensor) -> tuple[Tensor, Tensor]:
    """What is compiled: (T, D) to codes (Q, T), and whether a row's codes are sure (T,)."""
    codes = []
    sure = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
    for (columns, half_norms, codebook), (fine, share, least) in zip(levels, margins, strict=True):
        norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        scores = half_norms - torch.mm(x, columns)
        near = scores <= scores.amin(1, keepdim=True) + ((fine * norms + share) * norms + least)
        # The first near entry is the nearest where it is alone; false for NaN, which is near nothing.
        sure = sure & (near.sum(1, dtype=torch.int32) == 1) & (norms[:, 0] < LARGE)
        order = torch.arange(near.shape[1], dtype=torch.int32, device=x.device)
        code = torch.where(near, order, near.shape[1] - 1).amin(1)
        codes.append(code)
        x = x - codebook.index_select(0, code)
    return torch.stack(codes).long(), sure


@functools.cache
def compile_tile(backend: Backend, device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """`search_tile` compiled: one graph for each set of shapes, kept by torch, eight at most, then uncompiled."""
    if backend == "eager":
        return search_tile
    # Triton's matrix product with the reduction that follows it is worth a search on a GPU.
    mode = "max-autotune-no-cudagraphs" if backend == "inductor" and device == "cuda" else None
    return torch.compile(search_tile, backend=backend, mode=mode, dynamic=False, fullgraph=True)
