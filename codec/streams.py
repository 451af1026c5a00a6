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

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.arrays import is_torch, like
from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine, State
from codec.errors import AudioError, CodesError
from codec.stream import check_chunk, check_frames, check_sample_rate, frames_of_mode
from codec.streamqueue import AudioQueue, CodesQueue

Step = Callable[[Any, State], tuple[NDArray[Any], State]]


class StreamEncoders:
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
        self._engine, self._info, self._n_codebooks = engine, info, n_codebooks
        self._step, self._rate = frames_of_mode(mode), check_sample_rate(sample_rate, info.sample_rate)
        self._queues: dict[int, AudioQueue] = {}
        self._table = StateTable(engine.init_encoder(1))
        self._n_added = 0
        for _ in range(rows):
            self.add()

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows that are there, oldest first."""
        return tuple(self._queues)

    def add(self) -> int:
        """A new stream's row; the number of a row that left is never given again."""
        row, self._n_added = self._n_added, self._n_added + 1
        self._table.add(row)
        self._queues[row] = self._begin()
        return row

    def remove(self, row: int) -> None:
        """Let a stream go, with what it had not given yet."""
        del self._queues[_known(row, self._queues, AudioError)]
        self._table.remove(row)

    def reset(self, row: int) -> None:
        """One row back to the state before the first sample."""
        self._table.reset(_known(row, self._queues, AudioError))
        self._queues[row] = self._begin()

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
            queue = self._queues[_known(row, self._queues, AudioError)]
            audio[row] = check_chunk(chunk, queue, channels=None, name=f"stream encoders: row {row}")
        for row, samples in audio.items():
            self._queues[row].take(samples)
        codes = self._run(audio)
        return {row: like(codes[row], is_torch(chunks[row])) for row in codes}

    def flush(self, rows: Iterable[int]) -> dict[int, Codes]:
        """End some rows' streams: their last codes, numpy. `reset` begins anew in a row, `remove` lets it go."""
        ended = {_known(row, self._queues, AudioError) for row in rows}
        for row in ended:
            if not self._queues[row].ended:
                self._queues[row].close()
        return self._run(ended)

    def _begin(self) -> AudioQueue:
        return AudioQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=1)

    def _run(self, rows: Iterable[int]) -> dict[int, Codes]:
        blocks = {row: self._queues[row].blocks() for row in rows}
        empty = np.zeros((self._n_codebooks, 0), np.int64)
        parts = run_blocks(self._table, blocks, self._encode)
        return {row: self._queues[row].count(np.concatenate([empty, *parts[row]], 1)) for row in blocks}

    def _encode(self, audio: Audio, state: State) -> tuple[Codes, State]:
        return self._engine.encode_step(audio, state, self._n_codebooks)


