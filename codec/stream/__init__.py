"""Streams: any chunking in, the same codes out.

Inside runs one fixed block, whatever the chunks: `frame` steps one frame at a time (latency), `block` 64 frames from
sample 0, the last block filled with zeros (throughput). Within a mode the result is equal (==) for every chunking.
A network that looks ahead runs in overlapping windows instead (`codec.stream.window`), each from the initial state.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from codec.arrays import as_audio, as_codes, is_torch, like
from codec.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, check_samples
from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine, State
from codec.errors import AudioError, CodesError
from codec.stream.asynchronous import pump
from codec.stream.queue import AudioQueue, CodesQueue
from codec.stream.state import Identity, check_no_resampling, identify, load_stream, save_stream
from codec.stream.window import check_streams, decoder_reach, encoder_reach

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
    fits = MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE and sample_rate == int(sample_rate)
    if not fits:
        raise AudioError(f"sample_rate={sample_rate}: use whole Hz from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}")
    return int(sample_rate)


def check_channels(channels: int | None) -> int:
    """Rows of a stream of so many channels. Raises: AudioError for less than one."""
    if channels is not None and channels < 1:
        raise AudioError(f"channels={channels}: use None for (samples,), or a number from 1 on")
    return channels or 1


class StreamEncoder:
    """Audio in chunks of any size to codes, as soon as a step is full.

    >>> import codec
    >>> with codec.load().stream_encoder(codebooks=4) as encoder:
    ...     first = encoder.feed(np.zeros(1000, np.float32))
    ...     last = encoder.flush()
    >>> first.shape, last.shape
    ((4, 3), (4, 2))
    """

    def __init__(
        self,
        engine: Engine,
        info: ModelInfo,
        *,
        n_codebooks: int,
        mode: str = "frame",
        sample_rate: int | None = None,
        channels: int | None = None,
        whole: bool = False,
    ) -> None:
        """Begin a stream.

        Args:
            engine: of the model.
            info: of the model.
            n_codebooks: a prefix that decodes.
            mode: `frame` or `block`.
            sample_rate: of the chunks, Hz; the model's when None.
            channels: None takes chunks (samples,) and gives codes (Q, f); a number takes (channels, samples) and gives
                (channels, Q, f), each channel coded alone.
            whole: take a model that needs the whole signal too; all codes come at `flush`.

        Raises:
            ModelError: a model that needs the whole signal.
            AudioError, CodesError: an argument that cannot be.
        """
        if not whole:
            check_streams(info, encoder_reach(info), "encoder")
        self._engine, self._info, self._n_codebooks = engine, info, n_codebooks
        self._mode, self._step = mode, frames_of_mode(mode)
        self._rate = check_sample_rate(sample_rate, info.sample_rate)
        self._rows, self._channels = check_channels(channels), channels
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first sample."""
        self._states: list[State] = [self._engine.init_encoder(1) for _ in range(self._rows)]
        self._queue = AudioQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=self._rows)
        self._is_torch = False

    @property
    def n_samples(self) -> int:
        """Samples taken so far, at the model's rate."""
        return self._queue.n_samples

    def feed(self, chunk: Any) -> Any:
        """Take a chunk, give the codes that it completes; f may be 0.

        Args:
            chunk: float32, numpy or torch, (samples,) or (channels, samples), any number of samples.

        Returns:
            Codes of the same kind of array, (Q, f) or (channels, Q, f).

        Raises:
            AudioError: a wrong shape, samples that are not finite, or a stream that was flushed.
        """
        self._queue.take(check_chunk(chunk, self._queue, channels=self._channels, name="stream encoder"))
        self._is_torch = is_torch(chunk)
        return self._run()

    def flush(self) -> Any:
        """End the stream: the last codes. All frames together are ceil((n_samples + delay) / hop_length)."""
        if not self._queue.ended:
            self._queue.close()
        return self._run()

    def stream(self, chunks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
        """`async for codes in encoder.stream(chunks)`: feed chunks and flush, away from the event loop.

        Args:
            chunks: as `feed` takes them, from a plain or an asynchronous iterable.

        Returns:
            What `feed` and `flush` give, but no empty arrays. Stopped in the middle, the stream is not flushed.
        """
        return pump(self, chunks)

    def state(self) -> bytes:
        """All that the stream remembers, for `load_state` of one like it: safetensors.

        Raises:
            StateError: the stream changes the sample rate.
        """
        return save_stream(self._identity(), self._queue, self._states)

    def load_state(self, data: bytes) -> None:
        """Go on where the stream was that gave `data`: same model, engine, mode, channels and codebooks.

        Raises:
            StateError: damaged, or of another stream; this one is then as before.
        """
        fresh = [self._engine.init_encoder(1)] * self._rows
        queue = AudioQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=self._rows)
        self._states, self._queue = load_stream(data, self._identity(), queue, fresh), queue

    def copy(self) -> Self:
        """A second stream that goes on from here by itself.

        Raises:
            StateError: the stream changes the sample rate.
        """
        check_no_resampling(self._queue)
        twin = copy.copy(self)
        twin._states, twin._queue = list(self._states), copy.copy(self._queue)  # arrays are never written into
        return twin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.pending = self._queue.pending[:, :0]

    def _identity(self) -> Identity:
        what = {"channels": self._channels, "codebooks": self._n_codebooks, "sample_rate": self._rate}
        return {**identify("encoder", self._engine, self._info, self._mode), **what}

    def _run(self) -> Any:
        """Run whole steps from what is pending: (Q, f) or (C, Q, f)."""
        parts: list[list[Codes]] = [[] for _ in self._states]
        for block in self._queue.blocks():
            for row, audio in enumerate(block.data):
                x, state = audio[None, None], self._states[row]
                codes, after = self._engine.encode_step(x, state, self._n_codebooks)
                self._states[row] = after if self._info.encoder_lookahead == 0 else state
                parts[row].append(codes[0][:, block.keep])
        nothing = np.zeros((self._n_codebooks, 0), np.int64)
        result = self._queue.count(np.stack([_joined(part, nothing) for part in parts]))
        return like(result[0] if self._channels is None else result, self._is_torch)


