"""Causal self-attention with rotary positions and the transformer block made of it; attention within fixed windows.

>>> block = transformer_block(8, n_heads=2, context=4)
>>> x = torch.randn(1, 8, 10)
>>> head, state = block.step(x[..., :7], block.init_state(1))
>>> tail, state = block.step(x[..., 7:], state)
>>> torch.allclose(torch.cat((head, tail), -1), block(x), atol=1e-5)
True
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.layers import Chain, ChannelNorm, Layer, Linear, Residual, State, Stateless
from codec.nn.symmetric import WholeLayer

# Rotary angles are whole numbers of 2 ** -40 turns. A product with an int64 position, modulo one turn, stays exact;
# float32 has lost the fine angles after an hour, and float64 does not exist on every device.
TURN = 2**40


class Attention(Layer):
    """Self-attention over the `context` newest frames, the own one included: (B, D, F) -> (B, D, F).

    Every query sees exactly these, however many frames are stepped at once: the buffer keeps `context - 1` frames and
    the block brings its own. (A ring of `context` slots, as in Mimi, loses one key for each further frame of a block.)

    A block of n frames takes memory for n * (n + context) scores; cut a long input into steps.

    Source: Vaswani et al. 2017; rotary positions: Su et al. 2021 (RoFormer), section 3.2.2, on pairs (i, i + half).

    Raises:
        ConfigError: heads that do not divide the channels into even parts, or an empty context.
    """

    n_states = 3
    turns: Tensor

    def __init__(self, dim: int, *, n_heads: int, context: int, base: float = 10000.0) -> None:
        super().__init__()
        if n_heads < 1 or dim % n_heads or dim // n_heads % 2:
            raise ConfigError(f"n_heads: {n_heads} heads do not divide {dim} channels into parts of even size")
        if context < 1:
            raise ConfigError(f"context: must be at least 1 frame, found {context}")
        self.n_heads = n_heads
        self.head_dim = dim // n_heads
        self.context = context
        self.project_in = nn.Linear(dim, 3 * dim, bias=False)
        self.project_out = nn.Linear(dim, dim, bias=False)
        self.register_buffer("turns", _turns(self.head_dim // 2, base), persistent=False)

    @property
    def receptive_field(self) -> int:
        """The context."""
        return self.context

    def init_state(self, batch: int) -> State:
        """No keys, no values, position 0: (B, n_heads, context - 1, head_dim) twice, (B,) int64."""
        keys = self._zeros(batch, self.n_heads, self.context - 1, self.head_dim)
        return (keys, torch.zeros_like(keys), torch.zeros(batch, dtype=torch.int64, device=keys.device))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Attention of the block's frames to themselves and the buffer."""
        keys, values, position = state
        batch, dim, frames = x.shape
        qkv = self.project_in(x.transpose(1, 2)).view(batch, frames, 3, self.n_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, n_heads, F, head_dim) each
        cos, sin = self._angles(position, frames)
        keys = torch.cat((keys, _rotate(key, cos, sin)), 2)
        values = torch.cat((values, value), 2)
        query = _rotate(query, cos, sin).to(keys.dtype)
        y = F.scaled_dot_product_attention(query, keys, values.to(keys.dtype), self._mask(position, frames))
        y = self.project_out(y.transpose(1, 2).reshape(batch, frames, dim).to(x.dtype))
        return y.transpose(1, 2), (keys[:, :, frames:], values[:, :, frames:], position + frames)

    def _mask(self, position: Tensor, frames: int) -> Tensor:
        """True where a query may look: (B, 1, F, context - 1 + F)."""
        index = torch.arange(frames + self.context - 1, device=position.device) - (self.context - 1)
        age = index[self.context - 1 :, None] - index
        in_window = (age >= 0) & (age < self.context)
        filled = position[:, None] + index >= 0  # a slot from before the start holds nothing
        return (in_window & filled[:, None])[:, None]

    def _angles(self, position: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each frame: (B, 1, F, head_dim / 2)."""
        position = position[:, None] + torch.arange(frames, device=position.device)
        phase = torch.remainder(position[:, None, :, None] * self.turns, TURN)
        angle = phase.to(self.project_in.weight.dtype) * (2 * math.pi / TURN)
        return angle.cos(), angle.sin()


class WindowAttention(WholeLayer):
    """Self-attention of the frames of one window to each other, (B, D, F) -> (B, D, F).

    Windows stand side by side from the first frame on; the last one has the frames that are left. (SNAC fills it up
    with silence before the encoder.)

    Source: Siuzdak et al. 2024 (SNAC), section 3; rotary positions as in `Attention`.

    Raises:
        ConfigError: heads that do not divide the channels, or an empty window.
    """

    lookahead = None
    turns: Tensor

    def __init__(self, dim: int, *, window: int, head_dim: int = 64, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim < 2 or head_dim % 2 or dim % head_dim:
            raise ConfigError(f"head_dim: heads of {head_dim} channels do not divide {dim} channels, or are not even")
        if window < 1:
            raise ConfigError(f"window: must be at least 1 frame, found {window}")
        self.window, self.head_dim = window, head_dim
        self.project_in = nn.Linear(dim, 3 * dim, bias=False)
        self.project_out = nn.Linear(dim, dim, bias=False)
        self.register_buffer("turns", _turns(head_dim // 2, base), persistent=False)

    @property
    def receptive_field(self) -> None:
        """Where a window begins depends on where the signal does, so it must be whole."""
        return None

    def apply_to(self, x: Tensor) -> Tensor:
        """Each window alone; frames that fill up the last are not seen."""
        batch, dim, frames = x.shape
        short = -frames % self.window
        n_windows = (frames + short) // self.window
        qkv = self.project_in(F.pad(x, (0, short)).transpose(1, 2))
        qkv = qkv.view(batch, n_windows, self.window, 3, dim // self.head_dim, self.head_dim)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)  # (B, windows, heads, window, head_dim) each
        turned = torch.arange(self.window, device=x.device)[:, None] * self.turns
        angle = torch.remainder(turned, TURN).to(query.dtype) * (2 * math.pi / TURN)
        query, key = (_rotate(part, angle.cos(), angle.sin()) for part in (query, key))
        there = torch.arange(frames + short, device=x.device).view(n_windows, 1, 1, self.window) < frames
        y = F.scaled_dot_product_attention(query, key, value, there)
        y = y.transpose(2, 3).reshape(batch, frames + short, dim)[:, :frames]
        made: Tensor = self.project_out(y)
        return made.transpose(1, 2)


class Gelu(Stateless):
    """GELU."""

    def apply_to(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.gelu(x)


class Scale(Stateless):
    """A learned factor for each channel, small at first, so that a new branch hardly speaks.

    Source: Touvron et al. 2021 (CaiT), section 2.1 (LayerScale).
    """

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), value))

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C, F) times (C, 1)."""
        return x * self.scale[:, None]


def transformer_block(
    dim: int,
    *,
    n_heads: int,
    context: int,
    hidden_dim: int | None = None,
    scale: float = 0.01,
    norm: str = "layer",
    eps: float = 1e-6,
    bias: bool = True,
) -> Layer:
    """A pre-norm transformer block, (B, D, F) -> (B, D, F).

    Args:
        dim: channels D.
        n_heads: attention heads.
        context: frames that attention sees, the own one included.
        hidden_dim: channels inside the MLP; 4 * dim when None.
        scale: start of the layer scales.
        norm: layer or rms, over channels.
        eps: of the norms.
        bias: whether the MLP's matrices have one.

    Raises:
        ConfigError: heads that do not divide the channels.

    Source: Défossez et al. 2024 (Mimi), section 3.3.1.
    """
    hidden = 4 * dim if hidden_dim is None else hidden_dim
    before, between = (ChannelNorm(dim, kind=norm, eps=eps) for _ in range(2))
    attend = [before, Attention(dim, n_heads=n_heads, context=context), Scale(dim, scale)]
    expand, project = Linear(dim, hidden, bias=bias), Linear(hidden, dim, bias=bias)
    return Chain([Residual(Chain(attend)), Residual(Chain([between, expand, Gelu(), project, Scale(dim, scale)]))])


def _turns(count: int, base: float) -> Tensor:
    """Turns per frame of each pair of channels, in units of 1 / TURN: (count,) int64."""
    radians = base ** (-torch.arange(count, dtype=torch.float64) / count)
    return (radians * (TURN / (2 * math.pi))).round().long()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + half) of the last axis by its angle."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
