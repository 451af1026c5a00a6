"""Models that code in segments: any engine, one segment a step, each coded alone at its own loudness.

The loudness, 1e-8 and the root of the mean square of the mean of the channels, stands in front as two codebooks: the
high and the low 16 bits of a float32. A segment with another one behind it has the full number of frames; where its
samples filled one less, the last is said twice and the loudness is negative. Neighbours fade into each other.

Source: Défossez et al. 2022 (EnCodec), section 3 and `EncodecModel.encode`, `_linear_overlap_add` of its code.

>>> loudness = np.array([0.25, -0.1], np.float32)
>>> books = books_of(loudness)
>>> books.tolist(), bool((loudness_of(books) == loudness).all())
([[16000, 0], [48588, 52429]], True)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine, State
from codec.errors import CodesError
from codec.segments import Segments

QUIETEST = 1e-8  # what silence is divided by
LOUDEST = 1e10  # no audio file holds more


def in_segments(engine: Engine, info: ModelInfo) -> Engine:
    """An engine of a model's networks as that of the model; itself where the signal is coded as a whole."""
    return engine if info.segments is None else SegmentEngine(engine, info, info.segments)


class SegmentEngine:
    """An engine whose step is a segment, or what is left of one at the signal's end.

    Args:
        engine: of the networks.
        info: of the model.
        segments: its own.
    """

    def __init__(self, engine: Engine, info: ModelInfo, segments: Segments) -> None:
        self.name = engine.name
        self._engine, self._segments, self._hop = engine, segments, info.hop_length
        self._channels = info.audio_channels
        self._n_loud = info.loudness_codebooks
        self._whole = segments.length // info.hop_length  # frames

    def init_encoder(self, batch: int) -> State:
        """Nothing: a segment is coded alone."""
        self._engine.init_encoder(batch)
        return ()

    def init_decoder(self, batch: int) -> State:
        """What the segment before left to fade into: audio (B, C, overlap), and its weights (B, 1, overlap)."""
        self._engine.init_decoder(batch)
        shape = (batch, self._channels, self._segments.overlap)
        return np.zeros(shape, np.float32), np.zeros((batch, 1, shape[2]), np.float32)

    def encode_step(self, audio: Audio, state: State, n_codebooks: int) -> tuple[Codes, State]:
        """As `Engine`, of a segment (B, C, samples)."""
        mono = audio.mean(1, dtype=np.float64)
        loudness = (QUIETEST + np.sqrt(np.square(mono).mean(1))).astype(np.float32)
        fresh = self._engine.init_encoder(len(audio))
        codes, _ = self._engine.encode_step(audio / loudness[:, None, None], fresh, n_codebooks - self._n_loud)
        if audio.shape[2] > self._segments.stride and codes.shape[2] < self._whole:
            codes, loudness = np.concatenate((codes, codes[..., -1:]), 2), -loudness
        books = np.repeat(books_of(loudness)[..., None], codes.shape[2], 2)
        return np.concatenate((books, codes), 1), ()

    def decode_step(self, codes: Codes, state: State) -> tuple[Audio, State]:
        """As `Engine`; of no frames at all: what the last whole segment holds beyond its stride.

        Raises: CodesError: a loudness that no sound has.
        """
        if not codes.shape[2]:
            return state[0], self.init_decoder(len(codes))
        loudness = loudness_of(codes[:, : self._n_loud, 0])
        if not (np.abs(loudness) <= LOUDEST).all():
            where = codes[np.argmin(np.abs(loudness) <= LOUDEST), : self._n_loud, 0].tolist()
            raise CodesError(f"codes: {where} in the first codebooks is no loudness; take those of a real recording")
        is_short = (loudness < 0) & (codes.shape[2] == self._whole)
        audio = np.zeros((len(codes), self._channels, codes.shape[2] * self._hop), np.float32)
        for lack in sorted(set(is_short.tolist())):
            rows = codes[is_short == lack, self._n_loud :, : codes.shape[2] - lack]
            made, _ = self._engine.decode_step(rows, self._engine.init_decoder(len(rows)))
            audio[is_short == lack, :, : made.shape[2]] = made
        audio *= np.abs(loudness)[:, None, None]
        return self._faded(audio, state), self._left(audio, state, is_short)

    def _faded(self, audio: Audio, state: State) -> Audio:
        """A segment whose beginning is mixed with the end of the one before, where there is one."""
        left, falling = (array[..., : audio.shape[2]] for array in state)
        rising = np.arange(1, left.shape[2] + 1, dtype=np.float32)
        mixed = (left * falling + audio[..., : left.shape[2]] * rising) / (falling + rising)
        audio = audio.copy()
        audio[..., : left.shape[2]] = np.where(falling > 0, mixed, audio[..., : left.shape[2]])
        return audio

    def _left(self, audio: Audio, state: State, is_short: NDArray[np.bool_]) -> State:
        """What a whole segment leaves to the next one.

        Weights are a triangle over the signal's first segment, also for longer ones behind it.
        """
        if audio.shape[2] < self._segments.length:
            return self.init_decoder(len(audio))
        stride, overlap = self._segments.stride, self._segments.overlap
        lacks = np.where(is_short, self._hop, 0)[:, None, None]
        is_first = (state[1] == 0).all(2, keepdims=True)
        place = np.arange(overlap)
        falling = np.where(place < overlap - lacks, overlap - np.where(is_first, lacks, 0) - place, 0)
        return audio[..., stride:].copy(), falling.astype(np.float32)


def books_of(loudness: Audio) -> Codes:
    """Loudness (B,) float32 as codes (B, 2)."""
    bits = loudness.view(np.uint32).astype(np.int64)
    return np.stack((bits >> 16, bits & 0xFFFF), 1)


def loudness_of(books: Codes) -> Audio:
    """Codes (B, 2) as loudness (B,) float32."""
    bits = (books[:, 0] << 16 | books[:, 1]).astype(np.uint32)
    return bits.view(np.float32)
