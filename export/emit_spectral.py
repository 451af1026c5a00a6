"""The spectral family's ends as ONNX nodes: transforms as convolutions, magnitudes compressed and expanded."""

from __future__ import annotations

import numpy as np

from codec.errors import ModelError
from codec.export.writer import Value, Writer
from codec.nn.spectral import CompressedSpectrum, ExpandSpectrum
from codec.nn.stft import InverseStft, Stft


def stft(w: Writer, layer: Stft, x: Value) -> Value:
    """A strided convolution with windowed cosines and sines."""
    memory = layer.n_fft - layer.down
    state = w.state(1, 1, memory)
    seen = w.graph.op("Concat", state, w.first(x), axis=3)
    w.set_state(state, w.graph.slice(seen, 3, -memory) if memory else state)
    kernel = w.graph.op("Mul", _waves(w, layer.n_fft), _window(w, layer.window.double().numpy()))
    kernel = w.graph.reshape(kernel, -1, 1, 1, layer.n_fft)
    return Value(w.graph.op("Conv", seen, kernel, strides=[1, layer.down]), layer.n_fft + 2)


def inverse_stft(w: Writer, layer: InverseStft, x: Value) -> Value:
    """A matrix with the same waves: each bin but the first and last counts for its mirror image too.

    The state is the frames that still overlap, not their sum: a sample is summed in one order whatever the block.

    Raises:
        ModelError: windows of no whole number of hops.
    """
    if layer.n_fft % layer.up:
        raise ModelError(f"InverseStft: windows of {layer.n_fft} samples are not whole hops of {layer.up}")
    g, hop, overlaps = w.graph, layer.up, layer.n_fft // layer.up
    bins = layer.n_fft // 2 + 1
    both = np.full(bins, 2.0)
    both[[0, -1]] = 1.0
    gain = (np.concatenate((both, both)) / layer.n_fft).astype(np.float32)[:, None]
    kernel = g.op("Mul", _waves(w, layer.n_fft), _window(w, layer.window.double().numpy()))
    frames = g.op("MatMul", w.last(x), g.op("Mul", kernel, g.constant(gain)))  # (B, 1, F, n_fft)
    state = w.state(1, overlaps - 1, layer.n_fft)
    seen = g.op("Concat", state, frames, axis=2)
    w.set_state(state, g.slice(seen, 2, 1 - overlaps))
    # Part j of a frame lies j hops after its start: a convolution with ones on a diagonal shifts the parts and adds.
    parts = g.transpose(g.reshape(seen, 0, -1, overlaps, hop), 0, 2, 1, 3)
    shift = np.eye(overlaps, dtype=np.float32)[::-1].reshape(1, overlaps, overlaps, 1)
    y = g.op("Conv", parts, g.constant(np.ascontiguousarray(shift)))  # (B, 1, F, hop)
    return Value(g.reshape(y, 0, 1, 1, -1), 1)


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
    """Bin by bin; the power by its logarithm, which is needed anyway: exponential and logarithm are vectorised."""
    g, axis = w.graph, 3 if x.channels_last else 1
    real, imag = g.ops("Split", x.name, count=2, axis=axis, num_outputs=2)
    level = g.op("Log", _power(w, real, imag, 1e-7))
    gain = g.op("Exp", g.op("Mul", level, g.constant(np.float32((layer.exponent - 1) / 2))))
    level = g.op("Mul", level, g.constant(np.float32(0.15)))
    y = g.op("Concat", level, g.op("Mul", real, gain), g.op("Mul", imag, gain), axis=axis)
    return Value(y, x.dim // 2 * 3, x.channels_last)


def expand(w: Writer, layer: ExpandSpectrum, x: Value) -> Value:
    """Bin by bin."""
    g, axis = w.graph, 3 if x.channels_last else 1
    real, imag = g.ops("Split", x.name, count=2, axis=axis, num_outputs=2)
    level = g.op("Log", _power(w, real, imag, 1e-8))
    gain = g.op("Exp", g.op("Mul", level, g.constant(np.float32(layer.power))))
    return Value(g.op("Concat", g.op("Mul", real, gain), g.op("Mul", imag, gain), axis=axis), x.dim, x.channels_last)


def _power(w: Writer, real: str, imag: str, least: float) -> str:
    power = w.graph.op("Add", w.graph.op("Mul", real, real), w.graph.op("Mul", imag, imag))
    return w.graph.op("Add", power, w.graph.constant(np.float32(least)))
