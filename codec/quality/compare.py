"""Several codecs on the same recordings: bits, quality and speed of each, one row per recording and operating point.

Everything is judged at 16 kHz, whatever rate a codec works at: band that a codec leaves out is a fault like any other.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from codec.api import Model
from codec.audio import resample
from codec.errors import AudioError, ConfigError, ModelError
from codec.hub import find_model
from codec.modelfolder import read_facts
from codec.quality.evaluate import doubled, measured_bitrate, spread
from codec.quality.judges import check_installed, judge
from codec.quality.metrics import SPEECH_RATE, align
from codec.quality.noise import NoiseOptions, Recording, condition, read_recording
from codec.quality.scores import QUALITIES, Decoded, Example, Mean, means_of
from codec.quality.systems import Coded, Facts, Floats, System
from codec.rate import choose_codebooks


@dataclasses.dataclass(frozen=True)
class Row:
    """One recording after one codec at one operating point."""

    system: str
    label: str
    codebooks: int | None
    file: str
    group: str  # of the recording, such as its language; "" where nothing is known
    seconds: float
    n_bits: float
    encode_seconds: float
    decode_seconds: float
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Point:
    """One operating point of one codec over all recordings."""

    system: str
    label: str
    codebooks: int | None
    n_files: int
    bitrate: float  # bit/s, counted
    rtf: float  # time to encode and decode over the audio's
    means: dict[str, Mean]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that a comparison measured."""

    facts: tuple[Facts, ...]
    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    skipped: tuple[tuple[str, str], ...]
    condition: str  # "clean speech", or what was mixed in and what it was judged against


def model_system(model: Model, codebooks: Sequence[int] = (), *, gmacs: float = math.nan) -> System:
    """Return one of our models as a system.

    Args:
        model: any.
        codebooks: how many to decode with; what the model's prefixes double to when empty.
        gmacs: what it computes, as `gmacs_of` counts it.

    Raises:
        CodesError: a number of codebooks that does not decode alone.
    """
    info = model.info
    counts = [choose_codebooks(info, codebooks=count) for count in codebooks or doubled(info)]

    def code(audio: Floats, sample_rate: int) -> tuple[Coded, ...]:
        fitted = resample(audio[None], sample_rate, info.sample_rate)[0]
        begin = time.perf_counter()
        codes = model.encode(fitted)
        encode_seconds = time.perf_counter() - begin
        found = []
        for count in counts:
            prefix = codes.prefix(count)
            begin = time.perf_counter()
            decoded = np.atleast_2d(model.decode(prefix)).mean(0)  # a model of two channels gives one twice
            seconds = time.perf_counter() - begin
            n_bits = measured_bitrate(prefix) * prefix.duration
            label = f"{count} codebooks"
            found.append(Coded(label, decoded, info.sample_rate, n_bits, encode_seconds, seconds, count))
        return tuple(found)

    facts = Facts(
        name=info.name,
        sample_rate=info.sample_rate,
        frame_rate=info.frame_rate,
        codebook_size=info.codebook_size,
        parameters=sum(info.parameters.values()),
        latency=info.latency if info.causal else None,
        is_streaming=info.causal,
        gmacs=gmacs,
        note=f"weights {info.weights_hash[:8]}",
    )
    return System(facts, code)


def gmacs_of(name_or_path: str) -> float:
    """Return the products of a second of audio through a model, there and back, 1e9; nan where that is not known.

    Counted by torch on the network that its folder describes, without weights; not known without torch, or of a model
    that is not one of our networks.
    """
    try:
        from codec.cost import model_gmacs
    except ImportError:
        return math.nan
    try:
        return model_gmacs(read_facts(find_model(name_or_path))[0].config)
    except (ConfigError, ModelError):
        return math.nan


