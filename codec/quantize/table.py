"""What is worth computing once of a codebook, and how far a float32 score may be off.

>>> make_table(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).half_norms.tolist()
[12.5, 0.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.quantize import lookup
from codec.quantize.shortlist import KINDS, Shortlist, available, shorten

ROUNDOFF = 2.0**-24
FLOAT32 = "float32"


@dataclass(frozen=True)
class Table:
    """A codebook with what is worth computing once, while it does not change. Made by `make_table`.

    Attributes:
        codebook: (K, D) float32, as given.
        columns: (D, K), the codebook's transpose, its entries scaled to length 1 for cosine.
        half_norms: (K,), half of the squared lengths; zeros for cosine.
        cosine: by angle.
        radius: the largest length in `columns`; None on other devices than a CPU, where reading it waits.
        margin: of `find_margin`, with products in float32.
        arrays: `half_norms` and the transpose of `columns` in numpy, on a CPU the same memory, elsewhere empty.
        shortlists: in low precision, by kind.
        path: the precision of products that was asked for; None: chosen by measurement.
    """

    codebook: Tensor
    columns: Tensor
    half_norms: Tensor
    cosine: bool
    radius: float | None
    margin: tuple[float, float, float]
    arrays: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    shortlists: dict[str, Shortlist]
    path: str | None


def make_table(codebook: Tensor, *, cosine: bool = False, path: str | None = None) -> Table:
    """The table of a codebook (K, D); it holds the codebook itself, and is wrong once that changes.

    Args:
        codebook: (K, D).
        cosine: by angle.
        path: float32, int8 or bfloat16, the precision of the products that find candidates for many vectors. It changes
            the time, never the result. None: measured at first use among those the CPU has instructions for. Only on a
            CPU.

    Raises:
        CodesError: a codebook that is not (K, D), K at least 1.
        ConfigError: an unknown path.
    """
    if path not in (None, FLOAT32, *KINDS):
        raise ConfigError(f"path {path!r}: unknown; use {FLOAT32}, {', '.join(KINDS)} or None")
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
        nothing = np.empty(0, np.float32), np.empty((0, 0), np.float32)
        return Table(codebook, entries.t(), half_norms, cosine, None, (0.0, 0.0, 0.0), nothing, {}, None)
    longest = float(norms.max())
    radius = 1.0 if cosine and longest < float("inf") else longest
    kinds = () if path == FLOAT32 or not radius < float("inf") else available() if path is None else (path,)
    shortlists = {kind: shorten(entries, kind) for kind in kinds}
    margin = find_margin(codebook.shape[1], radius)
    arrays = half_norms.numpy(), entries.numpy()
    return Table(codebook, entries.t(), half_norms, cosine, radius, margin, arrays, shortlists, path)


def find_margin(dim: int, radius: float, *, rounded: bool = False) -> tuple[float, float, float]:
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
