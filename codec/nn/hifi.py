"""The HiFi-GAN family, of HiFi-Codec and DistilCodec: strided convolutions, each with three residual blocks behind it.

The encoder of the published weights normalises over time: it sees the whole signal and cannot stream.

>>> config = HifiEncoderConfig(n_filters=16, rates=(4, 2), kernels=(8, 4))
>>> encoder = hifi_encoder(config, 6, hop_length=8)
>>> encoder(torch.randn(1, 1, 80)).shape, encoder.lookahead
(torch.Size([1, 6, 10]), None)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch  # noqa: F401, the example above
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.convnext import convnext_block
from codec.nn.convs import CausalConv, CausalConvTranspose
from codec.nn.layers import Chain, ChannelNorm, Layer, Residual, State, Stateless, check_hop
from codec.nn.snake import Tanh
from codec.nn.symmetric import SymmetricConv, SymmetricConvTranspose, WholeLayer

SLOPE, LAST_SLOPE = 0.1, 0.01  # of the leaky ReLUs; the last one of each network has the framework's default
GROUP_WIDTH = 16  # channels that the encoder's norm takes together


# causal -> the classes of its convolutions, down and up
CONVS: dict[bool, tuple[Callable[..., Layer], Callable[..., Layer]]] = {
    True: (CausalConv, CausalConvTranspose),
    False: (SymmetricConv, SymmetricConvTranspose),
}


class LeakyRelu(Stateless):
    """x, and `slope` of it below zero."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def apply_to(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.leaky_relu(x, self.slope)


