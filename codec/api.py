"""The Python API: load a model, encode, decode, stream.

>>> model = load()
>>> codes = model.encode(np.zeros(16000, np.float32))
>>> codes.data.shape, model.decode(codes).shape
((8, 52), (16000,))
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codec import codesfile
from codec.audio import fit
from codec.codes import Codes
from codec.config import ModelInfo
from codec.engine import Engine, open_engine
from codec.errors import AudioError, CodesError, ModelError
from codec.hub import DEFAULT, find_model
from codec.modelfolder import read_model
from codec.stream import StreamDecoder, StreamEncoder


class Model:
    """A loaded model.

    Attributes:
        info: name, sample_rate, frame_rate, codebooks, codebook_size, bitrate, latency, parameters, licence, weights_hash.
        engine: what runs it.
    """

    def __init__(self, info: ModelInfo, engine: Engine) -> None:
        self.info = info
        self.engine = engine

    def encode(
        self,
        audio: Any,
        sample_rate: int | None = None,
        *,
        codebooks: int | None = None,
        bitrate: float | None = None,
        mode: str = "block",
        channels: str = "keep",
        lengths: Sequence[int] | None = None,
    ) -> Any:
        """Audio to codes.

        Args:
            audio: float32, numpy or torch: (samples,), (channels, samples), or a batch (batch, channels, samples).
            sample_rate: of `audio`, Hz; the model's when None.
            codebooks: how many codebooks to use; all when None.
            bitrate: or the most bits per second of one channel to use.
            mode: `block` or `frame`.
            channels: `keep` codes each channel, `mix` their mean.
            lengths: true samples of each item of a batch. Each item gives exactly what it gives alone.

        Returns:
            `Codes`; a list of them for a batch.

        Raises:
            AudioError: a wrong shape or type, no samples, samples that are not finite.
            CodesError: a number of codebooks or a bitrate that the model does not have.
        """
        array, is_torch = _to_numpy(audio)
        count = choose_codebooks(self.info, codebooks=codebooks, bitrate=bitrate)
        if channels not in ("keep", "mix"):
            raise AudioError(f"channels={channels!r}: use keep or mix")
        if array.ndim == 3:
            sizes = [array.shape[-1]] * len(array) if lengths is None else _check_lengths(lengths, array)
            items = [item[:, :size] for item, size in zip(array, sizes, strict=True)]
            return [self._encode_item(item, sample_rate, count, mode, channels, is_torch) for item in items]
        if lengths is not None:
            raise AudioError(f"lengths: go with a batch (batch, channels, samples), not with shape {array.shape}")
        return self._encode_item(array, sample_rate, count, mode, channels, is_torch)

    def decode(self, codes: Any, sample_rate: int | None = None) -> Any:
        """Codes to audio of the exact length.

        Args:
            codes: `Codes`, or a list of them.
            sample_rate: of the result, Hz; the model's when None.

        Returns:
            Audio float32 of the kind and shape that was encoded: (samples,), (channels, samples); for a list
            (batch, channels, samples), shorter items end in zeros.

        Raises:
            ModelError: codes of another model.
            CodesError: codes out of range.
        """
        if not isinstance(codes, Codes):
            return _stack([self.decode(item, sample_rate) for item in codes])
        self._check_model(codes)
        data, is_torch = _to_numpy_codes(codes.data)
        decoder = self.stream_decoder(
            mode=codes.mode, sample_rate=sample_rate, channels=len(data) if data.ndim == 3 else None
        )
        decoder.trim(end=codes.n_samples)
        audio = np.concatenate((decoder.feed(data), decoder.flush()), -1)
        return _like(audio, is_torch)

    def stream_encoder(
        self,
        *,
        codebooks: int | None = None,
        bitrate: float | None = None,
        mode: str = "frame",
        sample_rate: int | None = None,
        channels: int | None = None,
    ) -> StreamEncoder:
        """A new `StreamEncoder`; `sample_rate` of the chunks, `channels` None for (samples,)."""
        count = choose_codebooks(self.info, codebooks=codebooks, bitrate=bitrate)
        return StreamEncoder(
            self.engine, self.info, n_codebooks=count, mode=mode, sample_rate=sample_rate, channels=channels
        )

    def stream_decoder(
        self, *, mode: str = "frame", sample_rate: int | None = None, channels: int | None = None
    ) -> StreamDecoder:
        """A new `StreamDecoder`; `sample_rate` of the audio it gives."""
        return StreamDecoder(self.engine, self.info, mode=mode, sample_rate=sample_rate, channels=channels)

    def codes(self, data: Any, n_samples: int | None = None, *, mode: str = "block") -> Codes:
        """Codes made elsewhere, for example by a language model, as `Codes` of this model.

        Args:
            data: integers (Q, F) or (C, Q, F).
            n_samples: true length; all that the frames carry when None.
            mode: how to decode them.
        """
        data = data if _is_torch(data) else np.asarray(data, np.int64)
        if n_samples is None:
            n_samples = max(0, int(data.shape[-1]) * self.info.hop_length - self.info.delay)
        return Codes(data, n_samples, self.info, mode)

    def _encode_item(self, audio: Any, rate: int | None, count: int, mode: str, channels: str, is_torch: bool) -> Codes:
        if audio.shape[-1] == 0:
            raise AudioError("audio: no samples; nothing to encode")
        rows = fit(np.atleast_2d(audio), rate or self.info.sample_rate, self.info.sample_rate, channels=channels)  # type: ignore[arg-type]
        encoder = self.stream_encoder(codebooks=count, mode=mode, channels=len(rows))
        data = np.concatenate((encoder.feed(rows), encoder.flush()), -1)
        squeeze = audio.ndim == 1 or (channels == "mix" and len(rows) == 1)
        return Codes(_like(data[0] if squeeze else data, is_torch), rows.shape[-1], self.info, mode)

    def _check_model(self, codes: Codes) -> None:
        theirs, mine = codes.model, self.info
        n = min(len(theirs.weights_hash), len(mine.weights_hash))  # files keep half of the hash
        if theirs.name != mine.name or theirs.weights_hash[:n] != mine.weights_hash[:n]:
            raise ModelError(
                f"codes of {theirs.name} (weights {theirs.weights_hash[:12]}): this is {mine.name} "
                f"(weights {mine.weights_hash[:12]}); load the model that made them"
            )


def load(name_or_path: str | os.PathLike[str] = DEFAULT, *, engine: str = "auto", device: str = "cpu") -> Model:
    """Load a model.

    Args:
        name_or_path: an embedded model's name, or a model folder.
        engine: `torch`, or `auto`.
        device: cpu, cuda or mps.

    Raises:
        ModelError: unknown, incomplete or damaged.
        MissingExtraError: the engine's package is not installed.
    """
    folder = read_model(find_model(Path(name_or_path) if not isinstance(name_or_path, str) else name_or_path))
    return Model(folder.info, open_engine(folder, engine=engine, device=device))


def open_codes(path: str | os.PathLike[str], *, partial: bool = False) -> Codes:
    """Read a `.codes` file, `codec.open`.

    Args:
        path: the file.
        partial: take the whole good blocks of a damaged file; `Codes.warnings` says what is missing.

    Raises:
        CodesFileError: damaged, truncated, or not a .codes file.
    """
    file = codesfile.read(path, partial=partial)
    return Codes(file.codes, file.n_samples, info_of_header(file.header), file.header.mode, file.warnings)


def info_of_header(header: codesfile.Header) -> ModelInfo:
    """What a file says of its model. Delay and prefixes are the model's to know."""
    return ModelInfo(
        name=header.model,
        sample_rate=header.sample_rate,
        hop_length=header.hop_length,
        delay=0,
        codebook_sizes=header.codebook_sizes,
        divisors=header.divisors,
        prefixes=(header.n_codebooks,),
        parameters={},
        licence="",
        weights_hash=header.weights_hash,
    )


