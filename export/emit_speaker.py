"""FACodec's speaker vector as ONNX nodes: found in the whole signal, and given to the decoder."""

from __future__ import annotations

import math

import numpy as np
import torch
from onnx import TensorProto

from codec.export.emit_context import attend
from codec.export.writer import Value, Writer
from codec.nn.speaker import AddSpeaker, ApplySpeaker, Block, sinusoids

EPSILON = 1e-5  # of torch's layer norm


def add_speaker(w: Writer, layer: AddSpeaker, x: Value) -> Value:
    """The mean over time of a transformer's output is the state afterwards, and stands beside each frame."""
    g, dim, rows = w.graph, layer.dim, w.last(x)
    state = w.state(dim)
    y = g.op("Squeeze", rows, g.constant([1]))  # (B, F, D)
    y = g.op("Add", y, _places(w, layer, g.op("Shape", y, start=1, end=2)))
    for block in layer.blocks:
        assert isinstance(block, Block)
        y = _block(w, block, y)
    mean = g.reduce("ReduceMean", w.layer_norm(layer.norm, y), 1)  # (B, 1, D)
    w.set_state(state, g.op("Squeeze", mean, g.constant([1])))
    beside = g.op("Expand", g.op("Unsqueeze", mean, g.constant([1])), g.op("Shape", rows))
    return Value(g.op("Concat", rows, beside, axis=3), 2 * dim, channels_last=True)


def apply_speaker(w: Writer, layer: ApplySpeaker, x: Value) -> Value:
    """Each frame normalised, then scaled and shifted by the vector beside it and the state's."""
    g, dim = w.graph, layer.dim
    state = w.state(dim)
    w.set_state(state, state)
    features, beside = g.ops("Split", w.last(x), count=2, axis=3, num_outputs=2)
    vector = g.op("Add", beside, g.op("Unsqueeze", state, g.constant([1, 2])))
    gain, shift = g.ops("Split", w.matrix(layer.style, vector), count=2, axis=3, num_outputs=2)
    ones, zeros = (g.constant(np.full(dim, number, np.float32)) for number in (1, 0))
    y = g.op("LayerNormalization", features, ones, zeros, axis=-1, epsilon=EPSILON)
    return Value(g.op("Add", g.op("Mul", y, gain), shift), dim, channels_last=True)


def _places(w: Writer, layer: AddSpeaker, frames: str) -> str:
    """Sines and cosines of each frame's number, (F, D), or of the first one's."""
    g, dim = w.graph, layer.dim
    if layer.positions == "none":
        return g.constant(sinusoids(torch.zeros(1, dtype=torch.int64), dim).numpy())
    numbers = g.op("Range", g.constant(np.int64(0)), g.op("Squeeze", frames, g.constant([0])), g.constant(np.int64(1)))
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim)).numpy()
    angles = g.op("Mul", g.reshape(g.op("Cast", numbers, to=TensorProto.FLOAT), -1, 1), g.constant(rates))
    pairs = (g.op("Unsqueeze", g.op(kind, angles), g.constant([2])) for kind in ("Sin", "Cos"))
    return g.reshape(g.op("Concat", *pairs, axis=2), 0, -1)


def _block(w: Writer, block: Block, x: str) -> str:
    """Attention of all frames (B, F, D) to each other, then the inner layer."""
    g, attention = w.graph, block.attention
    heads, size = attention.num_heads, attention.head_dim
    weight, bias = (w.weight(attention, f"in_proj_{name}") for name in ("weight", "bias"))
    qkv = g.reshape(w.product(w.layer_norm(block.norm1, x), weight, bias), 0, -1, 3 * heads, size)
    query, key, value = g.ops("Split", g.transpose(qkv, 0, 2, 1, 3), count=3, axis=1, num_outputs=3)
    y = g.transpose(attend(w, query, g.transpose(key, 0, 1, 3, 2), value, size), 0, 2, 1, 3)
    x = g.op("Add", x, w.matrix(attention.out_proj, g.reshape(y, 0, -1, heads * size)))
    inner = g.transpose(w.layer_norm(block.norm2, x), 0, 2, 1)
    inner = g.op("Conv", inner, w.weight(block.expand, "weight"), w.weight(block.expand, "bias"), pads=[2, 2])
    y = w.matrix(block.project, g.transpose(g.op("Relu", inner), 0, 2, 1))
    return g.op("Add", x, y)
