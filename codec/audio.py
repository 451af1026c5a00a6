"""Audio files and audio arrays: read, write, resample, mix channels, pad to whole frames.

Audio here is float32 of shape (C, T), full scale [-1, 1]. Reader and writer are streams of chunks, so that an hour
needs no more memory than a second.

>>> import numpy as np
>>> resampled_length(44101, 44100, 16000)
16001
>>> mix(np.array([[1.0, 0.0], [0.0, 0.5]], dtype=np.float32))
array([[0.5 , 0.25]], dtype=float32)
>>> padded, n_samples = pad_to_hop(np.ones((1, 321), dtype=np.float32), 320)
>>> padded.shape, n_samples
((1, 640), 321)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
import soundfile

from codec.arguments import check_path, shown
from codec.audiowriter import AudioWriter, write
from codec.containers import has_frame_count, missing_bytes
from codec.errors import AudioError
from codec.files import describe_os_error
from codec.resampling import Resampler, resample, resampled_length

__all__ = [
    "AudioReader",
    "AudioWriter",
    "Resampler",
    "check_mixing",
    "check_samples",
    "fit",
    "mix",
    "pad_to_hop",
    "read",
    "resample",
    "resampled_length",
    "write",
]

Audio = npt.NDArray[np.float32]
Channels = Literal["mix", "keep"]

MIN_SAMPLE_RATE = 8000  # Hz
MAX_SAMPLE_RATE = 768000  # Hz; the fastest converters there are. A header may claim 2 ** 31, and filters grow with it
LARGEST = 1e10  # a sample beyond it is damage: float files of integer scale reach 2 ** 31
BLOCK = 32768  # frames read from a file at once
EXACT_SEEK = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF")  # formats in which libsndfile finds a sample by its number
MP3_SLACK = 2 * 1152  # samples: encoder delay and padding, which the tag may count or not


def mix(audio: Audio) -> Audio:
    """Mean of the channels: (..., C, T) float32 -> (..., 1, T) float32."""
    return audio if audio.shape[-2] == 1 else audio.mean(axis=-2, keepdims=True, dtype=np.float32)


def pad_to_hop(audio: Audio, hop_length: int, *, delay: int = 0) -> tuple[Audio, int]:
    """Append silence: (..., T) -> (..., F * hop_length), F = ceil((T + delay) / hop_length).

    Args:
        audio: (..., T) float32.
        hop_length: samples per frame.
        delay: samples by which the model's output is late, so many more must go in.

    Returns:
        The padded audio, and T, the true number of samples.
    """
    n_samples = audio.shape[-1]
    n_frames = -(-(n_samples + delay) // hop_length)
    padding = [(0, 0)] * (audio.ndim - 1) + [(0, n_frames * hop_length - n_samples)]
    return np.pad(audio, padding), n_samples


def check_samples(audio: Audio, name: str, *, start: int = 0) -> None:
    """Refuse samples that are not numbers.

    Args:
        audio: (..., T) float32.
        name: what the error is about: a file name, `audio`.
        start: position of the first sample, for the error's text.

    Raises:
        AudioError: a sample is NaN, infinite or beyond any scale.
    """
    # By their places, which NaN takes first: half the time of `abs` and `max`, for a file and for a stream's step.
    if audio.size and not -LARGEST <= audio.item(audio.argmin()) <= audio.item(audio.argmax()) <= LARGEST:
        bad = int(np.argmax(~(np.abs(audio).reshape(-1, audio.shape[-1]) <= LARGEST).all(axis=0)))
        raise AudioError(f"{name}: sample {start + bad} is NaN, infinite or absurdly large; repair the audio")


def check_mixing(channels: str) -> Channels:
    """What to do with channels, from outside. Raises: AudioError: neither `keep` nor `mix`."""
    if not isinstance(channels, str) or channels not in ("keep", "mix"):
        raise AudioError(f"channels={shown(channels)}: use keep or mix")
    return "mix" if channels == "mix" else "keep"


def fit(audio: Audio, sample_rate: int, target_rate: int, *, channels: Channels) -> Audio:
    """Audio as a model takes it: (..., C, T) at `sample_rate` Hz -> (..., C or 1, T') at `target_rate` Hz."""
    return resample(mix(audio) if channels == "mix" else audio, sample_rate, target_rate)


class AudioReader:
    """Reads an audio file as an iterator of (C, t) float32 chunks; all but the last are `chunk` seconds long.

    What comes out does not depend on `chunk`, and memory does not depend on the file's length. It is a context manager.

    Attributes:
        name: what errors call the file.
        source_rate: sample rate of the file, Hz.
        source_channels: channels of the file.
        sample_rate: sample rate of the chunks, Hz.
        n_channels: C of the chunks.
        n_samples_total: samples that the header promises, at `sample_rate`; None where it says nothing.
        n_samples: samples given so far.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        sample_rate: int | None = None,
        channels: Channels = "keep",
        chunk: float = 1.0,
        section: tuple[float, float | None] = (0.0, None),
    ) -> None:
        """Open `source` and read its header.

        Args:
            source: a path, or a binary file object such as `sys.stdin.buffer`, which is first copied to a temporary
                file on disk because libsndfile must seek.
            sample_rate: wanted rate, Hz; None keeps the file's.
            channels: "mix" gives the mean of the channels, "keep" all of them.
            chunk: seconds.
            section: begin and end in seconds, None is the file's end; what lies before is not read where the format
                can find a sample by its number.

        Raises:
            AudioError: missing, not audio, truncated, empty, below 8000 Hz, or too short for the section; iterating
                raises it for what only reading can tell: damage, an early end, no samples, samples that are not
                numbers.
        """
        with contextlib.ExitStack() as stack:
            path, self.name = _readable_path(source, stack)
            self._file = stack.enter_context(_open_sound_file(path, self.name))
            _check_header(path, self._file, self.name)
            promised, self._least = _promised_frames(path, self._file)
            self.source_rate, self.source_channels = int(self._file.samplerate), int(self._file.channels)
            self._first, self._last = _section_frames(section, promised, self.source_rate, self.name)
            self._stack = stack.pop_all()
        self.sample_rate = sample_rate or self.source_rate
        self.n_channels = 1 if channels == "mix" else self.source_channels
        promised = promised and (promised if self._last is None else min(promised, self._last)) - self._first
        self.n_samples_total = promised and resampled_length(promised, self.source_rate, self.sample_rate)
        self.n_samples = 0
        self._chunks = self._rechunk(max(1, round(chunk * self.sample_rate)))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Audio:
        chunk = next(self._chunks)
        self.n_samples += chunk.shape[-1]
        return chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._stack.close()

    def _rechunk(self, size: int) -> Iterator[Audio]:
        """Cut the resampled blocks into chunks of `size` samples."""
        pending = np.zeros((self.n_channels, 0), np.float32)
        for block in self._resampled():
            pending = np.concatenate([pending, block], axis=1)
            whole = pending.shape[1] - pending.shape[1] % size
            for start in range(0, whole, size):
                yield pending[:, start : start + size].copy()
            pending = pending[:, whole:]
        if pending.shape[1]:
            yield pending

    def _resampled(self) -> Iterator[Audio]:
        """Blocks at the wanted rate and channels."""
        resampler = Resampler(self.source_rate, self.sample_rate, self.n_channels)
        for block in self._blocks():
            yield resampler.feed(block if self.n_channels == self.source_channels else mix(block))
        yield resampler.flush()

    def _blocks(self) -> Iterator[Audio]:
        """Blocks as they stand in the file, (C, t), checked; the size is fixed because MP3 decoding depends on it."""
        at = self._seek()
        n_read, least = 0, self._least if self._last is None else min(self._least, self._last)
        while self._last is None or at < self._last:
            try:
                block: Audio = self._file.read(BLOCK, dtype="float32", always_2d=True).T
            except (RuntimeError, OSError) as failure:
                reason = getattr(failure, "error_string", str(failure)).strip(" .")
                after = f"after {at / self.source_rate:.2f} s"
                raise AudioError(
                    f"{self.name}: damaged or truncated {after} ({reason}); get the whole file"
                ) from failure
            if block.shape[1] == 0:
                break
            check_samples(block, self.name, start=at)
            at, begin = at + block.shape[1], at
            block = block[:, max(0, self._first - begin) : None if self._last is None else self._last - begin]
            n_read += block.shape[1]
            if block.shape[1]:
                yield block
        if at < least:
            raise AudioError(f"{self.name}: truncated: {at} of {least} samples are there; get the whole file")
        if n_read == 0:
            what = "no samples" if self._first == 0 else f"no samples from {self._first / self.source_rate:.2f} s on"
            raise AudioError(f"{self.name}: {what}; nothing to encode")

    def _seek(self) -> int:
        """Go to the section where that is exact; the sample at which reading begins."""
        if self._first == 0 or self._file.format not in EXACT_SEEK:
            return 0
        try:
            return int(self._file.seek(self._first))
        except (RuntimeError, OSError) as failure:
            raise AudioError(f"{self.name}: damaged before {self._first / self.source_rate:.2f} s") from failure


def read(source: str | os.PathLike[str] | BinaryIO) -> tuple[Audio, int]:
    """Whole file into memory: (C, T) float32 and its sample rate in Hz.

    Raises:
        AudioError: as `AudioReader`.
    """
    with AudioReader(source) as reader:
        return np.concatenate(list(reader), axis=1), reader.sample_rate


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file that is never asked to seek.

    soundfile seeks to where it already is after every read; libmpg123 then starts its decoder anew, and samples near
    the seam are wrong by up to half of full scale.
    """

    def seekable(self) -> bool:
        return False


def _readable_path(source: str | os.PathLike[str] | BinaryIO, stack: contextlib.ExitStack) -> tuple[str, str]:
    """Path of a real file with the source's bytes, and the source's name for errors.

    A path and not a file object: libsndfile would call back into Python, and a Ctrl-C that falls there is lost.
    """
    if not callable(getattr(source, "read", None)):
        check_path(source, AudioError)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "audio"))
    try:
        with contextlib.ExitStack() as opened:
            if not isinstance(source, str | os.PathLike):
                file = source
            else:
                file = opened.enter_context(open(source, "rb"))
                if os.path.isfile(source):
                    return name, name
            descriptor, path = tempfile.mkstemp(prefix="codec-")
            stack.callback(os.unlink, path)
            with open(descriptor, "wb") as spool:
                shutil.copyfileobj(file, spool, 1 << 20)
    except OSError as failure:
        raise AudioError(f"{name}: cannot be read: {describe_os_error(failure)}") from failure
    return path, name


