"""The pitch of speech, frame by frame, and how far a decoded voice keeps it; numpy alone.

>>> import numpy as np
>>> tone = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000).astype(np.float32)
>>> pitch = track(tone, 16000)
>>> round(float(np.median(pitch)), 1)
200.0
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

LOWEST, HIGHEST = 60.0, 400.0  # Hz; speaking voices of adults and most children
HOP = 0.01  # s between frames
WINDOW = 0.025  # s over which a period is compared with the next; one and a half periods of the lowest voice
THRESHOLD = 0.2  # of the normalised difference, below which a frame is voiced
QUIET_DB = -40.0  # below the file's loudest frame nothing is voiced
FEWEST = 10  # frames voiced in both; fewer give no correlation


def track(audio: Floats, sample_rate: int) -> Doubles:
    """Return the fundamental frequency every 10 ms, (F,) Hz; 0 where there is no voice.

    Args:
        audio: (T,) float32.
        sample_rate: Hz.

    Source: YIN (de Cheveigné and Kawahara, 2002), steps 2 to 5: difference, cumulative mean normalisation, absolute
        threshold, parabolic interpolation.
    """
    shortest, longest = int(sample_rate / HIGHEST), math.ceil(sample_rate / LOWEST)
    size, hop = round(WINDOW * sample_rate), round(HOP * sample_rate)
    reach = size + longest + 1
    padded = np.pad(audio.astype(np.float64), (reach // 2, reach))
    frames = np.lib.stride_tricks.sliding_window_view(padded, reach)[: len(audio) : hop]
    pitch = np.zeros(len(frames))
    power = (frames**2).mean(axis=1)
    loud = power > max(float(power.max(initial=0.0)) * 10 ** (QUIET_DB / 10), 1e-12)
    for i in np.flatnonzero(loud):
        pitch[i] = _pitch_of(frames[i], size, shortest, longest, sample_rate)
    return pitch


def pitch_scores(ref: Floats, deg: Floats, sample_rate: int) -> dict[str, float]:
    """Compare the pitch of two recordings.

    Args:
        ref: original, (T,).
        deg: decoded, (T,), aligned.
        sample_rate: of both, Hz.

    Returns:
        f0_correlation: Pearson's, of the logarithms, over frames that are voiced in both; nan for fewer than 10.
        voicing_error: percent of frames that are voiced in one alone; nan without a voiced frame in the original.
    """
    one, other = track(ref, sample_rate), track(deg, sample_rate)
    voiced, voiced_hat = one > 0, other > 0
    error = 100 * float(np.mean(voiced != voiced_hat)) if voiced.any() else math.nan
    both = voiced & voiced_hat
    correlation = math.nan
    if both.sum() >= FEWEST:
        x, y = (np.log2(values[both]) for values in (one, other))
        x, y = x - x.mean(), y - y.mean()
        scale = math.sqrt(float(x @ x) * float(y @ y))
        correlation = float(x @ y) / scale if scale > 0 else math.nan
    return {"f0_correlation": correlation, "voicing_error": error}


def _pitch_of(frame: Doubles, size: int, shortest: int, longest: int, sample_rate: int) -> float:
    """One frame (size + longest + 1,): Hz, or 0."""
    lags = np.arange(longest + 2)
    length = 1 << (len(frame) + size).bit_length()
    product = np.fft.irfft(np.fft.rfft(frame, length) * np.conj(np.fft.rfft(frame[:size], length)), length)
    energy = np.concatenate([[0.0], np.cumsum(frame**2)])
    shifted = energy[lags + size] - energy[lags] if lags[-1] + size < len(energy) else np.zeros(len(lags))
    difference = energy[size] + shifted - 2 * product[: len(lags)]
    sums = np.cumsum(difference[1:])
    normal = np.ones(len(lags))
    normal[1:] = difference[1:] * lags[1:] / np.maximum(sums, 1e-12)
    below = np.flatnonzero(normal[shortest : longest + 1] < THRESHOLD)
    if not below.size:
        return 0.0
    best = shortest + int(below[0])
    while best < longest and normal[best + 1] < normal[best]:
        best += 1
    left, middle, right = normal[best - 1 : best + 2]
    bend = left - 2 * middle + right
    return sample_rate / (best + (0.5 * (left - right) / bend if bend > 0 else 0.0))
