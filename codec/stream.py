"""Streams: any chunking in, the same codes out.

Inside runs one fixed block, whatever the chunks: `frame` steps one frame at a time (latency), `block` 64 frames from
sample 0, the last block filled with zeros (throughput). Within a mode the result is equal (==) for every chunking.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np

from codec.arrays import as_audio, as_codes, is_torch, like
from codec.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, Resampler, check_samples
from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine, State
from codec.errors import AudioError, CodesError

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
        """
        self._engine, self._info, self._n_codebooks = engine, info, n_codebooks
        self._step = frames_of_mode(mode) * info.hop_length
        self._rate = check_sample_rate(sample_rate, info.sample_rate)
        self._rows, self._channels = check_channels(channels), channels
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first sample."""
        self._states: list[State] = [self._engine.init_encoder(1) for _ in range(self._rows)]
        self._pending = np.zeros((self._rows, 0), np.float32)
        self._resampler = Resampler(self._rate, self._info.sample_rate, self._rows)
        self._n_fed = self._n_samples = self._n_frames = 0
        self._ended = self._is_torch = False

    @property
    def n_samples(self) -> int:
        """Samples taken so far, at the model's rate."""
        return self._n_samples

    def feed(self, chunk: Any) -> Any:
        """Take a chunk, give the codes that it completes; f may be 0.

        Args:
            chunk: float32, numpy or torch, (samples,) or (channels, samples), any number of samples.

        Returns:
            Codes of the same kind of array, (Q, f) or (channels, Q, f).

        Raises:
            AudioError: a wrong shape, samples that are not finite, or a stream that was flushed.
        """
        if self._ended:
            raise AudioError("stream encoder: fed after flush; call reset() to begin a new stream")
        audio = as_audio(chunk, "stream encoder: chunk")
        expected = 1 if self._channels is None else 2
        if audio.ndim != expected or (self._channels is not None and len(audio) != self._channels):
            shape = "(samples,)" if self._channels is None else f"({self._channels}, samples)"
            raise AudioError(f"stream encoder: chunk of shape {audio.shape}, expected {shape}")
        check_samples(audio, "stream encoder", start=self._n_fed)
        self._n_fed += audio.shape[-1]
        self._is_torch = is_torch(chunk)
        self._take(self._resampler.feed(np.atleast_2d(audio)))
        return self._squeeze(self._run(self._pending.shape[1] // self._step))

    def flush(self) -> Any:
        """End the stream: the last codes. All frames together are ceil((n_samples + delay) / hop_length)."""
        if self._ended:
            return self._squeeze(self._run(0))
        self._take(self._resampler.flush())
        self._ended = True
        missing = self._info.frames(self._n_samples) - self._n_frames
        # Zeros carry the last samples through the model's delay; frames that are zeros only are dropped.
        steps = -(-missing * self._info.hop_length // self._step)
        self._pending = np.pad(self._pending, ((0, 0), (0, steps * self._step - self._pending.shape[1])))
        return self._squeeze(self._run(steps)[..., :missing])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pending = self._pending[:, :0]

    def _take(self, audio: Audio) -> None:
        self._n_samples += audio.shape[1]
        self._pending = np.concatenate((self._pending, audio), 1)

    def _run(self, steps: int) -> Codes:
        """Run whole steps from what is pending: (C, Q, f)."""
        parts: list[list[Codes]] = [[np.zeros((self._n_codebooks, 0), np.int64)] for _ in self._states]
        for i in range(steps):
            block = self._pending[:, i * self._step : (i + 1) * self._step]
            for row, audio in enumerate(block):
                x, state = audio[None, None], self._states[row]
                codes, self._states[row] = self._engine.encode_step(x, state, self._n_codebooks)
                parts[row].append(codes[0])
        self._pending = self._pending[:, steps * self._step :].copy()  # a view would keep the whole chunk
        result = np.stack([np.concatenate(part, 1) for part in parts])
        self._n_frames += result.shape[-1]
        return result

    def _squeeze(self, codes: Codes) -> Any:
        return like(codes[0] if self._channels is None else codes, self._is_torch)


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
    ) -> None:
        """Begin a stream; arguments as `StreamEncoder`, `sample_rate` is that of the audio given."""
        self._engine, self._info = engine, info
        self._step = frames_of_mode(mode)
        self._rate = check_sample_rate(sample_rate, info.sample_rate)
        self._rows, self._channels = check_channels(channels), channels
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first frame."""
        self._states: list[State] = [self._engine.init_decoder(1) for _ in range(self._rows)]
        self._pending: Codes | None = None
        self._resampler = Resampler(self._info.sample_rate, self._rate, self._rows)
        self._skip = self._info.delay
        self._end: int | None = None
        self._n_given = 0  # samples given, at the model's rate
        self._ended = self._is_torch = False

    def feed(self, codes: Any) -> Any:
        """Take codes (Q, f) or (channels, Q, f), give the audio they complete: (samples,) or (channels, samples).

        Numpy or torch, and audio of the same kind.

        Raises:
            CodesError: a wrong shape, another number of codebooks than before, codes out of range, a flushed stream.
        """
        if self._ended:
            raise CodesError("stream decoder: fed after flush; call reset() to begin a new stream")
        rows = self._check(codes)
        self._is_torch = is_torch(codes)
        self._pending = rows if self._pending is None else np.concatenate((self._pending, rows), 2)
        return self._give(self._run(self._pending.shape[2] // self._step))

    def trim(self, *, start: int = 0, end: int | None = None) -> None:
        """Give only the samples from `start` to `end` of the stream, counted at the model's rate.

        Say `start` before the first feed; `end`, the true length where nothing else is wanted, any time before it is
        passed.
        """
        self._skip += start
        self._end = None if end is None else end - start

    def flush(self) -> Any:
        """End the stream: the last samples."""
        if self._ended:
            return self._squeeze(np.zeros((self._rows, 0), np.float32))
        audio = np.zeros((self._rows, 0), np.float32)
        if self._pending is not None and self._pending.shape[2]:
            frames = self._pending.shape[2]
            self._pending = np.pad(self._pending, ((0, 0), (0, 0), (0, self._step - frames)))
            audio = self._run(1)[:, : frames * self._info.hop_length]
        self._ended = True
        return self._give(audio, last=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pending = None

    def _check(self, codes: Any) -> Codes:
        rows = as_codes(codes, "stream decoder: codes")
        rows = rows[None] if self._channels is None else rows
        if rows.ndim != 3 or len(rows) != self._rows:
            shape = "(codebooks, frames)" if self._channels is None else f"({self._channels}, codebooks, frames)"
            raise CodesError(f"stream decoder: codes of shape {np.shape(codes)}, expected {shape}")
        before = rows.shape[1] if self._pending is None else self._pending.shape[1]
        if rows.shape[1] != before:
            raise CodesError(f"stream decoder: {rows.shape[1]} codebooks after {before}; begin a new stream")
        check_codes(rows, self._info)
        return rows

    def _run(self, steps: int) -> Audio:
        """Run whole steps from what is pending: (C, t), at the model's rate, delay included."""
        assert self._pending is not None
        parts: list[list[Audio]] = [[np.zeros(0, np.float32)] for _ in self._states]
        for i in range(steps):
            block = self._pending[:, :, i * self._step : (i + 1) * self._step]
            for row, codes in enumerate(block):
                audio, self._states[row] = self._engine.decode_step(codes[None], self._states[row])
                parts[row].append(audio[0, 0])
        self._pending = self._pending[:, :, steps * self._step :].copy()
        return np.stack([np.concatenate(part) for part in parts])

    def _give(self, audio: Audio, *, last: bool = False) -> Any:
        """Trim the delay at the start and the padding at the end, resample."""
        skip = min(self._skip, audio.shape[1])
        self._skip -= skip
        audio = audio[:, skip:]
        if self._end is not None:
            audio = audio[:, : max(0, self._end - self._n_given)]
        self._n_given += audio.shape[1]
        audio = self._resampler.feed(audio)
        if last:
            audio = np.concatenate((audio, self._resampler.flush()), 1)
        return self._squeeze(audio)

    def _squeeze(self, audio: Audio) -> Any:
        return like(audio[0] if self._channels is None else audio, self._is_torch)


def check_codes(codes: Codes, info: ModelInfo) -> None:
    """Check codes (C, Q, f) against a model.

    Raises:
        CodesError: a number of codebooks that does not decode alone, or the first code out of range, with its place.
    """
    if codes.shape[1] not in info.prefixes:
        counts = ", ".join(map(str, info.prefixes))
        raise CodesError(f"{codes.shape[1]} codebooks: {info.name} decodes {counts} of them")
    limit = np.array(info.codebook_sizes[: codes.shape[1]])[:, None]
    wrong = (codes < 0) | (codes >= limit)
    if wrong.any():
        row, book, frame = np.argwhere(wrong)[0]
        size = info.codebook_sizes[book]
        where = f"codebook {book}, frame {frame}" + (f", channel {row}" if len(codes) > 1 else "")
        raise CodesError(f"code {codes[row, book, frame]} at {where}: this codebook has entries 0 to {size - 1}")
