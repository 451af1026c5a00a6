"""Frames of as many codebooks as their content is worth where all of it is there: a whole file fills its bitrate.

The rule is that of `codec.stream.variable`, loudness below the loudest, but with a threshold that is found and not
guessed: a window is encoded with all codebooks, and its loudest frames get the next one until what was saved so far is
spent. So the mean is not over the bitrate, and nearer to it than one codebook of one frame in each window; only nothing
but silence stays below.

>>> from codec.config import ModelInfo
>>> from codec.stream.variable import choose_control
>>> control = choose_control(ModelInfo("m", 16000, 320, 0, (1024,) * 8, (1,) * 8, (2, 4, 6, 8), {}, ""), 2000)
>>> audio = np.repeat(np.array([0.0, 0.1, 0.5, 0.2], np.float32), 320)[None]
>>> (codes,) = fill([(audio, np.zeros((1, 8, 4), np.int64))], control, hop_length=320)
>>> (codes >= 0).sum(1).tolist()
[[2, 2, 6, 4]]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from codec.codesfile.counts import MISSING
from codec.engine import Audio, Codes
from codec.stream.variable import DECAY_DB, QUIET_DB, SILENCE_DB, SPAN_DB, RateControl, loudness_of

WINDOW = 60.0  # seconds that are decided at once; what they leave is the next ones' to spend
SILENT_DB = -80.0  # the noise of a sample of 16 bits: nobody hears what more codebooks would say of it

Floats = NDArray[np.float64]


def fill(pieces: Iterable[tuple[Audio, Codes]], control: RateControl, *, hop_length: int) -> Iterator[Codes]:
    """Codes with -1 for what is not sent, window after window, whatever the pieces.

    Args:
        pieces: audio (C, t) at the model's rate, and the codes (C, Q, f) that came with it, which may be late; of as
            many codebooks as the last of `control.counts`.
        control: the numbers of codebooks to choose from, and the bitrate.
        hop_length: samples of a frame.

    Yields:
        Codes (C, Q, f).
    """
    size = max(1, round(WINDOW * control.frame_rate))
    sound: Audio | None = None
    loudness: Floats | None = None
    codes: Codes | None = None
    loudest: Floats | float = QUIET_DB  # of each channel, as soon as there are some
    saved: Floats | float = 0.0
    for audio, part in pieces:
        sound = audio if sound is None else np.concatenate((sound, audio), -1)
        whole = sound.shape[1] // hop_length * hop_length
        levels, sound = loudness_of(sound[:, :whole], hop_length), sound[:, whole:]
        loudness = levels if loudness is None else np.concatenate((loudness, levels), -1)
        codes = part if codes is None else np.concatenate((codes, part), -1)
        while codes.shape[2] >= size and loudness.shape[1] >= size:
            chosen, loudest, saved = _choose(loudness[:, :size], control, loudest, saved)
            yield _cut(codes[..., :size], chosen)
            codes, loudness = codes[..., size:], loudness[:, size:]
    if codes is None or sound is None or loudness is None or not codes.shape[2]:
        return
    rest = np.pad(sound, ((0, 0), (0, -sound.shape[1] % hop_length)))
    loudness = np.concatenate((loudness, loudness_of(rest, hop_length)), -1)[:, : codes.shape[2]]
    short = codes.shape[2] - loudness.shape[1]  # frames that only carry a model's delay
    loudness = np.pad(loudness, ((0, 0), (0, short)), constant_values=SILENCE_DB)
    yield _cut(codes, _choose(loudness, control, loudest, saved)[0])


def _choose(
    loudness: Floats, control: RateControl, loudest: Floats | float, saved: Floats | float
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Codebooks (C, 1, F) of each frame, the loudest (C,) that is remembered, and the bits (C,) that are left."""
    n_channels, n_frames = loudness.shape
    n_more = len(control.counts) - 1
    worth, loudest = _worth(loudness, loudest, control.frame_rate)
    # When the threshold is this low, a frame gets its second number of codebooks, its third one, and so on.
    keys = worth[..., None] - SPAN_DB / max(1, n_more) * np.arange(n_more)
    keys[loudness < SILENT_DB] = -np.inf
    costs = np.array([high - low for low, high in pairwise(control.bits)])
    left = saved + n_frames * (control.target - control.bits[0]) + np.zeros(n_channels)
    choices = np.zeros((n_channels, n_frames), np.int64)
    for channel in range(n_channels):
        order = np.argsort(-keys[channel], axis=None, kind="stable")
        order = order[: int(np.isfinite(keys[channel]).sum())]
        spent = np.cumsum(costs[order % n_more])
        n_taken = int(np.searchsorted(spent, left[channel] + 1e-6, side="right"))
        choices[channel] = np.bincount(order[:n_taken] // n_more, minlength=n_frames)
        left[channel] -= spent[n_taken - 1] if n_taken else 0.0
    return np.array(control.counts)[choices][:, None], loudest, left


def _worth(loudness: Floats, loudest: Floats | float, frame_rate: float) -> tuple[Floats, Floats]:
    """How far each frame (C, F) is below the loudest around it, dB; the loudest (C,) that is remembered."""
    drop = DECAY_DB / frame_rate * np.arange(loudness.shape[1] + 1)
    before = np.column_stack((np.broadcast_to(loudest, len(loudness)), np.maximum(loudness, QUIET_DB)))
    before = np.maximum.accumulate(before + drop, axis=1) - drop
    after = np.maximum.accumulate((loudness + drop[1:][::-1])[:, ::-1], axis=1)[:, ::-1] - drop[1:][::-1]
    return loudness - np.maximum(np.maximum(before[:, 1:], after), QUIET_DB), before[:, -1]


def _cut(codes: Codes, counts: NDArray[np.int64]) -> Codes:
    return np.where(np.arange(codes.shape[1])[:, None] < counts, codes, MISSING)
