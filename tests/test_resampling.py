"""codec.resampling: any chunking, saved anywhere, gives the same samples, soxr's; its seams leave no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import audio
from codec.resampling import Resampler, resample, resampled_length

DEMO = Path(__file__).parent / "fixtures" / "demo.flac"
RATES = [8000, 11025, 16000, 22050, 24000, 44100, 48000]
PAIRS = [(48000, 16000), (44100, 16000), (16000, 24000), (16000, 44100)]

Audio = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def speech() -> Audio:
    return audio.read(DEMO)[0]


def streamed(resampler: Resampler, chunks: list[Audio]) -> Audio:
    return np.concatenate([*(resampler.feed(chunk) for chunk in chunks), resampler.flush()], axis=1)


def tone(frequency: float, rate: int, n_samples: int) -> npt.NDArray[np.float64]:
    wave: npt.NDArray[np.float64] = 0.5 * np.sin(2 * np.pi * frequency / rate * np.arange(n_samples))
    return wave


# laws


@given(st.integers(0, 10**9), st.sampled_from(RATES), st.sampled_from(RATES))
def test_the_resampled_length_is_the_exact_ceiling(n: int, rate_in: int, rate_out: int) -> None:
    length = resampled_length(n, rate_in, rate_out)
    assert (length - 1) * rate_in < n * rate_out <= length * rate_in


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(RATES), st.sampled_from(RATES), st.integers(1, 2))
def test_any_chunking_gives_the_same_resampled_samples(
    data: st.DataObject, rate_in: int, rate_out: int, n_channels: int
) -> None:
    n = data.draw(st.integers(0, 6000))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=8)))
    signal = np.random.default_rng(n).standard_normal((n_channels, n)).astype(np.float32)
    resampler = Resampler(rate_in, rate_out, n_channels)
    for _ in range(2):  # after flush it starts afresh
        result = streamed(resampler, np.split(signal, cuts, axis=1))
        np.testing.assert_array_equal(result, resample(signal, rate_in, rate_out))
    assert result.shape == (n_channels, resampled_length(n, rate_in, rate_out))
    assert result.dtype == np.float32


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 97280), st.integers(31900, 32300), st.integers(63900, 64300)), max_size=6),
    st.sampled_from([(16000, 24000), (16000, 44100), (8000, 16000), (22050, 16000), (16001, 16000), (44100, 16000)]),
    st.booleans(),
)
def test_a_resampler_restored_anywhere_goes_on_equally(
    speech: Audio, cuts: list[int], rates: tuple[int, int], copied: bool
) -> None:
    """On speech of several segments, with cuts at the seams too (of 16 kHz: every 32000 samples)."""
    resampler, parts = Resampler(*rates, 1), []
    for chunk in np.split(speech, sorted(cuts), axis=1):
        parts.append(resampler.feed(chunk))
        if copied:
            other = resampler.copy()
            resampler.feed(speech[:, :5000])  # the original goes its own way
        else:
            assert resampler.holds(resampler.n_in, resampler.history, resampler.n_out)
            other = Resampler(*rates, 1)
            other.load(resampler.n_in, resampler.history, resampler.n_out)
        resampler = other
    np.testing.assert_array_equal(np.concatenate([*parts, resampler.flush()], axis=1), resample(speech, *rates))


def test_a_resampler_restored_between_small_chunks_goes_on_equally(speech: Audio) -> None:
    """Where soxr halves the rate more than once, how much it has given depends on the chunks that it was fed."""
    rates = (88200, 16000)
    whole, resampler, parts = resample(speech[:, :40000], *rates), Resampler(*rates, 1), []
    for chunk in np.array_split(speech[:, :40000], 150, axis=1):
        parts.append(resampler.feed(chunk))
        other = Resampler(*rates, 1)
        other.load(resampler.n_in, resampler.history, resampler.n_out)
        assert other.n_out == resampler.n_out
        resampler = other
    np.testing.assert_array_equal(np.concatenate([*parts, resampler.flush()], axis=1), whole)


def test_leading_dimensions_are_kept_and_rows_stay_apart() -> None:
    batch = np.random.default_rng(0).standard_normal((3, 2, 500)).astype(np.float32)
    resampled = resample(batch, 16000, 24000)
    assert resampled.shape == (3, 2, 750)
    np.testing.assert_array_equal(resampled[1, 1:], resample(batch[1, 1:], 16000, 24000))


# quality


@pytest.mark.parametrize("rate", [8000, 11025, 24000, 44100])
def test_the_resampler_agrees_with_soxr(speech: Audio, rate: int) -> None:
    reference = soxr.resample(speech[0], 16000, rate, quality="VHQ")
    ours = resample(speech, 16000, rate)[0]
    n = len(reference) - 200  # the end differs: ours goes on into silence
    np.testing.assert_allclose(ours[:n], reference[:n], atol=1e-6)
    assert 0 <= len(ours) - len(reference) <= 1


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_tones_of_the_pass_band_come_through_and_higher_ones_do_not_fold_back(rate_in: int, rate_out: int) -> None:
    """Over two seams: but for a gain within 0.01 dB, soxr's, each comes out as itself at 130 dB, where HQ has 120."""
    n, low = 5 * rate_in, min(rate_in, rate_out)
    inner = slice(low // 20, -low // 20)
    for share in (0.01, 0.49, 0.9):  # of the lower rate's half
        wave = tone(share * low / 2, rate_in, n).astype(np.float32)
        found = resample(wave[None], rate_in, rate_out)[0, inner].astype(np.float64)
        wanted = tone(share * low / 2, rate_out, resampled_length(n, rate_in, rate_out))[inner]
        gain = (found @ wanted) / (wanted @ wanted)
        assert abs(20 * np.log10(gain)) < 0.01
        assert 10 * np.log10(np.square(gain * wanted).mean() / np.square(found - gain * wanted).mean()) >= 130
    if rate_in > rate_out:
        folding = resample(tone(1.05 * low / 2, rate_in, n).astype(np.float32)[None], rate_in, rate_out)[0]
        assert np.abs(folding[inner]).max() < 1e-6


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_samples_come_no_later_than_from_an_endless_soxr_stream(rate_in: int, rate_out: int) -> None:
    """The most that output lags behind input, in 1 ms chunks over a seam, is what soxr's blocks make it: 88 ms."""
    ours, theirs = Resampler(rate_in, rate_out, 1), soxr.ResampleStream(rate_in, rate_out, 1, "float32", "VHQ")
    chunk = np.zeros((1, rate_in // 1000), np.float32)
    n_given, lag, their_lag = 0, 0.0, 0.0
    for i in range(1, 2500):
        now = i * chunk.shape[1] / rate_in
        ours.feed(chunk)
        n_given += len(theirs.resample_chunk(chunk.T))
        lag, their_lag = max(lag, now - ours.n_out / rate_out), max(their_lag, now - n_given / rate_out)
    assert ours.n_out > 2 * rate_out
    assert lag <= their_lag + 0.001 < 0.088


# the state


@pytest.mark.parametrize(("rate_in", "rate_out", "seconds"), [(48000, 16000, 3), (44099, 16000, 10), (8000, 48000, 3)])
def test_what_is_remembered_does_not_grow(rate_in: int, rate_out: int, seconds: int) -> None:
    resampler, longest = Resampler(rate_in, rate_out, 1), 0
    second = np.zeros((1, rate_in), np.float32)
    for _ in range(4 * seconds):
        resampler.feed(second)
        longest = max(longest, resampler.history.shape[1])
    assert rate_in < longest <= seconds * rate_in


def test_a_history_that_cannot_be_is_not_held() -> None:
    resampler = Resampler(48000, 16000, 2)
    resampler.feed(np.ones((2, 100_000), np.float32))
    good = resampler.history
    assert resampler.holds(100_000, good)
    bad = [None, good[:, 1:], good[:1], good[0], good.astype(np.float64), np.full_like(good, np.nan)]
    assert not any(resampler.holds(100_000, history) for history in bad)
    assert not any(resampler.holds(n_in, good) for n_in in (-1, 0, 99_999, 10**30))
    assert resampler.holds(100_000, good, resampler.n_out)
    assert not any(resampler.holds(100_000, good, n_out) for n_out in (-1, 31_999, 33_335, 10**30))
