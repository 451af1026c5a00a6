"""Write audio to files, whole or not at all, and to pipes; `codec.audio` passes the public names on.

>>> import io
>>> import numpy as np
>>> pipe = io.BytesIO()
>>> with AudioWriter(pipe, 16000, 1) as writer:
...     writer.write(np.zeros((1, 100), dtype=np.float32))
>>> len(pipe.getvalue())
244
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import numpy.typing as npt
import soundfile

from codec.arguments import as_switch, as_whole, check_path, shown
from codec.arrays import as_audio
from codec.codesfile.header import MAX_CHANNELS
from codec.errors import AudioError
from codec.files import atomic_path, describe_os_error

Audio = npt.NDArray[np.float32]

# suffix: (libsndfile format, default subtype)
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
PCM_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")

BLOCK = 32768  # frames handed to libsndfile at once: its Vorbis encoder puts a whole block on the stack
LARGEST_WAV = (1 << 32) - (1 << 16)  # bytes of samples: RIFF counts in 32 bits
UNKNOWN_SIZE = 0xFFFFFFFF  # in a WAV header written before the length is known, as ffmpeg does


class _Sink(Protocol):
    """Takes frames (t, C) in the file's own number type."""

    def write(self, frames: npt.NDArray[Any]) -> None: ...


class AudioWriter:
    """Writes chunks of audio to a file, which appears under its name only when the last chunk is in it.

    It is a context manager: after an exception in its block, Ctrl-C included, nothing is left behind.

    Attributes:
        n_samples: samples written so far.
        n_clipped: values beyond full scale that were cut to it.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        sample_rate: int,
        n_channels: int,
        *,
        subtype: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Open `target`.

        Args:
            target: a path ending in .wav (16-bit PCM), .flac, .ogg (Vorbis), .opus or .mp3; or a binary file object
                such as `sys.stdout.buffer`, which gets 16-bit WAV at once, its length left unknown (0xFFFFFFFF) where
                the object cannot seek back to tell it.
            sample_rate: Hz.
            n_channels: C of the chunks.
            subtype: libsndfile's name of another sample type, for example "PCM_24" or "FLOAT".
            overwrite: replace an existing file; False refuses it.

        Raises:
            AudioError: the suffix, rate, channels or subtype cannot be written, the file exists or its folder does not;
                `write` and the end of the block raise it when the disk is full.
        """
        self.n_samples = self.n_clipped = 0
        self._n_channels = n_channels
        with contextlib.ExitStack() as stack:
            if isinstance(target, str | os.PathLike):
                name = os.fspath(target)
                format_name, default = _format_of(name)
                self._subtype = subtype or default
                path = stack.enter_context(atomic_path(target, overwrite=overwrite, error=AudioError))
                layout = (sample_rate, n_channels, self._subtype, format_name)
                self._sink: _Sink = stack.enter_context(_sound_file(path, name, layout))
            elif subtype not in (None, "PCM_16"):
                raise AudioError(f"a pipe gets 16-bit WAV (PCM_16), not {subtype}; name a file")
            else:
                self._subtype = "PCM_16"
                self._sink = stack.enter_context(_wav_stream(target, sample_rate, n_channels))
            self._stack = stack.pop_all()
        self._is_open = True

    def write(self, audio: Audio) -> None:
        """Append (C, t) float32, full scale [-1, 1].

        Raises:
            AudioError: wrong shape, samples that are not numbers (only "FLOAT" and "DOUBLE" can hold them), a file
                that is closed, or the disk is full.
        """
        if not self._is_open:
            raise AudioError("this audio file is closed; write all of it before")
        if audio.ndim != 2 or audio.shape[0] != self._n_channels:
            raise AudioError(f"audio of shape {audio.shape}; this file takes ({self._n_channels}, samples)")
        for start in range(0, audio.shape[1], BLOCK):
            frames = audio[:, start : start + BLOCK].T
            if self._subtype not in FLOAT_SUBTYPES:
                if not np.isfinite(frames).all():
                    raise AudioError("audio to write holds NaN or infinite samples; repair the audio")
                self.n_clipped += int(np.count_nonzero(np.abs(frames) > 1))
            self._sink.write(_numbers(frames, self._subtype))
            self.n_samples += len(frames)

    def close(self) -> None:
        """Finish the file and give it its name."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._stack.__exit__(kind, value, trace)


def write(
    target: str | os.PathLike[str] | BinaryIO,
    audio: Audio,
    sample_rate: int,
    *,
    subtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write whole audio, (C, T) or (T,) float32, at `sample_rate` Hz; the rest as `AudioWriter`.

    Raises:
        AudioError: as `AudioWriter`.
    """
    audio = np.atleast_2d(audio)
    with AudioWriter(target, sample_rate, len(audio), subtype=subtype, overwrite=overwrite) as writer:
        writer.write(audio)


