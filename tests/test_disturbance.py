"""The disturbance: near what P.862's own code says of coded speech, blind to what it is blind to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import codec
from codec.train import losses
from codec.train.disturbance import N_FFT, disturbance
from codec.train.spectrum import stft

RATE = 16000


def of(target: Tensor, made: Tensor) -> float:
    a, b = (stft(x, N_FFT).magnitude for x in (target, made))
    return float(disturbance(a, b, RATE))


@pytest.fixture(scope="module")
def speech() -> Tensor:
    audio, _ = codec.read_audio("tests/fixtures/demo.flac")
    return torch.from_numpy(audio[:1, : 3 * RATE].copy())


def noisy(speech: Tensor, gain: float) -> Tensor:
    return speech + gain * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))


def test_it_is_near_the_mos_that_p862_takes_off_and_falls_with_every_codebook(speech: Tensor) -> None:
    pesq = pytest.importorskip("pesq", reason="PESQ needs neural-codec[eval]").pesq
    model = codec.load("default_16k")
    ours, theirs = [], []
    for count in (2, 4, 8):
        made = model.decode(model.encode(speech[0].numpy(), RATE, codebooks=count))
        # The mapping of P.862.2, undone.
        mos = pesq(RATE, speech[0].numpy(), made, "wb")
        theirs.append(4.5 - (3.8224 - math.log(4 / (mos - 0.999) - 1)) / 1.3669)
        ours.append(of(speech, torch.from_numpy(made)[None]))
    assert ours == pytest.approx(theirs, rel=0.25)
    assert ours[0] > ours[1] + 0.1 > ours[2] + 0.2


def test_neither_level_nor_a_tilt_of_the_whole_costs_what_noise_costs(speech: Tensor) -> None:
    tilted = speech + 0.3 * torch.nn.functional.pad(speech, (1, 0))[:, :-1]
    assert of(speech, 0.5 * speech) < 0.02
    assert 5 * of(speech, tilted) < of(speech, noisy(speech, 0.01))


@pytest.mark.parametrize("gain", [0.0, 1e-9, 1.0])
def test_its_gradient_is_finite_from_silence_to_full_scale(speech: Tensor, gain: float) -> None:
    made = noisy(speech, 0.1).mul(gain).requires_grad_()
    value = losses.terms(gain * speech, made, {"disturbance": 1.0}, RATE)["disturbance"]
    value.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(value.item())
    assert made.grad is not None
    assert made.grad.isfinite().all()


def test_silence_in_a_batch_does_not_change_what_speech_costs(speech: Tensor) -> None:
    made = noisy(speech, 0.01)
    both = of(torch.cat([speech, 0 * speech]), torch.cat([made, 0 * made]))
    assert both == pytest.approx(of(speech, made) / 2, rel=1e-3)
