"""Mimi's networks: convolutions to 25 frames a second, a causal transformer, and a last stride to 12.5; and back.

The quantizer's projections are the last layer of the encoder and the first of the decoder: its two parts get a half of
the latent each (`codec.quantize.split`).

>>> config = MimiEncoderConfig(dim=8, n_filters=2, strides=(2, 2), n_blocks=1, n_heads=2, hidden_dim=8)
>>> encoder = mimi_encoder(config, 6, hop_length=8)
>>> encoder(torch.randn(1, 1, 80)).shape, encoder.lookahead
(torch.Size([1, 6, 10]), 0)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.attention import transformer_block
from codec.nn.layers import Chain, Layer, Linear, State
from codec.nn.seanet import SeanetDecoderConfig, SeanetEncoderConfig, seanet_decoder, seanet_encoder


@dataclass(frozen=True)
class MimiConfig:
    """What encoder and decoder have in common; the defaults are the published sizes.

    Raises:
        ConfigError: a size that cannot be.
    """

    dim: int = 512  # channels between convolutions, transformer and projections
    n_filters: int = 64  # channels at the sample rate; doubled by each stride
    strides: tuple[int, ...] = (4, 5, 6, 8)  # of the convolutions, in encoder order
    frame_stride: int = 2  # between transformer and bottleneck
    n_blocks: int = 8  # of the transformer
    n_heads: int = 8
    hidden_dim: int = 2048  # channels inside a block's MLP
    context: int = 250  # transformer frames that attention sees, the own one included
    ragged: bool = False  # each strided conv fills the end of what it gets, as the original; else zeros in the audio

    def __post_init__(self) -> None:
        """Check values."""
        for name in ("dim", "frame_stride", "hidden_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{type(self).__name__}.{name}: must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class MimiEncoderConfig(MimiConfig):
    """Options of the encoder `mimi`."""


@dataclass(frozen=True)
class MimiDecoderConfig(MimiConfig):
    """Options of the decoder `mimi`."""


class StillConv(Layer):
    """Strided causal convolution, (B, C, n * stride) -> (B, C, n), no bias; before the signal its first step stands.

    With `ragged`, behind the signal its last one.

    Source: Défossez et al. 2024 (Mimi), the published code's padding "replicate".
    """

    n_states = 2

    def __init__(self, dim: int, *, stride: int, ragged: bool = False) -> None:
        super().__init__()
        self.ragged = ragged
        self.conv = nn.Conv1d(dim, dim, 2 * stride, stride=stride, bias=False)
        self.dim = dim
        self.down = stride

    @property
    def receptive_field(self) -> int:
        """Inputs that the kernel spans."""
        return 2 * self.down

    def init_state(self, batch: int) -> State:
        """Nothing yet: (B, C, stride), and (B, 1, 1) that is 0 until the signal begins."""
        return self._zeros(batch, self.dim, self.down), self._zeros(batch, 1, 1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What stands before the block, then the block."""
        memory, begun = state
        if x.shape[-1] == 0:
            return x, state
        seen = torch.cat((torch.where(begun > 0, memory, x[..., :1]), x), -1)
        lack = -x.shape[-1] % self.down if self.ragged else 0
        y: Tensor = self.conv(F.pad(seen, (0, lack), mode="replicate"))
        return y, (seen[..., seen.shape[-1] - self.down :], torch.ones_like(begun))


class ChannelwiseUp(Layer):
    """Up-sampling with a kernel for each channel, (B, C, n) -> (B, C, n * stride), no bias.

    Source: Défossez et al. 2024 (Mimi), the published code's `upsample`.
    """

    def __init__(self, dim: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(dim, dim, 2 * stride, stride=stride, groups=dim, bias=False)
        self.dim = dim
        self.up = stride

    @property
    def receptive_field(self) -> int:
        """The own input and the one before it."""
        return 2

    def init_state(self, batch: int) -> State:
        """No tail yet: (B, C, stride)."""
        return (self._zeros(batch, self.dim, self.up),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Overlap-add of the kernels."""
        if x.shape[-1] == 0:
            return x, state
        y = F.conv_transpose1d(x, self.conv.weight, None, stride=self.up, groups=self.dim)
        y = torch.cat((y[..., : self.up] + state[0], y[..., self.up :]), -1)
        return y[..., : -self.up], (y[..., -self.up :],)


def mimi_encoder(config: MimiEncoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Audio (B, 1, F * hop) to latent (B, D, F), the projections to both parts of the bottleneck.

    Raises:
        ConfigError: strides that do not multiply to the hop, or heads that do not divide the channels.

    Source: Défossez et al. 2024 (Mimi), section 3.3.
    """
    seanet = SeanetEncoderConfig(
        n_filters=config.n_filters,
        strides=config.strides,
        last_kernel_size=3,
        true_skip=True,
        n_recurrent=0,
        ragged=config.ragged,
    )
    convs = seanet_encoder(seanet, config.dim, hop_length=_convs_hop("encoder", config, hop_length))
    down = StillConv(config.dim, stride=config.frame_stride, ragged=config.ragged)
    return Chain([convs, _transformer(config), down, Linear(config.dim, latent_dim, bias=False)])


def mimi_decoder(config: MimiDecoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Latent (B, D, F) to audio (B, 1, F * hop), not late.

    Raises:
        ConfigError: strides that do not multiply to the hop, or heads that do not divide the channels.

    Source: Défossez et al. 2024 (Mimi), section 3.3.
    """
    seanet = SeanetDecoderConfig(
        n_filters=config.n_filters, strides=config.strides, last_kernel_size=3, true_skip=True, n_recurrent=0
    )
    convs = seanet_decoder(seanet, config.dim, hop_length=_convs_hop("decoder", config, hop_length))
    up = ChannelwiseUp(config.dim, stride=config.frame_stride)
    return Chain([Linear(latent_dim, config.dim, bias=False), up, _transformer(config), convs])


def _convs_hop(room: str, config: MimiConfig, hop_length: int) -> int:
    hop, rest = divmod(hop_length, config.frame_stride)
    if rest:
        raise ConfigError(f"{room}.frame_stride: {config.frame_stride} does not divide hop_length {hop_length}")
    return hop


def _transformer(config: MimiConfig) -> Layer:
    blocks = [
        transformer_block(
            config.dim,
            n_heads=config.n_heads,
            context=config.context,
            hidden_dim=config.hidden_dim,
            eps=1e-5,
            bias=False,
        )
        for _ in range(config.n_blocks)
    ]
    return Chain(blocks)
