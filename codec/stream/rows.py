"""Many unsynchronised streams in one object, for servers: one engine call a step for all rows that have one ready.

Rows join and leave at any time, and never influence each other. Codes of a row agree with those of a stream of its own
on at least 99.9 %, and not always on all: a matrix product of another height adds in another order.

>>> import codec
>>> import numpy as np
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

from collections.abc import Mapping
from typing import Any, overload

from numpy.typing import ArrayLike

from codec.arrays import AnyTensor
from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine
from codec.errors import AudioError, CodesError, ModelError
from codec.stream.checks import check_sample_rate
from codec.stream.coding import decoding, encoding
from codec.stream.queue import AudioQueue, CodesQueue
from codec.stream.rowtable import StreamRows
from codec.stream.variable import RateControl
from codec.stream.window import check_streams, decoder_reach, encoder_reach


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
        control: RateControl | None = None,
    ) -> None:
        """Begin; arguments as `StreamEncoder`, and `rows` streams, 0 to rows - 1, to begin with."""
        check_streams(info, encoder_reach(info), "encoder")
        rate = check_sample_rate(sample_rate, info.sample_rate)
        coding = encoding(engine, info, mode=mode, sample_rate=rate, n_codebooks=n_codebooks, control=control)
        super().__init__(coding, rows=rows, error=AudioError)

    @overload
    def feed(self, chunks: Mapping[int, AnyTensor]) -> dict[int, AnyTensor]: ...
    @overload
    def feed(self, chunks: Mapping[int, ArrayLike]) -> dict[int, Codes]: ...
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
        return self._feed(chunks)


class StreamDecoders(StreamRows[CodesQueue]):
    """As many `StreamDecoder` as there are rows, run together; rows of unlike numbers of codebooks step separately."""

    def __init__(
        self, engine: Engine, info: ModelInfo, *, rows: int = 0, mode: str = "frame", sample_rate: int | None = None
    ) -> None:
        """Begin; arguments as `StreamDecoder`, and `rows` streams, 0 to rows - 1, to begin with."""
        check_streams(info, decoder_reach(info), "decoder")
        if info.condition:
            what = "each stream needs a condition of its own; use stream_decoder(condition=...)"
            raise ModelError(f"{info.name}: {what}")
        rate = check_sample_rate(sample_rate, info.sample_rate)
        super().__init__(decoding(engine, info, mode=mode, sample_rate=rate), rows=rows, error=CodesError)

    @overload
    def feed(self, codes: Mapping[int, AnyTensor]) -> dict[int, AnyTensor]: ...
    @overload
    def feed(self, codes: Mapping[int, ArrayLike]) -> dict[int, Audio]: ...
    def feed(self, codes: Mapping[int, Any]) -> dict[int, Any]:
        """Take codes (Q, f) for some rows, give the audio (samples,) that they complete, of the same kind of array.

        Raises:
            CodesError: an unknown row, codes as `StreamDecoder` refuses them. No row has taken anything then.
        """
        return self._feed(codes)
