"""Losses: values worked out by hand, zero at equality, finite gradients everywhere."""

from __future__ import annotations

import math
import warnings

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from codec.train import losses
from codec.train.config import MelsConfig

RATE = 16000
ALL = dict.fromkeys(losses.LOSSES, 1.0)


def noise(seed: int = 0, length: int = 4096) -> Tensor:
    return 0.1 * torch.randn(2, length, generator=torch.Generator().manual_seed(seed))


def test_every_term_is_zero_where_the_audio_is_the_same() -> None:
    values = losses.terms(noise(), noise(), ALL, RATE)
    assert sorted(values) == sorted(losses.LOSSES)
    assert all(float(x) == pytest.approx(0.0, abs=1e-6) for x in values.values())


def test_a_term_of_weight_zero_is_not_computed() -> None:
    assert list(losses.terms(noise(), noise(1), {"mel": 1.0, "complex": 0.0}, RATE)) == ["mel"]


def test_a_gain_of_ten_is_a_mel_distance_of_one() -> None:
    # log10 of a magnitude ten times as large, in every band and every window.
    assert float(losses.terms(noise(), noise() * 10, {"mel": 1.0}, RATE)["mel"]) == pytest.approx(1.0, abs=0.005)


def test_silence_for_speech_is_a_complex_distance_of_one() -> None:
    # The error is the target itself, over the target's energy.
    assert float(losses.terms(noise(), torch.zeros(2, 4096), {"complex": 1.0}, RATE)["complex"]) == pytest.approx(
        1.0, abs=1e-3
    )


def test_the_inverted_wave_is_a_complex_distance_of_four_and_a_mel_distance_of_zero() -> None:
    values = losses.terms(noise(), -noise(), {"complex": 1.0, "mel": 1.0}, RATE)
    assert float(values["complex"]) == pytest.approx(4.0, abs=2e-3)
    assert float(values["mel"]) == pytest.approx(0.0, abs=1e-6)


def test_an_error_an_octave_above_the_corner_counts_a_ninth_of_one_at_it() -> None:
    # Weights are 1 / (1 + (f / corner) ** 4): 1/2 at the corner, 1/17 an octave up; the target has both tones alike.
    # A window spreads a tone over bins of other weights, and compression raises what lies far from it.
    time = torch.arange(8192) / RATE
    low, high = (0.3 * torch.sin(2 * math.pi * f * time)[None] for f in (1200.0, 2400.0))
    without_high, without_low = (
        float(losses.terms(low + high, made, {"complex": 1.0}, RATE)["complex"]) for made in (low, high)
    )
    assert without_low / without_high == pytest.approx((1 / 2) / (1 / 17), rel=0.2)


def test_half_the_magnitude_is_a_loudness_distance_of_one_less_the_root_of_a_half() -> None:
    value = losses.terms(noise(), noise() * 0.5, {"loudness": 1.0}, RATE)["loudness"]
    assert float(value) == pytest.approx(1 - math.sqrt(0.5), abs=2e-3)


def test_a_loud_part_counts_more_than_a_quiet_one_in_loudness_and_the_same_in_mel() -> None:
    target = torch.cat((noise()[:1], 0.01 * noise(1)[:1]), 1)
    loud, quiet = target.clone(), target.clone()
    loud[:, :4096] *= 0.5
    quiet[:, 4096:] *= 0.5
    of_loud, of_quiet = (losses.terms(target, x, {"loudness": 1.0, "mel": 1.0}, RATE) for x in (loud, quiet))
    assert float(of_loud["mel"]) == pytest.approx(float(of_quiet["mel"]), rel=0.25)
    assert float(of_loud["loudness"]) > 5 * float(of_quiet["loudness"])


def test_the_inverted_wave_is_a_third_of_pi_in_phase() -> None:
    # Each bin is off by pi; group delay and frequency, the other two thirds, are right.
    assert float(losses.terms(noise(), -noise(), {"phase": 1.0}, RATE)["phase"]) == pytest.approx(math.pi / 3, rel=0.02)


