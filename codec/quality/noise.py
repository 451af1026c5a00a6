"""Recordings as they are coded: speech alone, or in noise at a known ratio.

>>> import numpy as np
>>> speech, noise = np.ones(8, np.float32), np.ones(3, np.float32)
>>> add_noise(speech, noise, 20.0, np.random.default_rng(0))[0]
np.float32(1.1)
"""

from __future__ import annotations

import csv
import dataclasses
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.audio import AudioReader
from codec.errors import AudioError, CodecError, ConfigError
from codec.files import describe_os_error

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class NoiseOptions:
    """What is mixed into each recording before it is coded."""

    files: tuple[Path, ...]  # one is drawn for each recording
    snr_db: float
    against: str = "noisy"  # the reference: noisy, what the codec was given; clean, the speech alone

    def __post_init__(self) -> None:
        """Check. Raises: ConfigError."""
        if self.against not in ("noisy", "clean"):
            raise ConfigError(f"reference {self.against}: unknown; noisy or clean")
        if not self.files:
            raise ConfigError("noise: no audio files there; name a folder with some")


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording, ready to be coded and judged."""

    given: Floats  # (T,), what the codec is given
    wanted: Floats  # (T,), what its output is compared with
    sample_rate: int  # of both, Hz


def read_recording(
    path: Path, name: str, noise: NoiseOptions | None = None, *, sample_rate: int | None = None
) -> Recording:
    """Return a recording, its channels mixed to one.

    Args:
        path: any audio file.
        name: by which the report knows it; it alone decides which noise is drawn and where that begins, so that a
            recording meets the same noise in every run, whatever runs beside it.
        noise: what to mix in; nothing when None.
        sample_rate: Hz; the file's own when None.

    Raises:
        AudioError: it, or its noise, cannot be read or is silent.
    """
    clean, rate = _read_mixed(path, sample_rate)
    if noise is None:
        return Recording(clean, clean, rate)
    generator = np.random.default_rng(zlib.crc32(name.encode(errors="replace")))
    source = noise.files[int(generator.integers(len(noise.files)))]
    noisy = add_noise(clean, _read_mixed(source, rate)[0], noise.snr_db, generator)
    return Recording(noisy, noisy if noise.against == "noisy" else clean, rate)


def condition(noise: NoiseOptions | None) -> str:
    """Return in words what is coded and what it is judged against.

    >>> condition(None), condition(NoiseOptions((Path("rain.flac"),), 10.0, "clean"))
    ('clean speech', 'speech in noise at 10 dB SNR, judged against the clean speech')
    """
    if noise is None:
        return "clean speech"
    reference = "the noisy input" if noise.against == "noisy" else "the clean speech"
    return f"speech in noise at {noise.snr_db:g} dB SNR, judged against {reference}"


def add_noise(speech: Floats, noise: Floats, snr_db: float, generator: np.random.Generator) -> Floats:
    """Return speech with noise, (T,).

    Args:
        speech: (T,).
        noise: (U,) at the same rate; it is repeated from a random place on as long as the speech lasts.
        snr_db: power of all the speech over that of the noise beside it, decibels.
        generator: draws the place.

    Raises:
        AudioError: the noise is silent.
    """
    start = int(generator.integers(len(noise))) if len(noise) else 0
    beside = np.resize(np.roll(noise, -start), len(speech))
    power = float(np.mean(np.square(beside, dtype=np.float64))) if len(beside) else 0.0
    if power == 0:
        raise AudioError("noise: silent; choose other recordings")
    wanted = float(np.mean(np.square(speech, dtype=np.float64))) / 10 ** (snr_db / 10)
    return np.asarray(speech + beside * np.float32(np.sqrt(wanted / power)), np.float32)


def read_groups(manifest: Path, column: str, files: Mapping[str, Path]) -> dict[str, str]:
    """Return each file's value of a manifest's column, such as its language; files without a row are left out.

    Args:
        manifest: CSV with a header; its column `path` is relative to its folder.
        column: any other column.
        files: paths by name.

    Raises:
        CodecError: the manifest cannot be read.
        ConfigError: it has no such column.
    """
    try:
        with open(manifest, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            for needed in ("path", column):
                if needed not in (reader.fieldnames or ()):
                    columns = ", ".join(reader.fieldnames or ())
                    raise ConfigError(f"{manifest}: no column {needed}; there are {columns}")
            values = {(manifest.parent / row["path"]).resolve(): row[column] or "" for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as failure:
        reason = describe_os_error(failure) if isinstance(failure, OSError) else str(failure)
        raise CodecError(f"{manifest}: cannot be read: {reason}") from failure
    return {name: values[path.resolve()] for name, path in files.items() if path.resolve() in values}


def _read_mixed(path: Path, sample_rate: int | None) -> tuple[Floats, int]:
    with AudioReader(path, sample_rate=sample_rate, channels="mix") as reader:
        return np.concatenate(list(reader), axis=1)[0], reader.sample_rate
