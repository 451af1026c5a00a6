"""codec.quality.metrics: equal to the reference packages on real speech, and to values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import audio
from codec.errors import CodesError
from codec.quality import metrics, spectrogram

FIXTURES = Path(__file__).parent / "fixtures"
Floats = npt.NDArray[np.float32]

# file: (pesq, stoi, estoi, si_sdr, lag) of `degraded`, as shared/peers/score.py gave them (pesq 0.0.4, pystoi 0.4.1)
KNOWN = {
    "demo.flac": (1.804103, 0.984914, 0.930587, 22.1769, 200),
    "librispeech_4267_287369-0000.flac": (1.728842, 0.991228, 0.929277, 25.1736, -37),
    "rhasspy_nathalie_03.flac": (1.188917, 0.905381, 0.790499, 19.7853, 0),
}


def speech(name: str) -> Floats:
    whole, _ = audio.read(FIXTURES / name)
    return np.asarray(whole[0])


def degraded(ref: Floats, lag: int) -> Floats:
    """Quantise to steps of 1/64 and shift: no random numbers, whose stream may change with numpy."""
    coarse = (np.round(ref * 64) / 64).astype(np.float32)
    return np.concatenate([np.zeros(lag, np.float32), coarse]) if lag >= 0 else coarse[-lag:]


# against the reference packages


@pytest.mark.parametrize("name", KNOWN)
def test_scores_equal_those_of_the_peers(name: str) -> None:
    pytest.importorskip("pesq", reason="the extra eval is not installed")
    pytest.importorskip("pystoi", reason="the extra eval is not installed")
    *expected, lag = KNOWN[name]
    ref = speech(name)
    deg = degraded(ref, lag)
    assert metrics.align(ref, deg)[1] == lag
    scores = metrics.score(ref, deg, 16000)
    # The last digits hang on the compiler and the FFT.
    for key, value, tolerance in zip(
        ("pesq", "stoi", "estoi", "si_sdr"), expected, (2e-3, 1e-4, 1e-4, 1e-3), strict=True
    ):
        assert scores[key] == pytest.approx(value, abs=tolerance), key


@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(16000, 128, 20), (16000, 2048, 320), (24000, 1024, 160)])
def test_mel_filters_equal_librosa(rate: int, n_fft: int, n_mels: int) -> None:
    librosa = pytest.importorskip("librosa", reason="the extra train is not installed")
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels)
    np.testing.assert_allclose(spectrogram.mel_filters(rate, n_fft, n_mels), expected, atol=1e-7)


def test_magnitudes_are_those_of_the_transform_written_out() -> None:
    ref = speech("demo.flac")
    ours = np.concatenate(list(spectrogram.magnitudes(ref, 256, 4)))
    assert ours.shape == (len(ref) // 4 + 1, 129)
    time = np.arange(256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / 256)
    kernel = window * np.exp(-2j * np.pi * np.arange(129)[:, None] * time / 256)
    for frame in (100, 5000, 20000):  # also beyond the first block of 4096 frames
        expected = np.abs(kernel @ ref[frame * 4 - 128 : frame * 4 + 128])
        np.testing.assert_allclose(ours[frame], expected, rtol=1e-3, atol=1e-4)


# laws and values by hand


def test_the_same_audio_scores_best() -> None:
    pytest.importorskip("pesq", reason="the extra eval is not installed")
    ref = speech("librispeech_6181_216552-0000.flac")
    scores = metrics.score(ref, ref, 16000)
    assert scores["pesq"] == pytest.approx(4.644, abs=1e-3)
    assert scores["stoi"] == pytest.approx(1, abs=1e-5)
    assert scores["mel_distance"] == 0
    assert scores["si_sdr"] > 100


def test_another_rate_is_judged_at_16_khz() -> None:
    pytest.importorskip("pesq", reason="the extra eval is not installed")
    wide = speech("rhasspy_nathalie_06_24k.flac")
    down = audio.resample(wide[None], 24000, 16000)[0]
    at_24, at_16 = metrics.score(wide, wide * 0.5, 24000), metrics.score(down, down * 0.5, 16000)
    assert at_24["pesq"] == pytest.approx(at_16["pesq"], abs=0.01)
    assert 0.2 < at_24["mel_distance"] < math.log10(2)  # below, because of the floor under silence


def test_half_the_amplitude_is_a_mel_distance_of_log10_2() -> None:
    tone_rich = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    assert metrics.mel_distance(tone_rich, tone_rich * np.float32(0.5), 16000) == pytest.approx(math.log10(2), abs=1e-4)


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers() -> None:
    ref = np.tile(np.array([1.0, 1, -1, -1], np.float32), 100)
    noise = np.tile(np.array([1.0, -1, -1, 1], np.float32), 100)
    assert metrics.si_sdr(ref, 3 * (ref + 0.1 * noise)) == pytest.approx(20, abs=1e-4)
    assert math.isnan(metrics.si_sdr(0 * ref, noise))


@given(st.integers(-960, 960), st.integers(0, 50))
def test_any_shift_up_to_60_ms_is_found_and_taken_out(shift: int, extra: int) -> None:
    ref = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    deg = np.concatenate([np.zeros(shift, np.float32), ref]) if shift >= 0 else ref[-shift:]
    aligned, lag = metrics.align(ref, np.concatenate([deg, np.zeros(extra, np.float32)]))
    assert (lag, aligned.shape) == (shift, ref.shape)
    inside = slice(max(0, -shift), None)
    np.testing.assert_array_equal(aligned[inside], ref[inside])


@pytest.mark.parametrize("n", [1, 10, 3000, 6000])
def test_silence_and_scraps_score_nan_and_do_not_fail(n: int) -> None:
    pytest.importorskip("pesq", reason="the extra eval is not installed")
    ref = speech("demo.flac")[:n]
    assert math.isnan(metrics.score(ref, ref, 16000)["pesq"])
    scores = metrics.score(np.zeros(n, np.float32), ref, 16000)
    assert all(math.isnan(scores[key]) for key in ("pesq", "stoi", "estoi", "si_sdr"))


def test_silence_decoded_from_speech_scores_worst() -> None:
    pytest.importorskip("pesq", reason="the extra eval is not installed")
    ref = speech("demo.flac")
    scores = metrics.score(ref, 0 * ref, 16000)
    assert 1 < scores["pesq"] < 1.1
    assert scores["stoi"] == pytest.approx(0, abs=0.01)


def test_more_than_thirty_seconds_are_judged_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of five seconds: PESQ of a minute takes its time."""
    pytest.importorskip("pesq", reason="the extra eval is not installed")
    assert metrics.LONGEST_PESQ == 30
    monkeypatch.setattr(metrics, "LONGEST_PESQ", 5)
    ref = np.tile(speech("librispeech_6181_216552-0000.flac"), 2)
    deg = degraded(ref, 0)
    halves = [metrics.pesq_wb(ref[part], deg[part]) for part in (slice(0, len(ref) // 2), slice(len(ref) // 2, None))]
    assert metrics.pesq_wb(ref, deg) == pytest.approx(np.mean(halves))


# codebooks


def test_usage_and_perplexity_are_those_worked_out_by_hand() -> None:
    codes = np.array([[0, 1, 2, 3], [5, 5, 5, 5], [0, 0, 0, 1]])
    first, second, third = metrics.codebook_use(codes, [4, 10, 2])
    assert (first.usage, first.perplexity) == pytest.approx((1, 4))
    assert (second.usage, second.perplexity) == pytest.approx((0.1, 1))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert (third.usage, third.perplexity) == pytest.approx((1, math.exp(entropy)))
    assert metrics.codebook_use(codes[:1, :0], [4]) == (metrics.CodebookUse(0, 0),)


@pytest.mark.parametrize(("codes", "sizes"), [([[0, 4]], [4]), ([[-1, 0]], [4]), ([[0, 1]], [4, 4])])
def test_codes_outside_their_codebook_are_refused(codes: list[list[int]], sizes: list[int]) -> None:
    with pytest.raises(CodesError, match="codebook"):
        metrics.codebook_use(np.array(codes), sizes)


# means and intervals


def test_means_leave_out_what_is_unknown() -> None:
    assert metrics.mean([1.0, math.nan, 3.0]) == 2
    assert math.isnan(metrics.mean([math.nan]))
    assert math.isnan(metrics.mean([]))


def test_the_bootstrap_interval_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    low, high = metrics.bootstrap_interval(list(values), np.random.default_rng(1))
    wide = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - wide, values.mean() + wide), abs=0.012)
    assert np.isnan(metrics.bootstrap_interval([1.0, math.nan], np.random.default_rng(1))).all()