def test_cosine_hears_the_phase_of_its_band_alone_and_no_level() -> None:
    time = torch.arange(8192) / RATE
    inside, outside = (0.3 * torch.sin(2 * math.pi * f * time)[None] for f in (1000.0, 6000.0))
    quarter = 0.3 * torch.cos(2 * math.pi * 1000.0 * time)[None]
    # Weights are flat: what leaks from the other tone into the band counts too.
    for made, expected in ((inside, 0.0), (0.1 * inside, 0.0), (quarter, 1.0), (-inside, 2.0)):
        value = losses.terms(inside + outside, made - outside, {"cosine": 1.0}, RATE)["cosine"]
        assert float(value) == pytest.approx(expected, abs=0.12)


def test_waveform_is_relative_to_the_target() -> None:
    target = torch.tensor([[1.0, -1.0, 2.0, 0.0]])
    assert float(losses.waveform(target, target * 0.5)) == pytest.approx(0.5)


def test_the_weighted_sum() -> None:
    values = {"mel": torch.tensor(2.0), "complex": torch.tensor(3.0)}
    assert float(losses.weigh(values, {"mel": 10.0, "complex": 0.5, "other": 7.0})) == 21.5


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-20, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize("silent", ["target", "made", "neither"])
def test_gradients_are_finite_at_silence_denormals_and_overload(scale: float, silent: str) -> None:
    target = noise() * (0.0 if silent == "target" else scale)
    made = (noise(1) * (0.0 if silent == "made" else scale)).requires_grad_()
    losses.weigh(losses.terms(target, made, ALL, RATE), ALL).backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert bool(torch.isfinite(made.grad).all())


@pytest.mark.parametrize("term", sorted(losses.LOSSES))
def test_a_small_step_against_the_gradient_lowers_each_term(term: str) -> None:
    target, made = noise().double(), (noise() + 0.3 * noise(1)).double().requires_grad_()
    before = losses.terms(target.float(), made.float(), {term: 1.0}, RATE)[term]
    (gradient,) = torch.autograd.grad(before, made)
    after = losses.terms(target.float(), (made - 1e-3 * gradient / gradient.norm()).float(), {term: 1.0}, RATE)[term]
    assert float(after.detach()) < float(before.detach())


def test_power_by_hand() -> None:
    # Twice the waveform is twice each part of the STFT: its power 0.3 squared is 2 ** 0.6 times as much.
    one = losses.power(torch.zeros(1, 3200), torch.ones(1, 3200))
    two = losses.power(torch.zeros(1, 3200), torch.full((1, 3200), 2.0))
    assert float(two / one) == pytest.approx(2**0.6, rel=1e-3)
    assert float(losses.power(torch.ones(1, 3200), -torch.ones(1, 3200))) == pytest.approx(4 * float(one), rel=0.01)


def test_published_mel_distances_take_the_place_of_our_own() -> None:
    config = MelsConfig(windows=(1024,), hops=(240,))
    values = losses.terms(noise(), noise() * 10, {"mel": 1.0, "waveform": 1.0}, RATE, config)
    assert float(values["mel"]) == pytest.approx(math.log(10), abs=1e-3)
    assert float(values["waveform"]) == pytest.approx(9.0, rel=1e-4)


@pytest.mark.parametrize("n_fft", losses.MEL_WINDOWS)
def test_the_mel_bank_is_librosas_up_to_normalisation(n_fft: int) -> None:
    bank = losses.mel_bank(n_fft, RATE, torch.device("cpu")).numpy()
    assert bank.sum(1) == pytest.approx(1.0)
    with warnings.catch_warnings():
        # Ours gives a filter narrower than a bin that bin; librosa leaves it empty and says so.
        warnings.filterwarnings("ignore", message="Empty filters", category=UserWarning)
        theirs = librosa.filters.mel(sr=RATE, n_fft=n_fft, n_mels=len(bank), htk=True, norm=None)
    sums = theirs.sum(1, keepdims=True)
    full = sums[:, 0] > 0
    np.testing.assert_allclose(bank[full], (theirs / np.maximum(sums, 1e-9))[full], rtol=1e-6, atol=1e-4)
