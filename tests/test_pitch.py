"""codec.quality.pitch: the fundamental frequency of known sounds, and what a codec does to it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from codec import audio
from codec.quality.pitch import pitch_scores, track

FIXTURES = Path(__file__).parent / "fixtures"
Floats = npt.NDArray[np.float32]


def buzz(pitch: npt.NDArray[np.float64], sample_rate: int = 16000) -> Floats:
    """A voice-like sound, ten harmonics, of a given pitch per sample."""
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    return np.asarray(sum(np.sin(k * phase) / k for k in range(1, 11)) * 0.1, np.float32)


@pytest.mark.parametrize("pitch", [70.0, 110.0, 233.0, 390.0])
@pytest.mark.parametrize("sample_rate", [16000, 24000])
def test_a_steady_voice_has_its_pitch(pitch: float, sample_rate: int) -> None:
    found = track(buzz(np.full(sample_rate // 2, pitch), sample_rate), sample_rate)
    assert len(found) == 50
    np.testing.assert_allclose(found[5:-5], pitch, rtol=0.01)


def test_a_gliding_voice_is_followed_in_time() -> None:
    wanted = np.linspace(100, 200, 16000)
    found = track(buzz(wanted), 16000)
    np.testing.assert_allclose(found[5:-5], wanted[::160][5:-5], rtol=0.03)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    assert np.mean(track(noise, 16000) > 0) < 0.05
    assert not track(np.zeros(1600, np.float32), 16000).any()
    assert track(np.zeros(0, np.float32), 16000).shape == (0,)


def test_speech_with_itself_agrees_and_another_voice_does_not() -> None:
    one = audio.read(FIXTURES / "talk.flac")[0][0, :32000]
    other = audio.read(FIXTURES / "rhasspy_nathalie_03.flac")[0][0, :32000]
    same, different = pitch_scores(one, one, 16000), pitch_scores(one, other, 16000)
    assert same == {"f0_correlation": pytest.approx(1), "voicing_error": 0}
    assert abs(different["f0_correlation"]) < 0.7
    assert different["voicing_error"] > 20


def test_a_voice_turned_into_noise_is_a_voicing_error() -> None:
    voice = buzz(np.full(16000, 120.0))
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    scores = pitch_scores(voice, noise, 16000)
    assert scores["voicing_error"] > 90
    assert math.isnan(scores["f0_correlation"])
    assert all(math.isnan(value) for value in pitch_scores(0 * voice, noise, 16000).values())
