"""Convolutions as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from codec.export.writer import Value, Writer
from codec.nn import convs, mimi, mirror, symmetric


def causal_conv(w: Writer, layer: convs.CausalConv, x: Value) -> Value:
    """The state before the block, (B, C, 1, memory)."""
    conv = layer.conv
    if w.int8 is not None and conv.groups == 1 and conv.stride == conv.dilation == (1,):
        return _conv_as_product(w, layer, x)
    seen = _filled(w, w.first(x), layer.down) if layer.ragged else w.first(x)
    state = w.state(layer.in_dim, 1, layer.memory)
    if layer.memory:
        seen = w.graph.op("Concat", state, seen, axis=3)
    w.set_state(state, w.graph.slice(seen, 3, -layer.memory) if layer.memory else state)
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


def mirror_conv(w: Writer, layer: mirror.MirrorConv, x: Value) -> Value:
    """Two states: that of `causal_conv`, and whether the signal has begun; its mirror image stands before it."""
    g, conv = w.graph, layer.conv
    rows = w.first(x)
    memory, begun = w.state(layer.in_dim, 1, layer.memory), w.state(1, 1, 1)
    longer = g.op("Pad", rows, g.constant([0, 0, 0, 0, 0, 0, 0, layer.memory]))
    image = g.op("Slice", longer, g.constant([layer.memory]), g.constant([0]), g.constant([3]), g.constant([-1]))
    there = g.op("Greater", begun, g.constant(np.float32(0)))
    seen = g.op("Concat", g.op("Where", there, memory, image), rows, axis=3)
    w.set_state(memory, g.slice(seen, 3, -layer.memory))
    w.set_state(begun, g.op("Add", g.op("Mul", begun, g.constant(np.float32(0))), g.constant(np.float32(1))))
    if layer.ragged and layer.down > 1:
        lack = lacking(w, rows, layer.down)
        end = g.op("Where", there, _image(w, seen, lack), _end(w, rows, layer.memory + 1, lack))
        seen = g.op("Concat", seen, end, axis=3)
    return plain_conv(w, conv, seen)


def lacking(w: Writer, row: str, stride: int) -> str:
    """Steps that (B, C, 1, T) lacks to whole groups of `stride`, int64 (1,)."""
    g = w.graph
    return g.op("Mod", g.op("Neg", g.op("Shape", row, start=3, end=4)), g.constant([stride]))


def lengthened(w: Writer, row: str, size: str, mode: str = "constant") -> str:
    """(B, C, 1, T) and `size` steps behind."""
    return w.graph.op("Pad", row, w.graph.op("Concat", w.graph.constant([0] * 7), size, axis=0), mode=mode)


def _filled(w: Writer, row: str, stride: int, mode: str = "constant") -> str:
    """(B, C, 1, T) to whole groups of `stride`."""
    return lengthened(w, row, lacking(w, row, stride), mode) if stride > 1 else row


def _image(w: Writer, row: str, size: str) -> str:
    """The mirror image behind (B, C, 1, T), its first `size` steps."""
    g = w.graph
    end = g.op("Sub", g.constant([-2]), size)
    return g.op("Slice", row, g.constant([-2]), end, g.constant([3]), g.constant([-1]))


def _end(w: Writer, rows: str, least: int, size: str) -> str:
    """`size` steps behind a whole signal: its image, but behind one shorter than `least` zeros first."""
    g = w.graph
    length = g.op("Shape", rows, start=3, end=4)
    short = g.op("Max", g.op("Sub", g.constant([least]), length), g.constant([0]))
    longer = lengthened(w, rows, short)
    both = g.op("Concat", longer, _image(w, longer, size), axis=3)
    return g.op("Slice", both, length, g.op("Add", length, size), g.constant([3]))


def plain_conv(w: Writer, conv: nn.Conv1d, seen: str) -> Value:
    """The convolution of (B, C, 1, T), nothing put around it."""
    g = w.graph
    y = g.op(
        "Conv",
        seen,
        g.op("Unsqueeze", w.weight(conv, "weight"), g.constant([2])),
        w.weight(conv, "bias"),
        strides=[1, *conv.stride],
        dilations=[1, *conv.dilation],
        group=conv.groups,
    )
    return Value(y, conv.out_channels)


def _conv_as_product(w: Writer, layer: convs.CausalConv, x: Value) -> Value:
    """The steps that a kernel sees side by side as one row, (B, 1, F, kernel * C), times one matrix."""
    g, conv, n_taps = w.graph, layer.conv, layer.memory + 1
    state = w.state(1, layer.memory, layer.in_dim)
    rows = w.last(x)
    seen = g.op("Concat", state, rows, axis=2)
    w.set_state(state, g.slice(seen, 2, -layer.memory) if layer.memory else state)
    taps = [*(g.slice(seen, 2, i, i - layer.memory) for i in range(layer.memory)), rows]
    weight = g.reshape(g.transpose(w.weight(conv, "weight"), 0, 2, 1), conv.out_channels, -1)
    rows = g.op("Concat", *taps, axis=3) if n_taps > 1 else taps[0]
    return Value(w.product(rows, weight, w.weight(conv, "bias")), conv.out_channels, channels_last=True)


def symmetric_conv(w: Writer, layer: symmetric.SymmetricConv, x: Value) -> Value:
    """Zeros on both sides, no state: the block is the whole signal."""
    conv = layer.conv
    y = w.graph.op(
        "Conv",
        _filled(w, w.first(x), layer.down) if layer.ragged else w.first(x),
        w.graph.op("Unsqueeze", w.weight(conv, "weight"), w.graph.constant([2])),
        w.weight(conv, "bias"),
        pads=[0, layer.left, 0, layer.right],
        strides=[1, *conv.stride],
        dilations=[1, *conv.dilation],
        group=conv.groups,
    )
    return Value(y, conv.out_channels)


def symmetric_conv_transpose(w: Writer, layer: symmetric.SymmetricConvTranspose, x: Value) -> Value:
    """Cut on both sides, no state; a norm takes what is cut off into account."""
    kernel = w.graph.op("Unsqueeze", w.weight(layer.conv, "weight"), w.graph.constant([2]))
    sides = (layer.left, layer.right)
    pads = [0, 0, 0, 0] if layer.norm else [0, sides[0], 0, sides[1]]
    bias = w.weight(layer.conv, "bias")
    y = w.graph.op("ConvTranspose", w.first(x), kernel, bias, strides=[1, layer.up], pads=pads)
    if layer.norm is not None:
        y = w.graph.slice(w.group_norm(layer.norm, y), 3, sides[0], -sides[1] or 2**62)
    return Value(y, layer.conv.out_channels)


def causal_conv_transpose(w: Writer, layer: convs.CausalConvTranspose, x: Value) -> Value:
    """The bias last, once; a kernel shorter than its stride leaves a gap."""
    kernel = w.graph.op("Unsqueeze", w.weight(layer.conv, "weight"), w.graph.constant([2]))
    gap = [0, max(0, layer.up - layer.kernel_size)]
    y = w.graph.op("ConvTranspose", w.first(x), kernel, strides=[1, layer.up], output_padding=gap)
    y = _overlap(w, y, layer.tail, layer.out_dim)
    bias = w.graph.reshape(w.weight(layer.conv, "bias"), 1, -1, 1, 1)
    return Value(w.graph.op("Add", y, bias), layer.out_dim)


def still_conv(w: Writer, layer: mimi.StillConv, x: Value) -> Value:
    """Two states: what stands before the block, (B, C, 1, stride), and a flag that the signal has begun."""
    g, seen = w.graph, w.first(x)
    memory, begun = w.state(layer.dim, 1, layer.down), w.state(1, 1, 1)
    there = g.op("Greater", begun, g.constant(np.float32(0)))
    seen = g.op("Concat", g.op("Where", there, memory, g.slice(seen, 3, 0, 1)), seen, axis=3)
    w.set_state(memory, g.slice(seen, 3, -layer.down))
    w.set_state(begun, g.op("Max", begun, g.constant(np.float32(1))))
    if layer.ragged:
        seen = _filled(w, seen, layer.down, "edge")  # what stands before is a whole group
    kernel = g.op("Unsqueeze", w.weight(layer.conv, "weight"), g.constant([2]))
    return Value(g.op("Conv", seen, kernel, strides=[1, layer.down]), layer.dim)


def channelwise_up(w: Writer, layer: mimi.ChannelwiseUp, x: Value) -> Value:
    """A kernel for each channel; its tail is the state."""
    kernel = w.graph.op("Unsqueeze", w.weight(layer.conv, "weight"), w.graph.constant([2]))
    y = w.graph.op("ConvTranspose", w.first(x), kernel, strides=[1, layer.up], group=layer.dim)
    return Value(_overlap(w, y, layer.up, layer.dim), layer.dim)


def _overlap(w: Writer, y: str, tail: int, channels: int) -> str:
    """Add the tail that the last block left, keep the new one: (B, C, 1, n + tail) -> (B, C, 1, n)."""
    state = w.state(channels, 1, tail)
    if tail == 0:
        w.set_state(state, state)
        return y
    head = w.graph.op("Add", w.graph.slice(y, 3, 0, tail), state)
    y = w.graph.op("Concat", head, w.graph.slice(y, 3, tail), axis=3)
    w.set_state(state, w.graph.slice(y, 3, -tail))
    return w.graph.slice(y, 3, 0, -tail)


def convnext_blocks(w: Writer, blocks: Sequence[convs.ConvNeXt], x: Value) -> Value:
    """Blocks of one shape in a row, with one state (B, 1, memory, n_blocks * C): fewer tensors go in and out."""
    g, dim, memory = w.graph, blocks[0].dim, blocks[0].kernel_size - 1
    rows = w.last(x)
    state = w.state(1, memory, len(blocks) * dim)
    if memory == 0:
        w.set_state(state, state)
    parts = g.ops("Split", state, count=len(blocks), axis=3, num_outputs=len(blocks)) if len(blocks) > 1 else [state]
    seen = []
    for block, part in zip(blocks, parts, strict=True):
        seen.append(g.op("Concat", part, rows, axis=2) if memory else rows)
        rows = _convnext(w, block, rows, seen[-1])
    if memory:
        w.set_state(state, g.slice(g.op("Concat", *seen, axis=3) if len(blocks) > 1 else seen[0], 2, -memory))
    return Value(rows, dim, channels_last=True)


def _convnext(w: Writer, layer: convs.ConvNeXt, rows: str, seen: str) -> str:
    """Channels last but for the depthwise convolution; the learned scale goes into the last matrix."""
    weights = w.weight(layer.depthwise, "weight"), w.weight(layer.depthwise, "bias")
    y = w.graph.op("Conv", w.graph.transpose(seen, 0, 3, 1, 2), *weights, group=layer.dim)
    y = w.layer_norm(layer.norm, w.graph.transpose(y, 0, 2, 3, 1))
    y = w.gelu(w.matrix(layer.expand, y))
    y = w.matrix(layer.project, y, w.weight(layer, "scale"))
    return w.graph.op("Add", rows, y)
