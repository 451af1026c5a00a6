"""Shifted-window attention over frequency and time, of ESC: blocks, and stages that halve or double the frequency axis.

Features are (B, H, W, C): H places in frequency, W in time.

>>> x = torch.randn(1, 8, 6, 4)
>>> down, up = SwinStage(4, 6, n_heads=2, scale="down"), SwinStage(6, 4, n_heads=2, scale="up")
>>> down(x).shape, up(down(x)).shape
(torch.Size([1, 4, 6, 6]), torch.Size([1, 8, 6, 4]))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError

WINDOW = 4  # places in frequency, and in time
SHIFT = WINDOW // 2
FORBIDDEN = -100.0  # added where a query must not look: across the edge that the shift brings together


class WindowAttention(nn.Module):
    """Self-attention inside each window, with a learned bias for each distance: (N, WINDOW ** 2, C), N windows.

    Source: Liu et al. 2021 (Swin), section 3.2.
    """

    places: Tensor

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        if n_heads < 1 or dim % n_heads:
            raise ConfigError(f"n_heads: {n_heads} do not divide {dim} channels")
        self.n_heads = n_heads
        self.bias = nn.Parameter(0.02 * torch.randn((2 * WINDOW - 1) ** 2, n_heads))
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.register_buffer("places", _distances(), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`mask` (n, WINDOW ** 2, WINDOW ** 2) of the n windows of one item is added; N is a multiple of n."""
        n_windows, size, dim = x.shape
        qkv = self.project_in(x).view(n_windows, size, 3, self.n_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.bias[self.places.flatten()].view(size, size, -1).permute(2, 0, 1)[None]  # (1, heads, size, size)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(n_windows // len(mask), 1, 1, 1)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(x.dtype))
        z: Tensor = self.project_out(y.transpose(1, 2).reshape(n_windows, size, dim))
        return z


class SwinBlock(nn.Module):
    """Attention in windows, `shift` places along both axes, then two matrices with GELU, each behind a norm."""

    def __init__(self, dim: int, n_heads: int, *, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, n_heads)
        self.expand, self.project = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same; zeros fill the last windows."""
        batch, height, width, dim = x.shape
        high, wide = (-(-size // WINDOW) * WINDOW for size in (height, width))
        y = F.pad(self.norm1(x), (0, 0, 0, wide - width, 0, high - height))
        mask = None
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
            mask = _mask(high, wide, x.device)
        grid = (batch, high // WINDOW, WINDOW, wide // WINDOW, WINDOW, dim)
        rows = y.reshape(grid).transpose(2, 3).reshape(-1, WINDOW**2, dim)
        rows = self.attention(rows, mask)
        y = rows.view(batch, grid[1], grid[3], WINDOW, WINDOW, dim).transpose(2, 3).reshape(batch, high, wide, dim)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + y[:, :height, :width]
        z: Tensor = x + self.project(F.gelu(self.expand(self.norm2(x))))
        return z


class SwinStage(nn.Module):
    """Blocks, every other one shifted, then a change of the frequency axis.

    Args:
        in_dim: channels of the blocks.
        out_dim: channels behind the change.
        n_heads: of the attention.
        n_blocks: how many blocks.
        scale: `down` halves the frequency axis, `up` doubles it, `none` leaves it and the channels.

    Source: Gu and Diao 2024 (ESC), section 3.1.
    """

    def __init__(self, in_dim: int, out_dim: int, *, n_heads: int, n_blocks: int = 2, scale: str = "none") -> None:
        super().__init__()
        self.scale = scale
        self.blocks = nn.ModuleList(SwinBlock(in_dim, n_heads, shift=SHIFT * (i % 2)) for i in range(n_blocks))
        width = 2 * in_dim if scale == "down" else in_dim
        self.norm = nn.LayerNorm(width) if scale != "none" else nn.Identity()
        given = 2 * out_dim if scale == "up" else out_dim
        self.resize = nn.Linear(width, given, bias=False) if scale != "none" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) -> (B, H', W, C_out)."""
        for block in self.blocks:
            x = block(x)
        batch, height, width, _ = x.shape
        if self.scale == "down":  # the channels of both neighbours, the lower one's first
            x = x.view(batch, height // 2, 2, width, -1).transpose(2, 3).reshape(batch, height // 2, width, -1)
        x = self.resize(self.norm(x))
        if self.scale == "up":
            x = x.view(batch, height, width, 2, -1).transpose(2, 3).reshape(batch, 2 * height, width, -1)
        return x


def _distances() -> Tensor:
    """For each pair of places of a window, the row of the bias table: (WINDOW ** 2, WINDOW ** 2) int64."""
    axis = torch.arange(WINDOW)
    away = axis[:, None] - axis + WINDOW - 1  # (WINDOW, WINDOW)
    rows = away[:, None, :, None] * (2 * WINDOW - 1) + away[None, :, None, :]
    return rows.reshape(WINDOW**2, WINDOW**2)


def _mask(high: int, wide: int, device: torch.device) -> Tensor:
    """What a shifted grid forbids, (windows, WINDOW ** 2, WINDOW ** 2): looking from one region to another.

    Only the last windows of an axis hold two regions, so there are four kinds of windows. Made anew for each pass: a
    kept one would be of numbers for a pass of shapes alone, or the other way round.
    """
    regions = torch.zeros(2, WINDOW, dtype=torch.int64, device=device)
    regions[1, -SHIFT:] = 1  # of a last window
    numbers = (2 * regions[:, None, :, None] + regions[:, None, :]).view(4, WINDOW**2)
    forbidden = (numbers[:, None] != numbers[:, :, None]).float() * FORBIDDEN
    is_last = [torch.zeros(size // WINDOW, dtype=torch.int64, device=device) for size in (high, wide)]
    for last in is_last:
        last[-1] = 1
    kinds = 2 * is_last[0][:, None] + is_last[1]
    return forbidden[kinds.flatten()]
