"""What a model scores on audio files: quality, bitrate, speed, and how well its codebooks are used.

Each file is encoded once with all codebooks; each number of codebooks asked for is a prefix of those codes, decoded and
compared with the original at the model's rate.

>>> spread(10, 4)
(0, 3, 6, 9)
"""

from __future__ import annotations

import datetime as dt
import functools
import math
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from codec.api import Model
from codec.codes import Codes
from codec.config import ModelInfo
from codec.engine import Audio
from codec.errors import AudioError
from codec.quality.judges import check_installed, judge
from codec.quality.metrics import CodebookUse, code_counts, use_of_counts
from codec.quality.noise import NoiseOptions, Recording, condition, read_recording
from codec.quality.scores import QUALITIES, Decoded, EvalResult, Example, FileScore
from codec.rate import choose_codebooks

WAITING = 4  # decoded files that wait for each process that scores

Progress = Callable[[str], None]  # gets the name of each file that is done
Scorer = Callable[[Audio, Audio, int], "Future[dict[str, float]]"]


@dataclass
class _Collected:
    """What has been measured so far."""

    rows: list[Callable[[], FileScore]] = field(default_factory=list)  # each waits for its scores
    codes: list[Codes] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def evaluate(
    model: Model,
    files: Mapping[str, Path],
    *,
    codebooks: Sequence[int] = (),
    metrics: Sequence[str] = QUALITIES,
    groups: Mapping[str, str] | None = None,
    noise: NoiseOptions | None = None,
    examples: int = 4,
    jobs: int = 1,
    progress: Progress | None = None,
    about: Mapping[str, str] | None = None,
) -> EvalResult:
    """Measure a model on files; one that cannot be read is skipped, with its reason in `skipped`.

    Args:
        model: any.
        files: paths by the name that the report gives them; several channels are mixed to one.
        codebooks: how many to decode with; what the model's prefixes double to when empty.
        metrics: names in `codec.quality.judges.JUDGES`.
        groups: a file's group by its name, as `codec.quality.noise.read_groups` reads it.
        noise: what to mix in; nothing when None.
        examples: how many files to keep as audio, spread evenly over all.
        jobs: processes that score; more than there are spare cores makes the real-time factors worse than they are.
        progress: called after each file.
        about: the result's `data` and `command`.

    Raises:
        CodesError: a number of codebooks that does not decode alone.
        ConfigError: a metric that is unknown.
        AudioError: not one file could be read.
        MissingExtraError: a package that a metric needs is not installed.
    """
    check_installed(metrics)
    counts = [choose_codebooks(model.info, codebooks=count) for count in codebooks or doubled(model.info)]
    shown = spread(len(files), examples)
    found = _Collected()
    _warm_up(model)
    with _open_scorer(jobs, tuple(metrics)) as scorer:
        for i, (name, path) in enumerate(files.items()):
            try:
                recording = read_recording(path, name, noise, sample_rate=model.info.sample_rate)
                about_file = (name, (groups or {}).get(name, ""))
                _measure(model, about_file, recording, counts, scorer, found, is_example=i in shown)
            except AudioError as error:
                found.skipped.append((name, str(error).removeprefix(f"{path}: ")))
            if progress is not None:
                progress(name)
        rows = tuple(row() for row in found.rows)
    if not rows:
        why = f"; {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise AudioError(f"none of {len(files)} files could be evaluated{why}")
    return EvalResult(
        model=model.info.name,
        weights_hash=model.info.weights_hash,
        date=dt.date.today().isoformat(),
        rows=rows,
        use=_use(model.info, found.codes),
        examples=tuple(found.examples),
        machine=machine_name(),
        skipped=tuple(found.skipped),
        condition=condition(noise),
        **{"data": "", "command": "", **(about or {})},
    )


def doubled(info: ModelInfo) -> tuple[int, ...]:
    """The numbers of codebooks worth comparing: the smallest, its doublings, and all."""
    extra = info.loudness_codebooks
    smallest = min(info.prefixes) - extra
    doublings = {extra + (smallest << i) for i in range(info.codebooks.bit_length())}
    return tuple(count for count in sorted(info.prefixes) if count in doublings or count == max(info.prefixes))


