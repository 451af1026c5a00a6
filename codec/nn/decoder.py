"""The decoders by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codec.config import ModelConfig
from codec.nn.encoder import build_part
from codec.nn.esc import EscDecoderConfig, esc_decoder
from codec.nn.hifi import HifiDecoderConfig, hifi_decoder
from codec.nn.layers import Layer
from codec.nn.mimi import MimiDecoderConfig, mimi_decoder
from codec.nn.seanet import SeanetDecoderConfig, seanet_decoder
from codec.nn.snake import SnakeDecoderConfig, snake_decoder
from codec.nn.speaker import SpeakerDecoderConfig, speaker_decoder
from codec.nn.spectral import SpectralDecoderConfig, spectral_decoder
from codec.nn.vocos import VocosDecoderConfig, vocos_decoder

# kind -> its options, and build(options, latent_dim, hop_length=...)
DECODERS: dict[str, tuple[type[Any], Callable[..., Layer]]] = {
    "conv": (SeanetDecoderConfig, seanet_decoder),
    "esc": (EscDecoderConfig, esc_decoder),
    "hifi": (HifiDecoderConfig, hifi_decoder),
    "snake": (SnakeDecoderConfig, snake_decoder),
    "mimi": (MimiDecoderConfig, mimi_decoder),
    "speaker": (SpeakerDecoderConfig, speaker_decoder),
    "spectral": (SpectralDecoderConfig, spectral_decoder),
    "vocos": (VocosDecoderConfig, vocos_decoder),
}


def build_decoder(config: ModelConfig) -> Layer:
    """The decoder of a model configuration: (B, D, F) -> (B, C, F * hop).

    Raises:
        ConfigError: an unknown kind or option, or a hop that the sizes do not give.
    """
    return build_part("decoder", DECODERS, config.decoder, config)
