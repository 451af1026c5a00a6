"""What the benchmarks run: our model with each engine, and other codecs with random weights of their published shape.

Speed does not depend on the weights' values. Each function imports its package itself, so that a child process that
measures the memory of one loads no other. What is not installed is told and left out (`pip install '.[bench]'`, and
with --no-deps what would bring its own torch: `make bench` does).
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import codec
from codec.bench import VARIANTS
from codec.golden import shaped_noise
from codec.timing import Job

SECONDS = 2.52  # of the clip: with the delay one whole block of ours, and 31.5 frames of Mimi
ENCODEC = "encodec 24 kHz"
MIMI = "Mimi (transformers)"
LYRA = "Lyra v2 (LiteRT)"


@dataclass(frozen=True)
class Peer:
    """One codec, ready to run.

    Attributes:
        encode: (batch, seconds) to a job that encodes such a batch; None for a vocoder.
        decode: the same for decoding.
        steps: a stream's steps by name, and the seconds of audio of one; empty where it has no streaming.
        network: the torch module, for counting; None for onnxruntime.
        note: what the reader should know.
    """

    encode: Callable[[int, float], Job] | None
    decode: Callable[[int, float], Job] | None
    steps: Callable[[], tuple[dict[str, Job], float]] | None = None
    network: Any = None
    note: str = ""


def ours(variant: str) -> Peer:
    """The embedded model with one engine, mode `block`, all codebooks."""
    model = codec.load(**VARIANTS[variant])
    info = model.info

    def encode(batch: int, seconds: float) -> Job:
        audio = shaped_noise(info.sample_rate, seconds)
        if batch == 1:
            return lambda: model.encode(audio)
        chunks = dict.fromkeys(range(batch), audio)

        def run() -> None:
            streams = model.stream_encoders(rows=batch, mode="block")
            streams.feed(chunks), streams.flush(range(batch))

        return run

    def decode(batch: int, seconds: float) -> Job:
        codes = model.encode(shaped_noise(info.sample_rate, seconds))
        if batch == 1:
            return lambda: model.decode(codes)
        frames = dict.fromkeys(range(batch), codes.data)

        def run() -> None:
            streams = model.stream_decoders(rows=batch, mode="block")
            streams.feed(frames), streams.flush(range(batch))

        return run

    def steps() -> tuple[dict[str, Job], float]:
        audio = shaped_noise(info.sample_rate, info.hop_length / info.sample_rate)
        codes = model.encode(audio).data[:, :1]
        encoder, decoder = model.stream_encoder(), model.stream_decoder()
        return {"encode": lambda: encoder.feed(audio), "decode": lambda: decoder.feed(codes)}, 1 / info.frame_rate

    note = "one thread by design: the same sums on any number of cores" if "onnx" in variant else ""
    return Peer(encode, decode, steps, note=note)


def _torch_peer(rate: int, encode: Callable[[Any], Any], decode: Callable[[Any], Any], **rest: Any) -> Peer:
    """A peer of two functions of torch tensors (B, 1, T); `decode` takes what `encode` gave."""
    import torch

    def job(function: Callable[[Any], Any], value: Any) -> Job:
        def run() -> None:
            with torch.inference_mode():
                function(value)

        return run

    def audio(batch: int, seconds: float) -> Any:
        return torch.from_numpy(shaped_noise(rate, seconds))[None, None].repeat(batch, 1, 1)

    def decode_job(batch: int, seconds: float) -> Job:
        with torch.inference_mode():
            codes = encode(audio(batch, seconds))
        return job(decode, codes)

    return Peer(lambda batch, seconds: job(encode, audio(batch, seconds)), decode_job, **rest)


@contextlib.contextmanager
def _without_torchaudio() -> Iterator[None]:
    """Stand-ins for torchaudio, which encodec and vocos import at their top and do not need here."""
    if importlib.util.find_spec("torchaudio") is not None:
        yield
        return
    names = ("torchaudio", "torchaudio.functional", "torchaudio.functional.functional")
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for name in ("_hz_to_mel", "_mel_to_hz"):
        setattr(sys.modules[names[-1]], name, None)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def encodec() -> Peer:
    """EnCodec 24 kHz of its authors' package at 6 kbit/s, 8 codebooks."""
    with _without_torchaudio():
        from encodec import EncodecModel

    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(6.0)
    return _torch_peer(24000, model.encode, model.decode, network=model)


def encodec_transformers() -> Peer:
    """The same network in transformers; its default configuration is facebook/encodec_24khz."""
    from transformers import EncodecConfig, EncodecModel

    model = EncodecModel(EncodecConfig()).eval()
    return _torch_peer(
        24000,
        lambda audio: model.encode(audio, bandwidth=6.0),
        lambda codes: model.decode(codes.audio_codes, codes.audio_scales),
        network=model,
    )


