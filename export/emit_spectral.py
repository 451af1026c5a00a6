"""The spectral family's ends as ONNX nodes: transforms, magnitudes compressed and expanded, phases turned."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from codec.errors import ModelError
from codec.export.writer import Value, Writer
from codec.nn.noisephase import NoisePhase
from codec.nn.spectral import CompressedSpectrum, ExpandSpectrum
from codec.nn.stft import InverseStft, Stft
from codec.nn.vocos import LOUDEST, PolarSpectrum

LONGEST_VECTOR = 16  # floats in a register, on CPUs with AVX-512


def stft(w: Writer, layer: Stft, x: Value) -> Value:
    """Frames of the newest hops, folded about their middle, times cosines and sines: half the products of a whole DFT.

    Cosines are even about the middle sample and sines odd, and so is the window's effect: x[n] + x[N - n] is all that
    the real parts need, x[n] - x[N - n] all that the imaginary parts do. Sample 0 has window 0.
    """
    g, n_fft, hop = w.graph, layer.n_fft, layer.down
    n_hops, half = -(-n_fft // hop), n_fft // 2
    state = w.state(1, n_hops - 1, hop)
    fresh = g.reshape(w.first(x), 0, 1, -1, hop)
    hops = g.op("Concat", state, fresh, axis=2)  # (B, 1, hops, hop)
    w.set_state(state, g.slice(hops, 2, 1 - n_hops) if n_hops > 1 else state)
    parts = [*(g.slice(hops, 2, i, i + 1 - n_hops) for i in range(n_hops - 1)), fresh]
    frames = g.op("Concat", *parts, axis=3) if n_hops > 1 else fresh
    begin = n_hops * hop - n_fft  # frames of whole hops may begin before the window
    ahead = g.slice(frames, 3, begin + 1, begin + half + 1)
    back = g.op("Slice", frames, *(g.constant([n]) for n in (-1, begin + half - 1, 3, -1)))
    window = layer.window.double().numpy()[1 : half + 1, None].copy()
    window[-1] /= 2  # the middle sample is in both
    cosines, sines = (make_waves(w, n_fft, kind, range(1, half + 1)) for kind in ("Cos", "Sin"))
    real = g.op("MatMul", g.op("Add", ahead, back), g.op("Mul", cosines, _constant(w, window)))
    imag = g.op("MatMul", g.op("Sub", ahead, back), g.op("Mul", sines, _constant(w, -window)))
    return Value(g.op("Concat", real, imag, axis=3), n_fft + 2, channels_last=True, halves=(real, imag))


def bins_even_first(n_fft: int) -> list[int]:
    """Real parts of the even bins, then of the odd ones, then the imaginary parts: what `inverse_stft` takes best."""
    bins = [*range(0, n_fft // 2 + 1, 2), *range(1, n_fft // 2 + 1, 2)]
    return bins + [n_fft // 2 + 1 + k for k in bins]


def inverse_stft(w: Writer, layer: InverseStft, x: Value) -> Value:
    """Folded twice: each wave of half a window is even or odd about its middle too, as its bin is even or odd.

    With P, Q the even and odd bins' cosines less sines, up to a quarter of the window, and R, T cosines plus sines, the
    samples n, N/2 - n, N/2 + n and N - n are P + Q, R - T, P - Q and R + T: a quarter of the products of a whole DFT.
    Each bin but the first and last counts for its mirror image too. The state is the frames that still overlap, not
    their sum: a sample is summed in one order whatever the block.

    Raises:
        ModelError: windows of no whole number of hops.
    """
    if layer.n_fft % layer.up:
        raise ModelError(f"InverseStft: windows of {layer.n_fft} samples are not whole hops of {layer.up}")
    g, n_fft, half = w.graph, layer.n_fft, layer.n_fft // 2
    quarter = half // 2
    halves = x.halves or g.ops("Split", w.last(x), count=2, axis=3, num_outputs=2)
    if x.even_first:
        sizes = g.constant([quarter + 1, (half + 1) // 2])
        parts = [part for one in halves for part in g.ops("Split", one, sizes, count=2, axis=3)]
    else:
        ends = [g.constant([n]) for n in (2**62, 3, 2)]
        parts = [g.op("Slice", one, g.constant([first]), *ends) for one in halves for first in (0, 1)]
    gains = np.full(half + 1, 2 / n_fft)
    gains[[0, -1]] /= 2
    bins = (range(0, half + 1, 2), range(1, half + 1, 2))
    waves = [
        g.op("Mul", make_waves(w, n_fft, kind, ks, range(quarter + 1)), _constant(w, gains[list(ks), None]))
        for kind in ("Cos", "Sin")
        for ks in bins
    ]
    even_cos, odd_cos, even_sin, odd_sin = (g.op("MatMul", *pair) for pair in zip(parts, waves, strict=True))
    p, q = g.op("Sub", even_cos, even_sin), g.op("Sub", odd_cos, odd_sin)
    r, t = g.op("Add", even_cos, even_sin), g.op("Add", odd_cos, odd_sin)
    back = [g.constant([n]) for n in (half - 1 - quarter, 0, 3, -1)]
    up, down = (g.op("Slice", g.op(kind, r, t), *back) for kind in ("Sub", "Add"))
    frames = g.op("Concat", g.op("Add", p, q), up, g.op("Sub", p, q), down, axis=3)  # (B, 1, F, n_fft)
    frames = g.op("Mul", frames, _constant(w, layer.window.double().numpy()))
    return _overlap_add(w, frames, n_fft // layer.up, layer.up)


def _overlap_add(w: Writer, frames: str, overlaps: int, hop: int) -> Value:
    """Frames (B, 1, F, overlaps * hop) to audio (B, 1, 1, F * hop)."""
    g = w.graph
    state = w.state(1, overlaps - 1, overlaps * hop)
    seen = g.op("Concat", state, frames, axis=2)
    w.set_state(state, g.slice(seen, 2, 1 - overlaps))
    parts = []
    for i in range(overlaps):  # frame i of those that overlap a hop, and the part of it that does
        last = i + 1 - overlaps
        begin, end = (i, (overlaps - 1 - i) * hop), (last or 2**62, (overlaps - i) * hop)
        parts.append(g.op("Slice", seen, *(g.constant(numbers) for numbers in (begin, end, (2, 3)))))
    return Value(g.reshape(g.op("Sum", *parts), 0, 1, 1, -1), 1)


def make_waves(w: Writer, n_fft: int, kind: str, rows: range, columns: range | None = None) -> str:
    """Cos or Sin of each sample and bin, all bins if no columns: computed by the graph, the runtime folds it at load.

    Products of bin and sample are taken modulo n_fft in integers, so that the angles are exact before they are rounded.
    """
    g = w.graph
    n = g.reshape(_range(w, rows), -1, 1)
    k = g.reshape(_range(w, columns or range(n_fft // 2 + 1)), 1, -1)
    turns = g.op("Cast", g.op("Mod", g.op("Mul", k, n), g.constant(np.int64(n_fft))), to=1)
    return g.op(kind, g.op("Mul", turns, g.constant(np.float32(2 * np.pi / n_fft))))


def _range(w: Writer, numbers: range) -> str:
    return w.graph.op("Range", *(w.graph.constant(np.int64(x)) for x in (numbers.start, numbers.stop, numbers.step)))


def _constant(w: Writer, array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return w.graph.constant(array.astype(np.float32))


def compressed(w: Writer, layer: CompressedSpectrum, x: Value) -> Value:
    """Bin by bin; the power by its logarithm, which is needed anyway: exponential and logarithm are vectorised."""
    g = w.graph
    real, imag = x.halves or g.ops("Split", w.last(x), count=2, axis=3, num_outputs=2)
    level = _log_power(w, real, imag, 1e-7, x.dim // 2)
    gain = g.op("Exp", g.op("Mul", level, g.constant(np.float32((layer.exponent - 1) / 2))))
    level = g.op("Mul", level, g.constant(np.float32(0.15)))
    y = g.op("Concat", level, g.op("Mul", real, gain), g.op("Mul", imag, gain), axis=3)
    return Value(y, x.dim // 2 * 3, channels_last=True)


def expand(w: Writer, layer: ExpandSpectrum, x: Value) -> Value:
    """Bin by bin."""
    g = w.graph
    real, imag = g.ops("Split", w.last(x), count=2, axis=3, num_outputs=2)
    level = _log_power(w, real, imag, 1e-8, x.dim // 2)
    gain = g.op("Exp", g.op("Mul", level, g.constant(np.float32(layer.power))))
    halves = g.op("Mul", real, gain), g.op("Mul", imag, gain)
    y = g.op("Concat", *halves, axis=3)
    return Value(y, x.dim, channels_last=True, halves=halves, even_first=x.even_first)


def noise_phase(w: Writer, layer: NoisePhase, x: Value) -> Value:
    """Bin by bin; the place in the noise is a state."""
    g, rows = w.graph, w.last(x)
    place = w.state(kind=TensorProto.INT64)
    frames = g.op("Shape", rows, start=2, end=3)  # (1,)
    steps = g.op("Range", g.constant(np.int64(0)), g.op("Squeeze", frames, g.constant([0])), g.constant(np.int64(1)))
    period = g.constant(np.int64(layer.period))
    at = g.op("Mod", g.op("Add", g.op("Unsqueeze", place, g.constant([1])), steps), period)  # (B, F)
    w.set_state(place, g.op("Mod", g.op("Add", place, frames), period))
    bins = bins_even_first(layer.n_fft)[: layer.n_fft // 2 + 1] if x.even_first else slice(None)
    cos, sin = (
        g.op("Gather", g.constant(table.numpy()[:, bins]), g.op("Unsqueeze", at, g.constant([1])))
        for table in (layer.cos, layer.sin)
    )
    real, imag = x.halves or g.ops("Split", rows, count=2, axis=3, num_outputs=2)
    halves = (
        g.op("Sub", g.op("Mul", real, cos), g.op("Mul", imag, sin)),
        g.op("Add", g.op("Mul", real, sin), g.op("Mul", imag, cos)),
    )
    y = g.op("Concat", *halves, axis=3)
    return Value(y, x.dim, channels_last=True, halves=halves, even_first=x.even_first)


def polar(w: Writer, layer: PolarSpectrum, x: Value) -> Value:
    """Bin by bin."""
    g = w.graph
    level, phase = g.ops("Split", w.last(x), count=2, axis=3, num_outputs=2)
    magnitude = g.op("Min", g.op("Exp", level), g.constant(np.float32(LOUDEST)))
    waves = (_in_vectors(w, kind, phase, x.dim // 2, 0.0) for kind in ("Cos", "Sin"))
    return Value(g.op("Concat", *(g.op("Mul", magnitude, wave) for wave in waves), axis=3), x.dim, channels_last=True)


def _log_power(w: Writer, real: str, imag: str, least: float, bins: int) -> str:
    """Log of the power."""
    g = w.graph
    power = g.op("Sum", g.op("Mul", real, real), g.op("Mul", imag, imag), g.constant(np.float32(least)))
    return _in_vectors(w, "Log", power, bins, 1.0)


def _in_vectors(w: Writer, kind: str, x: str, bins: int, filling: float) -> str:
    """A function of each value of (B, 1, F, bins), padded meanwhile to whole vectors.

    Onnxruntime computes what is left of a block after its last whole vector by another logarithm, which differs in the
    last bit: without the padding a bin's value would depend on how many frames stand in the block.
    """
    g, spare = w.graph, -bins % LONGEST_VECTOR
    if not spare:
        return g.op(kind, x)
    padded = g.op("Pad", x, g.constant([0, 0, 0, 0, 0, 0, 0, spare]), g.constant(np.float32(filling)))
    return g.slice(g.op(kind, padded), 3, 0, bins)
