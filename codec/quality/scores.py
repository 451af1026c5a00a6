"""What an evaluation measured, as data: one row per file, and the rows taken together.

>>> row = FileScore("a.wav", seconds=2.0, codebooks=8, bitrate=4000.0, rtf_encode=0.01, rtf_decode=0.02,
...                 scores={"pesq": 2.0, "stoi": 0.9})
>>> summarize([row])[0].means["pesq"].value
2.0
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from codec.quality.metrics import CodebookUse, bootstrap_interval, mean

Floats = npt.NDArray[np.float32]

QUALITIES = ("pesq", "stoi", "estoi", "si_sdr", "mel_distance")  # scored unless others are asked for
CLEAN = "clean speech"  # the condition without noise
# score: (heading, unit or range, decimals, whether more is better)
HEADINGS = {
    "pesq": ("PESQ-WB", "1 to 4.64", 2, True),
    "stoi": ("STOI", "0 to 1", 3, True),
    "estoi": ("ESTOI", "0 to 1", 3, True),
    "si_sdr": ("SI-SDR", "dB", 1, True),
    "mel_distance": ("mel distance", "log10", 3, False),
    "f0_correlation": ("F0 corr.", "-1 to 1", 3, True),
    "voicing_error": ("voicing error", "% of frames", 1, False),
    "dnsmos": ("DNSMOS", "1 to 5", 2, True),
    "dnsmos_p808": ("DNSMOS P.808", "1 to 5", 2, True),
    "plcmos": ("PLCMOS", "1 to 5", 2, True),
    "visqol": ("ViSQOL", "1 to 5", 2, True),
    "dwer": ("dWER", "%", 1, False),
    "speaker_similarity": ("speaker sim.", "0 to 1", 3, True),
}
# score: the score beside it that weighs the files in its mean
WEIGHTS = {"dwer": "dwer_words"}


@dataclasses.dataclass(frozen=True)
class FileScore:
    """What one file scored with one number of codebooks; a score that could not be taken is nan."""

    file: str
    seconds: float
    codebooks: int
    bitrate: float  # bit/s, measured: bits of codes over seconds
    rtf_encode: float  # time to encode over `seconds`; below 1 is faster than real time
    rtf_decode: float
    scores: Mapping[str, float]  # by the names in HEADINGS and WEIGHTS
    group: str = ""  # of the file, such as its language; "" where nothing is known


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
    condition: str = CLEAN  # or what was mixed in and what it was judged against

    def grouped(self) -> dict[str, tuple[FileScore, ...]]:
        """The rows of each group, by its name; of files whose group is known."""
        names = sorted({row.group for row in self.rows} - {""})
        return {name: tuple(row for row in self.rows if row.group == name) for name in names}


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over files and the 95 % interval of it; nan where unknown."""

    value: float
    low: float
    high: float
    n_files: int  # that have this score
    weight: float = 0.0  # all files' together, where the score is weighed: the number of words


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
        means = means_of([row.scores for row in group])
        summaries.append(Summary(codebooks, len(group), seconds, **over_time, means=means))
    return tuple(summaries)


def score_names(scores: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Names that occur in any of the files' scores, in the order of tables; QUALITIES where there is no file."""
    found = set(QUALITIES) if not scores else {name for one in scores for name in one}
    return tuple(name for name in HEADINGS if name in found)


def means_of(scores: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    """Take the scores of files together, each as `Mean`.

    Args:
        scores: one per file; a score that a file lacks is unknown there.
    """
    means = {}
    for name in score_names(scores):
        values = [one.get(name, math.nan) for one in scores]
        weights = [one.get(WEIGHTS[name], 0.0) for one in scores] if name in WEIGHTS else []
        low, high = bootstrap_interval(values, np.random.default_rng(0), weights=weights)
        known = sum(not math.isnan(value) for value in values)
        means[name] = Mean(mean(values, weights), low, high, known, sum(weights))
    return means


def interval(name: str, mean: Mean) -> str:
    """Format a mean's interval, and the number of words of what is counted in words; empty where nothing is known.

    >>> interval("dwer", Mean(12.3, 10.0, 14.0, 2, 56.0)), interval("pesq", Mean(2.0, math.nan, math.nan, 1))
    ('10.0 to 14.0, 56 words', '')
    """
    decimals = HEADINGS[name][2]
    parts = [] if math.isnan(mean.low) else [f"{number(mean.low, decimals)} to {number(mean.high, decimals)}"]
    return ", ".join([*parts, f"{mean.weight:.0f} words"] if name in WEIGHTS else parts)


def number(value: float, decimals: int) -> str:
    """Format a number for people; a dash where it is unknown."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"
