"""Files to files in constant memory: audio to `.codes`, `.codes` to audio."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from codec import codesfile
from codec.api import Model, check_same_model, load
from codec.audio import AudioReader, check_mixing
from codec.audiowriter import AudioWriter
from codec.codes import condition_of_header, info_of_header, make_header
from codec.codesfile.counts import frame_bits
from codec.codesfile.packed import with_prior
from codec.codesfile.prior import Prior
from codec.config import ModelInfo
from codec.engine import Audio, Codes
from codec.errors import AudioError, CodesError, CodesFileError, ModelError
from codec.files import atomic_path, describe_os_error
from codec.hub import EMBEDDED, find_by_weights, list_models
from codec.rate import choose_rate
from codec.resampling import reach, resampled_length
from codec.stream import StreamDecoder, StreamEncoder, frames_of_mode
from codec.stream.budget import fill

Progress = Callable[[float], None]  # gets seconds of audio done so far


@dataclass(frozen=True)
class Transcoded:
    """What one file gave.

    Attributes:
        duration: seconds of audio.
        elapsed: seconds of work, without the loading of the model.
        bitrate: bits per second of all channels, container left out; the mean where frames differ.
        size_bytes: of the target; 0 where it is a pipe.
        warnings: what is missing from a damaged source.
    """

    duration: float
    elapsed: float
    bitrate: float
    size_bytes: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode a file."""

    codebooks: int | None = None
    bitrate: float | None = None  # bit/s of one channel
    variable: bool = False  # frames get as many codebooks as they are worth, the bitrate on average
    mode: str = "block"
    channels: str | None = None  # mix or keep; None is keep where the model codes two together, else mix
    overwrite: bool = False
    prior: Prior | None = None  # of the model: pack the codes with it


def encode_file(
    model: Model,
    source: Path | BinaryIO,
    target: Path | BinaryIO,
    options: EncodeOptions,
    progress: Progress | None = None,
) -> Transcoded:
    """Audio to a `.codes` file.

    Args:
        model: any.
        source: a path, or a binary file object.
        target: a path, written whole or not at all, or a binary file object, which may be a pipe.
        options: codebooks or bitrate, mode, channels.
        progress: called now and then.

    Raises:
        AudioError: a source that cannot be read.
        CodesError: codebooks that the model does not have, or a prior of another model.
        CodesFileError: a target that exists or cannot be written.
    """
    info = model.info
    count, control = choose_rate(info, codebooks=options.codebooks, bitrate=options.bitrate, variable=options.variable)
    kept = check_mixing(options.channels or ("mix" if info.audio_channels == 1 else "keep"))
    with (
        AudioReader(source, sample_rate=info.sample_rate, channels=kept) as reader,
        _open_target(target, options.overwrite) as (file, path),
    ):
        encoder = _open_encoder(reader, model, options, count)
        begin = time.perf_counter()  # behind the loading of the model, which a batch does once
        pairs = _pairs(reader, encoder, info.sample_rate, progress)
        pieces: Iterable[Codes] = (
            (codes for _, codes in pairs) if control is None else fill(pairs, control, hop_length=info.hop_length)
        )
        if info.condition:  # it is known at the end and stands at the front
            pieces = list(pieces)
        condition = None if encoder.condition is None else _as_file(encoder.condition)
        counts = () if control is None else control.counts
        channels = reader.n_channels if info.audio_channels == 1 else 1
        header = make_header(info, options.mode, count, channels=channels, condition=condition, frame_codebooks=counts)
        header = header if options.prior is None else with_prior(header, options.prior)
        with codesfile.Writer(file, header, prior=options.prior) as writer:
            rate = _Rate(header, info)
            for codes in pieces:
                writer.append(_as_file(rate.count(codes)))
            writer.close(encoder.n_samples)
        file.flush()
        size = path.stat().st_size if path else 0
    duration = encoder.n_samples / info.sample_rate
    return Transcoded(duration, time.perf_counter() - begin, rate.mean, size)


class _Rate:
    """The mean bitrate of what passes through; the header's where all frames are alike."""

    def __init__(self, header: codesfile.Header, info: ModelInfo) -> None:
        self._header, self._bits, self._n_frames = header, 0.0, 0
        self._full = header.channels * info.bitrate_of(header.n_codebooks)

    def count(self, codes: Codes) -> Codes:
        """The same codes (.., Q, f)."""
        if counts := self._header.frame_codebooks:
            self._bits += frame_bits(codes, self._header.codebook_sizes, counts)
            self._n_frames += codes.shape[-1]
        return codes

    @property
    def mean(self) -> float:
        """Bit/s of all channels."""
        return self._bits * self._header.frame_rate / self._n_frames if self._n_frames else self._full