class StreamDecoders:
    """As many `StreamDecoder` as there are rows, run together; rows of unlike numbers of codebooks step separately."""

    def __init__(
        self, engine: Engine, info: ModelInfo, *, rows: int = 0, mode: str = "frame", sample_rate: int | None = None
    ) -> None:
        """Begin; arguments as `StreamDecoder`, and `rows` streams, 0 to rows - 1, to begin with."""
        self._engine, self._info = engine, info
        self._step, self._rate = frames_of_mode(mode), check_sample_rate(sample_rate, info.sample_rate)
        self._queues: dict[int, CodesQueue] = {}
        self._table = StateTable(engine.init_decoder(1))
        self._n_added = 0
        for _ in range(rows):
            self.add()

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows that are there, oldest first."""
        return tuple(self._queues)

    def add(self) -> int:
        """A new stream's row; the number of a row that left is never given again."""
        row, self._n_added = self._n_added, self._n_added + 1
        self._table.add(row)
        self._queues[row] = self._begin()
        return row

    def remove(self, row: int) -> None:
        """Let a stream go, with what it had not given yet."""
        del self._queues[_known(row, self._queues, CodesError)]
        self._table.remove(row)

    def reset(self, row: int) -> None:
        """One row back to the state before the first frame."""
        self._table.reset(_known(row, self._queues, CodesError))
        self._queues[row] = self._begin()

    def feed(self, codes: Mapping[int, Any]) -> dict[int, Any]:
        """Take codes (Q, f) for some rows, give the audio (samples,) that they complete, of the same kind of array.

        Raises:
            CodesError: an unknown row, codes as `StreamDecoder` refuses them. No row has taken anything then.
        """
        frames = {}
        for row, item in codes.items():
            queue = self._queues[_known(row, self._queues, CodesError)]
            frames[row] = check_frames(item, queue, self._info, channels=None, name=f"stream decoders: row {row}")
        for row, array in frames.items():
            self._queues[row].take(array)
        audio = self._run(frames)
        return {row: like(audio[row], is_torch(codes[row])) for row in audio}

    def flush(self, rows: Iterable[int]) -> dict[int, Audio]:
        """End some rows' streams: their last samples, numpy. `reset` begins anew in a row, `remove` lets it go."""
        ended = {_known(row, self._queues, CodesError) for row in rows}
        for row in ended:
            if not self._queues[row].ended:
                self._queues[row].close()
        return self._run(ended)

    def _begin(self) -> CodesQueue:
        return CodesQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=1)

    def _run(self, rows: Iterable[int]) -> dict[int, Audio]:
        # A block is (1, Q, step): its axis of channels becomes the batch's, and audio has one of its own.
        blocks = {row: [block[0] for block in self._queues[row].blocks()] for row in rows}
        empty = np.zeros((1, 0), np.float32)
        parts = run_blocks(self._table, blocks, self._engine.decode_step)
        return {row: self._queues[row].give(np.concatenate([empty, *parts[row]], 1))[0] for row in blocks}


class StateTable:
    """The engine's states of many rows: one array for each tensor, a place along axis 0 for each row."""

    def __init__(self, fresh: State) -> None:
        """Begin empty; `fresh` is the state of one row before anything."""
        self._fresh = fresh
        self._arrays = tuple(array[:0] for array in fresh)
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._n_places = 0

    def add(self, row: int) -> None:
        """Make a place for a row, with the fresh state."""
        if not self._free:
            pairs = zip(self._arrays, self._fresh, strict=True)
            self._arrays = tuple(np.concatenate(pair) for pair in pairs)
            self._free.append(self._n_places)
            self._n_places += 1
        self._places[row] = self._free.pop()
        self.reset(row)

    def remove(self, row: int) -> None:
        """Free a row's place."""
        self._free.append(self._places.pop(row))

    def reset(self, row: int) -> None:
        """The fresh state for a row."""
        for array, fresh in zip(self._arrays, self._fresh, strict=True):
            array[self._places[row]] = fresh[0]

    def step(self, step: Step, inputs: Mapping[int, NDArray[Any]]) -> dict[int, NDArray[Any]]:
        """One call of `step` for the rows of `inputs`, all of one shape; the states of the others stay."""
        rows = sorted(inputs, key=self._places.__getitem__)
        places = [self._places[row] for row in rows]
        x = np.stack([inputs[row] for row in rows])
        if len(places) == self._n_places:  # all: nothing to gather
            y, self._arrays = step(x, self._arrays)
        else:
            y, after = step(x, tuple(array[places] for array in self._arrays))
            for array, new in zip(self._arrays, after, strict=True):
                array[places] = new
        return dict(zip(rows, y, strict=True))


def run_blocks(
    table: StateTable, blocks: Mapping[int, list[NDArray[Any]]], step: Step
) -> dict[int, list[NDArray[Any]]]:
    """Run each row's blocks in order, the n-th ones of all rows together, and give what comes of each."""
    parts: dict[int, list[NDArray[Any]]] = {row: [] for row in blocks}
    for i in range(max(map(len, blocks.values()), default=0)):
        alike: dict[tuple[int, ...], dict[int, NDArray[Any]]] = {}
        for row, own in blocks.items():
            if i < len(own):
                alike.setdefault(own[i].shape, {})[row] = own[i]
        for inputs in alike.values():
            for row, y in table.step(step, inputs).items():
                parts[row].append(y)
    return parts


def _known(row: int, queues: Mapping[int, Any], error: type[AudioError] | type[CodesError]) -> int:
    if row not in queues:
        raise error(f"row {row}: not there; rows are {', '.join(map(str, queues)) or 'none'}; add() gives a new one")
    return row
