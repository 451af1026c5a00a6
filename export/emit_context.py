"""Layers that see far back as ONNX nodes: LSTM, GRU, attention."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto
from torch import nn

from codec.export.writer import Value, Writer
from codec.nn.attention import TURN, Attention
from codec.nn.recurrent import Gru, Lstm

# Gates by their place in torch's weights, in ONNX's order: torch writes i f g o, ONNX i o f g; torch r z n, ONNX z r n.
LSTM_GATES, GRU_GATES = (0, 3, 1, 2), (1, 0, 2)


def lstm(w: Writer, layer: Lstm, x: Value) -> Value:
    """One LSTM node for each layer."""
    return _recurrent(w, layer.lstm, x, "LSTM", skip=layer.skip)


def gru(w: Writer, layer: Gru, x: Value) -> Value:
    """One GRU node for each layer; the reset gate works after the matrix product, as in torch."""
    return _recurrent(w, layer.gru, x, "GRU", skip=layer.skip)


def _recurrent(w: Writer, layer: nn.RNNBase, x: Value, kind: str, *, skip: bool) -> Value:
    """Frames first between the layers, (F, B, C); states (B, n_layers, C) outside, (n_layers, B, C) inside."""
    g, size, n_layers = w.graph, layer.hidden_size, layer.num_layers
    rows = w.last(x)
    y = g.transpose(rows, 2, 0, 1, 3)  # (F, B, 1, C)
    inputs = [w.state(n_layers, size) for _ in range(2 if kind == "LSTM" else 1)]
    before = [g.transpose(name, 1, 0, 2) for name in inputs]
    after: list[list[str]] = [[] for _ in inputs]
    gates, extra = (LSTM_GATES, {}) if kind == "LSTM" else (GRU_GATES, {"linear_before_reset": 1})
    for i in range(n_layers):
        weights = _gates(w, layer, f"l{i}", gates)
        own = [g.slice(state, 0, i, i + 1) for state in before]
        y = g.op("Squeeze", y, g.constant([2 if i == 0 else 1]))
        y, *last = g.ops(kind, y, *weights, "", *own, count=1 + len(own), hidden_size=size, **extra)  # (F, 1, B, C)
        for states, state in zip(after, last, strict=True):
            states.append(state)
    for name, states in zip(inputs, after, strict=True):
        w.set_state(name, g.transpose(g.op("Concat", *states, axis=0), 1, 0, 2))
    y = g.transpose(y, 2, 1, 0, 3)
    return Value(g.op("Add", rows, y) if skip else y, size, channels_last=True)


def lstm_weights(w: Writer, layer: nn.LSTM, which: str) -> list[str]:
    """What an LSTM node takes of `l0`, `l0_reverse` and so on."""
    return _gates(w, layer, which, LSTM_GATES)


def _gates(w: Writer, layer: nn.RNNBase, which: str, order: tuple[int, ...]) -> list[str]:
    """Weights of the input, of the hidden values, and both biases, with ONNX's order of gates and leading axis."""
    g = w.graph

    def ordered(name: str) -> str:
        parts = g.ops("Split", w.weight(layer, f"{name}_{which}"), count=len(order), axis=0, num_outputs=len(order))
        return g.op("Concat", *(parts[gate] for gate in order), axis=0)

    bias = g.op("Concat", ordered("bias_ih"), ordered("bias_hh"), axis=0)
    return [g.op("Unsqueeze", x, g.constant([0])) for x in (ordered("weight_ih"), ordered("weight_hh"), bias)]


def attention(w: Writer, layer: Attention, x: Value) -> Value:
    """Keys and values of the newest frames, and the position, are states."""
    g, heads, size = w.graph, layer.n_heads, layer.head_dim
    shape = (heads, layer.context - 1, size)
    old_keys, old_values, position = w.state(*shape), w.state(*shape), w.state(kind=TensorProto.INT64)
    rows = w.last(x)
    frames = g.op("Shape", rows, start=2, end=3)  # (1,)
    qkv = g.transpose(g.reshape(w.matrix(layer.project_in, rows), 0, -1, 3 * heads, size), 0, 2, 1, 3)
    turned, value = _split(w, qkv, 1, 2 * heads, heads)
    query, key = _split(w, _rotate(w, layer, turned, position, frames), 1, heads, heads)  # (B, n_heads, F, head_dim)
    keys, values = g.op("Concat", old_keys, key, axis=2), g.op("Concat", old_values, value, axis=2)
    y = attend(w, query, g.transpose(keys, 0, 1, 3, 2), values, size, mask=_mask(w, layer, position, frames))
    y = w.matrix(layer.project_out, g.reshape(g.transpose(y, 0, 2, 1, 3), 0, 1, -1, heads * size))
    for state, whole in ((old_keys, keys), (old_values, values)):
        w.set_state(state, g.op("Slice", whole, frames, g.constant([2**62]), g.constant([2])))
    w.set_state(position, g.op("Add", position, frames))
    return Value(y, heads * size, channels_last=True)