def _open_sound_file(path: str, name: str) -> soundfile.SoundFile:
    """Open for reading with libsndfile."""
    if os.path.getsize(path) == 0:
        raise AudioError(f"{name}: empty file; nothing to encode")
    try:
        # Bytes, where the system has them, keep names that are not UTF-8.
        return _ForwardFile(path if os.name == "nt" else os.fsencode(path))
    except (RuntimeError, OSError, TypeError, ValueError) as failure:
        raise AudioError(f"{name}: not an audio file that can be read; use WAV, FLAC, Ogg, Opus or MP3") from failure


def _check_header(path: str, file: soundfile.SoundFile, name: str) -> None:
    """Refuse what the header alone rules out."""
    if file.samplerate < MIN_SAMPLE_RATE:
        raise AudioError(f"{name}: sample rate {file.samplerate} Hz; at least {MIN_SAMPLE_RATE} Hz is needed")
    if file.samplerate > MAX_SAMPLE_RATE:
        raise AudioError(f"{name}: sample rate {file.samplerate} Hz; at most {MAX_SAMPLE_RATE} Hz can be")
    with open(path, "rb") as raw:
        missing = missing_bytes(raw)
    # Less than one sample of all channels can be a wrong rounding of the header's author.
    if missing >= (2 * file.channels if file.format.startswith(("WAV", "RF64")) else 1):
        raise AudioError(f"{name}: truncated: at least {missing} bytes are missing at its end; get the whole file")


def _section_frames(
    section: tuple[float, float | None], promised: int | None, rate: int, name: str
) -> tuple[int, int | None]:
    """Begin and end of a section in frames of the file."""
    start, end = section
    if start < 0 or (end is not None and end <= start):
        raise AudioError(f"{name}: no audio from {start:g} s to {end or 0:g} s; the end must come behind the start")
    first, last = round(start * rate), None if end is None else round(end * rate)
    # Times are written down rounded, often to 10 ms; more than that beyond the end, and they are of another file.
    if promised is not None and (first >= promised or (last is not None and last > promised + rate // 20)):
        raise AudioError(f"{name}: ends at {promised / rate:.2f} s, before the section does; check the times")
    return first, last


def _promised_frames(path: str, file: soundfile.SoundFile) -> tuple[int | None, int]:
    """Frames that the header promises, None where unknown, and the least number that must come."""
    frames = int(file.frames)
    # libsndfile's SF_COUNT_MAX stands for a FLAC of unknown length.
    if frames <= 0 or frames >= 1 << 62:
        return None, 0
    if file.format != "MP3":
        return frames, frames
    with open(path, "rb") as raw:
        return frames, max(0, frames - MP3_SLACK) if has_frame_count(raw) else 0