def _open_encoder(reader: AudioReader, model: Model, options: EncodeOptions, n_codebooks: int) -> StreamEncoder:
    """The stream that encodes a file. Raises: AudioError: more channels than the model takes."""
    try:
        return model.stream_encoder(codebooks=n_codebooks, mode=options.mode, channels=reader.n_channels, whole=True)
    except AudioError as error:
        raise AudioError(f"{reader.name}: {error}") from None


def _pairs(
    reader: AudioReader, encoder: StreamEncoder, sample_rate: int, progress: Progress | None
) -> Iterator[tuple[Audio, Codes]]:
    """Audio (C, t), and the codes (C, Q, f) that come about with it."""
    for chunk in reader:
        yield chunk, encoder.feed(chunk)
        if progress is not None:
            progress(reader.n_samples / sample_rate)
    yield np.zeros((reader.n_channels, 0), np.float32), encoder.flush()


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode a file."""

    sample_rate: int | None = None  # Hz; the model's when None
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; the end when None
    overwrite: bool = False
    priors: tuple[Path, ...] = ()  # model folders where an entropy-coded file's prior is looked for first


def decode_file(
    open_model: Callable[[codesfile.Header], Model],
    source: Path | BinaryIO,
    target: Path | BinaryIO,
    options: DecodeOptions,
    progress: Progress | None = None,
) -> Transcoded:
    """A `.codes` file to audio. Of a damaged file the good blocks before the damage; `warnings` says what is missing.

    Args:
        open_model: gives the model that a file's header names.
        source: a path, or a binary file object, which may be a pipe.
        target: a path whose suffix says the format, or a binary file object, which gets a WAV stream.
        options: rate and section.
        progress: called now and then.

    Raises:
        CodesFileError: not a .codes file, damaged before the end of the first block, or without the condition that the
            model decodes with.
        ModelError: the header's model is unknown or has other weights.
        AudioError: a target that exists or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_codes(source)) if isinstance(source, Path) else source
        name = str(source) if isinstance(source, Path) else None
        reader = codesfile.Reader(file, name=name, partial=True, priors=options.priors)
        header = reader.header
        try:
            model = open_model(header)
            check_same_model(info_of_header(header), model.info)
        except ModelError as error:
            raise ModelError(f"{reader.name}: {error}") from None
        channels = header.channels if header.channels > 1 else None
        decoder = _open_decoder(reader, model, options, channels)
        begin = time.perf_counter()
        blocks, trim, keep = _choose_blocks(reader, model, options)
        rate, sent = options.sample_rate or header.sample_rate, _Rate(header, model.info)
        n_channels = header.channels * model.info.audio_channels
        writer = stack.enter_context(AudioWriter(target, rate, n_channels, overwrite=options.overwrite))
        pieces = _decoded(map(sent.count, _trimmed(blocks, decoder, trim, reader)), decoder)
        for audio in _kept(pieces, keep):
            writer.write(audio)
            if progress is not None:
                progress(writer.n_samples / rate)
        writer.close()
        size = target.stat().st_size if isinstance(target, Path) else 0
    elapsed = time.perf_counter() - begin
    return Transcoded(writer.n_samples / rate, elapsed, sent.mean, size, reader.warnings)


def open_named_model(
    name: str, weights_hash: str, *, model: str | None = None, engine: str = "auto", device: str = "cpu"
) -> Model:
    """The model that a file's header names.

    Args:
        name: from the header: a name, never a path, since files come from strangers.
        weights_hash: from the header; a downloaded model is found by it.
        model: another name or folder to load it from.
        engine: as for `load`.
        device: cpu, cuda or mps.

    Raises:
        ModelError: unknown.
    """
    if model is None:
        # Other weights under a name of the package are refused at decoding, where the message can compare both.
        found = find_by_weights(name, weights_hash) or (EMBEDDED / name if name in list_models() else None)
        if found is None:
            known = ", ".join(list_models()) or "none"
            raise ModelError(
                f"made by the model {name!r}, weights {weights_hash[:12]}, which is not among the known ones "
                f"({known}) and the downloaded ones; give its folder with --model"
            )
        return load(found, engine=engine, device=device)
    return load(model, engine=engine, device=device)


def _open_decoder(
    reader: codesfile.Reader, model: Model, options: DecodeOptions, channels: int | None
) -> StreamDecoder:
    """The stream that decodes a file. Raises: CodesFileError: its header lacks what the model decodes with."""
    header = reader.header
    try:
        return model.stream_decoder(
            mode=header.mode,
            sample_rate=options.sample_rate,
            channels=channels,
            whole=True,
            condition=condition_of_header(header),
        )
    except CodesError as error:
        raise CodesFileError(f"{reader.name}: {error}") from None