def write_audio(
    path: str | os.PathLike[str], audio: Any, sample_rate: int, *, subtype: str | None = None, overwrite: bool = True
) -> None:
    """Write audio to a file, whole or not at all, `codec.write_audio`.

    Args:
        path: ends in .wav (16-bit PCM), .flac, .ogg (Vorbis), .opus or .mp3.
        audio: float32 in [-1, 1], what is beyond is cut; numpy or torch, (samples,) or (channels, samples), as
            `Model.decode` gives it.
        sample_rate: Hz.
        subtype: libsndfile's name of another sample type, for example "PCM_24" or "FLOAT".
        overwrite: replace an existing file; False refuses it.

    Raises:
        AudioError: no such audio, or it cannot be written: the suffix, rate, subtype, folder or disk.
    """
    check_path(path, AudioError)
    array, rate = as_audio(audio, "audio"), as_whole(sample_rate)
    if array.ndim not in (1, 2):
        raise AudioError(f"audio of shape {array.shape}: expected (samples,) or (channels, samples)")
    if len(np.atleast_2d(array)) > MAX_CHANNELS:
        raise AudioError(
            f"audio of shape {array.shape}: {len(array)} channels, at most {MAX_CHANNELS}; samples are the last axis"
        )
    if rate is None or rate < 1:
        raise AudioError(f"sample_rate={shown(sample_rate)}: use whole Hz, 1 or more")
    if subtype is not None and not isinstance(subtype, str):
        raise AudioError(f"subtype={shown(subtype)}: use one of libsndfile's names, such as PCM_24")
    write(path, array, rate, subtype=subtype, overwrite=as_switch(overwrite, "overwrite"))


def flac_bytes(audio: Audio, sample_rate: int) -> bytes:
    """Return a short piece of audio, (C, T) float32 at `sample_rate` Hz, as a 16-bit FLAC file in memory."""
    memory = io.BytesIO()
    soundfile.write(memory, _numbers(audio.T, "PCM_16"), sample_rate, format="FLAC", subtype="PCM_16")
    return memory.getvalue()


def _format_of(name: str) -> tuple[str, str]:
    """Libsndfile's format and the default subtype, by suffix."""
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        raise AudioError(f"{name}: unknown audio suffix {suffix or '(none)'}; use one of {', '.join(FORMATS)}")
    return FORMATS[suffix]


def _numbers(frames: Audio, subtype: str) -> npt.NDArray[Any]:
    """Frames (t, C) as the numbers that go into the file.

    Integers are made here, scaled by 2 ** (bits - 1) as libsndfile reads them: left to itself it scales by one less,
    and audio read from a file and written again would change.
    """
    if subtype in FLOAT_SUBTYPES:
        return np.ascontiguousarray(frames)
    if subtype not in PCM_BITS:
        return np.ascontiguousarray(frames.clip(-1, 1))
    bits = PCM_BITS[subtype]
    scale = 2.0 ** (bits - 1)
    integers = np.rint(frames.astype(np.float64) * scale).clip(-scale, scale - 1)
    if bits == 16:
        return np.ascontiguousarray(integers.astype(np.int16))
    return np.ascontiguousarray(integers.astype(np.int32) << (32 - bits))


