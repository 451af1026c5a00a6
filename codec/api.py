"""The Python API: load a model, encode, decode, stream.

>>> model = load()
>>> codes = model.encode(np.zeros(16000, np.float32))
>>> codes.data.shape, model.decode(codes).shape
((8, 52), (16000,))
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from codec.arguments import as_list, as_whole, check_path, shown
from codec.arrays import as_audio, as_codes, is_torch, like
from codec.audio import Channels, check_mixing, check_samples, fit
from codec.codes import Codes
from codec.codesfile.counts import allowed_counts
from codec.codesfile.header import MAX_CHANNELS
from codec.config import ModelInfo
from codec.engine import Audio, Engine, open_engine
from codec.errors import AudioError, CodesError, ModelError
from codec.hub import DEFAULT, find_model
from codec.modelfolder import read_model
from codec.rate import choose_rate
from codec.stream import StreamDecoder, StreamEncoder, check_codes, check_sample_rate, frames_of_mode
from codec.stream.budget import fill
from codec.stream.checks import rows_of_model
from codec.stream.condition import check_condition
from codec.stream.rows import StreamDecoders, StreamEncoders
from codec.stream.variable import RateControl


class Model:
    """A loaded model.

    Attributes:
        info: name, sample_rate, frame_rate, codebooks, codebook_size, bitrate, latency, parameters, licence,
            weights_hash.
        engine: what runs it.
    """

    def __init__(self, info: ModelInfo, engine: Engine) -> None:
        self.info = info
        self.engine = engine

    def __repr__(self) -> str:
        """What it is, in one line of a notebook."""
        info = self.info
        return f"<codec.Model {info.name}, {info.sample_rate} Hz, {info.bitrate:g} bit/s, {self.engine.name}>"

    @overload
    def encode(
        self,
        audio: Any,
        sample_rate: int | None = None,
        *,
        codebooks: int | None = None,
        bitrate: float | None = None,
        variable: bool = False,
        mode: str = "block",
        channels: str = "keep",
        lengths: Sequence[int],
    ) -> list[Codes]: ...
    @overload
    def encode(
        self,
        audio: Any,
        sample_rate: int | None = None,
        *,
        codebooks: int | None = None,
        bitrate: float | None = None,
        variable: bool = False,
        mode: str = "block",
        channels: str = "keep",
        lengths: None = None,
    ) -> Codes: ...
    def encode(
        self,
        audio: Any,
        sample_rate: int | None = None,
        *,
        codebooks: int | None = None,
        bitrate: float | None = None,
        variable: bool = False,
        mode: str = "block",
        channels: str = "keep",
        lengths: Sequence[int] | None = None,
    ) -> Codes | list[Codes]:
        """Audio to codes.

        Args:
            audio: float32, numpy or torch: (samples,), (channels, samples), or a batch (batch, channels, samples).
            sample_rate: of `audio`, Hz; the model's when None.
            codebooks: how many codebooks to use; all when None.
            bitrate: or the most bits per second of one channel to use.
            variable: fill the bitrate on average: pauses get fewer codebooks, loud frames more. What is not sent is -1
                in the codes. A stream, which does not know what comes, chooses a little differently.
            mode: `block` or `frame`.
            channels: `keep` codes each channel, `mix` their mean. A model that codes two together keeps two as one row
                of codes, and takes one for both.
            lengths: true samples of each item of a batch. Each item gives exactly what it gives alone.

        Returns:
            `Codes`; a list of them for a batch, which a type checker takes for one where `lengths` are given.

        Raises:
            AudioError: a wrong shape or type, no samples, samples that are not finite.
            CodesError: a number of codebooks or a bitrate that the model does not have.
        """
        array, torch_wanted = _check_audio(audio), is_torch(audio)
        count, control = choose_rate(self.info, codebooks=codebooks, bitrate=bitrate, variable=variable)
        rate = check_sample_rate(sample_rate, self.info.sample_rate)
        kind = check_mixing(channels)
        if array.ndim < 3 and lengths is not None:
            raise AudioError(f"lengths: go with a batch (batch, channels, samples), not with shape {array.shape}")
        sizes = _check_lengths(lengths, array) if array.ndim == 3 else []
        items = [item[:, :size] for item, size in zip(array, sizes, strict=True)] if array.ndim == 3 else [array]
        for i, item in enumerate(items):
            check_samples(item, f"audio, item {i}" if array.ndim == 3 else "audio")
        codes = [self._encode_item(item, rate, (count, control), mode=mode, channels=kind) for item in items]
        result = [dataclasses.replace(item, data=like(item.data, torch_wanted)) for item in codes]
        return result if array.ndim == 3 else result[0]

    def decode(self, codes: Codes | list[Codes] | tuple[Codes, ...], sample_rate: int | None = None) -> Audio | Any:
        """Codes to audio of the exact length.

        Args:
            codes: `Codes`, or a list of them.
            sample_rate: of the result, Hz; the model's when None.

        Returns:
            Audio float32 of the kind and shape that was encoded: (samples,), (channels, samples); for a list
            (batch, channels, samples), shorter items end in zeros. Torch of torch, which no type can say. Of a model
            that codes two channels together always (2, samples).

        Raises:
            ModelError: codes of another model.
            CodesError: codes out of range.
        """
        if isinstance(codes, Codes):
            return like(self._decode_item(codes, sample_rate), is_torch(codes.data))
        if not isinstance(codes, list | tuple) or not all(isinstance(item, Codes) for item in codes):
            raise CodesError("decode: takes Codes or a list of them; make them of an array with model.codes(array)")
        return _stack([(self._decode_item(item, sample_rate), is_torch(item.data)) for item in codes])

    def stream_encoder(
        self,
        *,
        codebooks: int | None = None,
        bitrate: float | None = None,
        variable: bool = False,
        mode: str = "frame",
        sample_rate: int | None = None,
        channels: int | None = None,
        whole: bool = False,
    ) -> StreamEncoder:
        """A new `StreamEncoder`; `sample_rate` of the chunks, `channels` None for (samples,).

        A model whose frames depend on the whole signal is refused, unless `whole`: all codes come at `flush`.
        `variable`: as for `encode`, but at no time is the mean from the beginning on over the bitrate.
        """
        count, control = choose_rate(self.info, codebooks=codebooks, bitrate=bitrate, variable=variable)
        return StreamEncoder(
            self.engine,
            self.info,
            n_codebooks=count,
            mode=mode,
            sample_rate=sample_rate,
            channels=channels,
            whole=whole,
            control=control,
        )

    def stream_decoder(
        self,
        *,
        mode: str = "frame",
        sample_rate: int | None = None,
        channels: int | None = None,
        whole: bool = False,
        condition: Any = None,
    ) -> StreamDecoder:
        """A new `StreamDecoder`; `sample_rate` of the audio it gives, `whole` as for the encoder.

        `condition` is what the codes' encoder found, for a model that has one (`info.condition`).
        """
        return StreamDecoder(
            self.engine,
            self.info,
            mode=mode,
            sample_rate=sample_rate,
            channels=channels,
            whole=whole,
            condition=condition,
        )

    def stream_encoders(
        self,
        *,
        rows: int = 0,
        codebooks: int | None = None,
        bitrate: float | None = None,
        variable: bool = False,
        mode: str = "frame",
        sample_rate: int | None = None,
    ) -> StreamEncoders:
        """New `StreamEncoders`: many streams of one channel in one object, `rows` of them to begin with."""
        count, control = choose_rate(self.info, codebooks=codebooks, bitrate=bitrate, variable=variable)
        return StreamEncoders(
            self.engine,
            self.info,
            n_codebooks=count,
            rows=rows,
            mode=mode,
            sample_rate=sample_rate,
            control=control,
        )

    def stream_decoders(self, *, rows: int = 0, mode: str = "frame", sample_rate: int | None = None) -> StreamDecoders:
        """New `StreamDecoders`, `rows` of them to begin with."""
        return StreamDecoders(self.engine, self.info, rows=rows, mode=mode, sample_rate=sample_rate)

    def codes(self, data: Any, n_samples: int | None = None, *, mode: str = "block", condition: Any = None) -> Codes:
        """Codes made elsewhere, for example by a language model, as `Codes` of this model.

        Args:
            data: integers (Q, F) or (C, Q, F); of a frame the last ones may be -1, not there.
            n_samples: true length; all that the frames carry when None.
            mode: how to decode them.
            condition: (N,) or (C, N), what a model with `info.condition` decodes them with.

        Raises:
            CodesError: a wrong shape, codes out of range, more samples than the frames carry, or a condition that is
                missing or not the model's.
        """
        array = as_codes(data, "codes")
        if array.ndim not in (2, 3):
            raise CodesError(
                f"codes of shape {array.shape}: expected (codebooks, frames) or (channels, codebooks, frames)"
            )
        rows_of_model(self.info, len(array) if array.ndim == 3 else None, is_audio=False)
        check_codes(array if array.ndim == 3 else array[None], self.info)
        frames_of_mode(mode)
        most = self.info.samples(array.shape[-1])
        count = most if n_samples is None else as_whole(n_samples)
        if count is None or not 0 <= count <= most:
            raise CodesError(f"n_samples={shown(n_samples)}: {array.shape[-1]} frames carry 0 to {most} samples")
        rows = check_condition(self.info, condition, channels=len(array) if array.ndim == 3 else None)
        shaped = rows if rows is None or array.ndim == 3 else rows[0]
        counts = allowed_counts(self.info.prefixes, self.info.divisors[: array.shape[-2]])
        counts = counts if array.min(initial=0) < 0 else ()
        return Codes(like(array, is_torch(data)), count, self.info, mode, condition=shaped, frame_codebooks=counts)

    def _encode_item(
        self, audio: Audio, rate: int, chosen: tuple[int, RateControl | None], *, mode: str, channels: Channels
    ) -> Codes:
        count, control = chosen
        rows = fit(np.atleast_2d(audio), rate, self.info.sample_rate, channels=channels)
        encoder = StreamEncoder(self.engine, self.info, n_codebooks=count, mode=mode, channels=len(rows), whole=True)
        pieces = [encoder.feed(rows), encoder.flush()]
        if control is not None:
            pairs = zip((rows, rows[:, :0]), pieces, strict=True)
            pieces = list(fill(pairs, control, hop_length=self.info.hop_length)) or pieces
        data = np.concatenate(pieces, -1)
        counts = () if control is None else control.counts
        codes = Codes(data, rows.shape[-1], self.info, mode, condition=encoder.condition, frame_codebooks=counts)
        is_one = audio.ndim == 1 or channels == "mix"
        return codes.first_channel() if is_one and self.info.audio_channels == 1 else codes

    def _decode_item(self, codes: Codes, sample_rate: int | None) -> Audio:
        check_same_model(codes.model, self.info)
        data = as_codes(codes.data, "codes")
        channels = len(data) if data.ndim == 3 else None
        decoder = self.stream_decoder(
            mode=codes.mode, sample_rate=sample_rate, channels=channels, whole=True, condition=codes.condition
        )
        decoder.trim(end=codes.n_samples)
        audio: Audio = np.concatenate((decoder.feed(data), decoder.flush()), -1)
        return audio


def load(name_or_path: str | os.PathLike[str] = DEFAULT, *, engine: str = "auto", device: str = "cpu") -> Model:
    """Load a model.

    Args:
        name_or_path: a known model's name, a model folder, `hf://org/repo@revision` or
            `https://host/folder/model.json#sha256=...`; a model on a network is downloaded the first time.
        engine: `onnx`, `onnx-int8` (a frame costs half as much; other codes), `torch`, or `auto`: onnx on the CPU where
            the model ships graphs, else torch.
        device: cpu, cuda or mps.

    Raises:
        ModelError: unknown, incomplete or damaged, or it cannot be downloaded.
        MissingExtraError: the engine's package is not installed.
    """
    check_path(name_or_path, ModelError)
    folder = read_model(find_model(name_or_path if isinstance(name_or_path, str) else Path(name_or_path)))
    return Model(folder.info, open_engine(folder, engine=engine, device=device))


def check_same_model(theirs: ModelInfo, mine: ModelInfo) -> None:
    """Check that codes made by one model can be decoded by another one.

    Raises:
        ModelError: another name, other weights with other codes, or a file's header that contradicts the model.
    """
    if not mine.knows_codes_of(theirs.name, theirs.weights_hash):
        raise ModelError(
            f"codes of {theirs.name} (weights {theirs.weights_hash[:12]}): this is {mine.name} "
            f"(weights {mine.weights_hash[:12]}); load the model that made them"
        )
    count = theirs.codebooks
    for name in ("sample_rate", "hop_length", "codebook_sizes", "divisors"):
        said, known = getattr(theirs, name), getattr(mine, name)
        known = known[:count] if isinstance(known, tuple) else known
        if said != known:
            raise ModelError(f"codes of {theirs.name} say {name} {said}, the model has {known}; encode again")


def _check_audio(audio: Any) -> Audio:
    array = as_audio(audio, "audio")
    if array.ndim not in (1, 2, 3):
        shapes = "(samples,), (channels, samples) or (batch, channels, samples)"
        raise AudioError(f"audio of shape {array.shape}: expected {shapes}")
    if array.size == 0:
        raise AudioError(f"audio of shape {array.shape}: no samples; nothing to encode")
    if array.ndim > 1 and array.shape[-2] > MAX_CHANNELS:
        raise AudioError(
            f"audio of shape {array.shape}: {array.shape[-2]} channels, at most {MAX_CHANNELS}; "
            "samples are the last axis, transpose what soundfile reads"
        )
    return array


def _check_lengths(lengths: Sequence[int] | None, array: Audio) -> list[int]:
    if lengths is None:
        return [array.shape[-1]] * len(array)
    given = as_list(lengths)
    sizes = [size for size in map(as_whole, given or ()) if size is not None and 0 < size <= array.shape[-1]]
    if given is None or not len(given) == len(sizes) == len(array):
        raise AudioError(
            f"lengths {shown(lengths)}: expected {len(array)} whole numbers between 1 and {array.shape[-1]}"
        )
    return sizes


def _stack(items: list[tuple[Audio, bool]]) -> Audio | Any:
    """Audio (T,) or (C, T) of each item to (B, C, longest T)."""
    if not items:
        raise CodesError("decode: an empty list; nothing to decode")
    rows = [np.atleast_2d(audio) for audio, _ in items]
    counts = {len(audio) for audio in rows}
    if len(counts) > 1:
        raise CodesError(f"decode: items of {', '.join(map(str, sorted(counts)))} channels; decode them one by one")
    longest = max(audio.shape[1] for audio in rows)
    batch = np.stack([np.pad(audio, ((0, 0), (0, longest - audio.shape[1]))) for audio in rows])
    return like(batch, items[0][1])
