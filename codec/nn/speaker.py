"""FACodec's networks: convolutions as in DAC without aliasing, and a speaker vector beside the latent.

The encoder's latent has the features in its first half of channels and the speaker vector in its second half, equal
in all frames. No code carries the vector: after a whole signal it is the encoder's last state, (B, D / 2), and a
decoder whose first state it is gives that voice: the layers' `condition`, which a `.codes` file has in its header.

>>> config = SpeakerEncoderConfig(n_filters=2, strides=(2, 5), n_layers=1, n_heads=2, hidden_dim=8)
>>> encoder = speaker_encoder(config, 16, hop_length=10)
>>> latent, state = encoder.step(torch.randn(1, 1, 70), encoder.init_state(1))
>>> latent.shape, torch.equal(latent[..., 8:, 3], state[-1])
(torch.Size([1, 16, 7]), True)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.layers import Chain, Layer, State
from codec.nn.snake import SnakeDecoderConfig, SnakeEncoderConfig, snake_decoder, snake_encoder

DROPOUT = 0.1  # while training


@dataclass(frozen=True)
class SpeakerEncoderConfig(SnakeEncoderConfig):
    """Options of the encoder `speaker`; the defaults are FACodec's."""

    strides: tuple[int, ...] = (2, 4, 5, 5)
    alias_free: bool = True
    n_filters: int = 32
    n_layers: int = 4  # of the transformer that makes the speaker vector
    n_heads: int = 4
    hidden_dim: int = 1024  # channels inside its blocks
    positions: str = "frame"  # each frame its own; none: all that of the first, as the published weights expect

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        if self.positions not in ("frame", "none"):
            raise ConfigError(f"SpeakerEncoderConfig.positions: expected frame or none, found {self.positions!r}")
        if min(self.n_layers, self.n_heads, self.hidden_dim) < 1:
            raise ConfigError("SpeakerEncoderConfig: n_layers, n_heads, hidden_dim must be at least 1")


@dataclass(frozen=True)
class SpeakerDecoderConfig(SnakeDecoderConfig):
    """Options of the decoder `speaker`; the defaults are FACodec's."""

    strides: tuple[int, ...] = (2, 4, 5, 5)
    alias_free: bool = True
    width: int = 1024


class Block(nn.Module):
    """A pre-norm transformer block over all frames, its inner layer a convolution over 5 of them: (B, F, D)."""

    def __init__(self, dim: int, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, config.n_heads, batch_first=True)
        self.expand = nn.Conv1d(dim, config.hidden_dim, 5, padding=2)
        self.project = nn.Linear(config.hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the inner layer, each added."""
        y = self.norm1(x)
        x = x + F.dropout(self.attention(y, y, y, need_weights=False)[0], DROPOUT, self.training)
        y = F.relu(self.expand(self.norm2(x).transpose(1, 2))).transpose(1, 2)
        z: Tensor = self.project(F.dropout(y, DROPOUT, self.training))
        return x + z


class AddSpeaker(Layer):
    """Features (B, D, F), the whole signal's, to the same and the speaker vector beside them, (B, 2 * D, F)."""

    n_states = 1
    lookahead = None

    def __init__(self, dim: int, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        if dim % (2 * config.n_heads):
            raise ConfigError(f"encoder.n_heads: {config.n_heads} do not divide {dim} channels into even parts")
        self.dim = self.condition = dim
        self.positions = config.positions
        self.blocks = nn.ModuleList(Block(dim, config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(dim)

    @property
    def receptive_field(self) -> None:
        """The whole signal."""
        return None

    def init_state(self, batch: int) -> State:
        """No vector yet: (B, D)."""
        return (self._zeros(batch, self.dim),)

    def vector(self, features: Tensor) -> Tensor:
        """The mean over time of what the transformer makes of features (B, D, F): (B, D)."""
        x = features.transpose(1, 2)
        places = torch.arange(x.shape[1], device=x.device) * (self.positions == "frame")
        x = F.dropout(x + sinusoids(places, self.dim).to(x.dtype), DROPOUT, self.training)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)
        return y.mean(1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The block is the whole signal; the vector becomes the state."""
        vector = self.vector(x)
        return torch.cat((x, vector[..., None].expand(-1, -1, x.shape[-1])), 1), (vector,)


class ApplySpeaker(Layer):
    """Features and speaker vector (B, 2 * D, F) to features of that voice (B, D, F).

    The vector is the sum of the state's and of that beside the features: training gives the one, decoding the other.
    """

    n_states = 1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.condition = dim
        self.style = nn.Linear(dim, 2 * dim)
        nn.init.normal_(self.style.weight, std=0.02)
        with torch.no_grad():
            self.style.bias.copy_(torch.cat((torch.ones(dim), torch.zeros(dim))))

    @property
    def receptive_field(self) -> int:
        """One frame."""
        return 1

    def init_state(self, batch: int) -> State:
        """Zeros (B, D): training gives the vector beside the features, decoding puts it here."""
        return (self._zeros(batch, self.dim),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Normalise each frame, then scale and shift by the vector."""
        features, beside = x.transpose(1, 2).chunk(2, -1)
        gain, shift = self.style(beside + state[0][:, None]).chunk(2, -1)
        y = F.layer_norm(features, (self.dim,)) * gain + shift
        return y.transpose(1, 2), state


def speaker_encoder(config: SpeakerEncoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Audio (B, 1, F * hop) to latent (B, D, F), features then speaker vector.

    Raises:
        ConfigError: strides that do not multiply to the hop, or a latent_dim that has no half for the vector.

    Source: Ju et al. 2024 (NaturalSpeech 3), section 3.2, and Amphion's code of FACodec.
    """
    dim = _half(latent_dim)
    return Chain([snake_encoder(config, dim, hop_length=hop_length), AddSpeaker(dim, config)])


def speaker_decoder(config: SpeakerDecoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Latent (B, D, F), features then speaker vector, to audio (B, 1, F * hop).

    Raises:
        ConfigError: as `speaker_encoder`.

    Source: as `speaker_encoder`.
    """
    dim = _half(latent_dim)
    return Chain([ApplySpeaker(dim), snake_decoder(config, dim, hop_length=hop_length)])


def sinusoids(places: Tensor, dim: int) -> Tensor:
    """Sines and cosines of places (F,), in turn: (F, dim). Source: Vaswani et al. 2017, section 3.5."""
    rates = torch.exp(torch.arange(0, dim, 2, device=places.device) * (-math.log(10000.0) / dim))
    angles = places[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)


def _half(latent_dim: int) -> int:
    if latent_dim % 2:
        raise ConfigError(f"latent_dim: {latent_dim} is odd; half is for features, half for the speaker vector")
    return latent_dim // 2
