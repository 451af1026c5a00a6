"""Layers as ONNX nodes, the same computation as their `step`: the forms by layer, and those of layers of layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import nn

from codec.errors import ModelError
from codec.export import (
    emit_context,
    emit_conv,
    emit_esc,
    emit_snake,
    emit_speaker,
    emit_spectral,
    emit_whole,
    emit_window,
)
from codec.export.writer import Value, Writer
from codec.nn import convs, layers
from codec.nn.aliasfree import AliasFreeSnake
from codec.nn.attention import Attention, Gelu, Scale, WindowAttention
from codec.nn.convnext import DropPath, LogMel
from codec.nn.esc import EscDecoder, EscEncoder
from codec.nn.hifi import Fusion, GroupTimeNorm, LeakyRelu, Silu
from codec.nn.mimi import ChannelwiseUp, StillConv
from codec.nn.mirror import MirrorConv
from codec.nn.noisephase import NoisePhase
from codec.nn.recurrent import BiLstm, Gru, Lstm
from codec.nn.snake import Noise, Snake, Tanh
from codec.nn.speaker import AddSpeaker, ApplySpeaker
from codec.nn.spectral import CompressedSpectrum, ExpandSpectrum
from codec.nn.stft import InverseStft, Stft
from codec.nn.symmetric import SymmetricConv, SymmetricConvTranspose, SymmetricMirrorConv, TimeNorm
from codec.nn.vocos import CentredInverseStft, PolarSpectrum

HEADS = ((ExpandSpectrum, InverseStft), (ExpandSpectrum, NoisePhase, InverseStft))  # after what makes a spectrum


def emit(w: Writer, layer: layers.Layer, x: Value) -> Value:
    """The nodes of one layer.

    Raises:
        ModelError: a layer that has no ONNX form here.
    """
    if type(layer) not in EMITTERS:
        raise ModelError(f"{type(layer).__name__}: this layer has no ONNX form yet; use the torch engine")
    return EMITTERS[type(layer)](w, layer, x)


def _chain(w: Writer, layer: layers.Chain, x: Value) -> Value:
    for shape, run in itertools.groupby(layer.layers, _block_shape):
        items = list(run)
        if shape is not None:
            x = emit_conv.convnext_blocks(w, [item for item in items if isinstance(item, convs.ConvNeXt)], x)
            continue
        for i, item in enumerate(items):
            assert isinstance(item, layers.Layer)
            if isinstance(item, layers.Linear) and tuple(map(type, items[i + 1 :])) in HEADS:
                x = _head(w, item, x)
            else:
                x = emit(w, item, x)
    return x


def _head(w: Writer, layer: layers.Linear, x: Value) -> Value:
    """What gives a spectrum, its bins in the order that the inverse transform takes best."""
    n_out = layer.linear.out_features
    y = w.matrix(layer.linear, w.last(x), order=emit_spectral.bins_even_first(n_out - 2))
    return Value(y, n_out, channels_last=True, even_first=True)


def _block_shape(layer: nn.Module) -> tuple[int, int] | None:
    """What blocks must have in common to share a state."""
    return (layer.dim, layer.kernel_size) if isinstance(layer, convs.ConvNeXt) else None


def _convnext(w: Writer, layer: convs.ConvNeXt, x: Value) -> Value:
    return emit_conv.convnext_blocks(w, [layer], x)


def _residual(w: Writer, layer: layers.Residual, x: Value) -> Value:
    y, z = emit(w, layer.body, x), emit(w, layer.shortcut, x)
    other = w.last(z) if y.channels_last else w.first(z)
    return Value(w.graph.op("Add", y.name, other), y.dim, y.channels_last)


def _linear(w: Writer, layer: layers.Linear, x: Value) -> Value:
    return Value(w.matrix(layer.linear, w.last(x)), layer.linear.out_features, channels_last=True)


def _channel_norm(w: Writer, layer: layers.ChannelNorm, x: Value) -> Value:
    norm, rows = layer.norm, w.last(x)
    y = w.rms_norm(norm, rows) if isinstance(norm, nn.RMSNorm) else w.layer_norm(norm, rows)
    return Value(y, x.dim, channels_last=True)


def _elu(w: Writer, layer: layers.Elu, x: Value) -> Value:
    return Value(w.graph.op("Elu", x.name), x.dim, x.channels_last)


def _gelu(w: Writer, layer: Gelu, x: Value) -> Value:
    return Value(w.gelu(x.name), x.dim, x.channels_last)


def _scale(w: Writer, layer: Scale, x: Value) -> Value:
    return Value(w.graph.op("Mul", w.last(x), w.weight(layer, "scale")), x.dim, channels_last=True)


def _split(w: Writer, layer: layers.Split, x: Value) -> Value:
    dim = x.dim // layer.up
    return Value(w.graph.reshape(w.last(x), 0, 1, -1, dim), dim, channels_last=True)


EMITTERS: dict[type[layers.Layer], Callable[..., Value]] = {
    AddSpeaker: emit_speaker.add_speaker,
    AliasFreeSnake: emit_whole.alias_free,
    ApplySpeaker: emit_speaker.apply_speaker,
    Attention: emit_context.attention,
    BiLstm: emit_whole.bilstm,
    convs.CausalConv: emit_conv.causal_conv,
    convs.CausalConvTranspose: emit_conv.causal_conv_transpose,
    CentredInverseStft: emit_whole.centred_inverse,
    layers.Chain: _chain,
    layers.ChannelNorm: _channel_norm,
    ChannelwiseUp: emit_conv.channelwise_up,
    CompressedSpectrum: emit_spectral.compressed,
    convs.ConvNeXt: _convnext,
    DropPath: emit_whole.drop_path,
    layers.Elu: _elu,
    EscDecoder: emit_esc.esc_decoder,
    EscEncoder: emit_esc.esc_encoder,
    ExpandSpectrum: emit_spectral.expand,
    Fusion: emit_snake.fusion(emit),
    Gelu: _gelu,
    GroupTimeNorm: emit_snake.group_norm,
    Gru: emit_context.gru,
    InverseStft: emit_spectral.inverse_stft,
    LeakyRelu: emit_snake.leaky_relu,
    layers.Linear: _linear,
    LogMel: emit_whole.log_mel,
    Lstm: emit_context.lstm,
    MirrorConv: emit_conv.mirror_conv,
    Noise: emit_snake.noise,
    NoisePhase: emit_spectral.noise_phase,
    PolarSpectrum: emit_spectral.polar,
    layers.Residual: _residual,
    Scale: _scale,
    Silu: emit_whole.silu,
    Snake: emit_snake.snake,
    layers.Split: _split,
    Stft: emit_spectral.stft,
    StillConv: emit_conv.still_conv,
    SymmetricConv: emit_conv.symmetric_conv,
    SymmetricConvTranspose: emit_conv.symmetric_conv_transpose,
    SymmetricMirrorConv: emit_whole.mirror_conv,
    Tanh: emit_snake.tanh,
    TimeNorm: emit_snake.group_norm,
    WindowAttention: emit_window.window_attention,
}
