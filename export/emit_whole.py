"""Layers that take a block for the whole signal as ONNX nodes: mirrored around it, or seen from its end."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from codec.export.emit_context import lstm_weights
from codec.export.emit_conv import lacking, lengthened, plain_conv
from codec.export.emit_spectral import make_waves
from codec.export.writer import Value, Writer
from codec.nn.aliasfree import TAPS, AliasFreeSnake
from codec.nn.convnext import MEL_FLOOR, POWER_FLOOR, DropPath, LogMel
from codec.nn.hifi import Silu
from codec.nn.recurrent import BiLstm
from codec.nn.symmetric import SymmetricMirrorConv
from codec.nn.vocos import CentredInverseStft


def mirrored(w: Writer, row: str, left: int, right: int, *, lack: str = "") -> str:
    """(B, C, 1, T) with its mirror image on both sides; behind a signal shorter than the image, zeros first.

    The image on the right has `right` steps and those that `lack` counts. What the zeros add is cut off again.
    """
    g = w.graph
    length, most = g.op("Shape", row, start=3, end=4), g.constant([right])
    most = g.op("Add", most, lack) if lack else most
    least = g.op("Add", g.op("Max", most, g.constant([left])), g.constant([1]))
    longer = lengthened(w, row, g.op("Max", g.op("Sub", least, length), g.constant([0])))
    sides = g.op("Concat", g.constant([0, 0, 0, left, 0, 0, 0]), most, axis=0)
    wide, end = g.op("Pad", longer, sides, mode="reflect"), g.op("Add", g.op("Add", length, most), g.constant([left]))
    return g.op("Slice", wide, g.constant([0]), end, g.constant([3]))


def mirror_conv(w: Writer, layer: SymmetricMirrorConv, x: Value) -> Value:
    """No state; what zeros behind a short signal would give is not made."""
    row = w.first(x)
    lack = lacking(w, row, layer.down) if layer.ragged and layer.down > 1 else ""
    return plain_conv(w, layer.conv, mirrored(w, row, layer.left, layer.right, lack=lack))


def bilstm(w: Writer, layer: BiLstm, x: Value) -> Value:
    """One node for both directions of a layer, from zeros."""
    g, size = w.graph, layer.lstm.hidden_size
    rows = w.last(x)
    y = g.op("Squeeze", g.transpose(rows, 2, 0, 1, 3), g.constant([2]))  # (F, B, C)
    for i in range(layer.lstm.num_layers):
        both = zip(*(lstm_weights(w, layer.lstm, f"l{i}{side}") for side in ("", "_reverse")), strict=True)
        weights = (g.op("Concat", *pair, axis=0) for pair in both)
        y = g.op("LSTM", y, *weights, hidden_size=size, direction="bidirectional")  # (F, 2, B, C)
        y = g.reshape(g.transpose(y, 0, 2, 1, 3), 0, 0, -1)
    y = g.transpose(g.op("Unsqueeze", y, g.constant([2])), 1, 2, 0, 3)
    if layer.skip:
        y = g.op("Add", y, g.op("Concat", rows, rows, axis=3))
    return Value(y, 2 * size, channels_last=True)


def alias_free(w: Writer, layer: AliasFreeSnake, x: Value) -> Value:
    """Up, bend, down, as in torch; the edge values stand around the block."""
    g, dim, side = w.graph, x.dim, TAPS // 2 - 1
    taps = g.constant(layer.filter.numpy().reshape(1, 1, 1, TAPS))
    taps = g.op("Expand", taps, g.constant([dim, 1, 1, TAPS]))
    alpha, beta = (g.reshape(g.op("Exp", w.weight(layer, name)), 1, -1, 1, 1) for name in ("alpha", "beta"))
    y = g.op("Pad", w.first(x), g.constant([0, 0, 0, side, 0, 0, 0, side]), mode="edge")
    cut = 2 * side + (TAPS - 2) // 2
    double = g.op("Mul", taps, g.constant(np.float32(2)))
    y = g.op("ConvTranspose", y, double, strides=[1, 2], group=dim, pads=[0, cut, 0, cut])
    sine = g.op("Sin", g.op("Mul", y, alpha))
    bent = g.op("Div", g.op("Mul", sine, sine), g.op("Add", beta, g.constant(np.float32(1e-9))))
    y = g.op("Pad", g.op("Add", y, bent), g.constant([0, 0, 0, side, 0, 0, 0, side + 1]), mode="edge")
    return Value(g.op("Conv", y, taps, strides=[1, 2], group=dim), dim)


def log_mel(w: Writer, layer: LogMel, x: Value) -> Value:
    """Mirrored frames, times cosines and sines, times the bands."""
    g, row = w.graph, w.first(x)
    seen = mirrored(w, row, layer.side, layer.side)
    spec = [
        g.op("MatMul", frames(w, seen, layer.n_fft, layer.down), wave)
        for wave in windowed_waves(w, layer.n_fft, layer.window.double().numpy())
    ]
    power = g.op("Add", *(g.op("Mul", part, part) for part in spec))
    magnitude = g.op("Sqrt", g.op("Add", power, g.constant(np.float32(POWER_FLOOR))))
    bands = g.op("MatMul", magnitude, g.constant(np.ascontiguousarray(layer.bank.numpy().T)))
    y = g.op("Log", g.op("Max", bands, g.constant(np.float32(MEL_FLOOR))))
    return Value(y, len(layer.bank), channels_last=True)


def centred_inverse(w: Writer, layer: CentredInverseStft, x: Value) -> Value:
    """Each frame's inverse transform, added where they overlap, over the squared windows that are there."""
    return Value(overlap_add(w, w.last(x), layer.n_fft, layer.up, layer.window, layer.cut), 1)