class _SoundFileSink:
    """Writes with libsndfile."""

    def __init__(self, path: Path, name: str, layout: tuple[int, int, str, str]) -> None:
        self.path, self.name, self.n_bytes = path, name, 0
        sample_rate, n_channels, subtype, format_name = layout
        try:
            # Bytes, where the system has them, keep names that are not UTF-8.
            place = str(path) if os.name == "nt" else os.fsencode(path)
            self.file = soundfile.SoundFile(place, "w", sample_rate, n_channels, subtype, format=format_name)
        except (RuntimeError, OSError, TypeError, ValueError) as failure:
            self.probe()
            what = f"{sample_rate} Hz, {n_channels} channels as {format_name} {subtype}"
            raise AudioError(f"{name}: {what} cannot be written; choose another rate or format") from failure

    def write(self, frames: npt.NDArray[Any]) -> None:
        self.n_bytes += frames.nbytes
        if self.file.format == "WAV" and self.n_bytes > LARGEST_WAV:
            raise AudioError(f"{self.name}: longer than the 4 GiB of a WAV file; write .flac instead")
        try:
            self.file.write(frames)
        except (RuntimeError, OSError, AssertionError) as failure:
            self.probe()
            raise AudioError(f"{self.name}: cannot be written whole; check the disk") from failure

    def close(self) -> None:
        # What is left for the last moment can be lost on a full disk without a word from libsndfile.
        with contextlib.suppress(RuntimeError, OSError):
            self.file.close()
        self.probe()

    def probe(self) -> None:
        """Write one byte more and take it back: libsndfile does not tell why, or even that, a write failed."""
        try:
            with open(self.path, "ab") as file:
                end = file.tell()
                file.write(b"\0")
                file.flush()
                if self.path.is_file():
                    file.truncate(end)
        except OSError as failure:
            raise AudioError(f"{self.name}: cannot be written: {describe_os_error(failure)}") from failure


@contextlib.contextmanager
def _sound_file(path: Path, name: str, layout: tuple[int, int, str, str]) -> Iterator[_Sink]:
    """Open, yield and close a libsndfile sink."""
    sink = _SoundFileSink(path, name, layout)
    try:
        yield sink
    except BaseException:
        # The first failure is the one to tell.
        with contextlib.suppress(AudioError):
            sink.close()
        raise
    sink.close()


class _WavSink:
    """Writes 16-bit WAV with a length that is not known yet."""

    def __init__(self, file: BinaryIO, sample_rate: int, n_channels: int) -> None:
        self.file, self.sample_rate, self.n_channels = file, sample_rate, n_channels
        self.n_bytes = 0

    def write(self, frames: npt.NDArray[Any]) -> None:
        data = frames.astype("<i2").tobytes()
        self.n_bytes += len(data)
        self.put(data)

    def put(self, data: bytes) -> None:
        try:
            self.file.write(data)
            self.file.flush()
        except BrokenPipeError:
            raise  # whoever read has gone, as `head` does: no failure of ours, and what is left to say is the caller's
        except OSError as failure:
            name = getattr(self.file, "name", "output")
            raise AudioError(f"{name}: cannot be written: {describe_os_error(failure)}") from failure

    def header(self, n_bytes: int | None) -> bytes:
        """RIFF, fmt and data headers; Source: RIFF/WAVE (Microsoft and IBM, 1991), WAVE_FORMAT_PCM."""
        size = UNKNOWN_SIZE if n_bytes is None or n_bytes > UNKNOWN_SIZE - 36 else n_bytes
        frame = 2 * self.n_channels
        numbers = [(16, 4), (1, 2), (self.n_channels, 2), (self.sample_rate, 4), (self.sample_rate * frame, 4)]
        fields = b"".join(value.to_bytes(width, "little") for value, width in [*numbers, (frame, 2), (16, 2)])
        riff = min(UNKNOWN_SIZE, size + 36).to_bytes(4, "little")
        return b"RIFF" + riff + b"WAVEfmt " + fields + b"data" + size.to_bytes(4, "little")


@contextlib.contextmanager
def _wav_stream(file: BinaryIO, sample_rate: int, n_channels: int) -> Iterator[_Sink]:
    """Write the header, yield the sink and, where the file can seek, write the header again with the true length."""
    sink = _WavSink(file, sample_rate, n_channels)
    start = file.tell() if _can_go_back(file) else None
    sink.put(sink.header(None))
    yield sink
    if start is not None:
        file.seek(start)
        sink.put(sink.header(sink.n_bytes))
        file.seek(0, os.SEEK_END)


def _can_go_back(file: BinaryIO) -> bool:
    """Whether earlier bytes can be replaced; after `>>` in a shell the file seeks, but every write goes to its end."""
    if not file.seekable():
        return False
    try:
        import fcntl  # not on Windows, where there is no such flag

        return not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND
    except (ImportError, OSError, ValueError):
        return True
