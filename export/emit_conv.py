"""Convolutions as ONNX nodes."""

from __future__ import annotations

from codec.export.writer import Value, Writer
from codec.nn import layers


def causal_conv(w: Writer, layer: layers.CausalConv, x: Value) -> Value:
    conv, seen, shape = layer.conv, w.first(x), (layer.in_dim, 1, layer.memory)
    state = w.state(*shape)
    if layer.memory:
        seen = w.graph.op("Concat", state, seen, axis=3)
        state = w.graph.slice(seen, 3, -layer.memory)
    w.set_state(state, *shape)
    seen = w.graph.slice(seen, 3, layer.skip) if layer.skip else seen
    y = w.graph.op(
        "Conv",
        seen,
        w.graph.op("Unsqueeze", w.weight(conv, "weight"), w.graph.constant([2])),
        w.weight(conv, "bias"),
        strides=[1, *conv.stride],
        dilations=[1, *conv.dilation],
        group=conv.groups,
    )
    return Value(y, conv.out_channels)


def causal_conv_transpose(w: Writer, layer: layers.CausalConvTranspose, x: Value) -> Value:
    if layer.kernel_size < layer.up:
        raise ModelError("CausalConvTranspose: a kernel shorter than its stride has no ONNX form; use the torch engine")
    kernel = w.graph.op("Unsqueeze", w.weight(layer.conv, "weight"), w.graph.constant([2]))
    y = w.graph.op("ConvTranspose", w.first(x), kernel, strides=[1, layer.up])
    y = overlap(w, y, layer.tail, layer.out_dim)
    bias = w.graph.reshape(w.weight(layer.conv, "bias"), 1, -1, 1, 1)
    return Value(w.graph.op("Add", y, bias), layer.out_dim)


def overlap(w: Writer, y: str, tail: int, channels: int) -> str:
    """Add the tail that the last block left, keep the new one: (B, C, 1, n + tail) -> (B, C, 1, n)."""
    state = w.state(channels, 1, tail)
    if tail == 0:
        w.set_state(state, channels, 1, 0)
        return y
    head = w.graph.op("Add", w.graph.slice(y, 3, 0, tail), state)
    y = w.graph.op("Concat", head, w.graph.slice(y, 3, tail), axis=3)
    w.set_state(w.graph.slice(y, 3, -tail), channels, 1, tail)
    return w.graph.slice(y, 3, 0, -tail)


def convnext(w: Writer, layer: layers.ConvNeXt, x: Value) -> Value:
    rows, memory = w.last(x), layer.kernel_size - 1
    seen = w.graph.op("Concat", w.state(1, memory, layer.dim), rows, axis=2)
    w.set_state(w.graph.slice(seen, 2, -memory), 1, memory, layer.dim)
    weights = w.weight(layer.depthwise, "weight"), w.weight(layer.depthwise, "bias")
    y = w.graph.op("Conv", w.graph.transpose(seen, 0, 3, 1, 2), *weights, group=layer.dim)
    y = w.layer_norm(layer.norm, w.graph.transpose(y, 0, 2, 3, 1))
    y = w.graph.op("Gelu", w.matrix(layer.expand, y))
    y = w.matrix(layer.project, y, w.weight(layer, "scale"))
    return Value(w.graph.op("Add", rows, y), layer.dim, channels_last=True)