def choose_codebooks(info: ModelInfo, *, codebooks: int | None = None, bitrate: float | None = None) -> int:
    """How many codebooks a request means: a number, or the most that fit into a bitrate (bit/s of one channel).

    Raises:
        CodesError: not a number of codebooks that decodes alone, or a bitrate below the smallest.
    """
    if codebooks is not None and bitrate is not None:
        raise CodesError("codebooks and bitrate: give one of them")
    if codebooks is not None:
        if codebooks not in info.prefixes:
            raise CodesError(f"codebooks={codebooks}: {info.name} has {', '.join(map(str, info.prefixes))}")
        return codebooks
    if bitrate is None:
        return info.codebooks
    fitting = [count for count in info.prefixes if info.bitrate_of(count) <= bitrate * (1 + 1e-6)]
    if not fitting:
        rates = ", ".join(f"{info.bitrate_of(count):g}" for count in info.prefixes)
        raise CodesError(f"bitrate={bitrate:g}: {info.name} has {rates} bit/s")
    return fitting[-1]


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")  # a torch tensor cannot come from a process that never imported it
    return torch is not None and isinstance(x, torch.Tensor)


def _to_numpy(audio: Any) -> tuple[Any, bool]:
    is_torch = _is_torch(audio)
    array = audio.detach().cpu().numpy() if is_torch else np.asarray(audio)
    if array.ndim not in (1, 2, 3):
        raise AudioError(f"audio of shape {array.shape}: expected (samples,), (channels, samples) or (batch, channels, samples)")
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"audio of type {array.dtype}: expected float32 in [-1, 1]; divide 16-bit samples by 32768")
    return array.astype(np.float32, copy=False), is_torch


def _to_numpy_codes(data: Any) -> tuple[Any, bool]:
    is_torch = _is_torch(data)
    return (data.detach().cpu().numpy() if is_torch else np.asarray(data)), is_torch


def _like(array: Any, is_torch: bool) -> Any:
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(array)) if is_torch else array


def _check_lengths(lengths: Sequence[int], array: Any) -> list[int]:
    sizes = [int(size) for size in lengths]
    if len(sizes) != len(array) or any(not 0 < size <= array.shape[-1] for size in sizes):
        raise AudioError(f"lengths {sizes}: expected {len(array)} numbers between 1 and {array.shape[-1]}")
    return sizes


def _stack(items: list[Any]) -> Any:
    if not items:
        raise CodesError("decode: an empty list; nothing to decode")
    is_torch = _is_torch(items[0])
    arrays = [np.atleast_2d(_to_numpy_codes(item)[0]) for item in items]
    longest = max(a.shape[1] for a in arrays)
    return _like(np.stack([np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in arrays]), is_torch)