def spread(n_items: int, n_chosen: int) -> tuple[int, ...]:
    """Positions of `n_chosen` items spread evenly over `n_items`; all where there are fewer."""
    if n_chosen >= n_items:
        return tuple(range(n_items))
    if n_chosen <= 1:
        return (0,) * n_chosen
    return tuple(round(i * (n_items - 1) / (n_chosen - 1)) for i in range(n_chosen))


def machine_name() -> str:
    """The processor's name, for the real-time factors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measured_bitrate(codes: Codes) -> float:
    """Bits of the codes that are there, and of their condition, over the seconds of audio they stand for, bit/s."""
    sizes, divisors = codes.model.codebook_sizes, codes.model.divisors
    pairs = list(zip(sizes, divisors, strict=True))[: codes.codebooks]
    bits = sum(math.log2(size) * math.ceil(codes.n_frames / divisor) for size, divisor in pairs)
    bits += 0 if codes.condition is None else 32 * codes.condition.size
    return bits / codes.duration


def _measure(
    model: Model,
    about: tuple[str, str],
    recording: Recording,
    counts: Sequence[int],
    scorer: Scorer,
    found: _Collected,
    *,
    is_example: bool,
) -> None:
    """One file, of a name and a group, with each number of codebooks."""
    begin = time.perf_counter()
    codes: Codes = model.encode(recording.given)
    rtf_encode = (time.perf_counter() - begin) / codes.duration
    decoded = []
    for count in counts:
        prefix = codes.prefix(count)
        begin = time.perf_counter()
        decoded_both: Audio = model.decode(prefix)
        rtf_decode = (time.perf_counter() - begin) / codes.duration
        bitrate = measured_bitrate(prefix)
        audio_hat = np.atleast_2d(decoded_both).mean(0)  # of a model of two channels, as its recording
        facts = (*about, codes.duration, count, bitrate, rtf_encode, rtf_decode)
        found.rows.append(_row(facts, scorer(recording.wanted, audio_hat, model.info.sample_rate)))
        decoded.append(Decoded(f"{count} codebooks, {bitrate / 1000:.1f} kbit/s", audio_hat))
    found.codes.append(codes)
    if is_example:
        found.examples.append(Example(about[0], model.info.sample_rate, recording.given, tuple(decoded)))


def _row(
    facts: tuple[str, str, float, int, float, float, float], scores: Future[dict[str, float]]
) -> Callable[[], FileScore]:
    file, group, seconds, codebooks, bitrate, rtf_encode, rtf_decode = facts
    return lambda: FileScore(
        file=file,
        group=group,
        seconds=seconds,
        codebooks=codebooks,
        bitrate=bitrate,
        rtf_encode=rtf_encode,
        rtf_decode=rtf_decode,
        scores=scores.result(),
    )


@contextmanager
def _open_scorer(jobs: int, metrics: tuple[str, ...]) -> Iterator[Scorer]:
    """What scores: at once in this process, or in others while this one goes on."""
    if jobs <= 1:
        yield functools.partial(_score_now, metrics)
        return
    # Not fork: torch has threads by now.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        free = threading.Semaphore(WAITING * jobs)  # judges are slower than the codec: audio would pile up

        def score(ref: Audio, deg: Audio, sample_rate: int) -> Future[dict[str, float]]:
            free.acquire()
            future = pool.submit(judge, metrics, ref, deg, sample_rate)
            future.add_done_callback(lambda done: free.release())
            return future

        yield score


def _score_now(metrics: tuple[str, ...], ref: Audio, deg: Audio, sample_rate: int) -> Future[dict[str, float]]:
    future: Future[dict[str, float]] = Future()
    future.set_result(judge(metrics, ref, deg, sample_rate))
    return future


def _use(info: ModelInfo, codes: Sequence[Codes]) -> tuple[CodebookUse, ...]:
    totals = [np.zeros(size, np.int64) for size in info.codebook_sizes]
    for item in codes:
        for total, counts in zip(totals, code_counts(item.data, info.codebook_sizes), strict=True):
            total += counts
    return tuple(use_of_counts(total) for total in totals)


def _warm_up(model: Model) -> None:
    """The first run of a process is slower: it is not the model's."""
    model.decode(model.encode(np.zeros(2 * model.info.sample_rate, np.float32)))
