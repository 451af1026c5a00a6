"""The mel distances of published systems: filters as librosa has them, values worked out by hand."""

from __future__ import annotations

import math
import warnings

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.train import mels
from codec.train.config import MelsConfig

RATE = 24000


def noise(seed: int = 0, length: int = 4096) -> Tensor:
    return 0.1 * torch.randn(2, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n_fft", "n_mels"), [(1024, 80), (2048, 320), (128, 20)])
@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_the_filters_are_librosas(n_fft: int, n_mels: int, scale: str) -> None:
    bank = mels.filters(n_fft, RATE, n_mels, scale, torch.device("cpu")).numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Empty filters", category=UserWarning)
        is_htk = scale == "htk"
        theirs = librosa.filters.mel(sr=RATE, n_fft=n_fft, n_mels=n_mels, htk=is_htk, norm=None if is_htk else "slaney")
    np.testing.assert_allclose(bank, theirs, rtol=1e-6, atol=1e-5 * float(theirs.max()))


def test_magnitudes_are_librosas_with_a_short_window_and_hifigans_padding() -> None:
    audio = noise()
    padded = np.pad(audio[0].numpy(), 300, mode="reflect")  # (800 - 200) / 2
    padded = np.pad(padded, 112)  # librosa's frames are n_fft long, with the window in the middle
    theirs = np.abs(librosa.stft(padded, n_fft=1024, hop_length=200, win_length=800, center=False))
    ours = mels.magnitudes(audio, 800, 200, 1024, False)[0].numpy()
    assert ours.shape == (513, 4096 // 200)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "value"),
    [
        (MelsConfig(windows=(1024,), log=(45.0,)), 45 * math.log(10)),
        (MelsConfig(windows=(1024, 512, 256), log=(45.0, 1.0, 1.0)), 47 * math.log(10)),
        (MelsConfig(windows=(1024,), n_mels=(40,), decimal=True), 1.0),
        (MelsConfig(windows=(512, 1024), log=(0.0,), square=(1.0, 2.0), scale="htk"), 3 * math.log(10)),
    ],
)
def test_a_gain_of_ten_by_hand(config: MelsConfig, value: float) -> None:
    assert float(mels.distance(noise(), noise() * 10, config, RATE)) == pytest.approx(value, rel=1e-3)


def test_magnitudes_count_linearly_and_over_the_windows_energy() -> None:
    plain, scaled = (
        MelsConfig(windows=(512,), log=(0.0,), linear=(1.0,), normalized=normalized) for normalized in (False, True)
    )
    one = float(mels.distance(noise(), noise() * 2, plain, RATE))
    assert float(mels.distance(noise(), noise() * 4, plain, RATE)) == pytest.approx(3 * one, rel=1e-5)
    energy = math.sqrt(512 * 3 / 8)  # of a Hann window
    assert float(mels.distance(noise(), noise() * 2, scaled, RATE)) == pytest.approx(one / energy, rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-6, 1e4])
def test_gradients_are_finite_at_silence_and_overload(scale: float) -> None:
    config = MelsConfig(windows=(32, 1024), n_mels=(5, 80), linear=(1.0,), square=(1.0,))
    made = (noise(1) * scale).requires_grad_()
    for target in (noise(), noise(1) * scale):
        mels.distance(target, made, config, RATE).backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert bool(torch.isfinite(made.grad).all())


def test_lists_of_other_lengths_and_unknown_scales_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"mels\.n_mels: expected 1 or 3"):
        MelsConfig(windows=(1024, 512, 256), n_mels=(80, 40))
    with pytest.raises(ConfigError, match=r"mels\.scale"):
        MelsConfig(scale="bark")
    with pytest.raises(ConfigError, match=r"n_fft >= window"):
        MelsConfig(windows=(1024,), n_ffts=(512,))