class Silu(Stateless):
    """x * sigmoid(x)."""

    def apply_to(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.silu(x)


class GroupTimeNorm(WholeLayer):
    """Normalisation over groups of channels and over time: each output depends on the whole signal."""

    lookahead = None

    def __init__(self, dim: int, n_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(n_groups, dim, eps=1e-6)

    @property
    def receptive_field(self) -> None:
        """The whole signal."""
        return None

    def apply_to(self, x: Tensor) -> Tensor:
        """Normalise."""
        y: Tensor = self.norm(x)
        return y


class Fusion(Layer):
    """The mean of residual blocks of several kernels, (B, C, F) -> (B, C, F).

    With norms, what is summed so far is normalised after each block: s = norm(s + block(x)).

    Source: Kong et al. 2020 (HiFi-GAN), multi-receptive field fusion; the norms as in HiFi-Codec's encoder.
    """

    def __init__(self, blocks: list[Layer], norms: list[Layer]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norms = nn.ModuleList(norms)
        self.n_states = sum(block.n_states for block in blocks)
        ahead = [layer.lookahead for layer in (*blocks, *norms)]
        self.lookahead = None if None in ahead else max(one or 0 for one in ahead)

    def _items(self) -> list[Layer]:
        return [block for block in self.blocks if isinstance(block, Layer)]

    @property
    def receptive_field(self) -> int | None:
        """The widest of all blocks; all with norms."""
        fields = [layer.receptive_field for layer in (*self._items(), *self.norms) if isinstance(layer, Layer)]
        return None if None in fields else max(field or 0 for field in fields)

    def init_state(self, batch: int) -> State:
        """The blocks' states, in order."""
        return tuple(tensor for block in self._items() for tensor in block.init_state(batch))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Block after block, each of the same input."""
        total: Tensor | None = None
        after: list[Tensor] = []
        start = 0
        for i, block in enumerate(self._items()):
            y, own = block.step(x, state[start : start + block.n_states])
            after.extend(own)
            start += block.n_states
            total = y if total is None else total + y
            if self.norms:
                total = self.norms[i](total)
        assert total is not None
        return total / len(self.blocks), tuple(after)


@dataclass(frozen=True)
class HifiConfig:
    """What encoder and decoder have in common. Raises: ConfigError: sizes that cannot be."""

    rates: tuple[int, ...] = (8, 5, 4, 2)  # in decoder order, for the encoder too; their product is the hop
    kernels: tuple[int, ...] = (16, 11, 8, 4)  # of the resampling convs, in the same order
    block_kernels: tuple[int, ...] = (3, 7, 11)  # of the residual blocks after each of them
    dilations: tuple[int, ...] = (1, 3, 5)  # of the residual units of each block
    causal: bool = False  # true: nothing looks ahead
    kernel_size: int = 7  # of the conv at the audio's side, and of the decoder's first one
    activation: str = "leaky"  # leaky or silu

    def __post_init__(self) -> None:
        """Check values."""
        where = type(self).__name__
        if self.activation not in ("leaky", "silu") or self.kernel_size < 1:
            found = f"{self.activation!r}, {self.kernel_size}"
            raise ConfigError(f"{where}: activation is leaky or silu, kernel_size at least 1, found {found}")
        if not self.rates or min(self.rates) < 1 or len(self.rates) != len(self.kernels):
            found = f"{list(self.rates)}, {list(self.kernels)}"
            raise ConfigError(f"{where}.rates: expected numbers of at least 1, a kernel for each, found {found}")
        for rate, kernel in zip(self.rates, self.kernels, strict=True):
            if kernel < rate or (kernel - rate) % 2:
                raise ConfigError(f"{where}.kernels: {kernel} is not its rate {rate} and an even number more")
        if not self.block_kernels or any(kernel % 2 == 0 for kernel in self.block_kernels):
            raise ConfigError(f"{where}.block_kernels: expected odd numbers, found {list(self.block_kernels)}")


@dataclass(frozen=True)
class HifiEncoderConfig(HifiConfig):
    """Options of the encoder `hifi`; the defaults are HiFi-Codec's at a hop of 320."""

    n_filters: int = 32  # channels at the sample rate; doubled by each rate
    norm: str = "time"  # after each block: over time, as in the published weights; layer and none can stream

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.norm not in ("time", "layer", "none"):
            raise ConfigError(f"HifiEncoderConfig.norm: unknown {self.norm!r}; known are time, layer, none")
        if self.norm == "time" and (self.causal or 2 * self.n_filters % GROUP_WIDTH):
            raise ConfigError(
                f"HifiEncoderConfig.norm: time needs causal: false and twice n_filters a multiple of {GROUP_WIDTH}"
            )


@dataclass(frozen=True)
class HifiDecoderConfig(HifiConfig):
    """Options of the decoder `hifi`; the defaults are HiFi-Codec's at a hop of 320."""

    width: int = 512  # channels at the frame rate; halved by each rate
    bridge: bool = False  # before it a pointwise conv and a ConvNeXt block: DistilCodec's wrapper with a factor of 1

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.bridge and self.causal:
            raise ConfigError("HifiDecoderConfig.bridge: its block looks ahead, causal must be false")


def hifi_encoder(config: HifiEncoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Audio (B, 1, F * hop) to latent (B, D, F); the generator, mirrored.

    Raises:
        ConfigError: rates that do not multiply to the hop.

    Source: Yang et al. 2023 (HiFi-Codec), section 2.2, and its code: kernels in reversed order, leaky ReLU 0.01 last.
    """
    check_hop("encoder.rates", config.rates, hop_length)
    dim, (conv, _) = config.n_filters, CONVS[config.causal]
    layers: list[Layer] = [conv(1, dim, kernel_size=config.kernel_size)]
    for rate, kernel in zip(reversed(config.rates), reversed(config.kernels), strict=True):
        down = conv(dim, 2 * dim, kernel_size=kernel, stride=rate)
        dim *= 2
        kernels = tuple(reversed(config.block_kernels))
        layers.append(Chain([_activation(config), down, _fusion(config, dim, kernels, norm=config.norm)]))
    return Chain([*layers, _activation(config, LAST_SLOPE), conv(dim, latent_dim, kernel_size=3)])


def hifi_decoder(config: HifiDecoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Latent (B, D, F) to audio (B, 1, F * hop): the HiFi-GAN generator.

    Raises:
        ConfigError: rates that do not multiply to the hop, or a width that cannot be halved.

    Source: Kong et al. 2020 (HiFi-GAN), section 2.2; as `hifi_encoder`.
    """
    check_hop("decoder.rates", config.rates, hop_length)
    if config.width % (1 << len(config.rates)):
        raise ConfigError(f"decoder.width: {config.width} cannot be halved {len(config.rates)} times")
    dim, (conv, conv_transpose) = config.width, CONVS[config.causal]
    layers: list[Layer] = [conv(latent_dim, dim, kernel_size=config.kernel_size)]
    for rate, kernel in zip(config.rates, config.kernels, strict=True):
        up = conv_transpose(dim, dim // 2, kernel_size=kernel, stride=rate)
        dim //= 2
        layers.append(Chain([_activation(config), up, _fusion(config, dim, config.block_kernels, norm="none")]))
    body = Chain([*layers, _activation(config, LAST_SLOPE), conv(dim, 1, kernel_size=config.kernel_size), Tanh()])
    if not config.bridge:
        return body
    return Chain([conv_transpose(latent_dim, latent_dim, kernel_size=1, stride=1), convnext_block(latent_dim), body])


def _fusion(config: HifiConfig, dim: int, kernels: tuple[int, ...], *, norm: str) -> Fusion:
    norms: list[Layer] = []
    if norm != "none":
        norms = [GroupTimeNorm(dim, dim // GROUP_WIDTH) if norm == "time" else ChannelNorm(dim) for _ in kernels]
    units = [[_unit(config, dim, kernel, dilation) for dilation in config.dilations] for kernel in kernels]
    return Fusion([Chain(row) for row in units], norms)


def _unit(config: HifiConfig, dim: int, kernel: int, dilation: int) -> Layer:
    conv = CONVS[config.causal][0]
    convs = [conv(dim, dim, kernel_size=kernel, dilation=d) for d in (dilation, 1)]
    return Residual(Chain([_activation(config), convs[0], _activation(config), convs[1]]))


def _activation(config: HifiConfig, slope: float = SLOPE) -> Layer:
    return Silu() if config.activation == "silu" else LeakyRelu(slope)