def attend(w: Writer, query: str, key: str, value: str, size: int, *, mask: str = "", bias: str = "") -> str:
    """Softmax of scaled products, times the values; `mask` is true where a query may look, `bias` is added.

    Args:
        w: the graph.
        query: (..., n, size).
        key: (..., size, n): turned already.
        value: (..., n, size).
        size: of a head.
        mask: broadcast to the scores, or empty.
        bias: the same.
    """
    g = w.graph
    query = g.op("Mul", query, g.constant(np.float32(1 / math.sqrt(size))))
    scores = g.op("MatMul", query, key)
    if bias:
        scores = g.op("Add", scores, bias)
    if mask:
        scores = g.op("Where", mask, scores, g.constant(np.float32(-np.inf)))
    return g.op("MatMul", g.op("Softmax", scores, axis=-1), value)


def _split(w: Writer, value: str, axis: int, *sizes: int) -> list[str]:
    return w.graph.ops("Split", value, w.graph.constant(list(sizes)), count=len(sizes), axis=axis)


def _range(w: Writer, start: int, count: str) -> str:
    """`count` (1,) whole numbers from `start` on."""
    g = w.graph
    stop = g.op("Squeeze", g.op("Add", count, g.constant([start])), g.constant([0]))
    return g.op("Range", g.constant(np.int64(start)), stop, g.constant(np.int64(1)))


def _rotate(w: Writer, layer: Attention, x: str, position: str, frames: str) -> str:
    """Rotary positions on (B, heads, F, head_dim); angles as whole numbers of turns, as in torch."""
    g = w.graph
    places = g.op("Add", g.op("Unsqueeze", position, g.constant([1])), _range(w, 0, frames))  # (B, F)
    places = g.op("Unsqueeze", places, g.constant([1, 3]))
    phase = g.op("Mod", g.op("Mul", places, g.constant(layer.turns.numpy())), g.constant(np.int64(TURN)))
    angle = g.op("Mul", g.op("Cast", phase, to=TensorProto.FLOAT), g.constant(np.float32(2 * math.pi / TURN)))
    return rotate(w, x, g.op("Cos", angle), g.op("Sin", angle), layer.head_dim)


def rotate(w: Writer, x: str, cos: str, sin: str, size: int) -> str:
    """Pairs (i, i + half) of the last axis, turned by angles given by their cosine and sine."""
    g = w.graph
    a, b = _split(w, x, -1, size // 2, size // 2)
    first = g.op("Sub", g.op("Mul", a, cos), g.op("Mul", b, sin))
    second = g.op("Add", g.op("Mul", a, sin), g.op("Mul", b, cos))
    return g.op("Concat", first, second, axis=-1)


def _mask(w: Writer, layer: Attention, position: str, frames: str) -> str:
    """True where a query may look: (B, 1, F, context - 1 + F)."""
    g, memory = w.graph, layer.context - 1
    index = _range(w, -memory, g.op("Add", frames, g.constant([memory])))
    age = g.op("Sub", g.op("Unsqueeze", _range(w, 0, frames), g.constant([1])), index)
    zero = g.constant(np.int64(0))
    near = g.op("Less", age, g.constant(np.int64(layer.context)))
    in_window = g.op("And", g.op("GreaterOrEqual", age, zero), near)
    place = g.op("Add", g.op("Unsqueeze", position, g.constant([1])), index)  # (B, context - 1 + F)
    filled = g.op("Unsqueeze", g.op("GreaterOrEqual", place, zero), g.constant([1, 2]))
    return g.op("And", in_window, filled)
