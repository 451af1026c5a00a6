"""Scores in low precision with a bound of their error: they find candidates, float32 and float64 decide between them.

A vector x is replaced by x' (int8 steps of its own largest number, or bfloat16), an entry e by e'. Then

    |(x, e) - (x', e')| <= |x - x'| |e| + |x'| |e - e'|

by Cauchy and Schwarz. Both differences are measured, not estimated, so that the bound holds for any numbers; where
they are large it only lets more candidates through. Sums of int8 products are whole numbers and exact. A bfloat16
product sums in float32 (`sums_in_float32` asks the machine) and is rounded once more at the end.

Correct on every CPU, but worth its time only where the CPU multiplies such numbers faster: `available`.

>>> shorten(torch.tensor([[1.0, -63.0]]), "int8").columns.flatten().tolist()[1] < -62
True
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("int8", "bfloat16")
ROUNDOFF = 2.0**-24
# Steps below this would leave products to vanish in float32; smaller numbers become zeros, and the bound knows it.
LEAST_STEP = 1e-15


@dataclass(frozen=True)
class Shortlist:
    """A codebook in low precision.

    Attributes:
        kind: int8 or bfloat16.
        columns: (D, K), of that type: entry k is `step * columns[:, k]`, nearly.
        step: of int8; 1 for bfloat16.
        levels: the largest whole number used in int8.
        radius: at least the largest |e|.
        loss: at least the largest |e - e'|.
    """

    kind: str
    columns: Tensor
    step: float
    levels: int
    radius: float
    loss: float


@functools.cache
def _instructions() -> frozenset[str]:
    """Names of what this CPU has; nothing where torch cannot tell."""
    query = getattr(torch.cpu, "get_capabilities", dict)
    return frozenset(name for name, value in query().items() if value is True)


def has_int8() -> bool:
    """Whether the CPU sums four products of 8-bit numbers in 32 bits, without overflow between."""
    return bool(_instructions() & {"avx512_vnni", "avx_vnni", "amx_int8"})


@functools.cache
def sums_in_float32() -> bool:
    """Whether torch's bfloat16 product rounds to bfloat16 only at the end, tried on random numbers."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 1024, generator=generator).bfloat16() for _ in range(2))
    exact = a.double() @ b.double().t()
    off = (torch.mm(a, b.t()).double() - exact).abs()
    return bool((off <= exact.abs() * 2.0**-8.9 + 64 * ROUNDOFF * 1200).all())


@functools.cache
def available() -> tuple[str, ...]:
    """The kinds that this CPU has instructions for."""
    kinds = ["int8"] if has_int8() else []
    if _instructions() & {"amx_bf16", "avx512_bf16"} and sums_in_float32():
        kinds.append("bfloat16")
    return tuple(kinds)


def shorten(entries: Tensor, kind: str) -> Shortlist:
    """The shortlist of finite entries (K, D) float32 on a CPU."""
    exact = entries.double()
    step, levels = 1.0, 0
    if kind == "int8":
        # Without VNNI pairs of products are summed in 16 bits, where 8-bit factors overflow and 7-bit ones do not.
        levels = 127 if has_int8() else 63
        step = max(LEAST_STEP, float(entries.abs().max()) / levels)
        short = (exact / step).round().clamp(-levels, levels).to(torch.int8)
    else:
        short = entries.bfloat16()
    # A step in float32: the value the scores are scaled by.
    step = float(torch.tensor(step, dtype=torch.float32))
    lost = torch.linalg.vector_norm(exact - short.double() * step, dim=1)
    radius = torch.linalg.vector_norm(exact, dim=1)
    # Up to float64's rounding, far below the fraction added.
    return Shortlist(kind, short.t(), step, levels, float(radius.max()) * 1.0001, float(lost.max()) * 1.0001)


def score(x: Tensor, short: Shortlist, half_norms: Tensor, out: Tensor) -> Tensor:
    """Write the scores |e|^2 / 2 - (x', e') into `out` (n, K); give how far each row's may be off, (n, 1).

    Args:
        x: (n, D) float32, lengths below 1e18.
        short: the codebook.
        half_norms: (K,).
        out: (n, K) float32.

    Returns:
        (n, 1): beside the rounding of float32 that `table.find_margin` knows.
    """
    dim = x.shape[1]
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    # The squares of what is below 2^-75 vanish: lengths may be too small by this. So may flushed products.
    norms = norms + 2.0**-62 * dim**0.5
    if short.kind == "int8":
        step = (x.abs().amax(1, keepdim=True) / short.levels).clamp(min=LEAST_STEP)
        whole = (x / step).round_().clamp_(-short.levels, short.levels)
        lost = torch.linalg.vector_norm(x - whole * step, dim=1, keepdim=True)
        product = torch._int_mm(whole.to(torch.int8), short.columns)  # (n, K) int32
        torch.mul(product, step * -short.step, out=out)
        rounding = (dim + 16) * ROUNDOFF
    else:
        half = x.bfloat16()
        lost = torch.linalg.vector_norm(x - half.float(), dim=1, keepdim=True)
        torch.neg(torch.mm(half, short.columns).float(), out=out)
        rounding = (dim + 16) * ROUNDOFF + 2.0**-8
    out += half_norms
    lost = lost + norms * (4 * ROUNDOFF) + 2.0**-62 * dim**0.5
    bound: Tensor = lost * short.radius + (norms + lost) * (short.loss + rounding * (short.radius + short.loss))
    bound += rounding * short.radius**2 / 2
    # 0.1 % for the rounding of all this; flushed numbers below 2^-126, times the longest other factor.
    flushed: Tensor = 2.0**-118 * dim * (1 + norms + short.radius)
    return bound * 1.001 + flushed
