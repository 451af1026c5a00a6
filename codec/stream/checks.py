"""What streams refuse at their door: modes, rates, shapes, samples and codes that cannot be.

>>> check_sample_rate(None, 16000), check_channels(None), frames_of_mode("block")
(16000, 1, 64)
>>> check_sample_rate(44100.5, 16000)
Traceback (most recent call last):
codec.errors.AudioError: sample_rate=44100.5: use whole Hz from 8000 to 768000
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.arrays import as_audio, as_codes
from codec.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, check_samples
from codec.codesfile.counts import allowed_counts, is_wrong
from codec.codesfile.header import MAX_CHANNELS
from codec.config import ModelInfo
from codec.engine import Audio, Codes
from codec.errors import AudioError, CodesError
from codec.stream.queue import AudioQueue, CodesQueue

MODES = {"block": 64, "frame": 1}  # frames of one step


def frames_of_mode(mode: str) -> int:
    """Frames of one step. Raises: CodesError for an unknown mode."""
    if mode not in MODES:
        raise CodesError(f"mode {mode!r}: unknown; use {' or '.join(MODES)}")
    return MODES[mode]


def check_sample_rate(sample_rate: float | None, default: int) -> int:
    """A sample rate from outside, Hz; `default` for None. Raises: AudioError for one that cannot be."""
    if sample_rate is None:
        return default
    try:
        fits = MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE and sample_rate == int(sample_rate)
    except TypeError:  # text, for example
        fits = False
    if not fits:
        raise AudioError(f"sample_rate={sample_rate!r}: use whole Hz from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}")
    return int(sample_rate)


def check_channels(channels: int | None) -> int:
    """Rows of a stream of so many channels. Raises: AudioError for a number that no `.codes` file can hold."""
    if channels is not None and channels not in range(1, MAX_CHANNELS + 1):
        raise AudioError(f"channels={channels!r}: use None for (samples,), or a number from 1 to {MAX_CHANNELS}")
    return channels or 1


def check_chunk(chunk: Any, queue: AudioQueue, *, channels: int | None, name: str) -> Audio:
    """A chunk from outside as (C, t). Raises: AudioError; `name` is the stream's in its text."""
    if queue.ended:
        raise AudioError(f"{name}: fed after flush; call reset() to begin a new stream")
    audio = as_audio(chunk, f"{name}: chunk")
    expected = 1 if channels is None else 2
    if audio.ndim != expected or (channels is not None and len(audio) != channels):
        shape = "(samples,)" if channels is None else f"({channels}, samples)"
        raise AudioError(f"{name}: chunk of shape {audio.shape}, expected {shape}")
    check_samples(audio, name, start=queue.n_fed)
    return audio[None] if channels is None else audio


def check_frames(codes: Any, queue: CodesQueue, info: ModelInfo, *, channels: int | None, name: str) -> Codes:
    """Codes from outside as (C, Q, f). Raises: CodesError; `name` is the stream's in its text."""
    if queue.ended:
        raise CodesError(f"{name}: fed after flush; call reset() to begin a new stream")
    rows = as_codes(codes, f"{name}: codes")
    rows = rows[None] if channels is None else rows
    if rows.ndim != 3 or len(rows) != (channels or 1):
        shape = "(codebooks, frames)" if channels is None else f"({channels}, codebooks, frames)"
        raise CodesError(f"{name}: codes of shape {np.shape(codes)}, expected {shape}")
    before = rows.shape[1] if queue.pending is None else queue.pending.shape[1]
    if rows.shape[1] != before:
        raise CodesError(f"{name}: {rows.shape[1]} codebooks after {before}; begin a new stream")
    check_codes(rows, info, name=name)
    return rows


def check_codes(codes: Codes, info: ModelInfo, *, name: str = "codes") -> None:
    """Check codes (C, Q, f) against a model; `name` begins the error's text.

    Raises:
        CodesError: a number of codebooks that does not decode alone, or the first code out of range, with its place. -1
            is none where a frame ends before it that decodes.
    """
    if codes.shape[1] not in info.prefixes:
        counts = ", ".join(map(str, info.prefixes))
        raise CodesError(f"{name}: {codes.shape[1]} codebooks: {info.name} decodes {counts} of them")
    sizes = info.codebook_sizes[: codes.shape[1]]
    if codes.size == 0 or (codes.min() >= 0 and codes.max() < min(sizes)):  # nearly always
        return
    wrong = is_wrong(codes, sizes, allowed_counts(info.prefixes, info.divisors[: len(sizes)]))
    if wrong.any():
        row, book, frame = np.argwhere(wrong)[0]
        size = info.codebook_sizes[book]
        where = f"codebook {book}, frame {frame}" + (f", channel {row}" if len(codes) > 1 else "")
        raise CodesError(
            f"{name}: code {codes[row, book, frame]} at {where}: this codebook has entries 0 to {size - 1}"
        )
