"""Many unsynchronised streams in one object, for servers: one engine call a step for all rows that have one ready.

Rows join and leave at any time, and never influence each other. Codes of a row agree with those of a stream of its own
on at least 99.9 %, and not always on all: a matrix product of another height adds in another order.

>>> import codec
>>> encoders = codec.load().stream_encoders(codebooks=4)
>>> first, second = encoders.add(), encoders.add()
>>> codes = encoders.feed({first: np.zeros(1000, np.float32), second: np.zeros(10, np.float32)})
>>> codes[first].shape, codes[second].shape
((4, 3), (4, 0))
>>> encoders.flush([first])[first].shape
(4, 2)
>>> encoders.remove(first)
>>> encoders.rows == (second,)
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from codec.arrays import is_torch, like
from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine, State
from codec.errors import AudioError, CodesError
from codec.stream import check_chunk, check_frames, check_sample_rate, frames_of_mode
from codec.stream.queue import AudioQueue, CodesQueue
from codec.stream.rowtable import StreamRows
from codec.stream.state import Identity, identify
from codec.stream.window import Block, check_streams, decoder_reach, encoder_reach


class StreamEncoders(StreamRows[AudioQueue]):
    """As many `StreamEncoder` as there are rows, run together."""

    def __init__(
        self,
        engine: Engine,
        info: ModelInfo,
        *,
        n_codebooks: int,
        rows: int = 0,
        mode: str = "frame",
        sample_rate: int | None = None,
    ) -> None:
        """Begin; arguments as `StreamEncoder`, and `rows` streams, 0 to rows - 1, to begin with."""
        check_streams(info, encoder_reach(info), "encoder")
        self._engine, self._info, self._n_codebooks, self._mode = engine, info, n_codebooks, mode
        self._step, self._rate = frames_of_mode(mode), check_sample_rate(sample_rate, info.sample_rate)
        super().__init__(engine.init_encoder(1), rows=rows, causal=info.encoder_lookahead == 0, error=AudioError)

    def feed(self, chunks: Mapping[int, Any]) -> dict[int, Any]:
        """Take chunks for some rows, give the codes that they complete.

        Args:
            chunks: row -> audio (samples,) float32, numpy or torch, any number of samples.

        Returns:
            Row -> codes (Q, f) of the same kind of array, for these rows.

        Raises:
            AudioError: an unknown row, a wrong shape, samples that are not finite, a row that was flushed. No row has
                taken anything then: leave the bad one out and feed the others again.
        """
        audio = {}
        for row, chunk in chunks.items():
            audio[row] = check_chunk(chunk, self._queue(row), channels=None, name=f"stream encoders: row {row}")
        for row, samples in audio.items():
            self._queues[row].take(samples)
        codes = self._run(audio)
        return {row: like(codes[row], is_torch(chunks[row])) for row in codes}

    def _begin(self) -> AudioQueue:
        return AudioQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=1)

    def _identity(self) -> Identity:
        what = {"channels": None, "codebooks": self._n_codebooks, "sample_rate": self._rate}
        return {**identify("encoder", self._engine, self._info, self._mode), **what}

    def _run(self, rows: Iterable[int]) -> dict[int, Codes]:
        blocks = {row: self._queues[row].blocks() for row in rows}
        empty = np.zeros((self._n_codebooks, 0), np.int64)
        parts = self._table.run(blocks, self._encode)
        return {row: self._queues[row].count(np.concatenate([empty, *parts[row]], 1)) for row in blocks}

    def _encode(self, audio: Audio, state: State) -> tuple[Codes, State]:
        return self._engine.encode_step(audio, state, self._n_codebooks)


class StreamDecoders(StreamRows[CodesQueue]):
    """As many `StreamDecoder` as there are rows, run together; rows of unlike numbers of codebooks step separately."""

    def __init__(
        self, engine: Engine, info: ModelInfo, *, rows: int = 0, mode: str = "frame", sample_rate: int | None = None
    ) -> None:
        """Begin; arguments as `StreamDecoder`, and `rows` streams, 0 to rows - 1, to begin with."""
        check_streams(info, decoder_reach(info), "decoder")
        self._engine, self._info, self._mode = engine, info, mode
        self._step, self._rate = frames_of_mode(mode), check_sample_rate(sample_rate, info.sample_rate)
        super().__init__(engine.init_decoder(1), rows=rows, causal=info.decoder_lookahead == 0, error=CodesError)

    def feed(self, codes: Mapping[int, Any]) -> dict[int, Any]:
        """Take codes (Q, f) for some rows, give the audio (samples,) that they complete, of the same kind of array.

        Raises:
            CodesError: an unknown row, codes as `StreamDecoder` refuses them. No row has taken anything then.
        """
        frames = {}
        for row, item in codes.items():
            queue = self._queue(row)
            frames[row] = check_frames(item, queue, self._info, channels=None, name=f"stream decoders: row {row}")
        for row, array in frames.items():
            self._queues[row].take(array)
        audio = self._run(frames)
        return {row: like(audio[row], is_torch(codes[row])) for row in audio}

    def _begin(self) -> CodesQueue:
        return CodesQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=1)

    def _identity(self) -> Identity:
        what = {"channels": None, "sample_rate": self._rate}
        return {**identify("decoder", self._engine, self._info, self._mode), **what}

    def _run(self, rows: Iterable[int]) -> dict[int, Audio]:
        # A block is (1, Q, step): its axis of channels becomes the batch's, and audio has one of its own.
        blocks = {row: [Block(block.data[0], block.keep) for block in self._queues[row].blocks()] for row in rows}
        empty = np.zeros((1, 0), np.float32)
        parts = self._table.run(blocks, self._engine.decode_step)
        return {row: self._queues[row].give(np.concatenate([empty, *parts[row]], 1))[0] for row in blocks}
