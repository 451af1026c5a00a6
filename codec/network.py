"""Configuration to network: encoder, bottleneck and decoder as one torch module."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from codec.config import ModelConfig, ModelInfo, replace
from codec.errors import ConfigError
from codec.nn.decoder import build_decoder
from codec.nn.encoder import build_encoder
from codec.nn.layers import Layer, State
from codec.quantize.base import Quantized, Tables
from codec.quantize.build import build_bottleneck
from codec.segments import LOUDNESS_SIZES, SEGMENTS_BEFORE, Segments


@dataclass(frozen=True)
class Output:
    """What a training pass gives.

    Attributes:
        audio_hat: (B, C, T), late by `Network.delay` samples.
        latent: (B, D, F), the encoder's.
        quantized: what the bottleneck made of it.
    """

    audio_hat: Tensor
    latent: Tensor
    quantized: Quantized


class Network(nn.Module):
    """Encoder, bottleneck and decoder.

    Attributes:
        delay: samples by which the output is late, beyond the frame itself.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.bottleneck = build_bottleneck(config.bottleneck, config.latent_dim)
        self.decoder = build_decoder(config)
        for part, frame in ((self.encoder, config.hop_length), (self.decoder, 1)):
            if part.lookahead != 0 and part.down != frame:  # windows begin at whole frames
                raise ConfigError(f"network: looks ahead and takes {part.down} steps at a time; must be {frame}")
        if config.segments is not None and (not self.encoder.ragged or self.bottleneck.divisors):
            raise ConfigError("network: segments need a ragged encoder and a code for each frame")
        told = (self.encoder.condition, self.bottleneck.n_passed, self.decoder.condition)
        if len(set(told)) > 1:
            raise ConfigError(
                "network: encoder gives, bottleneck passes by and decoder takes a condition of "
                f"{told[0]}, {told[1]}, {told[2]} numbers; must be equal (bottleneck option n_passed)"
            )
        self.delay = self.encoder.delay * config.hop_length + self.decoder.delay

    def forward(self, audio: Tensor, levels: Tensor | None = None, *, n_stages: int | None = None) -> Output:
        """Audio (B, C, F * hop) through all three; `levels` and `n_stages` as in `Bottleneck.forward`."""
        latent = self.encoder(audio)
        quantized = self.bottleneck(latent, levels, n_stages=n_stages)
        return Output(self.decoder(quantized.latent), latent, quantized)

    def encode_step(
        self, audio: Tensor, state: State, n_codebooks: int | None = None, tables: Tables = None
    ) -> tuple[Tensor, State]:
        """Audio (B, C, n * hop) to codes (B, Q, n); `tables` as in `Bottleneck.encode`."""
        latent, state = self.encoder.step(audio, state)
        return self.bottleneck.encode(latent, n_codebooks, tables), state

    def decode_step(self, codes: Tensor, state: State) -> tuple[Tensor, State]:
        """Codes (B, Q, n) to audio (B, C, n * hop)."""
        return self.decoder.step(self.bottleneck.decode(codes), state)

    def info(self, name: str, licence: str) -> ModelInfo:
        """What is known of the model without building it again; writing the weights fills in their hash."""
        sizes = self.bottleneck.codebook_sizes
        counts = {part: count_parameters(getattr(self, part)) for part in ("encoder", "bottleneck", "decoder")}
        info = ModelInfo(
            name=name,
            sample_rate=self.config.sample_rate,
            hop_length=self.config.hop_length,
            delay=self.delay,
            codebook_sizes=sizes,
            divisors=self.bottleneck.divisors or (1,) * len(sizes),
            prefixes=self.bottleneck.prefixes,
            parameters=counts,
            licence=licence,
            causal=self.encoder.lookahead == 0 and not self.bottleneck.divisors and self.decoder.lookahead == 0,
            context=context_of(self.decoder, 1),
            encoder_context=context_of(self.encoder, self.config.hop_length),
            # The mean of several frames: a window would have to begin where their code does.
            encoder_lookahead=None if self.bottleneck.divisors else self.encoder.lookahead,
            decoder_lookahead=self.decoder.lookahead,
            period=self.decoder.period,
            condition=self.decoder.condition,
            ragged=self.encoder.ragged,
            encoder_start=max(1, -(-self.encoder.start // self.config.hop_length)),
            decoder_start=max(1, self.decoder.start),
        )
        return info if self.config.segments is None else in_segments(info, self.config.segments, self.config.channels)


def in_segments(info: ModelInfo, segments: Segments, channels: int) -> ModelInfo:
    """What is known of a model whose network codes each segment by itself, its loudness as two more codebooks."""
    last = segments.length // info.hop_length - 1  # of a segment's frames, all of which see each other
    return replace(
        info,
        codebook_sizes=LOUDNESS_SIZES + info.codebook_sizes,
        divisors=(last + 1,) * len(LOUDNESS_SIZES) + info.divisors,
        prefixes=tuple(len(LOUDNESS_SIZES) + count for count in info.prefixes),
        causal=False,
        context=last + SEGMENTS_BEFORE * (last + 1),
        encoder_context=last,
        encoder_lookahead=last * info.hop_length,
        decoder_lookahead=last,
        encoder_start=1,
        decoder_start=1,
        audio_channels=channels,
        segments=segments,
    )


def context_of(layer: Layer, frame: int) -> int | None:
    """Earlier frames, of `frame` input steps each, that the outputs of one frame see; None for all."""
    return None if layer.receptive_field is None else max(0, -(-(layer.receptive_field - frame) // frame))


def count_parameters(module: nn.Module) -> int:
    """Numbers stored in a module's weights file: parameters, and buffers that are kept."""
    return sum(tensor.numel() for tensor in module.state_dict().values())
