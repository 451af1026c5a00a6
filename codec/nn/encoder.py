"""The encoders by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codec.config import ModelConfig, Part, from_dict
from codec.errors import ConfigError
from codec.nn.convnext import MelEncoderConfig, mel_encoder
from codec.nn.esc import EscEncoderConfig, esc_encoder
from codec.nn.hifi import HifiEncoderConfig, hifi_encoder
from codec.nn.layers import Layer
from codec.nn.mimi import MimiEncoderConfig, mimi_encoder
from codec.nn.seanet import SeanetEncoderConfig, seanet_encoder
from codec.nn.snake import SnakeEncoderConfig, snake_encoder
from codec.nn.speaker import SpeakerEncoderConfig, speaker_encoder
from codec.nn.spectral import SpectralEncoderConfig, spectral_encoder

# kind -> its options, and build(options, latent_dim, hop_length=...)
ENCODERS: dict[str, tuple[type[Any], Callable[..., Layer]]] = {
    "conv": (SeanetEncoderConfig, seanet_encoder),
    "esc": (EscEncoderConfig, esc_encoder),
    "hifi": (HifiEncoderConfig, hifi_encoder),
    "snake": (SnakeEncoderConfig, snake_encoder),
    "mel": (MelEncoderConfig, mel_encoder),
    "mimi": (MimiEncoderConfig, mimi_encoder),
    "speaker": (SpeakerEncoderConfig, speaker_encoder),
    "spectral": (SpectralEncoderConfig, spectral_encoder),
}


def build_encoder(config: ModelConfig) -> Layer:
    """The encoder of a model configuration: (B, C, F * hop) -> (B, D, F).

    Raises:
        ConfigError: an unknown kind or option, or a hop that the sizes do not give.
    """
    return build_part("encoder", ENCODERS, config.encoder, config)


def build_part(
    room: str, choices: dict[str, tuple[type[Any], Callable[..., Layer]]], part: Part, config: ModelConfig
) -> Layer:
    """Look `part.kind` up in `choices`, check its options, build it."""
    if part.kind not in choices:
        raise ConfigError(f"{room}.kind: unknown {part.kind!r}; known are {', '.join(sorted(choices))}")
    options, build = choices[part.kind]
    checked = from_dict(options, part.options, where=f"{room}.options")
    if config.channels == 1:
        return build(checked, config.latent_dim, hop_length=config.hop_length)
    if part.kind != "conv":
        raise ConfigError(f"{room}.kind: {part.kind!r} codes one channel; two together go through 'conv'")
    return build(checked, config.latent_dim, hop_length=config.hop_length, channels=config.channels)
