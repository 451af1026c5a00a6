"""The snake family, of DAC and SNAC: strided convolutions with a periodic activation, not causal.

>>> config = SnakeEncoderConfig(n_filters=4, strides=(2, 5))
>>> encoder = snake_encoder(config, 6, hop_length=10)
>>> encoder(torch.randn(1, 1, 70)).shape, encoder.delay
(torch.Size([1, 6, 7]), 0)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.aliasfree import AliasFreeSnake
from codec.nn.attention import WindowAttention
from codec.nn.layers import Chain, ChannelNorm, Layer, Residual, Stateless, check_hop
from codec.nn.symmetric import SymmetricConv, SymmetricConvTranspose

DILATIONS = (1, 3, 9)  # of a stage's residual units


class Snake(Stateless):
    """x + sin(a x)^2 / a, a learned for each channel.

    Source: Ziyin et al. 2020; with the 1e-9 of DAC's code.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim))

    def apply_to(self, x: Tensor) -> Tensor:
        """Element by element."""
        alpha = self.alpha[:, None]
        return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).square()


class Tanh(Stateless):
    """Keeps audio within full scale."""

    def apply_to(self, x: Tensor) -> Tensor:
        """Element by element."""
        return torch.tanh(x)


class Noise(Stateless):
    """Adds noise of a learned colour while training, one draw per sample for all channels; nothing afterwards.

    SNAC's own code draws it at inference too, so that decoding twice gives two results.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, bias=False)

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C, T), noise (B, 1, T) times a mixture of the channels."""
        if not self.training:
            return x
        noise = torch.randn(x.shape[0], 1, x.shape[2], device=x.device, dtype=x.dtype)
        mixed: Tensor = self.linear(x.transpose(1, 2))
        return x + noise * mixed.transpose(1, 2)


@dataclass(frozen=True)
class SnakeConfig:
    """What encoder and decoder have in common.

    Raises:
        ConfigError: a size that cannot be.
    """

    strides: tuple[int, ...] = (2, 4, 5, 8)  # in encoder order, for the decoder too; their product is the hop
    depthwise: bool = False  # residual units see each channel alone (SNAC)
    alias_free: bool = False  # activations at twice the rate, between low passes (FACodec)
    window: int = 0  # frames of attention's windows at the frame rate, or 0 for none (SNAC at 32 and 44 kHz: 32)
    head_dim: int = 64  # channels of each of its heads

    def __post_init__(self) -> None:
        """Check values."""
        if not self.strides or min(self.strides) < 1:
            where = f"{type(self).__name__}.strides"
            raise ConfigError(f"{where}: expected numbers of at least 1, found {list(self.strides)}")
        if self.window and not self.depthwise:
            raise ConfigError(f"{type(self).__name__}.window: attention needs depthwise: true")


@dataclass(frozen=True)
class SnakeEncoderConfig(SnakeConfig):
    """Options of the encoder `snake`; the defaults are DAC's."""

    n_filters: int = 64  # channels at the sample rate; doubled by each stride


@dataclass(frozen=True)
class SnakeDecoderConfig(SnakeConfig):
    """Options of the decoder `snake`; the defaults are DAC's."""

    width: int = 1536  # channels at the frame rate; halved by each stride
    noise: bool = False  # noise blocks (SNAC); they add noise while training only

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.width < 1 or self.width % (1 << len(self.strides)):
            raise ConfigError(f"SnakeDecoderConfig.width: {self.width} cannot be halved {len(self.strides)} times")


def snake_encoder(config: SnakeEncoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Audio (B, 1, F * hop) to latent (B, D, F).

    Raises:
        ConfigError: strides that do not multiply to the hop, or a latent_dim that a depthwise last conv cannot give.

    Source: Kumar et al. 2023 (DAC), section 3; Siuzdak et al. 2024 (SNAC), section 3.
    """
    check_hop("encoder.strides", config.strides, hop_length)
    dim = config.n_filters
    layers: list[Layer] = [SymmetricConv(1, dim, kernel_size=7)]
    for stride in config.strides:
        down = SymmetricConv(dim, 2 * dim, kernel_size=2 * stride, stride=stride)
        layers.append(Chain([*_units(config, dim), _activation(config, dim), down]))
        dim *= 2
    if not config.depthwise:
        return Chain([*layers, _activation(config, dim), SymmetricConv(dim, latent_dim, kernel_size=3)])
    if latent_dim != dim:
        raise ConfigError(f"encoder.n_filters: a depthwise encoder gives {dim} channels, latent_dim is {latent_dim}")
    return Chain([*layers, *_attention(config, dim), SymmetricConv(dim, dim, kernel_size=7, groups=dim)])


def snake_decoder(config: SnakeDecoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Latent (B, D, F) to audio (B, 1, F * hop).

    An odd stride gives whole frames; DAC's own code loses a sample there (its issue 37).

    Raises:
        ConfigError: strides that do not multiply to the hop.

    Source: as `snake_encoder`.
    """
    check_hop("decoder.strides", config.strides, hop_length)
    dim = config.width
    layers: list[Layer] = [SymmetricConv(latent_dim, dim, kernel_size=7)]
    if config.depthwise:
        spread = SymmetricConv(latent_dim, latent_dim, kernel_size=7, groups=latent_dim)
        layers = [spread, SymmetricConv(latent_dim, dim, kernel_size=1), *_attention(config, dim)]
    for stride in reversed(config.strides):
        up = SymmetricConvTranspose(dim, dim // 2, kernel_size=2 * stride, stride=stride)
        noise = [Noise(dim // 2)] if config.noise else []
        layers.append(Chain([_activation(config, dim), up, *noise, *_units(config, dim // 2)]))
        dim //= 2
    return Chain([*layers, _activation(config, dim), SymmetricConv(dim, 1, kernel_size=7), Tanh()])


def _activation(config: SnakeConfig, dim: int) -> Layer:
    return AliasFreeSnake(dim) if config.alias_free else Snake(dim)


def _attention(config: SnakeConfig, dim: int) -> list[Layer]:
    if not config.window:
        return []
    attend = WindowAttention(dim, window=config.window, head_dim=config.head_dim)
    return [Residual(Chain([ChannelNorm(dim, eps=1e-5), attend]))]


def _units(config: SnakeConfig, dim: int) -> list[Layer]:
    groups = dim if config.depthwise else 1
    return [
        Residual(
            Chain(
                [
                    _activation(config, dim),
                    SymmetricConv(dim, dim, kernel_size=7, dilation=dilation, groups=groups),
                    _activation(config, dim),
                    SymmetricConv(dim, dim, kernel_size=1),
                ]
            )
        )
        for dilation in DILATIONS
    ]
