"""Attention in windows that stand side by side from the first frame on, as ONNX nodes: SNAC's, over time."""

from __future__ import annotations

import math

import numpy as np
import torch

from codec.export.emit_context import attend, rotate
from codec.export.writer import Value, Writer
from codec.nn.attention import TURN, WindowAttention


def window_attention(w: Writer, layer: WindowAttention, x: Value) -> Value:
    """Each window alone; what fills up the last one is not seen."""
    g, size, window, dim = w.graph, layer.head_dim, layer.window, x.dim
    heads, rows = dim // size, w.last(x)
    frames = g.op("Shape", rows, start=2, end=3)
    short = g.op("Mod", g.op("Neg", frames), g.constant([window]))
    padded = g.op("Pad", rows, g.op("Concat", g.constant([0] * 6), short, g.constant([0]), axis=0))
    qkv = g.reshape(w.matrix(layer.project_in, padded), 0, -1, window, 3 * heads, size)
    turned, value = g.ops(
        "Split", g.transpose(qkv, 0, 1, 3, 2, 4), g.constant([2 * heads, heads]), count=2, axis=2
    )  # (B, windows, heads, window, head_dim)
    turns = torch.remainder(torch.arange(window)[:, None] * layer.turns, TURN).float() * (2 * math.pi / TURN)
    turned = rotate(w, turned, g.constant(turns.cos().numpy()), g.constant(turns.sin().numpy()), size)
    query, key = g.ops("Split", turned, count=2, axis=2, num_outputs=2)
    whole = g.op("Squeeze", g.op("Add", frames, short), g.constant([0]))
    places = g.op("Range", g.constant(np.int64(0)), whole, g.constant(np.int64(1)))
    there = g.op("Less", g.reshape(places, -1, 1, 1, window), frames)
    y = attend(w, query, g.transpose(key, 0, 1, 2, 4, 3), value, size, mask=there)
    y = g.reshape(g.transpose(y, 0, 1, 3, 2, 4), 0, 1, -1, dim)
    y = g.op("Slice", y, g.constant([0]), frames, g.constant([2]))
    return Value(w.matrix(layer.project_out, y), dim, channels_last=True)
