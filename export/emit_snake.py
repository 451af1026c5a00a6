"""The layers of the snake and HiFi-GAN families as ONNX nodes, and the factorised bottleneck."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codec.errors import ModelError
from codec.export.writer import Value, Writer
from codec.nn.hifi import Fusion, GroupTimeNorm, LeakyRelu
from codec.nn.layers import Layer
from codec.nn.snake import Noise, Snake, Tanh
from codec.quantize.factorised import Factorised

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


def group_norm(w: Writer, layer: GroupTimeNorm, x: Value) -> Value:
    """Over channels of a group and time, at once an instance norm of (B, groups, the rest)."""
    g, norm = w.graph, layer.norm
    n_groups = norm.num_groups
    ones, zeros = (g.constant(np.full(n_groups, number, np.float32)) for number in (1, 0))
    rows = g.reshape(w.first(x), 0, n_groups, -1)
    y = g.op("InstanceNormalization", rows, ones, zeros, epsilon=norm.eps)
    y = g.op("Reshape", y, g.op("Shape", w.first(x)))
    weight, bias = (g.reshape(w.weight(norm, name), 1, -1, 1, 1) for name in ("weight", "bias"))
    return Value(g.op("Add", g.op("Mul", y, weight), bias), x.dim)


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


def encode_factorised(w: Writer, bottleneck: Factorised, rows: str) -> list[str]:
    """Codes of (N, D), each (N, 1): argmax of the product with entries of length 1.

    Raises:
        ModelError: codes of several frames.
    """
    if bottleneck.divisors:
        raise ModelError("Factorised: codes of several frames have no ONNX form yet; use the torch engine")
    g, codes = w.graph, []
    for i, level in enumerate(bottleneck.parts):
        table = w.weight(level.book, "embed")
        norms = g.op("ReduceSum", g.op("Mul", table, table), g.constant([1]), keepdims=1)
        unit = g.op("Div", table, g.op("Max", g.op("Sqrt", norms), g.constant(np.float32(1e-12))))
        small = w.matrix(level.project_in, rows)
        index = g.op("ArgMax", g.op("MatMul", small, g.transpose(unit, 1, 0)), axis=1, keepdims=1)
        codes.append(index)
        if i < len(bottleneck.parts) - 1:
            rows = g.op("Sub", rows, w.matrix(level.project_out, g.op("GatherND", table, index)))
    return codes


def decode_factorised(w: Writer, bottleneck: Factorised, codes: str) -> Value:
    """Codes (B, q, F) of any prefix to the latent: entries of all levels, times the matrix of each, summed."""
    g, parts = w.graph, bottleneck.parts
    size, dim = parts[0].book.codebook_size, parts[0].project_out.out_features
    n_used = g.op("Shape", codes, start=1, end=2)

    def used(stacked: str) -> str:
        return g.op("Slice", stacked, g.constant([0]), n_used, g.constant([0]))

    table = g.op("Concat", *(w.weight(level.book, "embed") for level in parts), axis=0)
    offsets = g.reshape(used(g.constant(size * np.arange(len(parts)))), -1, 1, 1)
    entries = g.op("Gather", table, g.op("Add", g.transpose(codes, 1, 0, 2), offsets))  # (q, B, F, d)
    outs = [g.op("Unsqueeze", w.weight(level.project_out, "weight"), g.constant([0])) for level in parts]
    matrices = g.transpose(used(g.op("Concat", *outs, axis=0)), 0, 2, 1)  # (q, d, D)
    given = g.op("MatMul", entries, g.op("Unsqueeze", matrices, g.constant([1])))  # (q, B, F, D)
    biases = [g.reshape(w.weight(level.project_out, "bias"), 1, 1, 1, -1) for level in parts]
    given = g.op("Add", given, used(g.op("Concat", *biases, axis=0)))
    summed = g.op("ReduceSum", given, g.constant([0]), keepdims=0)
    return Value(g.op("Unsqueeze", summed, g.constant([1])), dim, channels_last=True)
