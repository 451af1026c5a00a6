"""What streams refuse at their door: modes, rates, shapes, samples and codes that cannot be.

>>> check_sample_rate(None, 16000), check_channels(None), frames_of_mode("block")
(16000, 1, 128)
>>> check_sample_rate(44100.5, 16000)
Traceback (most recent call last):
codec.errors.AudioError: sample_rate=44100.5: use whole Hz from 8000 to 768000
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.arguments import as_whole, shown
from codec.arrays import as_audio, as_codes
from codec.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, check_samples
from codec.codesfile.counts import allowed_counts, is_wrong
from codec.codesfile.header import MAX_CHANNELS
from codec.config import ModelInfo
from codec.engine import Audio, Codes
from codec.errors import AudioError, CodesError
from codec.stream.queue import AudioQueue, CodesQueue

MODES = {"block": 128, "frame": 1}  # frames of one step


def frames_of_mode(mode: str) -> int:
    """Frames of one step. Raises: CodesError for an unknown mode."""
    if not isinstance(mode, str) or mode not in MODES:
        raise CodesError(f"mode {shown(mode)}: unknown; use {' or '.join(MODES)}")
    return MODES[mode]


def check_sample_rate(sample_rate: float | None, default: int) -> int:
    """A sample rate from outside, Hz; `default` for None. Raises: AudioError for one that cannot be."""
    if sample_rate is None:
        return default
    rate = as_whole(sample_rate)
    if rate is None or not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError(f"sample_rate={shown(sample_rate)}: use whole Hz from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}")
    return rate


def check_channels(channels: int | None) -> int:
    """Rows of a stream of so many channels. Raises: AudioError for a number that no `.codes` file can hold."""
    rows = 1 if channels is None else as_whole(channels)
    if rows is None or rows not in range(1, MAX_CHANNELS + 1):
        raise AudioError(f"channels={shown(channels)}: use None for (samples,), or a number from 1 to {MAX_CHANNELS}")
    return rows


def check_codebooks(codebooks: int, info: ModelInfo, name: str = "codebooks") -> int:
    """A number of codebooks from outside. Raises: CodesError for one that does not decode alone."""
    count = as_whole(codebooks)
    if count is None or count not in info.prefixes:
        raise CodesError(f"{name}={shown(codebooks)}: {info.name} has {', '.join(map(str, info.prefixes))}")
    return count


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


def check_both(chunk: Any, queue: AudioQueue, *, channels: int | None, name: str) -> Audio:
    """As `check_chunk` where two channels are coded together: (samples,), (1, samples) or (2, samples) as two."""
    array = as_audio(chunk, f"{name}: chunk")
    if array.ndim == 2 and len(array) not in (1, 2):
        raise AudioError(f"{name}: chunk of shape {array.shape}, expected (samples,) or (2, samples)")
    audio = check_chunk(array, queue, channels=None if array.ndim == 1 else len(array), name=name)
    return np.broadcast_to(audio, (2, audio.shape[1]))


def rows_of_model(info: ModelInfo, channels: int | None, *, is_audio: bool) -> int | None:
    """Rows of codes for so many channels of audio, or of codes, as a stream takes them; None for no axis of them.

    Raises: AudioError, CodesError for channels that a model of two does not have.
    """
    if info.audio_channels == 1:
        return channels
    if is_audio and channels is not None and as_whole(channels) not in (1, 2):
        raise AudioError(f"channels={shown(channels)}: {info.name} codes one channel or two together; mix them")
    if not is_audio and channels is not None:
        raise CodesError(f"channels={shown(channels)}: {info.name} has one row of codes for all; drop the axis")
    return None


def check_frames(codes: Any, queue: CodesQueue, info: ModelInfo, *, channels: int | None, name: str) -> Codes:
    """Codes from outside as (C, Q, f). Raises: CodesError; `name` is the stream's in its text."""
    if queue.ended:
        raise CodesError(f"{name}: fed after flush; call reset() to begin a new stream")
    rows = as_codes(codes, f"{name}: codes")
    rows = rows[None] if channels is None else rows
    if rows.ndim != 3 or len(rows) != (channels or 1):
        shape = "(codebooks, frames)" if channels is None else f"({channels}, codebooks, frames)"
        raise CodesError(f"{name}: codes of shape {np.shape(codes)}, expected {shape}")
    before = queue.n_codebooks
    if before not in (None, rows.shape[1]):
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
    # Nearly always; by their places, which takes half the time of `min` and `max`.
    if codes.size == 0 or 0 <= codes.item(codes.argmin()) <= codes.item(codes.argmax()) < min(sizes):
        return
    wrong = is_wrong(codes, sizes, allowed_counts(info.prefixes, info.divisors[: len(sizes)]))
    if wrong.any():
        row, book, frame = np.argwhere(wrong)[0]
        size = info.codebook_sizes[book]
        where = f"codebook {book}, frame {frame}" + (f", channel {row}" if len(codes) > 1 else "")
        raise CodesError(
            f"{name}: code {codes[row, book, frame]} at {where}: this codebook has entries 0 to {size - 1}"
        )
