"""The spectral family's ends as ONNX nodes: transforms as convolutions, magnitudes compressed and expanded."""

from __future__ import annotations

import numpy as np

from codec.export.emit_conv import overlap
from codec.export.writer import Value, Writer
from codec.nn.spectral import CompressedSpectrum, ExpandSpectrum
from codec.nn.stft import InverseStft, Stft


def stft(w: Writer, layer: Stft, x: Value) -> Value:
    """A strided convolution with windowed cosines and sines."""
    memory = layer.n_fft - layer.down
    seen = w.graph.op("Concat", w.state(1, 1, memory), w.first(x), axis=3)
    w.set_state(w.graph.slice(seen, 3, -memory), 1, 1, memory)
    kernel = w.graph.op("Mul", _waves(w, layer.n_fft), _window(w, layer.window.double().numpy()))
    kernel = w.graph.reshape(kernel, -1, 1, 1, layer.n_fft)
    return Value(w.graph.op("Conv", seen, kernel, strides=[1, layer.down]), layer.n_fft + 2)


def inverse_stft(w: Writer, layer: InverseStft, x: Value) -> Value:
    """A transposed convolution with the same waves: each bin but the first and last counts for its mirror image too."""
    bins = layer.n_fft // 2 + 1
    both = np.full(bins, 2.0)
    both[[0, -1]] = 1.0
    gain = (np.concatenate((both, both)) / layer.n_fft).astype(np.float32)[:, None]
    kernel = w.graph.op("Mul", _waves(w, layer.n_fft), _window(w, layer.window.double().numpy()))
    kernel = w.graph.reshape(w.graph.op("Mul", kernel, w.graph.constant(gain)), -1, 1, 1, layer.n_fft)
    y = w.graph.op("ConvTranspose", w.first(x), kernel, strides=[1, layer.up])
    return Value(overlap(w, y, layer.delay, 1), 1)


def _waves(w: Writer, n_fft: int) -> str:
    """Cosines, then negative sines, (2 * bins, n_fft), computed by the graph: the runtime folds them when it loads.

    Products of bin and sample are taken modulo n_fft in integers, so that the angles are exact before they are rounded.
    """
    g, bins = w.graph, n_fft // 2 + 1
    k = g.reshape(g.op("Range", *(g.constant(np.int64(x)) for x in (0, bins, 1))), -1, 1)
    n = g.reshape(g.op("Range", *(g.constant(np.int64(x)) for x in (0, n_fft, 1))), 1, -1)
    turns = g.op("Cast", g.op("Mod", g.op("Mul", k, n), g.constant(np.int64(n_fft))), to=1)
    angles = g.op("Mul", turns, g.constant(np.float32(2 * np.pi / n_fft)))
    return g.op("Concat", g.op("Cos", angles), g.op("Neg", g.op("Sin", angles)), axis=0)


def _window(w: Writer, window: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    return w.graph.constant(window.astype(np.float32)[None])


def compressed(w: Writer, layer: CompressedSpectrum, x: Value) -> Value:
    g, axis = w.graph, 3 if x.channels_last else 1
    real, imag = g.ops("Split", x.name, count=2, axis=axis, num_outputs=2)
    power = g.op("Add", g.op("Mul", real, real), g.op("Mul", imag, imag))
    power = g.op("Add", power, g.constant(np.float32(1e-7)))
    gain = g.op("Pow", power, g.constant(np.float32((layer.exponent - 1) / 2)))
    level = g.op("Mul", g.op("Log", power), g.constant(np.float32(0.15)))
    parts = (level, g.op("Mul", real, gain), g.op("Mul", imag, gain))
    return Value(g.op("Concat", *parts, axis=axis), x.dim // 2 * 3, x.channels_last)


def expand(w: Writer, layer: ExpandSpectrum, x: Value) -> Value:
    g, axis = w.graph, 3 if x.channels_last else 1
    real, imag = g.ops("Split", x.name, count=2, axis=axis, num_outputs=2)
    power = g.op("Add", g.op("Mul", real, real), g.op("Mul", imag, imag))
    power = g.op("Add", power, g.constant(np.float32(1e-8)))
    gain = g.op("Pow", power, g.constant(np.float32(layer.power)))
    return Value(g.op("Concat", g.op("Mul", real, gain), g.op("Mul", imag, gain), axis=axis), x.dim, x.channels_last)
