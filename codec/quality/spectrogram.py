"""Spectra of audio and pictures of them, with numpy and the standard library alone.

>>> import numpy as np
>>> audio = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
>>> mel_filters(16000, 512, 40).shape
(40, 257)
>>> picture(audio, 16000)[1:4]
b'PNG'
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FRAMES_AT_ONCE = 4096  # bounds the memory of a long file's spectrum
RANGE_DB = 70.0  # of a picture, below the loudest point of its reference
PICTURE_BANDS = 128  # rows of a picture
PICTURE_FRAMES = 720  # columns of a picture, about

# Polynomial in t = 0..1 for red, green and blue; Source: M. Zucker's fit of matplotlib's magma (public domain).
MAGMA = (
    (-0.002136485, -0.000749655, -0.005386128),
    (0.2516605, 0.6775232, 2.4940266),
    (8.3537173, -3.5777195, 0.3144679),
    (-27.6687331, 14.2647308, -13.6492132),
    (52.1761398, -27.9436061, 12.9441694),
    (-50.7685254, 29.0465828, 4.2341530),
    (18.6557051, -11.4897735, -5.6019615),
)


def magnitudes(audio: Floats, n_fft: int, hop_length: int) -> Iterator[Floats]:
    """Yield the STFT magnitudes of `audio` (T,) in blocks of at most 4096 frames: (f, n_fft // 2 + 1) float32.

    Hann window of `n_fft` samples; frame i is centred on sample i * hop_length, silence beyond the ends; all in all
    there are T // hop_length + 1 frames, as with `librosa.stft(audio, n_fft=n_fft, hop_length=hop_length)`.
    """
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    padded = np.pad(audio, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        block = frames[start : start + FRAMES_AT_ONCE] * window
        yield np.abs(np.fft.rfft(block)).astype(np.float32)


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Floats:
    """Return triangular filters on the mel scale from 0 Hz to half of `sample_rate`: (n_mels, n_fft // 2 + 1).

    Source: Slaney, Auditory Toolbox (1998): linear to 1 kHz, then 27 steps a factor of 6.4; area of each filter 1, as
    `librosa.filters.mel`.
    """
    corners = _mel_to_hz(np.linspace(0, _hz_to_mel(sample_rate / 2), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (corners[2:] - corners[:-2]))[:, None]).astype(np.float32)


def loudness_db(audio: Floats, sample_rate: int) -> Floats:
    """Return a picture's values: (128, columns) float32, decibels of mel magnitude, low frequencies first."""
    n_fft = 1 << round(np.log2(0.032 * sample_rate))
    hop_length = max(sample_rate // 1000, -(-len(audio) // PICTURE_FRAMES))
    filters = mel_filters(sample_rate, n_fft, PICTURE_BANDS)
    mel = np.concatenate([block @ filters.T for block in magnitudes(audio, n_fft, hop_length)])
    return np.asarray(20 * np.log10(np.maximum(mel, 1e-7)).T, np.float32)


def picture(audio: Floats, sample_rate: int, *, top_db: float | None = None) -> bytes:
    """Return a spectrogram of `audio` (T,) as a PNG file: mel scale upwards, time to the right, colour map magma.

    Args:
        audio: (T,) float32; a few seconds, every column is one STFT frame.
        sample_rate: Hz.
        top_db: the loudness (as in `loudness_db`) with the brightest colour; None takes the loudest point. Give the
            original's to all its decoded versions, so that equal colours mean equal loudness.
    """
    values = loudness_db(audio, sample_rate)
    top = float(values.max()) if top_db is None else top_db
    shades = np.clip((values - top) / RANGE_DB + 1, 0, 1) * 255
    return png(np.rint(shades[::-1]).astype(np.uint8), magma())


def magma() -> npt.NDArray[np.uint8]:
    """Return the colour map magma, dark to bright in perceptually equal steps: (256, 3)."""
    t = np.linspace(0, 1, 256)[:, None] ** np.arange(len(MAGMA))
    return np.asarray(np.rint(np.clip(t @ np.array(MAGMA), 0, 1) * 255), np.uint8)


def png(shades: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG file of `shades` (height, width), indices into `palette` (256, 3).

    Source: PNG specification (ISO/IEC 15948), sections 5.3 (chunks), 11.2 (IHDR, PLTE, IDAT, IEND).
    """
    height, width = shades.shape
    rows = np.zeros((height, width + 1), np.uint8)  # a leading 0 is filter type None, the best one for palettes
    rows[:, 1:] = shades
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    pixels = zlib.compress(rows.tobytes(), 9)
    chunks = (
        _chunk(b"IHDR", header),
        _chunk(b"PLTE", palette.tobytes()),
        _chunk(b"IDAT", pixels),
        _chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk: length, type, data, CRC-32 of type and data."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def mel_place(frequency: float, sample_rate: int) -> float:
    """Return where a frequency, Hz, stands in a picture: 0 at its bottom, 1 at its top, half of `sample_rate`.

    >>> mel_place(0, 16000), mel_place(8000, 16000)
    (0.0, 1.0)
    """
    return _hz_to_mel(frequency) / _hz_to_mel(sample_rate / 2)


def _hz_to_mel(frequency: float) -> float:
    """Slaney's mel: 3 mel per 200 Hz up to 1 kHz, logarithmic above."""
    return frequency * 3 / 200 if frequency < 1000 else 15 + 27 * float(np.log(frequency / 1000) / np.log(6.4))


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
