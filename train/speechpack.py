"""Speech as a few Opus files of many utterances each, about 24 kbit/s: how a run's data travels.

A folder holds `speech.json` and `speech-000.opus`, `speech-001.opus`, ... The index names each file with its SHA-256
and its utterances: name and length in samples at the index's rate. Between two utterances lie `GAP` seconds of silence,
so that the codec does not carry one into the next. One header for minutes of speech, instead of one a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec import audio as audio_io
from codec.errors import TrainError
from codec.modelfolder import checksum

INDEX = "speech.json"
FORMAT = 1
RATES = (8000, 12000, 16000, 24000, 48000)  # Hz, the only ones of Opus
LEVEL = 0.928  # libsndfile: bits/s = 256000 - level * 250000, so 24 kbit/s
BYTES_PER_SECOND = 3200  # a safe guess before the first file is written; 3000 are usual
GAP = 0.04  # seconds
LONGEST = 300.0  # seconds of one Opus file

Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Utterance:
    """Name and samples (T,)."""

    name: str
    samples: Samples


def write(folder: Path, utterances: Iterable[Utterance], *, sample_rate: int, size_bytes: int) -> int:
    """Write utterances in their order for as long as they fit.

    Args:
        folder: made if it is missing.
        utterances: the speech.
        sample_rate: Hz.
        size_bytes: of all files together, at most.

    Returns:
        Number of utterances written.

    Raises:
        TrainError: not one fits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rate = next((r for r in RATES if r >= sample_rate), RATES[-1])
    files: list[dict[str, Any]] = []
    left, cost = size_bytes - 200, float(BYTES_PER_SECOND)
    for group in _groups(utterances, sample_rate):
        path = folder / f"speech-{len(files):03d}.opus"
        wanted = _prefix(group, left / cost, sample_rate)
        entry = _write_one(path, group[:wanted], sample_rate, rate) if wanted else {}
        used = path.stat().st_size + len(json.dumps(entry)) + 2 if wanted else 0
        while wanted and used > left:  # louder speech than before costs more
            wanted = wanted * 9 // 10
            entry = _write_one(path, group[:wanted], sample_rate, rate) if wanted else {}
            used = path.stat().st_size + len(json.dumps(entry)) + 2
        if wanted:
            files.append(entry)
            left -= used
            cost = used / max(1e-3, sum(n for _, n in entry["utterances"]) / sample_rate)
        else:
            path.unlink(missing_ok=True)
        if wanted < len(group):
            break
    if not files:
        raise TrainError(f"{folder}: not one utterance fits into {size_bytes} bytes; allow a larger size")
    index = {"format": FORMAT, "sample_rate": sample_rate, "files": files}
    (folder / INDEX).write_text(json.dumps(index))
    return sum(len(entry["utterances"]) for entry in files)


def read(folder: Path, sample_rate: int) -> Iterator[tuple[str, Samples]]:
    """Name and samples (T,) int16 at `sample_rate` of each utterance.

    Raises:
        TrainError: an index that is no such index, or a file that is missing or damaged.
    """
    index = read_index(folder)
    for entry in index["files"]:
        path = folder / entry["name"]
        try:
            pcm, rate = soundfile.read(path, dtype="float32")
        except (soundfile.LibsndfileError, OSError) as error:
            raise TrainError(f"{path}: cannot be read ({error}); copy the pack again") from None
        if rate not in RATES or pcm.ndim != 1:
            raise TrainError(f"{path}: not the file that was packed; copy the pack again")
        position = 0
        for name, length in entry["utterances"]:
            n = audio_io.resampled_length(length, index["sample_rate"], rate)
            if position + n > len(pcm):
                raise TrainError(f"{path}: shorter than its index says; copy the pack again")
            samples = audio_io.resample(pcm[None, position : position + n], rate, sample_rate)[0]
            wanted = audio_io.resampled_length(length, index["sample_rate"], sample_rate)
            yield name, _to_int16(np.pad(samples[:wanted], (0, max(0, wanted - len(samples)))))
            position += n + round(GAP * rate)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder, its files checked. Raises: TrainError."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text())
        if index["format"] != FORMAT:
            raise TrainError(f"{path}: format {index['format']!r}, this build reads {FORMAT}; upgrade codec")
        for entry in index["files"]:
            file = folder / Path(entry["name"]).name
            if file.name != entry["name"] or not file.is_file() or checksum(file) != entry["sha256"]:
                raise TrainError(f"{file}: missing or damaged; copy the pack again")
            if not all(isinstance(name, str) and isinstance(n, int) and n > 0 for name, n in entry["utterances"]):
                raise ValueError("an utterance without name or length")
        if not isinstance(index["sample_rate"], int) or index["sample_rate"] < 1:
            raise ValueError("no sample rate")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainError(f"{path}: not an index of packed speech, or damaged ({error}); copy the pack again") from None
    return dict(index)


def _groups(utterances: Iterable[Utterance], sample_rate: int) -> Iterator[list[Utterance]]:
    """Runs of utterances of about `LONGEST` seconds."""
    group: list[Utterance] = []
    seconds = 0.0
    for one in utterances:
        group.append(one)
        seconds += len(one.samples) / sample_rate + GAP
        if seconds >= LONGEST:
            yield group
            group, seconds = [], 0.0
    if group:
        yield group


def _prefix(group: list[Utterance], seconds: float, sample_rate: int) -> int:
    """How many utterances last at most `seconds`."""
    for i, one in enumerate(group):
        seconds -= len(one.samples) / sample_rate + GAP
        if seconds < 0:
            return i
    return len(group)


def _write_one(path: Path, group: list[Utterance], sample_rate: int, rate: int) -> dict[str, Any]:
    gap = np.zeros(round(GAP * rate), np.int16)
    with soundfile.SoundFile(path, "w", rate, 1, "OPUS", format="OGG", compression_level=LEVEL) as out:
        for one in group:
            samples = one.samples[None].astype(np.float32) / np.float32(32768)
            audio = audio_io.resample(samples, sample_rate, rate)[0]
            out.write(_to_int16(audio))
            out.write(gap)
    utterances = [[one.name, len(one.samples)] for one in group]
    return {"name": path.name, "sha256": checksum(path), "utterances": utterances}


def _to_int16(audio: NDArray[np.float32]) -> Samples:
    return np.asarray(np.round(np.clip(audio, -1, 32767 / 32768) * 32768), np.int16)
