"""Golden vectors: a short clip, and what a model made of it where the model was released.

`golden.safetensors` in a model folder holds the clip (int16), its codes and its decoded audio for each engine and mode;
what is equal is stored once. All audio is decoded from the same codes, those of the first entry. Exact hashes are kept
with the CPU features and library versions that gave them: other kernels add in another order, so elsewhere they are
told and not asked for.

>>> codes_agreement(np.array([[1, 2, 3, 4]]), np.array([[1, 2, 3, 5]]))
0.75
>>> audio, scale = pack_audio(np.array([0.5, -0.25, 0.1], np.float32))
>>> bool(np.abs(unpack_audio(audio, scale, 3) - [0.5, -0.25, 0.1]).max() < 1e-5)
True
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from codec.engine import Audio, Codes
from codec.errors import ModelError

GOLDEN = "golden.safetensors"
FORMAT = 1
MIN_CODES, MIN_AUDIO_DB = 0.999, 60.0  # share of equal codes; level of the difference below the audio
SCALE_SAMPLES = 320  # samples that share a scale: int16 keeps over 80 dB of loud and of quiet parts then
# CPU features that change which kernels run, and with them the order of sums.
FEATURES = re.compile(r"^(sse4_[12]|avx.*|fma|f16c|amx.*|asimd.*|neon|sve.*|i8mm|bf16)$")

Int16 = npt.NDArray[np.int16]
Key = tuple[str, str]  # engine, mode
# engine -> what it runs on
PACKAGES = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "torch": "torch", "transformers": "transformers"}


@dataclass(frozen=True)
class ExactHash:
    """SHA-256 of the codes (int64) and of the audio (float32) that one engine and mode gave on one machine."""

    engine: str
    mode: str
    machine: Mapping[str, Any]  # as `machine_facts` says
    codes: str
    audio: str


@dataclass(frozen=True, eq=False)
class Golden:
    """Golden vectors in memory.

    Attributes:
        clip: (T,) int16 at the model's rate.
        about: source, licence and sample_rate of the clip, and the SHA-256 of its samples.
        weights_hash: of the model that gave the rest.
        codes: (Q, F) of each engine and mode; the first is the reference, from which all audio was decoded.
        audio: (T,) float32 of each engine and mode, (C, T) of a model that codes C channels together.
        exact: hashes with the machines that gave them.
    """

    clip: Int16
    about: Mapping[str, Any]
    weights_hash: str
    codes: Mapping[Key, Codes]
    audio: Mapping[Key, Audio]
    exact: tuple[ExactHash, ...] = field(default=())

    @property
    def samples(self) -> Audio:
        """The clip as float32."""
        return (self.clip / np.float32(32768)).astype(np.float32)

    @property
    def reference(self) -> Key:
        """The engine and mode of the first entry."""
        return next(iter(self.codes))


def write_file(path: Path, golden: Golden) -> None:
    """Write golden vectors; codes that are equal and audio that agrees to 90 dB are stored once."""
    tensors: dict[str, npt.NDArray[Any]] = {"clip": golden.clip}
    entries: dict[str, dict[str, str]] = {}
    kept_codes: dict[str, Codes] = {}
    kept_audio: dict[str, Audio] = {}
    for key in golden.codes:
        codes, audio = golden.codes[key], golden.audio[key]
        same = [name for name, other in kept_codes.items() if np.array_equal(other, codes)]
        codes_name = same[0] if same else f"codes_{len(kept_codes)}"
        kept_codes.setdefault(codes_name, codes)
        near = [name for name, other in kept_audio.items() if difference_db(other, audio) >= 90]
        audio_name = near[0] if near else f"audio_{len(kept_audio)}"
        kept_audio.setdefault(audio_name, audio)
        entries["/".join(key)] = {"codes": codes_name, "audio": audio_name}
    n_channels = max((len(audio) for audio in kept_audio.values() if audio.ndim > 1), default=1)
    for name, codes in kept_codes.items():
        tensors[name] = codes.astype(np.uint16 if codes.max(initial=0) < 1 << 16 else np.int64)
    for name, audio in kept_audio.items():
        tensors[name], tensors[f"{name}_scale"] = pack_audio(audio.reshape(-1))
    facts = {
        "format": FORMAT,
        "clip": dict(golden.about),
        "weights_hash": golden.weights_hash,
        "entries": entries,
        "exact": [vars(record) for record in golden.exact],
    } | ({} if n_channels == 1 else {"channels": n_channels})
    path.write_bytes(save(tensors, metadata={"golden": json.dumps(facts)}))


def read_golden(folder: Path) -> Golden | None:
    """The golden vectors of a model folder; None where there are none.

    Raises:
        ModelError: damaged, incomplete, or of a later format.
    """
    path = folder / GOLDEN
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["golden"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if facts["format"] != FORMAT:
            raise ModelError(f"{path}: format {facts['format']}, this build reads {FORMAT}; upgrade codec")
        return _parse(facts, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: damaged ({type(error).__name__}: {error}); install the model again") from None


def _parse(facts: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Golden:
    clip = np.asarray(tensors["clip"], np.int16)
    codes, audio, n_channels = {}, {}, int(facts.get("channels", 1))
    for name, entry in facts["entries"].items():
        engine, mode = name.split("/")
        codes[engine, mode] = tensors[entry["codes"]].astype(np.int64)
        scale = tensors[entry["audio"] + "_scale"]
        made = unpack_audio(tensors[entry["audio"]], scale, n_channels * len(clip))
        audio[engine, mode] = made if n_channels == 1 else made.reshape(n_channels, -1)
    if not codes or hash_of(clip) != facts["clip"]["sha256"]:
        raise ValueError("its clip or entries are not what it says")
    exact = tuple(ExactHash(**record) for record in facts["exact"])
    return Golden(clip, facts["clip"], facts["weights_hash"], codes, audio, exact)


def pack_audio(audio: Audio) -> tuple[Int16, Audio]:
    """Audio (T,) as int16 (n, 320) with a scale (n,) for each 320 samples."""
    rows = np.pad(audio, (0, -len(audio) % SCALE_SAMPLES)).reshape(-1, SCALE_SAMPLES)
    scale = np.maximum(np.abs(rows).max(1), np.float32(1e-9)).astype(np.float32)
    return np.round(rows / scale[:, None] * 32767).astype(np.int16), scale


def unpack_audio(packed: Int16, scale: Audio, n_samples: int) -> Audio:
    """Audio (T,) of what `pack_audio` gave."""
    rows = packed.astype(np.float32) * (scale[:, None] / np.float32(32767))
    return np.asarray(rows.reshape(-1)[:n_samples], np.float32)


def codes_agreement(ref: Codes, codes: Codes) -> float:
    """Share of equal codes; 0 for another shape."""
    return float(np.mean(ref == codes)) if ref.shape == codes.shape and ref.size else float(ref.shape == codes.shape)


def difference_db(ref: Audio, audio: Audio) -> float:
    """Level of the audio over that of its difference, dB: 999 where they are equal, -999 for another shape."""
    if ref.shape != audio.shape or not np.isfinite(audio).all():
        return -999.0
    noise = float(np.square(ref.astype(np.float64) - audio).sum())
    power = float(np.square(ref, dtype=np.float64).sum())
    return 999.0 if noise == 0 else float(10 * np.log10(max(power, 1e-20) / noise))


def hash_of(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's numbers in little-endian order, hex."""
    return hashlib.sha256(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def machine_facts(engine: str) -> dict[str, Any]:
    """What exact hashes depend on: the machine's kind, its CPU features, and the versions of the engine's libraries."""
    package = PACKAGES[engine]
    versions = {}
    for name in ("numpy", package):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return {"machine": platform.machine(), "features": cpu_features(), **versions}


def cpu_features() -> str:
    """The CPU features that choose kernels, such as `avx avx2 avx512f fma`; the processor's name where none is told."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return " ".join(sorted(name for name in (line[1].split() if line else []) if FEATURES.match(name)))


def shaped_noise(sample_rate: int, duration: float) -> Audio:
    """Noise (T,) with a speech-like slope and syllables, where no recording is at hand."""
    generator = np.random.default_rng(0)
    n = round(duration * sample_rate)
    spectrum = np.fft.rfft(generator.standard_normal(n)) / np.maximum(1, np.fft.rfftfreq(n, 1 / sample_rate) / 500)
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * np.arange(n) / sample_rate)
    noise = np.fft.irfft(spectrum, n) * loud
    return np.asarray(0.3 * noise / np.abs(noise).max(), np.float32)