class StreamDecoder:
    """Codes in pieces of any number of frames to audio, as soon as a step is full.

    >>> import codec
    >>> with codec.load().stream_decoder() as decoder:
    ...     first = decoder.feed(np.zeros((8, 3), np.int64))
    ...     last = decoder.flush()
    >>> len(first) + len(last) == 3 * 320 - 480
    True
    """

    def __init__(
        self,
        engine: Engine,
        info: ModelInfo,
        *,
        mode: str = "frame",
        sample_rate: int | None = None,
        channels: int | None = None,
        whole: bool = False,
    ) -> None:
        """Begin a stream; arguments as `StreamEncoder`, `sample_rate` is that of the audio given."""
        if not whole:
            check_streams(info, decoder_reach(info), "decoder")
        self._engine, self._info = engine, info
        self._mode, self._step = mode, frames_of_mode(mode)
        self._rate = check_sample_rate(sample_rate, info.sample_rate)
        self._rows, self._channels = check_channels(channels), channels
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first frame."""
        self._states: list[State] = [self._engine.init_decoder(1) for _ in range(self._rows)]
        self._queue = CodesQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=self._rows)
        self._is_torch = False

    def feed(self, codes: Any) -> Any:
        """Take codes (Q, f) or (channels, Q, f), give the audio they complete: (samples,) or (channels, samples).

        Numpy or torch, and audio of the same kind.

        Raises:
            CodesError: a wrong shape, another number of codebooks than before, codes out of range, a flushed stream.
        """
        rows = check_frames(codes, self._queue, self._info, channels=self._channels, name="stream decoder")
        self._queue.take(rows)
        self._is_torch = is_torch(codes)
        return self._run()

    def trim(self, *, start: int = 0, end: int | None = None) -> None:
        """Give only the samples from `start` to `end` of the stream, counted at the model's rate.

        Say `start` before the first feed; `end`, the true length where nothing else is wanted, any time before it is
        passed.
        """
        self._queue.skip += start
        self._queue.end = None if end is None else end - start

    def flush(self) -> Any:
        """End the stream: the last samples."""
        if not self._queue.ended:
            self._queue.close()
        return self._run()

    def stream(self, chunks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
        """`async for audio in decoder.stream(codes)`: as `StreamEncoder.stream`."""
        return pump(self, chunks)

    def state(self) -> bytes:
        """All that the stream remembers: as `StreamEncoder.state`."""
        return save_stream(self._identity(), self._queue, self._states)

    def load_state(self, data: bytes) -> None:
        """Go on where the stream was that gave `data`: as `StreamEncoder.load_state`."""
        fresh = [self._engine.init_decoder(1)] * self._rows
        queue = CodesQueue(self._info, sample_rate=self._rate, step=self._step, n_channels=self._rows)
        self._states, self._queue = load_stream(data, self._identity(), queue, fresh), queue

    def copy(self) -> Self:
        """A second stream that goes on from here by itself: as `StreamEncoder.copy`."""
        check_no_resampling(self._queue)
        twin = copy.copy(self)
        twin._states, twin._queue = list(self._states), copy.copy(self._queue)  # arrays are never written into
        return twin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.pending = None

    def _identity(self) -> Identity:
        what = {"channels": self._channels, "sample_rate": self._rate}
        return {**identify("decoder", self._engine, self._info, self._mode), **what}

    def _run(self) -> Any:
        """Run whole steps from what is pending: (t,) or (C, t)."""
        parts: list[list[Audio]] = [[] for _ in self._states]
        for block in self._queue.blocks():
            for row, codes in enumerate(block.data):
                audio, after = self._engine.decode_step(codes[None], self._states[row])
                self._states[row] = after if self._info.decoder_lookahead == 0 else self._states[row]
                parts[row].append(audio[0, 0, block.keep])
        result = self._queue.give(np.stack([_joined(part, np.zeros(0, np.float32)) for part in parts]))
        return like(result[0] if self._channels is None else result, self._is_torch)


def _joined(parts: list[NDArray[Any]], nothing: NDArray[Any]) -> NDArray[Any]:
    """What several blocks gave, along the last axis."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1) if parts else nothing


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
        CodesError: a number of codebooks that does not decode alone, or the first code out of range, with its place.
    """
    if codes.shape[1] not in info.prefixes:
        counts = ", ".join(map(str, info.prefixes))
        raise CodesError(f"{name}: {codes.shape[1]} codebooks: {info.name} decodes {counts} of them")
    sizes = info.codebook_sizes[: codes.shape[1]]
    if codes.size == 0 or (codes.min() >= 0 and codes.max() < min(sizes)):  # nearly always
        return
    wrong = (codes < 0) | (codes >= np.array(sizes)[:, None])
    if wrong.any():
        row, book, frame = np.argwhere(wrong)[0]
        size = info.codebook_sizes[book]
        where = f"codebook {book}, frame {frame}" + (f", channel {row}" if len(codes) > 1 else "")
        raise CodesError(
            f"{name}: code {codes[row, book, frame]} at {where}: this codebook has entries 0 to {size - 1}"
        )