def _choose_blocks(
    reader: codesfile.Reader, model: Model, options: DecodeOptions
) -> tuple[Iterator[Codes], tuple[int, int] | None, tuple[int, int] | None]:
    """The blocks to decode, the samples to keep of what they give, and then at the target's rate (None: all)."""
    header, info = reader.header, model.info
    if not options.start and options.end is None:
        return reader.blocks(), None, None
    n_frames = reader.require_n_frames()
    n_samples = reader.n_samples or 0
    length = n_samples / header.sample_rate
    stop = length if options.end is None else options.end
    is_there = 0 <= options.start < min(stop, length)  # nan is not
    first = round(options.start * header.sample_rate) if is_there else 0
    last = 0 if not is_there else n_samples if stop >= length else round(stop * header.sample_rate)
    if first >= last:
        raise CodesFileError(f"{reader.name}: no audio from {options.start:g} s to {stop:g} s of {length:.2f} s")
    first, last, keep = _with_margins((first, last), n_samples, header.sample_rate, options.sample_rate)
    size = header.frames_per_block
    if info.segments is not None:
        begin, end, origin = info.segments.around(first, last, info.hop_length)
        parts = (reader.read_frames(a, min(n_frames, a + size)) for a in range(begin, min(end, n_frames), size))
        return parts, (first - origin, last - origin), keep
    # Begin early enough that the decoder has seen all it depends on; for the same samples, at a step's edge and where
    # its noise begins again.
    step = frames_of_mode(header.mode)
    wanted = (first + info.delay) // info.hop_length
    wanted = wanted if info.decoder_lookahead == 0 else wanted // step * step  # the window, not the frame, is the same
    needed = 0 if info.context is None else max(0, wanted - info.context)
    edge = math.lcm(step, info.period)
    begin = needed // edge * edge
    ahead = n_frames if info.decoder_lookahead is None else info.decoder_lookahead
    end = -(-(last + info.delay) // info.hop_length)
    end = min(n_frames, -(-end // step) * step + ahead)
    origin = begin * info.hop_length
    parts = (reader.read_frames(a, min(end, a + size)) for a in range(begin, end, size))
    return parts, (first - origin, last - origin), keep


def _with_margins(
    section: tuple[int, int], n_samples: int, rate: int, wanted: int | None
) -> tuple[int, int, tuple[int, int] | None]:
    """A section with what the resampler's filter sees around it, and what to keep of that at the wanted rate.

    So a section at another rate is that part of the whole, and neighbours join without a click.
    """
    if wanted is None or wanted == rate:
        return *section, None
    around, period = reach(rate, wanted), rate // math.gcd(rate, wanted)
    begin = max(0, section[0] - around) // period * period  # whole at both rates: the same instants are sampled
    start, stop = (resampled_length(n - begin, rate, wanted) for n in section)
    return begin, min(n_samples, section[1] + around), (start, stop)


def _decoded(blocks: Iterable[Codes], decoder: StreamDecoder) -> Iterator[Audio]:
    """The audio (C, T) of all blocks."""
    for codes in blocks:
        yield np.atleast_2d(decoder.feed(codes))
    yield np.atleast_2d(decoder.flush())


def _kept(pieces: Iterable[Audio], keep: tuple[int, int] | None) -> Iterator[Audio]:
    """Of all samples those from the first number to the second."""
    at = 0
    for piece in pieces:
        start, stop = (0, piece.shape[1]) if keep is None else (max(0, n - at) for n in keep)
        at += piece.shape[1]
        yield piece[:, start:stop]


def _trimmed(
    blocks: Iterator[Codes], decoder: StreamDecoder, trim: tuple[int, int] | None, reader: codesfile.Reader
) -> Iterator[Codes]:
    """The blocks, one late: the true length stands behind the last of them."""
    if trim is not None:
        decoder.trim(start=trim[0], end=trim[1])
        yield from blocks
        return
    held: Codes | None = None
    for codes in blocks:
        if held is not None:
            yield held
        held = codes
    if held is None and reader.warnings:
        raise CodesFileError(f"{reader.warnings[0]}; nothing can be decoded")
    decoder.trim(end=reader.n_samples)
    if held is not None:
        yield held


@contextlib.contextmanager
def _open_codes(source: Path) -> Iterator[BinaryIO]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise CodesFileError(f"{source}: {describe_os_error(error)}") from None
    with file:
        yield file


@contextlib.contextmanager
def _open_target(target: Path | BinaryIO, overwrite: bool) -> Iterator[tuple[BinaryIO, Path | None]]:
    try:
        if not isinstance(target, Path):
            yield target, None
            return
        with atomic_path(target, overwrite=overwrite, error=CodesFileError) as path, path.open("wb") as file:
            yield file, path
    except BrokenPipeError:
        raise
    except OSError as failure:  # such as a full disk behind a pipe or a device
        name = target if isinstance(target, Path) else getattr(target, "name", "output")
        raise CodesFileError(f"{name}: cannot be written: {describe_os_error(failure)}") from failure


def _as_file(codes: NDArray[Any]) -> NDArray[Any]:
    """Without the axis of channels where there is one alone."""
    return codes[0] if len(codes) == 1 else codes
