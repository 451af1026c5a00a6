"""What an evaluation measured, as data: one row per file, and the rows taken together.

>>> row = FileScore("a.wav", seconds=2.0, codebooks=8, bitrate=4000.0, pesq=2.0, stoi=0.9, estoi=0.8, si_sdr=3.0,
...                 mel_distance=0.5, rtf_encode=0.01, rtf_decode=0.02)
>>> summarize([row])[0].means["pesq"].value
2.0
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codec.metrics import CodebookUse, bootstrap_interval, mean

Floats = npt.NDArray[np.float32]

QUALITIES = ("pesq", "stoi", "estoi", "si_sdr", "mel_distance")
# score: (heading, unit or range, decimals, whether more is better)
HEADINGS = {
    "pesq": ("PESQ-WB", "1 to 4.64", 2, True),
    "stoi": ("STOI", "0 to 1", 3, True),
    "estoi": ("ESTOI", "0 to 1", 3, True),
    "si_sdr": ("SI-SDR", "dB", 1, True),
    "mel_distance": ("mel distance", "log10", 3, False),
}


@dataclasses.dataclass(frozen=True)
class FileScore:
    """What one file scored with one number of codebooks; a score that could not be taken is nan."""

    file: str
    seconds: float
    codebooks: int
    bitrate: float  # bit/s, measured: bits of codes over seconds
    pesq: float  # PESQ-WB
    stoi: float
    estoi: float
    si_sdr: float  # dB
    mel_distance: float
    rtf_encode: float  # time to encode over `seconds`; below 1 is faster than real time
    rtf_decode: float


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded version of an example."""

    label: str  # for a heading: "8 codebooks, 4.0 kbit/s"
    audio: Floats  # (T,)


@dataclasses.dataclass(frozen=True)
class Example:
    """A file to be heard and seen in the page."""

    file: str
    sample_rate: int  # Hz
    audio: Floats  # (T,), the original
    decoded: tuple[Decoded, ...]


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """All that an evaluation measured."""

    model: str
    weights_hash: str
    date: str  # as the reader shall see it, e.g. 2026-11-21
    data: str  # what was scored, e.g. a folder
    rows: tuple[FileScore, ...]
    use: tuple[CodebookUse, ...]  # one per codebook, over all files
    examples: tuple[Example, ...] = ()
    command: str = ""  # that repeats it
    machine: str = ""  # on which the real-time factors were taken
    skipped: tuple[tuple[str, str], ...] = ()  # files that could not be read, and why


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over files and the 95 % interval of it; nan where unknown."""

    value: float
    low: float
    high: float
    n_files: int  # that have this score


@dataclasses.dataclass(frozen=True)
class Summary:
    """The files of one number of codebooks taken together."""

    codebooks: int
    n_files: int
    seconds: float
    bitrate: float  # bit/s over all seconds
    rtf_encode: float  # over all seconds
    rtf_decode: float
    means: dict[str, Mean]  # by score


def summarize(rows: Sequence[FileScore]) -> tuple[Summary, ...]:
    """Take together the rows of each number of codebooks, fewest first.

    Means of scores count every file alike; bitrate and real-time factors count every second alike. The intervals are
    drawn with a fixed seed, so that equal rows give equal reports.
    """
    summaries = []
    for codebooks in sorted({row.codebooks for row in rows}):
        group = [row for row in rows if row.codebooks == codebooks]
        seconds = sum(row.seconds for row in group)
        over_time = {
            name: sum(getattr(row, name) * row.seconds for row in group) / seconds if seconds else math.nan
            for name in ("bitrate", "rtf_encode", "rtf_decode")
        }
        means = {name: _mean_of([getattr(row, name) for row in group]) for name in QUALITIES}
        summaries.append(Summary(codebooks, len(group), seconds, **over_time, means=means))
    return tuple(summaries)


def number(value: float, decimals: int) -> str:
    """Format a number for people; a dash where it is unknown."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def _mean_of(values: Sequence[float]) -> Mean:
    known = sum(not math.isnan(value) for value in values)
    return Mean(mean(values), *bootstrap_interval(values, np.random.default_rng(0)), known)
