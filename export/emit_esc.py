"""ESC as ONNX nodes: patches of a spectrum, stages of shifted-window attention, and the quantizers between them.

Features are (B, H, W, C) here: H places in frequency, fixed, and W in time, as many as the block has.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from torch import nn

from codec.export.emit_context import attend
from codec.export.emit_factorised import nearest_by_angle
from codec.export.emit_whole import frames, mirrored, overlap_add, windowed_waves
from codec.export.writer import Value, Writer
from codec.nn.esc import BINS, HEIGHT, HOP, JOINED, N_FFT, PATCH, EscDecoder, EscEncoder
from codec.nn.swin import FORBIDDEN, SHIFT, WINDOW, SwinBlock, SwinStage
from codec.quantize.cross_scale import CrossScale, Stream

PLACES = WINDOW**2  # of a window


def esc_encoder(w: Writer, layer: EscEncoder, x: Value) -> Value:
    """Spectrum, patches, stages; the scales side by side, coarse to fine."""
    g, row = w.graph, w.first(x)
    seen = g.slice(mirrored(w, row, N_FFT // 2, N_FFT // 2), 3, 0, -HOP)
    rows = frames(w, seen, N_FFT, HOP)
    spec = [g.op("MatMul", rows, wave) for wave in windowed_waves(w, N_FFT, layer.window.double().numpy())]
    patches = _conv(w, layer.patch, g.transpose(g.op("Concat", *spec, axis=1), 0, 1, 3, 2))
    y = w.layer_norm(layer.norm, g.transpose(patches, 0, 2, 3, 1))
    width = layer.patch.out_channels
    y, height, width = swin_stage(w, layer.first, y, HEIGHT, width)
    scales, dim = list[str](), 0
    for stage in layer.stages:
        assert isinstance(stage, SwinStage)
        y, height, width = swin_stage(w, stage, y, height, width)
        scales.append(_join(w, y, height, width))
        dim += JOINED * height * width
    return Value(g.op("Concat", *reversed(scales), axis=3), dim, channels_last=True)


def esc_decoder(w: Writer, layer: EscDecoder, x: Value) -> Value:
    """A last stage, patches to bins, overlapping windows."""
    g, dim = w.graph, x.dim // (JOINED * HEIGHT)
    y, _, _ = swin_stage(w, layer.last, _part(w, w.last(x), HEIGHT, dim), HEIGHT, dim)
    y = _conv(w, layer.spread, g.transpose(y, 0, 3, 1, 2))  # (B, patch * C, H, W)
    y = g.reshape(g.op("Unsqueeze", y, g.constant([1])), 0, *PATCH, dim, HEIGHT, -1)
    y = g.reshape(g.transpose(y, 0, 3, 4, 1, 5, 2), 0, dim, BINS, -1)
    spec = g.transpose(_conv(w, layer.mix, y), 0, 3, 1, 2)  # (B, n, 2, bins)
    spec = g.reshape(g.op("Unsqueeze", spec, g.constant([1])), 0, 1, -1, 2 * BINS)
    return Value(overlap_add(w, spec, N_FFT, HOP, layer.window, N_FFT // 2), 1)


def swin_stage(w: Writer, stage: SwinStage, x: str, height: int, width: int) -> tuple[str, int, int]:
    """Blocks, then a change of the frequency axis; with the new number of places and channels."""
    g = w.graph
    for block in stage.blocks:
        assert isinstance(block, SwinBlock)
        x = _block(w, block, x, height, width)
    if not isinstance(stage.resize, nn.Linear) or not isinstance(stage.norm, nn.LayerNorm):
        return x, height, width
    if stage.scale == "down":
        x = g.transpose(g.reshape(x, 0, height // 2, 2, -1, width), 0, 1, 3, 2, 4)
        x = w.matrix(stage.resize, w.layer_norm(stage.norm, g.reshape(x, 0, 0, 0, 2 * width)))
        return x, height // 2, stage.resize.out_features
    x = w.matrix(stage.resize, w.layer_norm(stage.norm, x))
    dim = stage.resize.out_features // 2
    x = g.transpose(g.reshape(x, 0, 0, -1, 2, dim), 0, 1, 3, 2, 4)
    return g.reshape(x, 0, 2 * height, -1, dim), 2 * height, dim


def _block(w: Writer, block: SwinBlock, x: str, height: int, width: int) -> str:
    """Attention in windows, shifted or not, then two matrices."""
    g, high = w.graph, -(-height // WINDOW) * WINDOW
    n_wide = g.op("Shape", x, start=2, end=3)
    short = g.op("Mod", g.op("Neg", n_wide), g.constant([WINDOW]))
    ends = g.op("Concat", g.constant([0] * 5 + [high - height]), short, g.constant([0]), axis=0)
    y = g.op("Pad", w.layer_norm(block.norm1, x), ends)
    mask = ""
    if block.shift:
        y = _roll(w, _roll(w, y, 1, block.shift), 2, block.shift)
        mask = _mask(w, high, g.op("Add", n_wide, short))
    y = g.transpose(g.reshape(y, 0, high // WINDOW, WINDOW, -1, WINDOW, width), 0, 1, 3, 2, 4, 5)
    y = _attention(w, block, g.reshape(y, 0, -1, PLACES, width), mask, width)
    y = g.transpose(g.reshape(y, 0, high // WINDOW, -1, WINDOW, WINDOW, width), 0, 1, 3, 2, 4, 5)
    y = g.reshape(y, 0, high, -1, width)
    if block.shift:
        y = _roll(w, _roll(w, y, 1, -block.shift), 2, -block.shift)
    y = g.slice(y, 1, 0, height)
    x = g.op("Add", x, g.op("Slice", y, g.constant([0]), n_wide, g.constant([2])))
    inner = g.op("Gelu", w.matrix(block.expand, w.layer_norm(block.norm2, x)))
    return g.op("Add", x, w.matrix(block.project, inner))


def _attention(w: Writer, block: SwinBlock, rows: str, mask: str, dim: int) -> str:
    """Of the places of each window to each other, (B, windows, PLACES, C), with a learned bias for each distance."""
    g, layer = w.graph, block.attention
    heads = layer.n_heads
    qkv = g.reshape(w.matrix(layer.project_in, rows), 0, -1, PLACES, 3 * heads, dim // heads)
    query, key, value = g.ops("Split", g.transpose(qkv, 0, 1, 3, 2, 4), count=3, axis=2, num_outputs=3)
    bias = g.op("Gather", w.weight(layer, "bias"), g.constant(layer.places.numpy()))
    bias = g.op("Unsqueeze", g.transpose(bias, 2, 0, 1), g.constant([0]))  # (1, heads, PLACES, PLACES)
    bias = g.op("Add", bias, mask) if mask else bias
    y = attend(w, query, g.transpose(key, 0, 1, 2, 4, 3), value, dim // heads, bias=bias)
    return w.matrix(layer.project_out, g.reshape(g.transpose(y, 0, 1, 3, 2, 4), 0, -1, PLACES, dim))


def _mask(w: Writer, high: int, wide: str) -> str:
    """What a shifted grid forbids, (windows, 1, PLACES, PLACES): looking from one region to another."""
    g = w.graph
    rows = np.zeros((high, 1), np.int64)
    rows[-WINDOW:-SHIFT], rows[-SHIFT:] = 1, 2
    count = g.op("Squeeze", wide, g.constant([0]))
    places = g.op("Range", g.constant(np.int64(0)), count, g.constant(np.int64(1)))
    edges = (g.op("Sub", wide, g.constant([size])) for size in (WINDOW, SHIFT))
    columns = (g.op("Cast", g.op("GreaterOrEqual", places, edge), to=TensorProto.INT64) for edge in edges)
    numbers = g.op("Add", g.constant(3 * rows), g.op("Add", *columns))  # (high, wide)
    numbers = g.transpose(g.reshape(numbers, high // WINDOW, WINDOW, -1, WINDOW), 0, 2, 1, 3)
    one, other = (g.reshape(numbers, -1, *shape) for shape in ((1, PLACES, 1), (1, 1, PLACES)))
    apart = g.op("Cast", g.op("Not", g.op("Equal", one, other)), to=TensorProto.FLOAT)
    return g.op("Mul", apart, g.constant(np.float32(FORBIDDEN)))


def encode_cross_scale(w: Writer, bottleneck: CrossScale, rows: str) -> list[str]:
    """Codes of (B, 1, F, D), each (B * F, 1): stream after stream, with the decoder's stages between them."""
    g = w.graph
    targets = g.ops("Split", rows, g.constant(bottleneck.widths), count=len(bottleneck.widths), axis=3)
    codes, made = list[str](), ""
    for s, stream in enumerate(bottleneck.parts):
        target = targets[max(0, s - 1)]
        entries = list[str]()
        for group, piece in zip(stream.parts, _pieces(w, stream, target, made), strict=True):
            index = nearest_by_angle(w, group.book, w.matrix(group.project_in, piece))
            entries.append(g.op("GatherND", w.weight(group.book, "embed"), index))
            codes.append(g.reshape(index, -1, 1))
        made = _refined(w, bottleneck, _added(w, stream, made, entries), s)
    return codes


