"""Attention against a reference written out, and far from its start; the contract of all layers is in test_nn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.attention import Attention, WindowAttention


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def attend_slowly(layer: Attention, x: Tensor) -> Tensor:
    """Windowed attention of one row (D, F) with rotary positions, frame by frame and head by head, from the papers."""
    size, frames = layer.head_dim, x.shape[-1]
    heads: list[list[Tensor]] = []
    for part in (layer.project_in.weight @ x).chunk(3):
        heads.append(list(part.view(layer.n_heads, size, frames)))

    def turned(head: Tensor, frame: int) -> list[float]:
        v, half = head[:, frame].tolist(), size // 2
        out = [0.0] * size
        for i in range(half):
            angle = frame * 10000.0 ** (-i / half)
            out[i] = v[i] * math.cos(angle) - v[i + half] * math.sin(angle)
            out[i + half] = v[i] * math.sin(angle) + v[i + half] * math.cos(angle)
        return out

    rows = []
    for frame in range(frames):
        seen = range(max(0, frame - layer.context + 1), frame + 1)
        row: list[float] = []
        for query, key, value in zip(*heads, strict=True):
            asked = turned(query, frame)
            scores = [sum(a * b for a, b in zip(asked, turned(key, j), strict=True)) / math.sqrt(size) for j in seen]
            total = sum(math.exp(score) for score in scores)
            weights = [math.exp(score) / total for score in scores]
            row += [sum(w * float(value[c, j]) for w, j in zip(weights, seen, strict=True)) for c in range(size)]
        rows.append(row)
    return layer.project_out.weight @ torch.tensor(rows, dtype=torch.float64).T


@pytest.mark.parametrize("context", [1, 4, 30])
def test_attention_equals_a_reference_written_out(context: int) -> None:
    layer = Attention(12, n_heads=2, context=context).double()
    x = 3 * torch.randn(1, 12, 15, dtype=torch.float64)
    with torch.no_grad():
        assert close(layer(x)[0], attend_slowly(layer, x[0]), 1e-9)


@torch.no_grad()
def test_windows_attend_within_themselves_and_the_last_has_the_frames_that_are_left() -> None:
    """A window's last frame sees what it sees in causal attention that begins with the window."""
    layer = WindowAttention(16, window=6, head_dim=8).double()
    x = 3 * torch.randn(2, 16, 6 + 6 + 4, dtype=torch.float64)
    windows = torch.split(x, 6, -1)
    assert close(layer(x), torch.cat([layer(window) for window in windows], -1), 1e-9)
    causal = Attention(16, n_heads=2, context=16).double()
    causal.load_state_dict(layer.state_dict())
    assert close(layer(x)[..., [5, 11, 15]], torch.stack([causal(window)[..., -1] for window in windows], -1), 1e-9)


@pytest.mark.parametrize("block", [1, 2, 7, 40])
def test_attention_stepped_far_beyond_its_context_equals_the_whole(block: int) -> None:
    layer = Attention(8, n_heads=2, context=6)
    x = 3 * torch.randn(2, 8, 120)
    state, parts = layer.init_state(2), []
    for start in range(0, 120, block):
        y, state = layer.step(x[..., start : start + block], state)
        parts.append(y)
    assert close(torch.cat(parts, -1), layer(x), 1e-5)
    assert state[2].tolist() == [120, 120]


def test_attention_after_a_year_is_as_exact_as_at_the_start() -> None:
    layer = Attention(16, n_heads=1, context=6)
    x = 3 * torch.randn(2, 16, 30)
    keys, values, position = layer.init_state(2)
    late = layer.step(x, (keys, values, position + 365 * 24 * 3600 * 50))[0]
    assert close(late[..., 5:], layer(x)[..., 5:], 1e-5)


def test_rows_may_stand_at_different_positions() -> None:
    layer = Attention(8, n_heads=2, context=6)
    x = torch.randn(1, 8, 9)
    old = layer.step(x[..., :4], layer.init_state(1))[1]
    state = tuple(torch.cat(pair) for pair in zip(old, layer.init_state(1), strict=True))
    y = layer.step(torch.cat((x[..., 4:], x[..., :5])), state)[0]
    assert close(y[:1], layer(x)[..., 4:], 1e-5)
    assert close(y[1:], layer(x)[..., :5], 1e-5)


@pytest.mark.parametrize(("n_heads", "context"), [(0, 4), (3, 4), (4, 4), (1, 0)])
def test_impossible_attention_is_refused(n_heads: int, context: int) -> None:
    with pytest.raises(ConfigError):
        Attention(4, n_heads=n_heads, context=context)
