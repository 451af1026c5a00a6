"""The conv family, as in SoundStream and EnCodec: strided convolutions from samples to frames, transposed ones back.

Everything is late by nothing, and causal unless `causal: false` puts each convolution in the middle of what it sees
(HiFi-Codec, Language-Codec); around the signal stand zeros, or with `padding: mirror` its mirror image (EnCodec).
Weight norm is not used: at inference it is folded into the weights anyway.

>>> config = SeanetEncoderConfig(n_filters=4, strides=(2, 4), n_recurrent=1)
>>> encoder = seanet_encoder(config, 6, hop_length=8)
>>> encoder(torch.randn(1, 1, 80)).shape, encoder.delay
(torch.Size([1, 6, 10]), 0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch  # noqa: F401, the example above

from codec.errors import ConfigError
from codec.nn.attention import transformer_block
from codec.nn.convs import CausalConv, CausalConvTranspose
from codec.nn.layers import Chain, ChannelNorm, Elu, Layer, Residual, check_hop
from codec.nn.mirror import mirror_conv
from codec.nn.recurrent import BiLstm, Gru, Lstm
from codec.nn.symmetric import SymmetricConv, SymmetricConvTranspose, SymmetricMirrorConv, TimeNorm

RECURRENT: dict[str, Callable[..., Layer]] = {"bilstm": BiLstm, "gru": Gru, "lstm": Lstm}
NORMS = ("none", "layer", "rms", "time", "conv")
# causal, padding -> its convolutions, down and up
CONVS: dict[tuple[bool, str], tuple[Callable[..., Layer], Callable[..., Layer]]] = {
    (True, "zeros"): (CausalConv, CausalConvTranspose),
    (True, "mirror"): (mirror_conv, CausalConvTranspose),
    (False, "zeros"): (SymmetricConv, SymmetricConvTranspose),
    (False, "mirror"): (SymmetricMirrorConv, SymmetricConvTranspose),
}


@dataclass(frozen=True)
class SeanetConfig:
    """What encoder and decoder have in common.

    The defaults are EnCodec's at 24 kHz. SoundStream has `n_residual=3, dilation_base=3, residual_kernel_size=7,
    compress=1, true_skip=True, n_recurrent=0`.

    Raises:
        ConfigError: a size that cannot be, or an unknown choice.
    """

    n_filters: int = 32  # channels at the sample rate; doubled by each stride
    strides: tuple[int, ...] = (2, 4, 5, 8)  # in encoder order, for the decoder too; their product is the hop
    n_residual: int = 1  # residual units of each stage
    dilation_base: int = 2  # unit j of a stage has dilation dilation_base ** j
    kernel_size: int = 7  # of the first conv
    last_kernel_size: int = 7  # of the last conv
    residual_kernel_size: int = 3
    compress: int = 2  # a residual unit has 1 / compress of the channels inside
    true_skip: bool = False  # a residual unit adds its input itself; else a pointwise conv of it
    recurrent: str = "lstm"  # lstm, gru, or in an encoder that is not causal bilstm, which doubles the channels
    n_recurrent: int = 2  # recurrent layers at the frame rate, the input added
    n_attention: int = 0  # transformer blocks at the frame rate
    n_heads: int = 8  # of the attention
    context: int = 250  # frames that the attention sees, the own one included
    # After the first conv and each resampling one: layer and rms over channels, time (not causal) over time as well;
    # conv, the same in every convolution (EnCodec at 48 kHz).
    norm: str = "none"
    causal: bool = True  # false: convolutions look ahead as far as back
    padding: str = "zeros"  # around the signal: zeros, or its mirror image as in EnCodec's published weights
    # Of an encoder: a last frame that is not whole is filled by each strided conv, as in EnCodec; else zeros fill it.
    ragged: bool = False

    def __post_init__(self) -> None:
        """Check values."""
        where = type(self).__name__
        counts = ("n_residual", "n_recurrent", "n_attention")
        sizes = ("n_filters", "dilation_base", "kernel_size", "last_kernel_size", "residual_kernel_size", "compress")
        for name in counts + sizes:
            least = 0 if name in counts else 1
            if getattr(self, name) < least:
                raise ConfigError(f"{where}.{name}: must be at least {least}, found {getattr(self, name)}")
        if not self.strides or min(self.strides) < 1:
            raise ConfigError(f"{where}.strides: expected numbers of at least 1, found {list(self.strides)}")
        if self.n_filters % self.compress:
            raise ConfigError(f"{where}.compress: {self.compress} does not divide n_filters {self.n_filters}")
        both_ways = self.recurrent == "bilstm"
        if both_ways and (self.causal or self.n_attention or not isinstance(self, SeanetEncoderConfig)):
            raise ConfigError(f"{where}.recurrent: bilstm needs an encoder with causal: false and n_attention: 0")
        if self.causal and self.norm in ("time", "conv"):
            raise ConfigError(f"{where}.norm: {self.norm} needs causal: false, it makes the past depend on the future")
        paddings = tuple(padding for causal, padding in CONVS if causal == self.causal)
        for name, known in (("recurrent", tuple(RECURRENT)), ("norm", NORMS), ("padding", paddings)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{where}.{name}: unknown {getattr(self, name)!r}; known are {', '.join(known)}")

    @property
    def width(self) -> int:
        """Channels at the frame rate."""
        return self.n_filters << len(self.strides)


@dataclass(frozen=True)
class SeanetEncoderConfig(SeanetConfig):
    """Options of the encoder `conv`."""


@dataclass(frozen=True)
class SeanetDecoderConfig(SeanetConfig):
    """Options of the decoder `conv`."""


def seanet_encoder(config: SeanetEncoderConfig, latent_dim: int, *, hop_length: int, channels: int = 1) -> Layer:
    """Audio (B, channels, F * hop) to latent (B, D, F).

    Raises:
        ConfigError: strides that do not multiply to the hop, or heads that do not divide the channels.

    Source: Zeghidour et al. 2021 (SoundStream), section III-A; Défossez et al. 2022 (EnCodec), section 3.1.
    """
    check_hop("encoder.strides", config.strides, hop_length)
    dim, (conv, _) = config.n_filters, _convs(config)
    layers: list[Layer] = [conv(channels, dim, kernel_size=config.kernel_size), *_norm(config, dim)]
    for stride in config.strides:
        down = conv(dim, 2 * dim, kernel_size=2 * stride, stride=stride, ragged=config.ragged)
        layers += [*_residual_units(config, dim), Elu(), down, *_norm(config, 2 * dim)]
        dim *= 2
    if config.n_recurrent and config.recurrent == "bilstm":
        dim *= 2
    last = conv(dim, latent_dim, kernel_size=config.last_kernel_size)
    return Chain([*layers, *_context_layers(config), Elu(), last])


def seanet_decoder(config: SeanetDecoderConfig, latent_dim: int, *, hop_length: int, channels: int = 1) -> Layer:
    """Latent (B, D, F) to audio (B, channels, F * hop), not late.

    Raises:
        ConfigError: strides that do not multiply to the hop, or heads that do not divide the channels.

    Source: Zeghidour et al. 2021 (SoundStream), section III-B; Défossez et al. 2022 (EnCodec), section 3.1.
    """
    check_hop("decoder.strides", config.strides, hop_length)
    dim, (conv, conv_transpose) = config.width, _convs(config)
    first = conv(latent_dim, dim, kernel_size=config.kernel_size)
    layers: list[Layer] = [first, *_norm(config, dim), *_context_layers(config)]
    for stride in reversed(config.strides):
        up = conv_transpose(dim, dim // 2, kernel_size=2 * stride, stride=stride)
        dim //= 2
        layers += [Elu(), up, *_norm(config, dim), *_residual_units(config, dim)]
    return Chain([*layers, Elu(), conv(dim, channels, kernel_size=config.last_kernel_size)])


def residual_unit(
    dim: int,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    compress: int = 2,
    true_skip: bool = False,
    conv: Callable[..., Layer] = CausalConv,
) -> Residual:
    """SEANet's residual unit, (B, dim, F) -> (B, dim, F): ELU, dilated conv, ELU, pointwise conv, beside a shortcut.

    Args:
        dim: channels.
        kernel_size: of the dilated conv.
        dilation: of the dilated conv.
        compress: inside, the channels are `dim // compress`.
        true_skip: the shortcut is the input (SoundStream, Mimi), not a pointwise conv (EnCodec).
        conv: the class of its convolutions.

    Source: Tagliasacchi et al. 2020 (SEANet); EnCodec, section 3.1.
    """
    hidden = dim // compress
    body = Chain(
        [
            Elu(),
            conv(dim, hidden, kernel_size=kernel_size, dilation=dilation),
            Elu(),
            conv(hidden, dim, kernel_size=1),
        ]
    )
    return Residual(body, None if true_skip else conv(dim, dim, kernel_size=1))


def _convs(config: SeanetConfig) -> tuple[Callable[..., Layer], Callable[..., Layer]]:
    """Its convolutions, down and up."""
    down, up = CONVS[config.causal, config.padding]
    return (partial(_normed, down), partial(up, normed=True)) if config.norm == "conv" else (down, up)


def _normed(conv: Callable[..., Layer], in_dim: int, out_dim: int, **sizes: Any) -> Layer:
    return Chain([conv(in_dim, out_dim, **sizes), TimeNorm(out_dim)])


def _norm(config: SeanetConfig, dim: int) -> list[Layer]:
    if config.norm in ("none", "conv"):
        return []
    return [TimeNorm(dim) if config.norm == "time" else ChannelNorm(dim, kind=config.norm)]


def _residual_units(config: SeanetConfig, dim: int) -> list[Layer]:
    return [
        residual_unit(
            dim,
            kernel_size=config.residual_kernel_size,
            dilation=config.dilation_base**i,
            compress=config.compress,
            true_skip=config.true_skip,
            conv=_convs(config)[0],
        )
        for i in range(config.n_residual)
    ]


def _context_layers(config: SeanetConfig) -> list[Layer]:
    """The layers at the frame rate that see far back."""
    layers: list[Layer] = []
    if config.n_recurrent:
        layers.append(RECURRENT[config.recurrent](config.width, n_layers=config.n_recurrent, skip=True))
    kind = "rms" if config.norm == "rms" else "layer"
    for _ in range(config.n_attention):
        layers.append(transformer_block(config.width, n_heads=config.n_heads, context=config.context, norm=kind))
    return layers
