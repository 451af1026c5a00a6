"""Lyra v2 as a system of a comparison, where its three networks are given as files.

They lie in the folder lyra/model_coeffs of the repository google/lyra (Apache-2.0), tag 1.3.2; the package
ai-edge-litert runs them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codec.audio import resample
from codec.errors import MissingExtraError, ModelError
from codec.quality.systems import Coded, Facts, Floats, System, at_most

RATE = 16000  # Hz
FRAME = 320  # samples
BITS = (64, 120, 184)  # of a frame: 3.2, 6.0 and 9.2 kbit/s; Source: lyra/lyra_config.h
BITS_OF_CODE = 4  # Source: lyra/residual_vector_quantizer.cc: 46 codebooks of 16 entries
FILES = ("soundstream_encoder", "quantizer", "lyragan")


def lyra(folder: Path, *, up_to: float = math.inf) -> System:
    """Return Lyra v2, each operating point frame by frame on one thread.

    Args:
        folder: holds soundstream_encoder.tflite, quantizer.tflite and lyragan.tflite.
        up_to: greatest rate, kbit/s.

    Raises:
        ConfigError: no rate is so low.
        ModelError: a file is missing.
        MissingExtraError: ai-edge-litert is not installed.
    """
    for name in FILES:
        if not (folder / f"{name}.tflite").is_file():
            raise ModelError(f"{folder / name}.tflite: not there; take lyra/model_coeffs of google/lyra, tag 1.3.2")
    import_interpreter()
    bits_of = {bits * RATE / FRAME / 1000: bits for bits in BITS}
    chosen = [bits_of[kbps] for kbps in at_most(up_to, tuple(bits_of))]

    def code(audio: Floats, sample_rate: int) -> tuple[Coded, ...]:
        fitted = resample(audio[None], sample_rate, RATE)[0]
        return tuple(_code(folder, bits, fitted) for bits in chosen)

    facts = Facts(
        name="Lyra v2",
        sample_rate=RATE,
        frame_rate=RATE / FRAME,
        codebook_size=1 << BITS_OF_CODE,
        latency=FRAME / RATE,
        is_streaming=True,
        note="networks and quantizer by ai-edge-litert, one thread, without noise suppression or packet loss",
    )
    return System(facts, code)


@dataclass(frozen=True)
class Networks:
    """The three networks with their state, frame by frame."""

    encoder: Any
    decoder: Any
    quantize: Any
    look_up: Any

    @classmethod
    def open(cls, folder: Path) -> Networks:
        """Networks that have heard nothing yet. Raises: MissingExtraError: ai-edge-litert is not installed."""
        interpreter = import_interpreter()

        def load(name: str) -> Any:
            network = interpreter(str(folder / f"{name}.tflite"), num_threads=1)
            network.allocate_tensors()
            return network

        encoder, quantizer, decoder = map(load, FILES)
        return cls(encoder, decoder, *(quantizer.get_signature_runner(name) for name in ("encode", "decode")))

    def encode(self, frame: Floats, n_codes: int) -> Any:
        """Samples (1, FRAME) to codes (46, ...), those that are not sent -1."""
        features = _invoke(self.encoder, frame)
        codes = self.quantize(input_frames=features, num_quantizers=np.array(n_codes, np.int32))["output_0"].copy()
        codes[n_codes:] = -1
        return codes

    def decode(self, codes: Any) -> Floats:
        """The samples (1, FRAME) of a frame."""
        return _invoke(self.decoder, self.look_up(encoding_indices=codes)["output_0"])


def import_interpreter() -> Any:
    """What runs the networks. Raises: MissingExtraError: ai-edge-litert is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as missing:
        raise MissingExtraError("ai-edge-litert", "compare", need="the peer Lyra") from missing
    return Interpreter


def _code(folder: Path, bits: int, audio: Floats) -> Coded:
    """One recording (T,) at 16 kHz; the networks keep state, so that each recording takes fresh ones."""
    networks, n_codes = Networks.open(folder), bits // BITS_OF_CODE
    frames = np.pad(audio, (0, -len(audio) % FRAME)).reshape(-1, 1, FRAME)
    decoded = np.zeros((len(frames), FRAME), np.float32)
    encode_seconds = decode_seconds = 0.0
    for i, frame in enumerate(frames):
        begin = time.perf_counter()
        codes = networks.encode(frame, n_codes)
        middle = time.perf_counter()
        decoded[i] = networks.decode(codes)[0]
        encode_seconds += middle - begin
        decode_seconds += time.perf_counter() - middle
    heard = decoded.reshape(-1)[: len(audio)]
    label = f"{bits * RATE / FRAME / 1000:g} kbit/s"
    return Coded(label, heard, RATE, float(bits * len(frames)), encode_seconds, decode_seconds, n_codes)


def _invoke(network: Any, value: Floats) -> Floats:
    network.set_tensor(network.get_input_details()[0]["index"], value)
    network.invoke()
    result: Floats = network.get_tensor(network.get_output_details()[0]["index"]).copy()
    return result
