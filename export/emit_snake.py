"""The layers of the snake and HiFi-GAN families as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codec.export.writer import Value, Writer
from codec.nn.hifi import Fusion, GroupTimeNorm, LeakyRelu
from codec.nn.layers import Layer
from codec.nn.snake import Noise, Snake, Tanh
from codec.nn.symmetric import TimeNorm

Emit = Callable[[Writer, Layer, Value], Value]


def snake(w: Writer, layer: Snake, x: Value) -> Value:
    """X + sin(a x)^2 / (a + 1e-9)."""
    g = w.graph
    alpha = g.reshape(w.weight(layer, "alpha"), 1, -1, 1, 1)
    sine = g.op("Sin", g.op("Mul", alpha, w.first(x)))
    scale = g.op("Add", alpha, g.constant(np.float32(1e-9)))
    return Value(g.op("Add", w.first(x), g.op("Div", g.op("Mul", sine, sine), scale)), x.dim)


def tanh(w: Writer, layer: Tanh, x: Value) -> Value:
    """Element by element."""
    return Value(w.graph.op("Tanh", x.name), x.dim, x.channels_last)


def noise(w: Writer, layer: Noise, x: Value) -> Value:
    """Nothing: it is for training."""
    return x


def leaky_relu(w: Writer, layer: LeakyRelu, x: Value) -> Value:
    """Element by element."""
    return Value(w.graph.op("LeakyRelu", x.name, alpha=layer.slope), x.dim, x.channels_last)


def group_norm(w: Writer, layer: GroupTimeNorm | TimeNorm, x: Value) -> Value:
    """Over channels of a group and time."""
    return Value(w.group_norm(layer.norm, w.first(x)), x.dim)


def fusion(emit: Emit) -> Callable[[Writer, Fusion, Value], Value]:
    """The form of a `Fusion`, given that of its parts."""

    def run(w: Writer, layer: Fusion, x: Value) -> Value:
        """Block after block, each of the same input; the mean."""
        total: Value | None = None
        for i, block in enumerate(layer.blocks):
            assert isinstance(block, Layer)
            y = emit(w, block, x)
            total = y if total is None else Value(w.graph.op("Add", w.first(total), w.first(y)), y.dim)
            if layer.norms:
                norm = layer.norms[i]
                assert isinstance(norm, Layer)
                total = emit(w, norm, total)
        assert total is not None
        count = w.graph.constant(np.float32(len(layer.blocks)))
        return Value(w.graph.op("Div", w.first(total), count), total.dim)

    return run