def overlap_add(w: Writer, spec: str, n_fft: int, hop: int, window: Tensor, cut: int) -> str:
    """Real and imaginary parts (B, 1, n, 2 * bins) to audio (B, 1, 1, n * hop), which begins `cut` samples in."""
    g, n_hops = w.graph, -(-n_fft // hop)
    shape = window.double().numpy()
    gains = np.full((n_fft // 2 + 1, 1), 2 / n_fft)
    gains[0] /= 2
    gains[-1] /= 1 if n_fft % 2 else 2
    parts = g.ops("Split", spec, count=2, axis=3, num_outputs=2)
    gain = g.constant(gains.astype(np.float32))
    cosines, sines = (g.op("Mul", g.transpose(x, 1, 0), gain) for x in windowed_waves(w, n_fft, shape))
    made = g.op("Add", g.op("MatMul", parts[0], cosines), g.op("MatMul", parts[1], sines))
    squares = g.constant((shape**2).astype(np.float32)[None, None, None])
    n = g.op("Concat", g.constant([1, 1]), g.op("Shape", spec, start=2, end=3), g.constant([1]), axis=0)
    envelope = g.op("Expand", squares, n)
    # Part j of a frame lies j hops after its start: a convolution with ones on a diagonal shifts the parts and adds.
    shift = g.constant(np.ascontiguousarray(np.eye(n_hops, dtype=np.float32)[::-1].reshape(1, n_hops, n_hops, 1)))

    def added(frames: str) -> str:
        padded = g.op("Pad", frames, g.constant([0] * 7 + [n_hops * hop - n_fft]))
        hops = g.transpose(g.reshape(padded, 0, -1, n_hops, hop), 0, 2, 1, 3)  # (B, parts, n, hop)
        y = g.op("Conv", hops, shift, pads=[n_hops - 1, 0, n_hops - 1, 0])
        return g.slice(g.reshape(y, 0, 1, 1, -1), 3, cut, cut - (n_hops - 1) * hop)

    return g.op("Div", added(made), added(envelope))


def silu(w: Writer, layer: Silu, x: Value) -> Value:
    """Element by element."""
    return Value(w.graph.op("Mul", x.name, w.graph.op("Sigmoid", x.name)), x.dim, x.channels_last)


def frames(w: Writer, row: str, n_fft: int, hop: int) -> str:
    """Windows of (B, 1, 1, (n - 1) * hop + n_fft), one a hop: (B, 1, n, n_fft)."""
    g, n_hops = w.graph, -(-n_fft // hop)
    padded = g.op("Pad", row, g.constant([0] * 7 + [n_hops * hop - n_fft]))
    hops = g.reshape(padded, 0, 1, -1, hop)
    parts = [g.slice(hops, 2, i, i + 1 - n_hops if i + 1 < n_hops else 2**62) for i in range(n_hops)]
    return g.slice(g.op("Concat", *parts, axis=3), 3, 0, n_fft)


def windowed_waves(w: Writer, n_fft: int, window: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[str]:
    """Cosines and negative sines of each sample and bin, times the window: (n_fft, bins)."""
    g = w.graph
    cosines, sines = (make_waves(w, n_fft, kind, range(n_fft)) for kind in ("Cos", "Sin"))
    column = window[:, None].astype(np.float32)
    return [g.op("Mul", cosines, g.constant(column)), g.op("Mul", sines, g.constant(-column))]


def drop_path(w: Writer, layer: DropPath, x: Value) -> Value:
    """Nothing: it is for training."""
    return x
