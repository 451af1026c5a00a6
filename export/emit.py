"""Layers and bottlenecks as ONNX nodes: the same computation as their `step`, `encode` and `decode`.

Values carry their layout: channels first (B, C, 1, F), as convolutions want them, or channels last (B, 1, F, C), as
norms and matrix products do; a transpose is written only where it changes. The axis of length 1 makes each convolution
a two-dimensional one, for which onnxruntime has its fast kernels: a depthwise one takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from codec.errors import ModelError
from codec.export.builder import Builder
from codec.nn import layers
from codec.nn.spectral import CompressedSpectrum, ExpandSpectrum
from codec.nn.stft import InverseStft, Stft
from codec.quantize.base import Bottleneck
from codec.quantize.grouped import Grouped
from codec.quantize.masked import Masked
from codec.quantize.residual import Residual
from codec.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class Value:
    """A named tensor and where its channels are."""

    name: str
    dim: int  # channels
    channels_last: bool = False


@dataclass
class Writer:
    """A graph, the names of the modules in the state dict, and the states met so far."""

    graph: Builder
    names: dict[nn.Module, str]
    states: list[tuple[str, tuple[int, ...]]] = field(
        default_factory=list
    )  # (next state's value, shape without the batch)

    def weight(self, module: nn.Module, name: str) -> str:
        """A parameter of a module, as float32."""
        return self.graph.weight(f"{self.names[module]}.{name}")

    def state(self, *shape: int) -> str:
        """The next state input, (B, *shape); say what it becomes with `set_state`."""
        return self.graph.input(f"state_{len(self.states)}", ["batch", *shape])

    def set_state(self, value: str, *shape: int) -> None:
        """What the state just read becomes."""
        self.states.append((value, shape))

    def first(self, x: Value) -> str:
        """As (B, C, 1, F)."""
        return self.graph.transpose(x.name, 0, 3, 1, 2) if x.channels_last else x.name

    def last(self, x: Value) -> str:
        """As (B, 1, F, C)."""
        return x.name if x.channels_last else self.graph.transpose(x.name, 0, 2, 3, 1)


def emit(w: Writer, layer: layers.Layer, x: Value) -> Value:
    """The nodes of one layer.

    Raises:
        ModelError: a layer that has no ONNX form here.
    """
    if type(layer) not in EMITTERS:
        raise ModelError(f"{type(layer).__name__}: this layer has no ONNX form yet; use the torch engine")
    return EMITTERS[type(layer)](w, layer, x)


def _chain(w: Writer, layer: layers.Chain, x: Value) -> Value:
    for item in layer.layers:
        assert isinstance(item, layers.Layer)
        x = emit(w, item, x)
    return x


def _residual(w: Writer, layer: layers.Residual, x: Value) -> Value:
    y, z = emit(w, layer.body, x), emit(w, layer.shortcut, x)
    z = (
        z
        if y.channels_last == z.channels_last
        else Value(w.last(z) if y.channels_last else w.first(z), y.channels_last)
    )
    return Value(w.graph.op("Add", y.name, z.name), y.channels_last)


def _linear(w: Writer, layer: layers.Linear, x: Value) -> Value:
    return Value(_matrix(w, layer.linear, w.last(x)), layer.linear.out_features, channels_last=True)


def _matrix(w: Writer, linear: nn.Linear, rows: str, scale: str | None = None) -> str:
    """Give rows @ weight.T + bias, both scaled per output where a scale is given; constants are folded at load."""
    weight, bias = w.graph.transpose(w.weight(linear, "weight"), 1, 0), w.weight(linear, "bias")
    if scale is not None:
        weight, bias = w.graph.op("Mul", weight, scale), w.graph.op("Mul", bias, scale)
    return w.graph.op("Add", w.graph.op("MatMul", rows, weight), bias)


def _norm(w: Writer, norm: nn.LayerNorm, rows: str) -> str:
    weights = (w.weight(norm, "weight"), w.weight(norm, "bias"))
    return w.graph.op("LayerNormalization", rows, *weights, axis=-1, epsilon=norm.eps)


def _channel_norm(w: Writer, layer: layers.ChannelNorm, x: Value) -> Value:
    if not isinstance(layer.norm, nn.LayerNorm):
        raise ModelError("ChannelNorm: RMS norm has no ONNX form yet; use the torch engine")
    return Value(_norm(w, layer.norm, w.last(x)), x.dim, channels_last=True)


def _elu(w: Writer, layer: layers.Elu, x: Value) -> Value:
    return Value(w.graph.op("Elu", x.name), x.dim, x.channels_last)


def _split(w: Writer, layer: layers.Split, x: Value) -> Value:
    dim = x.dim // layer.up
    return Value(w.graph.reshape(w.last(x), 0, 1, -1, dim), dim, channels_last=True)


def _causal_conv(w: Writer, layer: layers.CausalConv, x: Value) -> Value:
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


def _causal_conv_transpose(w: Writer, layer: layers.CausalConvTranspose, x: Value) -> Value:
    if layer.kernel_size < layer.up:
        raise ModelError("CausalConvTranspose: a kernel shorter than its stride has no ONNX form; use the torch engine")
    kernel = w.graph.op("Unsqueeze", w.weight(layer.conv, "weight"), w.graph.constant([2]))
    y = w.graph.op("ConvTranspose", w.first(x), kernel, strides=[1, layer.up])
    y = _overlap(w, y, layer.tail, layer.out_dim)
    bias = w.graph.reshape(w.weight(layer.conv, "bias"), 1, -1, 1, 1)
    return Value(w.graph.op("Add", y, bias), layer.out_dim)


def _overlap(w: Writer, y: str, tail: int, channels: int) -> str:
    """Add the tail that the last block left, keep the new one: (B, C, 1, n + tail) -> (B, C, 1, n)."""
    state = w.state(channels, 1, tail)
    if tail == 0:
        w.set_state(state, channels, 1, 0)
        return y
    head = w.graph.op("Add", w.graph.slice(y, 3, 0, tail), state)
    y = w.graph.op("Concat", head, w.graph.slice(y, 3, tail), axis=3)
    w.set_state(w.graph.slice(y, 3, -tail), channels, 1, tail)
    return w.graph.slice(y, 3, 0, -tail)


def _convnext(w: Writer, layer: layers.ConvNeXt, x: Value) -> Value:
    rows, memory = w.last(x), layer.kernel_size - 1
    seen = w.graph.op("Concat", w.state(1, memory, layer.dim), rows, axis=2)
    w.set_state(w.graph.slice(seen, 2, -memory), 1, memory, layer.dim)
    weights = w.weight(layer.depthwise, "weight"), w.weight(layer.depthwise, "bias")
    y = w.graph.op("Conv", w.graph.transpose(seen, 0, 3, 1, 2), *weights, group=layer.dim)
    y = _norm(w, layer.norm, w.graph.transpose(y, 0, 2, 3, 1))
    y = w.graph.op("Gelu", _matrix(w, layer.expand, y))
    y = _matrix(w, layer.project, y, w.weight(layer, "scale"))
    return Value(w.graph.op("Add", rows, y), layer.dim, channels_last=True)


def _stft(w: Writer, layer: Stft, x: Value) -> Value:
    """A strided convolution with windowed cosines and sines."""
    memory = layer.n_fft - layer.down
    seen = w.graph.op("Concat", w.state(1, 1, memory), w.first(x), axis=3)
    w.set_state(w.graph.slice(seen, 3, -memory), 1, 1, memory)
    kernel = w.graph.op("Mul", _waves(w, layer.n_fft), _window(w, layer.window.double().numpy()))
    kernel = w.graph.reshape(kernel, -1, 1, 1, layer.n_fft)
    return Value(w.graph.op("Conv", seen, kernel, strides=[1, layer.down]), layer.n_fft + 2)


def _inverse_stft(w: Writer, layer: InverseStft, x: Value) -> Value:
    """A transposed convolution with the same waves: each bin but the first and last counts for its mirror image too."""
    bins = layer.n_fft // 2 + 1
    both = np.full(bins, 2.0)
    both[[0, -1]] = 1.0
    gain = (np.concatenate((both, both)) / layer.n_fft).astype(np.float32)[:, None]
    kernel = w.graph.op("Mul", _waves(w, layer.n_fft), _window(w, layer.window.double().numpy()))
    kernel = w.graph.reshape(w.graph.op("Mul", kernel, w.graph.constant(gain)), -1, 1, 1, layer.n_fft)
    y = w.graph.op("ConvTranspose", w.first(x), kernel, strides=[1, layer.up])
    return Value(_overlap(w, y, layer.delay, 1), 1)


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


def _compressed(w: Writer, layer: CompressedSpectrum, x: Value) -> Value:
    g, axis = w.graph, 3 if x.channels_last else 1
    real, imag = g.ops("Split", x.name, count=2, axis=axis, num_outputs=2)
    power = g.op("Add", g.op("Mul", real, real), g.op("Mul", imag, imag))
    power = g.op("Add", power, g.constant(np.float32(1e-7)))
    gain = g.op("Pow", power, g.constant(np.float32((layer.exponent - 1) / 2)))
    level = g.op("Mul", g.op("Log", power), g.constant(np.float32(0.15)))
    parts = (level, g.op("Mul", real, gain), g.op("Mul", imag, gain))
    return Value(g.op("Concat", *parts, axis=axis), x.dim // 2 * 3, x.channels_last)


def _expand(w: Writer, layer: ExpandSpectrum, x: Value) -> Value:
    g, axis = w.graph, 3 if x.channels_last else 1
    real, imag = g.ops("Split", x.name, count=2, axis=axis, num_outputs=2)
    power = g.op("Add", g.op("Mul", real, real), g.op("Mul", imag, imag))
    power = g.op("Add", power, g.constant(np.float32(1e-8)))
    gain = g.op("Pow", power, g.constant(np.float32(layer.power)))
    return Value(g.op("Concat", g.op("Mul", real, gain), g.op("Mul", imag, gain), axis=axis), x.dim, x.channels_last)


EMITTERS: dict[type[layers.Layer], Callable[..., Value]] = {
    layers.CausalConv: _causal_conv,
    layers.CausalConvTranspose: _causal_conv_transpose,
    layers.Chain: _chain,
    layers.ChannelNorm: _channel_norm,
    layers.ConvNeXt: _convnext,
    layers.Elu: _elu,
    layers.Linear: _linear,
    layers.Residual: _residual,
    layers.Split: _split,
    CompressedSpectrum: _compressed,
    ExpandSpectrum: _expand,
    InverseStft: _inverse_stft,
    Stft: _stft,
}


def emit_encode(w: Writer, bottleneck: Bottleneck, latent: Value) -> str:
    """Latent to the codes of all codebooks, (B, Q, F) int64. Raises: ModelError."""
    rows, books = w.last(latent), bottleneck.codebooks
    if isinstance(bottleneck, Masked):
        codes = _encode_masked(w, bottleneck, rows)
    elif isinstance(bottleneck, Grouped):
        n = bottleneck.prefixes[0]
        pieces = w.graph.ops("Split", rows, count=n, axis=3, num_outputs=n) if n > 1 else [rows]
        chosen = [_encode_in_turn(w, books[group::n], piece) for group, piece in enumerate(pieces)]
        codes = [one for level in zip(*chosen, strict=True) for one in level]
    elif isinstance(bottleneck, VectorQuantizer | Residual):
        codes = _encode_in_turn(w, books, rows)
    else:
        raise ModelError(f"{type(bottleneck).__name__}: this bottleneck has no ONNX form yet; use the torch engine")
    return w.graph.op("Concat", *codes, axis=1)


def _encode_masked(w: Writer, bottleneck: Masked, rows: str) -> list[str]:
    """The masked codebooks side by side, the others on what those together left over."""
    g, n = w.graph, bottleneck.n_masked
    found = [
        _nearest(w, book, g.op("Mul", rows, g.constant(mask.numpy())))
        for book, mask in zip(bottleneck.codebooks[:n], bottleneck.get_buffer("masks"), strict=True)
    ]
    for book, index in zip(bottleneck.codebooks, found, strict=False):
        rows = g.op("Sub", rows, g.op("Gather", w.weight(book, "embed"), index))
    return found + _encode_in_turn(w, bottleneck.codebooks[n:], rows)


def _encode_in_turn(w: Writer, books: tuple[VectorQuantizer, ...], rows: str) -> list[str]:
    """Residual codes of (B, 1, F, D), each (B, 1, F)."""
    g = w.graph
    codes = []
    for i, book in enumerate(books):
        index = _nearest(w, book, rows)
        codes.append(index)
        if i < len(books) - 1:
            rows = g.op("Sub", rows, g.op("Gather", w.weight(book, "embed"), index))
    return codes


def _nearest(w: Writer, book: VectorQuantizer, rows: str) -> str:
    """(B, 1, F, D) -> (B, 1, F): argmin of |e|^2 / 2 - x e."""
    g, embed = w.graph, w.weight(book, "embed")
    half_norms = g.op("ReduceSum", g.op("Mul", embed, embed), g.constant([1]), keepdims=0)
    half_norms = g.op("Mul", half_norms, g.constant(np.float32(0.5)))
    product = g.op("MatMul", rows, g.transpose(embed, 1, 0))
    return g.op("ArgMin", g.op("Sub", half_norms, product), axis=3, keepdims=0)


def emit_decode(w: Writer, bottleneck: Bottleneck, codes: str) -> Value:
    """Codes (B, q, F) of any prefix that decodes to the latent: one gather from all tables, summed over levels."""
    g, books = w.graph, bottleneck.codebooks
    n_groups = bottleneck.prefixes[0] if isinstance(bottleneck, Grouped) else 1
    table = g.op("Concat", *(w.weight(book, "embed") for book in books), axis=0)
    sizes = [book.codebook_size for book in books]
    offsets = g.constant(np.cumsum([0, *sizes[:-1]])[:, None])  # (Q, 1)
    used = g.op("Slice", offsets, g.constant([0]), g.op("Shape", codes, start=1, end=2), g.constant([0]))
    entries = g.op("Gather", table, g.op("Add", codes, used))  # (B, q, F, d)
    # (B, levels, groups, F, d): levels are summed, groups side by side.
    shape = g.op("Concat", g.constant([0, -1, n_groups]), g.op("Shape", entries, start=2), axis=0)
    summed = g.op("ReduceSum", g.op("Reshape", entries, shape), g.constant([1]), keepdims=0)
    dim = books[0].dim * n_groups
    return Value(g.reshape(g.transpose(summed, 0, 2, 1, 3), 0, 1, -1, dim), dim, channels_last=True)