def dac() -> Peer:
    """DAC 16 kHz: descript/dac_16khz, 12 codebooks."""
    from transformers import DacConfig, DacModel

    config = DacConfig(
        sampling_rate=16000,
        encoder_hidden_size=64,
        downsampling_ratios=[2, 4, 5, 8],
        upsampling_ratios=[8, 5, 4, 2],
        decoder_hidden_size=1536,
        n_codebooks=12,
    )
    model = DacModel(config).eval()
    return _torch_peer(16000, model.encode, lambda codes: model.decode(audio_codes=codes.audio_codes), network=model)


def mimi() -> Peer:
    """Mimi, transformers' default configuration (kyutai/mimi), 8 codebooks; steps of 80 ms with its caches."""
    import torch
    from transformers import MimiConfig, MimiModel

    model = MimiModel(MimiConfig()).eval()
    hop = 1920

    def steps() -> tuple[dict[str, Job], float]:
        audio = torch.from_numpy(shaped_noise(24000, 0.08))[None, None]
        caches: dict[str, Any] = {}

        def encode() -> Any:
            with torch.inference_mode():
                out = model.encode(audio, num_quantizers=8, use_streaming=True, **caches)
            caches["encoder_past_key_values"] = out.encoder_past_key_values
            caches["padding_cache"] = out.padding_cache
            return out.audio_codes

        codes = encode()
        past: list[Any] = [None]

        def decode() -> None:
            with torch.inference_mode():
                out = model.decode(codes, decoder_past_key_values=past[0], use_cache=True)
            past[0] = out.decoder_past_key_values

        decode()
        if caches["padding_cache"] is None or past[0] is None:
            raise RuntimeError("Mimi gave no caches: this version of transformers streams in another way")
        return {"encode": encode, "decode": decode}, hop / 24000

    note = (
        "80 ms a step; its decoder keeps the transformer's cache only, so its step does less than exact streaming would"
    )
    return _torch_peer(
        24000,
        lambda audio: model.encode(audio, num_quantizers=8),
        lambda codes: model.decode(codes.audio_codes),
        steps=steps,
        network=model,
        note=note,
    )


def snac() -> Peer:
    """SNAC 24 kHz: hubertsiuzdak/snac_24khz."""
    from snac import SNAC

    model = SNAC(
        sampling_rate=24000,
        encoder_dim=48,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=1024,
        decoder_rates=[8, 8, 4, 2],
        attn_window_size=None,
        codebook_size=4096,
        vq_strides=[4, 2, 1],
    ).eval()
    return _torch_peer(24000, model.encode, model.decode, network=model)


def vocos() -> Peer:
    """Vocos mel 24 kHz: charactr/vocos-mel-24khz, from a mel spectrogram; a vocoder, so it only decodes."""
    import torch

    with _without_torchaudio():
        from vocos.heads import ISTFTHead
        from vocos.models import VocosBackbone

    body = VocosBackbone(input_channels=100, dim=512, intermediate_dim=1536, num_layers=8)
    model = torch.nn.Sequential(body, ISTFTHead(dim=512, n_fft=1024, hop_length=256, padding="center")).eval()
    made = _torch_peer(
        24000,
        lambda audio: torch.zeros(len(audio), 100, 1 + audio.shape[-1] // 256),
        model,
        network=model,
        note="a vocoder: decodes a mel spectrogram, no codes",
    )
    return Peer(None, made.decode, network=model, note=made.note)


def lyra(folder: Path) -> Peer:
    """Lyra v2 at 9.2 kbit/s, its real networks: a step encodes and quantizes, or looks up and decodes, 20 ms.

    Args:
        folder: holds its three .tflite files (`codec.quality.lyra`).
    """
    from codec.quality.lyra import FRAME, RATE, Networks

    networks = Networks.open(folder)
    frame = shaped_noise(RATE, FRAME / RATE)[None]
    codes = networks.encode(frame, 46)
    steps = {"encode": lambda: networks.encode(frame, 46), "decode": lambda: networks.decode(codes)}
    return Peer(None, None, lambda: (dict(steps), FRAME / RATE), note="networks and quantizer, no packets")


PEERS: dict[str, Callable[[], Peer]] = {
    ENCODEC: encodec,
    "EnCodec (transformers)": encodec_transformers,
    "DAC 16 kHz (transformers)": dac,
    MIMI: mimi,
    "SNAC 24 kHz": snac,
    "Vocos mel 24 kHz": vocos,
}
OURS: dict[str, Callable[[], Peer]] = {f"ours, {name}": lambda name=name: ours(name) for name in VARIANTS}


def open_all(builders: dict[str, Callable[[], Peer]]) -> tuple[dict[str, Peer], dict[str, str]]:
    """Those that can run here, and why others cannot."""
    found, missing = {}, {}
    for name, build in builders.items():
        try:
            found[name] = build()
        except (ImportError, codec.CodecError) as error:
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found, missing
