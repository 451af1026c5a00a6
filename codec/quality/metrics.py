"""How close decoded speech is to its original, and how well codebooks are used; pure functions.

>>> import numpy as np
>>> audio = np.sin(np.arange(16000) / 7).astype(np.float32)
>>> delayed = np.concatenate([np.zeros(100, np.float32), audio])
>>> align(audio, delayed)[1]
100
>>> codebook_use(np.array([[0, 1, 0, 1]]), [4])
(CodebookUse(usage=0.5, perplexity=2.0),)
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from codec.errors import AudioError, CodesError, MissingExtraError
from codec.quality.spectrogram import magnitudes, mel_filters

Floats = npt.NDArray[np.float32]

SPEECH_RATE = 16000  # Hz; PESQ-WB is defined at it alone
MAX_DELAY = 960  # samples at 16 kHz, 60 ms: the delay that `align` takes out
LONGEST_PESQ = 30.0  # s; ITU-T P.862.3 asks for 8 to 30 s, and the reference code has room for 50 utterances
# window in samples: bands; Source: DAC (Kumar and others, 2023), section 3.4, without its shortest two windows
MEL_BANDS = {128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}
MEL_FLOOR = 1e-5  # magnitude


@dataclasses.dataclass(frozen=True)
class Pair:
    """An original and what was decoded from it, aligned within 60 ms; at its own rate, and at 16 kHz."""

    ref: Floats  # (T,)
    deg: Floats  # (T,)
    sample_rate: int  # of these two, Hz
    speech: Floats  # (S,), the original at 16 kHz
    speech_hat: Floats  # (S,)


@dataclasses.dataclass(frozen=True)
class CodebookUse:
    """How much of one codebook occurs."""

    usage: float  # share of entries that occur at all, 0..1
    perplexity: float  # exp of the entropy: so many entries, equally often, would carry as much


def align(ref: Floats, deg: Floats, limit: int = MAX_DELAY) -> tuple[Floats, int]:
    """Shift `deg` to where it correlates best with `ref`, and cut or fill it to the same length.

    Args:
        ref: original, (T,).
        deg: decoded, (U,).
        limit: greatest shift either way, samples.

    Returns:
        The shifted audio (T,), and by how many samples `deg` was late.
    """
    n = min(len(ref), len(deg))
    if n == 0:
        return np.zeros_like(ref), 0
    size = 1 << math.ceil(math.log2(2 * n))
    spectrum = np.fft.rfft(deg[:n], size) * np.conj(np.fft.rfft(ref[:n], size))
    correlation = np.fft.irfft(spectrum, size)
    reach = min(limit, n - 1)
    lags = np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])
    lag = int(lags[np.argmax(correlation[lags])])
    moved = deg[lag:] if lag >= 0 else np.concatenate([np.zeros(-lag, deg.dtype), deg])
    aligned = np.zeros_like(ref)
    n = min(len(ref), len(moved))
    aligned[:n] = moved[:n]
    return aligned, lag


def pesq_wb(ref: Floats, deg: Floats) -> float:
    """Predict the listening quality, 1.0 (bad) to 4.64; nan where there is no speech to judge.

    Args:
        ref: original, (T,) at 16 kHz.
        deg: decoded, (T,) at 16 kHz, aligned. Longer than 30 s, both are judged in equal pieces of at most 30 s, and
            the mean is given.

    Raises:
        MissingExtraError: the package pesq is not installed.

    Source: ITU-T P.862.2, by the package pesq.
    """
    try:
        import pesq
    except ImportError as missing:
        raise MissingExtraError("pesq", "eval", need="PESQ-WB") from missing
    if not ref.any():
        return math.nan
    pieces = max(1, math.ceil(len(ref) / (LONGEST_PESQ * SPEECH_RATE)))
    if not deg.any():
        # The reference code divides by the level; one bit of 16 lets it say how bad silence is.
        deg = deg + np.float32(2**-15) * (np.arange(len(deg)) % 2).astype(np.float32)
    scores = []
    for one, other in zip(np.array_split(ref, pieces), np.array_split(deg, pieces), strict=True):
        try:
            scores.append(float(pesq.pesq(SPEECH_RATE, one, other, "wb")))
        except (pesq.NoUtterancesError, pesq.BufferTooShortError):
            scores.append(math.nan)
    return mean(scores)


def stoi(ref: Floats, deg: Floats, *, extended: bool = False) -> float:
    """Predict the intelligibility, 0 to 1; nan where less than 0.4 s of speech is there.

    Args:
        ref: original, (T,) at 16 kHz.
        deg: decoded, (T,) at 16 kHz, aligned: STOI does not align by itself.
        extended: ESTOI instead, which also judges noise that comes and goes.

    Raises:
        MissingExtraError: the package pystoi is not installed.

    Source: Taal and others (2011); Jensen and Taal (2016) for ESTOI; by the package pystoi.
    """
    try:
        import pystoi
    except ImportError as missing:
        raise MissingExtraError("pystoi", "eval", need="STOI") from missing
    if not ref.any():
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(ref, deg, SPEECH_RATE, extended=extended))
        except (RuntimeWarning, ValueError):
            # Too few frames with speech; pystoi would give 1e-5, which a mean must not contain.
            return math.nan


def si_sdr(ref: npt.NDArray[Any], deg: npt.NDArray[Any]) -> float:
    """Return the scale-invariant ratio of signal to distortion of `deg` (T,) to `ref` (T,), dB; nan for silent `ref`.

    Source: Le Roux and others, "SDR - half-baked or well done?" (2019), section 2; means removed.
    """
    ref, deg = ref.astype(np.float64), deg.astype(np.float64)
    ref, deg = ref - ref.mean(), deg - deg.mean()
    if not ref.any():
        return math.nan
    target = ref * (deg @ ref) / (ref @ ref + 1e-12)
    rest = deg - target
    return float(10 * np.log10((target @ target + 1e-12) / (rest @ rest + 1e-12)))


def mel_distance(ref: Floats, deg: Floats, sample_rate: int) -> float:
    """Return the multi-resolution mel distance: mean |log10 mel(ref) - log10 mel(deg)|, 0 for equal audio.

    Mel magnitudes, not below 1e-5, of windows of 128, 256, 512, 1024 and 2048 samples (20 to 320 bands), a quarter
    window apart; the mean over frames and bands, then over the five windows.

    Args:
        ref: original, (T,).
        deg: decoded, (T,).
        sample_rate: Hz.
    """
    distances = []
    for n_fft, n_mels in MEL_BANDS.items():
        filters = mel_filters(sample_rate, n_fft, n_mels).T
        total, count = 0.0, 0
        for one, other in zip(magnitudes(ref, n_fft, n_fft // 4), magnitudes(deg, n_fft, n_fft // 4), strict=True):
            gap = np.log10(np.maximum(one @ filters, MEL_FLOOR)) - np.log10(np.maximum(other @ filters, MEL_FLOOR))
            total, count = total + float(np.abs(gap).sum(dtype=np.float64)), count + gap.size
        distances.append(total / count)
    return float(np.mean(distances))


def pair(ref: Floats, deg: Floats, sample_rate: int, *, limit: int = MAX_DELAY) -> Pair:
    """Align `deg` (U,) with `ref` (T,), both at `sample_rate` Hz, and resample them to 16 kHz.

    The shift is at most `limit` samples of 16 kHz either way.

    Raises:
        AudioError: no samples.
    """
    if len(ref) == 0:
        raise AudioError("no samples in the original; nothing to score")
    ref, deg = np.asarray(ref, np.float32), np.asarray(deg, np.float32)
    aligned, _ = align(ref, deg, limit * sample_rate // SPEECH_RATE)
    speech, speech_hat = ref, deg
    if sample_rate != SPEECH_RATE:
        speech, speech_hat = (soxr.resample(audio, sample_rate, SPEECH_RATE, quality="VHQ") for audio in (ref, deg))
    return Pair(ref, aligned, sample_rate, speech, align(speech, speech_hat, limit)[0])


def score(ref: Floats, deg: Floats, sample_rate: int) -> dict[str, float]:
    """Return all scores of one decoded file: pesq, stoi, estoi, si_sdr (dB) and mel_distance.

    All are taken after `align`, at most 60 ms, and at 16 kHz, to which other rates are resampled; mel_distance alone is
    taken at `sample_rate`, since it also judges what lies above 8 kHz.

    Args:
        ref: original, (T,) float32.
        deg: decoded, (U,) float32; a difference in length is cut off or filled with silence.
        sample_rate: of both, Hz.

    Raises:
        AudioError: no samples.
        MissingExtraError: pesq or pystoi is not installed.
    """
    both = pair(ref, deg, sample_rate)
    return {
        "pesq": pesq_wb(both.speech, both.speech_hat),
        "stoi": stoi(both.speech, both.speech_hat),
        "estoi": stoi(both.speech, both.speech_hat, extended=True),
        "si_sdr": si_sdr(both.speech, both.speech_hat),
        "mel_distance": mel_distance(both.ref, both.deg, sample_rate),
    }


def code_counts(codes: npt.NDArray[np.int64], sizes: Sequence[int]) -> tuple[npt.NDArray[np.int64], ...]:
    """Count how often each entry of each codebook occurs; add the counts of many files.

    Args:
        codes: (Q, F).
        sizes: entries of each of the Q codebooks.

    Returns:
        Q arrays (size,) int64.

    Raises:
        CodesError: another number of codebooks, or a code outside 0 <= code < size.
    """
    if len(codes) != len(sizes):
        raise CodesError(f"{len(codes)} rows of codes for {len(sizes)} codebooks; pass one size for each row")
    for number, (row, size) in enumerate(zip(codes, sizes, strict=True)):
        if row.size and (row.min() < 0 or row.max() >= size):
            raise CodesError(
                f"codebook {number}: codes from {row.min()} to {row.max()}; its entries are 0 to {size - 1}"
            )
    return tuple(np.bincount(row, minlength=size) for row, size in zip(codes, sizes, strict=True))


def use_of_counts(counts: npt.NDArray[np.int64]) -> CodebookUse:
    """Return the use of one codebook from how often each entry occurred, (size,)."""
    if counts.sum() == 0:
        return CodebookUse(0.0, 0.0)
    shares = counts[counts > 0] / counts.sum()
    return CodebookUse(float(np.mean(counts > 0)), float(np.exp(-np.sum(shares * np.log(shares)))))


def codebook_use(codes: npt.NDArray[np.int64], sizes: Sequence[int]) -> tuple[CodebookUse, ...]:
    """Return the use of each codebook in `codes` (Q, F); as `code_counts`, then `use_of_counts`."""
    return tuple(use_of_counts(counts) for counts in code_counts(codes, sizes))


def mean(values: Sequence[float], weights: Sequence[float] = ()) -> float:
    """Return the mean of the values that are numbers, nan where none is; with weights, sum(w * v) / sum(w)."""
    known, shares = _known(values, weights)
    return float(np.average(known, weights=shares)) if len(known) else math.nan


def bootstrap_interval(
    values: Sequence[float],
    generator: np.random.Generator,
    *,
    weights: Sequence[float] = (),
    level: float = 0.95,
    n_resamples: int = 2000,
) -> tuple[float, float]:
    """Return where the mean of such values lies with probability `level`: lower and upper end.

    Args:
        values: one per file; nan is left out. One value gives no interval, (nan, nan).
        generator: makes the draws.
        weights: of each value in the mean, such as a file's number of words; none counts every value alike.
        level: 0..1.
        n_resamples: draws.

    Source: Efron's percentile bootstrap (1979).
    """
    known, shares = _known(values, weights)
    if len(known) < 2:
        return math.nan, math.nan
    draws = generator.integers(0, len(known), (n_resamples, len(known)))
    means = (known * shares)[draws].sum(axis=1) / shares[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _known(
    values: Sequence[float], weights: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The values that are numbers, and their weights; a value without weight is as unknown as nan."""
    numbers = np.array(values, np.float64)
    shares = np.array(weights, np.float64) if len(weights) else np.ones(len(numbers))
    there = ~np.isnan(numbers) & (shares > 0)
    return numbers[there], shares[there]
