"""What a panel of listeners would say, as networks predict it without the original: DNSMOS and PLCMOS.

Only the networks inside the package speechmos are used, each on one thread; the spectra in front of them are made here,
so that neither librosa nor a random number decides.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.quality.bundled import file_of_package
from codec.quality.spectrogram import magnitudes, mel_filters

Floats = npt.NDArray[np.float32]

SPEECH_RATE = 16000  # Hz
SEGMENT = 144160  # samples, 9.01 s; Source: speechmos/dnsmos.py, INPUT_LENGTH
# Source: speechmos/dnsmos.py, get_polyfit_val: maps the network's overall score to the scale of P.835
OVERALL = (-0.06766283, 1.11546468, 0.04602535)
RATERS = 15  # Source: speechmos/plcmos.py, embed_rounds
# SHA-256 of the files in speechmos 0.0.1.1
HASHES = {
    "dnsmos_models/sig_bak_ovr.onnx": "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
    "dnsmos_models/model_v8.onnx": "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
    "plcmos_models/plcmos_v2.onnx": "c0ad3fc64ef9682b4749c0e96636b41c73b4b30bd123b9348feea06a96895286",
}


def dnsmos_scores(audio: Floats) -> dict[str, float]:
    """Return `dnsmos`, overall quality by P.835, and `dnsmos_p808`, by P.808; 1 to 5, nan for silence.

    Args:
        audio: (T,) at 16 kHz; shorter than 9.01 s it is repeated, longer it is judged once a second.

    Raises:
        MissingExtraError: speechmos is not installed.
        ModelError: its networks are others.

    Source: Reddy and others, DNSMOS P.835 (2022); the steps of speechmos 0.0.1.1.
    """
    if not audio.any():
        return {"dnsmos": math.nan, "dnsmos_p808": math.nan}
    audio = np.clip(audio, -1, 1).astype(np.float32)
    while len(audio) < SEGMENT:
        audio = np.concatenate([audio, audio])
    n_segments = len(audio) // SPEECH_RATE - 9
    overall, p808 = [], []
    for start in range(0, max(1, n_segments) * SPEECH_RATE, SPEECH_RATE):
        segment = audio[start : start + SEGMENT]
        if len(segment) < SEGMENT:
            break
        raw = _session("dnsmos_models/sig_bak_ovr.onnx").run(None, {"input_1": segment[None]})[0][0][2]
        overall.append(float(np.polyval(OVERALL, raw)))
        features = {"input_1": _dns_spectrum(segment[:-160])[None]}
        p808.append(float(_session("dnsmos_models/model_v8.onnx").run(None, features)[0][0][0]))
    return {"dnsmos": float(np.mean(overall)), "dnsmos_p808": float(np.mean(p808))}


def plcmos(audio: Floats) -> float:
    """Return the quality in the ears of listeners to concealed losses, 1 to 5; nan for silence.

    The network takes a random listener; fifteen are drawn with a fixed seed and averaged, so that equal audio gives an
    equal score.

    Args:
        audio: (T,) at 16 kHz.

    Raises:
        MissingExtraError, ModelError: as `dnsmos_scores`.

    Source: Diener and others, PLCMOS (2023), version 2; the steps of speechmos 0.0.1.1.
    """
    if not audio.any():
        return math.nan
    features = _plc_spectrum(np.clip(audio, -1, 1).astype(np.float64))[None, None]
    listeners = np.random.default_rng(0).standard_normal((RATERS, 1, 64)).astype(np.float32)
    session = _session("plcmos_models/plcmos_v2.onnx")
    scores = [session.run(None, {"degraded_audio": features, "rater_embed": one})[0] for one in listeners]
    return float(np.mean(scores))


def _dns_spectrum(audio: Floats) -> Floats:
    """Mel decibels below the loudest, at most 80, scaled: (F, 120)."""
    filters = mel_filters(SPEECH_RATE, 321, 120).T
    power = np.concatenate([np.square(block) @ filters for block in magnitudes(audio, 321, 160)])
    level = 10 * np.log10(np.maximum(power, 1e-10))
    level = np.maximum(level - level.max(), -80.0)
    return np.asarray((level + 40) / 40, np.float32)


def _plc_spectrum(audio: npt.NDArray[np.float64]) -> Floats:
    """Logarithmic power of half-overlapping windows of 512: (F, 257)."""
    n_frames = -(-(len(audio) + 256) // 256)
    padded = np.pad(audio, (256, (n_frames - 1) * 256 + 512 - 256 - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::256]
    power = np.abs(np.fft.rfft(frames * np.hamming(513)[:-1])) ** 2
    least = power[power > 0].min(initial=np.inf)
    floor = math.log(least) - 12 * math.log(10) if math.isfinite(least) else -8 * math.log(10)
    logarithm = np.where(power > 0, np.log(np.where(power > 0, power, 1.0)), floor)
    return np.asarray(logarithm / 20, np.float32)


@functools.cache
def _session(name: str) -> Any:
    import onnxruntime

    path = file_of_package("speechmos", name, HASHES[name], need="DNSMOS and PLCMOS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
