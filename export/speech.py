"""A minute of real speech, on which the engines are compared.

From files; else from the clip of the model's golden vectors, or of the embedded model's where there is none or it is
noise. What is shorter than a minute comes again softer, louder, slower and faster.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from codec import audio as audio_io
from codec.config import ModelInfo
from codec.engine import Audio
from codec.errors import AudioError, ModelError
from codec.golden import read_golden
from codec.hub import DEFAULT, find_model

SECONDS = 60.0
GAINS = (1.0, 0.25, 1.4, 0.1, 0.5)
SPEEDS = (1.0, 0.8, 1.25, 0.9)
SHORTEST = 0.1  # seconds: less would come again too often


@dataclass(frozen=True, eq=False)
class Speech:
    """A minute, (T,) float32 at a model's rate, and where it is from."""

    audio: Audio
    source: str


def read_speech(info: ModelInfo, paths: Sequence[Path], folder: Path) -> Speech:
    """A minute at the model's rate from files, or from golden vectors when `paths` is empty.

    Args:
        info: of the model.
        paths: audio files of speech.
        folder: the model's, where its golden vectors may lie.

    Raises:
        AudioError: a file that cannot be read, or files that hold next to nothing.
        ModelError: damaged golden vectors.
    """
    read = [audio_io.read(path) for path in paths]
    sources = [str(path) for path in paths]
    if not read:
        samples, rate, source = _golden_clip(folder)
        read, sources = [(samples[None], rate)], [source]
    clips = [audio_io.fit(audio, rate, info.sample_rate, channels="mix")[0] for audio, rate in read]
    whole = np.concatenate(clips)
    if len(whole) < SHORTEST * info.sample_rate:
        raise AudioError(f"{', '.join(sources)}: {len(whole)} samples; give at least {SHORTEST:g} s of speech")
    minute, n_versions = _fill(whole, round(SECONDS * info.sample_rate))
    versions = f", in {n_versions} versions soft and loud, slow and fast" if n_versions > 1 else ""
    return Speech(minute, f"{SECONDS:g} s of {', '.join(sources)}{versions}")


def _fill(whole: Audio, n_samples: int) -> tuple[Audio, int]:
    """`n_samples` of speech in version after version, and how many it took."""
    parts, n_made = list[Audio](), 0
    for gain, speed in itertools.cycle((gain, speed) for speed in SPEEDS for gain in GAINS):
        if n_made >= n_samples:
            break
        parts.append(np.clip(gain * (whole if speed == 1 else soxr.resample(whole, speed, 1.0)), -1, 1))
        n_made += len(parts[-1])
    return np.concatenate(parts)[:n_samples].astype(np.float32), len(parts)


def _golden_clip(folder: Path) -> tuple[Audio, int, str]:
    """Samples, rate and source of real speech."""
    for place in (folder, find_model(DEFAULT)):
        golden = read_golden(place)
        if golden is not None and not golden.about["source"].startswith("codec."):  # noise that a function makes
            return golden.samples, int(golden.about["sample_rate"]), f"{golden.about['source']} ({place.name})"
    raise ModelError(f"{DEFAULT}: its golden vectors are missing; pass speech with --audio")