def compare(
    systems: Sequence[System],
    files: Mapping[str, Path],
    *,
    metrics: Sequence[str] = QUALITIES,
    groups: Mapping[str, str] | None = None,
    noise: NoiseOptions | None = None,
    examples: int = 3,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Run every system on every file; a file that cannot be read is skipped, with its reason in `skipped`.

    Args:
        systems: `model_system`, `codec.quality.peers`, `codec.quality.lyra`.
        files: paths by the name that the report gives them; several channels are mixed to one.
        metrics: names in `codec.quality.judges.JUDGES`.
        groups: a file's group by its name, as `codec.quality.noise.read_groups` reads it.
        noise: what to mix in; nothing when None.
        examples: how many files to keep as audio, spread evenly over all.
        progress: called after each file.

    Raises:
        AudioError: not one file could be read.
        ConfigError: two systems of one name, or an unknown metric.
        MissingExtraError: a package that a metric needs is not installed.
    """
    check_installed(metrics)
    names = [system.facts.name for system in systems]
    if len(set(names)) < len(names):
        raise ConfigError(f"systems {', '.join(names)}: two have one name; rename a model's folder")
    shown = spread(len(files), examples)
    rows: list[Row] = []
    heard: list[Example] = []
    skipped: list[tuple[str, str]] = []
    for system in systems:
        system.code(np.zeros(SPEECH_RATE, np.float32), SPEECH_RATE)  # the first run is slower: not the codec's fault
    for i, (name, path) in enumerate(files.items()):
        try:
            recording = read_recording(path, name, noise)
        except AudioError as error:
            skipped.append((name, str(error).removeprefix(f"{path}: ")))
            continue
        group = (groups or {}).get(name, "")
        decoded = _code_one(systems, (name, group), recording, metrics, rows)
        if i in shown:
            given = resample(recording.given[None], recording.sample_rate, SPEECH_RATE)[0]
            heard.append(Example(name, SPEECH_RATE, given, decoded))
        if progress is not None:
            progress(name)
    if not rows:
        why = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise AudioError(f"none of {len(files)} files could be compared{why}")
    return Comparison(
        tuple(system.facts for system in systems), tuple(rows), tuple(heard), tuple(skipped), condition(noise)
    )


def points_of(rows: Sequence[Row]) -> tuple[Point, ...]:
    """Take together the rows of each system and operating point, in the order in which they were run.

    Means of scores count every file alike; bitrate and real-time factor count every second alike.
    """
    points = []
    for system, label in dict.fromkeys((row.system, row.label) for row in rows):
        group = [row for row in rows if (row.system, row.label) == (system, label)]
        seconds = sum(row.seconds for row in group)
        rtf = sum(row.encode_seconds + row.decode_seconds for row in group) / seconds
        bitrate = sum(row.n_bits for row in group) / seconds
        means = means_of([row.scores for row in group])
        points.append(Point(system, label, group[0].codebooks, len(group), bitrate, rtf, means))
    return tuple(points)


def _code_one(
    systems: Sequence[System],
    about: tuple[str, str],
    recording: Recording,
    metrics: Sequence[str],
    rows: list[Row],
) -> tuple[Decoded, ...]:
    """One recording with every system: adds rows, gives what can be heard."""
    rate = recording.sample_rate
    reference = resample(recording.wanted[None], rate, SPEECH_RATE)[0]
    decoded = []
    for system in systems:
        for coded in system.code(recording.given, rate):
            heard = resample(coded.audio[None], coded.sample_rate, SPEECH_RATE)[0]
            seconds, limit = len(recording.given) / rate, round(coded.max_shift * SPEECH_RATE)
            work = (coded.encode_seconds, coded.decode_seconds)
            scores = judge(metrics, reference, heard, SPEECH_RATE, limit=limit)
            facts = (system.facts.name, coded.label, coded.codebooks, *about)
            rows.append(Row(*facts, seconds, coded.n_bits, *work, scores))
            label = f"{system.facts.name}, {coded.n_bits / seconds / 1000:.1f} kbit/s"
            decoded.append(Decoded(label, align(reference, heard, limit)[0]))
    return tuple(decoded)
