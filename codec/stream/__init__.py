"""Streams: any chunking in, the same codes out.

Inside runs one fixed block, whatever the chunks: `frame` steps one frame at a time (latency), `block` 128 frames from
sample 0, the last one what is left (throughput). Within a mode the result is equal (==) for every chunking.
A network that looks ahead runs in overlapping windows instead (`codec.stream.window`), each from the initial state.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from codec.arguments import as_switch, as_whole, shown
from codec.arrays import AnyTensor
from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine
from codec.errors import CodesError
from codec.stream.checks import MODES, check_codes, check_sample_rate, frames_of_mode, rows_of_model
from codec.stream.coding import decoding, encoding
from codec.stream.condition import Condition, check_condition
from codec.stream.queue import AudioQueue, CodesQueue
from codec.stream.single import Stream
from codec.stream.variable import RateControl
from codec.stream.window import check_streams, decoder_reach, encoder_reach

__all__ = ["MODES", "StreamDecoder", "StreamEncoder", "check_codes", "check_sample_rate", "frames_of_mode"]


class StreamEncoder(Stream[AudioQueue]):
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
        control: RateControl | None = None,
    ) -> None:
        """Begin a stream.

        Args:
            engine: of the model.
            info: of the model.
            n_codebooks: a prefix that decodes.
            mode: `frame` or `block`.
            sample_rate: of the chunks, Hz; the model's when None.
            channels: None takes chunks (samples,) and gives codes (Q, f); a number takes (channels, samples) and gives
                (channels, Q, f), each channel coded alone. A model that codes two together (`info.audio_channels`)
                takes (samples,), (1, samples) or (2, samples) and gives codes (Q, f), whatever is said here; its
                decoder takes those, and gives (2, samples).
            whole: take a model that needs the whole signal too; all codes come at `flush`.
            control: how many of the codebooks, as many as its last count, each frame gets; all when None. What is not
                sent is -1.

        Raises:
            ModelError: a model that needs the whole signal.
            AudioError, CodesError: an argument that cannot be.
        """
        if not as_switch(whole, "whole"):
            check_streams(info, encoder_reach(info), "encoder")
        self._info = info
        rate = check_sample_rate(sample_rate, info.sample_rate)
        coding = encoding(engine, info, mode=mode, sample_rate=rate, n_codebooks=n_codebooks, control=control)
        super().__init__(coding, channels=rows_of_model(info, channels, is_audio=True))

    @property
    def n_samples(self) -> int:
        """Samples taken so far, at the model's rate."""
        return self._queue.n_samples

    @property
    def condition(self) -> Condition | None:
        """What `stream_decoder` needs beside the codes, (N,) or (channels, N) float32.

        None where the model has none, and before `flush`: it stands for the whole signal.
        """
        if not self._info.condition or not self._last:
            return None
        conditions = np.stack([after[-1][0] for after in self._last])  # of one block, the whole signal
        return conditions[0] if self._channels is None else conditions

    @overload
    def feed(self, chunk: AnyTensor) -> AnyTensor: ...
    @overload
    def feed(self, chunk: ArrayLike) -> Codes: ...
    def feed(self, chunk: Any) -> Any:
        """Take a chunk, give the codes that it completes; f may be 0.

        Args:
            chunk: float32, numpy or torch, (samples,) or (channels, samples), any number of samples.

        Returns:
            Codes of the same kind of array, (Q, f) or (channels, Q, f).

        Raises:
            AudioError: a wrong shape, samples that are not finite, or a stream that was flushed.
        """
        return self._feed(chunk)


class StreamDecoder(Stream[CodesQueue]):
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
        condition: Any = None,
    ) -> None:
        """Begin a stream; arguments as `StreamEncoder`, `sample_rate` is that of the audio given.

        `condition` is the encoder's after its `flush`, for models that have one. Raises: CodesError without it.
        """
        if not as_switch(whole, "whole"):
            check_streams(info, decoder_reach(info), "decoder")
        rate = check_sample_rate(sample_rate, info.sample_rate)
        rows = check_condition(info, condition, channels=channels)
        coding = decoding(engine, info, mode=mode, sample_rate=rate, condition=rows)
        super().__init__(coding, channels=rows_of_model(info, channels, is_audio=False))

    @overload
    def feed(self, codes: AnyTensor) -> AnyTensor: ...
    @overload
    def feed(self, codes: ArrayLike) -> Audio: ...
    def feed(self, codes: Any) -> Any:
        """Take codes (Q, f) or (channels, Q, f), give the audio they complete: (samples,) or (channels, samples).

        Numpy or torch, and audio of the same kind.

        Raises:
            CodesError: a wrong shape, another number of codebooks than before, codes out of range, a flushed stream. Of
                a frame the last codes may be -1, not sent.
        """
        return self._feed(codes)

    def trim(self, *, start: int = 0, end: int | None = None) -> None:
        """Give only the samples from `start` to `end` of the stream, counted at the model's rate.

        Say `start` before the first feed; `end`, the true length where nothing else is wanted, any time before it is
        passed. Each stays until it is said again; another `start` counts from the one before.

        Raises:
            CodesError: a start below 0, or behind the end.
        """
        first, last = as_whole(start), None if end is None else as_whole(end)
        if first is None or (end is not None and last is None):
            raise CodesError(f"trim: no samples from {shown(start)} to {shown(end)}; give whole numbers")
        if first < 0 or (last is not None and last < first):
            raise CodesError(f"trim: no samples from {first} to {last}; the end must come behind the start, 0 or later")
        self._queue.trim(first, last)