def decode_cross_scale(w: Writer, bottleneck: CrossScale, codes: str) -> Value:
    """Whole streams (B, q, F) to the finest scale; streams that are not there add nothing.

    A code of -1 is taken for 0, which the engine hears and refuses: each frame would have to see its neighbours cut to
    its own number of streams.
    """
    g, n = w.graph, bottleneck.n_groups
    short = g.op("Sub", g.constant([bottleneck.n_codebooks]), g.op("Shape", codes, start=1, end=2))
    ends = g.op("Concat", g.constant([0] * 4), short, g.constant([0]), axis=0)
    numbers = g.op("Add", g.op("Max", codes, g.constant(np.int64(0))), g.constant([1]))  # row 0 of a table is zeros
    whole = g.op("Pad", numbers, ends, g.constant(np.int64(0)))  # (B, Q, F)
    places = g.transpose(g.op("Unsqueeze", whole, g.constant([1])), 0, 1, 3, 2)
    made = ""
    for s, stream in enumerate(bottleneck.parts):
        own = (g.slice(places, 3, n * s + i, n * s + i + 1) for i in range(n))
        tables = (g.op("Pad", w.weight(group.book, "embed"), g.constant([1, 0, 0, 0])) for group in stream.parts)
        entries = [g.op("GatherND", table, place) for table, place in zip(tables, own, strict=True)]
        made = _refined(w, bottleneck, _added(w, stream, made, entries), s)
    last = bottleneck.inner[-1]
    assert isinstance(last, SwinStage)
    assert isinstance(last.resize, nn.Linear)
    return Value(made, JOINED * HEIGHT * last.resize.out_features // 2, channels_last=True)


def _pieces(w: Writer, stream: Stream, target: str, made: str) -> list[str]:
    """What the stages before left over of (B, 1, F, D), in the parts of the groups."""
    g = w.graph
    left = g.op("Sub", target, made) if made else target
    return g.ops("Split", left, g.constant(stream.sizes), count=len(stream.sizes), axis=3)


def _added(w: Writer, stream: Stream, made: str, entries: list[str]) -> str:
    """What the groups' entries give, side by side, added to what is there."""
    g = w.graph
    given = [w.matrix(group.project_out, x) for group, x in zip(stream.parts, entries, strict=True)]
    whole = g.op("Concat", *given, axis=3)
    return g.op("Add", made, whole) if made else whole


def _refined(w: Writer, bottleneck: CrossScale, made: str, s: int) -> str:
    """Nothing behind the first stream, then a stage to the next finer scale: (B, 1, F, D)."""
    if s == 0:
        return made
    stage, (height, width) = bottleneck.inner[s - 1], bottleneck.scales[s - 1]
    assert isinstance(stage, SwinStage)
    return _join(w, *swin_stage(w, stage, _part(w, made, height, width), height, width))


def _join(w: Writer, x: str, height: int, width: int) -> str:
    """Features to rows of `JOINED` patches in time, (B, 1, F, JOINED * C * H)."""
    rows = w.graph.op("Unsqueeze", w.graph.transpose(x, 0, 2, 3, 1), w.graph.constant([1]))
    return w.graph.reshape(rows, 0, 1, -1, JOINED * height * width)


def _part(w: Writer, rows: str, height: int, width: int) -> str:
    """`_join` undone: (B, H, W, C)."""
    return w.graph.transpose(w.graph.reshape(rows, 0, -1, width, height), 0, 3, 1, 2)


def _roll(w: Writer, x: str, axis: int, places: int) -> str:
    """What stands first on an axis goes last; the other way where `places` is negative."""
    return w.graph.op("Concat", w.graph.slice(x, axis, places), w.graph.slice(x, axis, 0, places), axis=axis)


def _conv(w: Writer, conv: nn.Conv2d, x: str) -> str:
    weights = w.weight(conv, "weight"), w.weight(conv, "bias")
    pads = [int(x) for x in conv.padding]
    return w.graph.op("Conv", x, *weights, strides=list(conv.stride), pads=[*pads, *pads])
