"""Phases of a noise: what they break up, what they leave, and that a part is the part of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.layers import Chain, Layer, Linear, Split
from codec.nn.noisephase import NoisePhase
from codec.nn.spectral import ExpandSpectrum, SpectralDecoderConfig, spectral_decoder
from codec.nn.stft import InverseStft, Stft

N_FFT, HOP, BINS = 64, 16, (8, 12)


def noise_phase(period: int = 40) -> NoisePhase:
    return NoisePhase(N_FFT, hop_length=HOP, bins=BINS, period=period)


def test_a_decoder_that_gives_equal_frames_does_not_hum() -> None:
    frames = torch.ones(1, N_FFT + 2, 200)

    def likeness(*between: Layer) -> float:
        """Of the audio to itself a frame later, without its lower bins."""
        audio = Chain([*between, InverseStft(N_FFT, hop_length=HOP)])(frames)[0, 0, N_FFT:]
        upper = Stft(N_FFT, hop_length=1)(audio[None, None])[0, [*range(BINS[1], 32)]][:, N_FFT:]
        return float((upper[:, HOP:] * upper[:, :-HOP]).sum() / upper[:, HOP:].square().sum())

    assert likeness() > 0.9
    assert abs(likeness(noise_phase())) < 0.3


def test_magnitudes_stay_and_lower_bins_keep_their_phase() -> None:
    x = torch.randn(2, N_FFT + 2, 50)
    y = noise_phase()(x)

    def size(z: Tensor) -> Tensor:
        real, imag = z.chunk(2, 1)
        return real.square() + imag.square()

    assert torch.allclose(size(y), size(x), rtol=1e-4)
    assert torch.equal(y[:, : BINS[0] + 1], x[:, : BINS[0] + 1])
    assert not torch.allclose(y[:, BINS[1] :], x[:, BINS[1] :])


def test_neighbouring_frames_agree() -> None:
    """A flat spectrum comes back from audio as it went in: the phases are those of one signal."""
    flat = torch.ones(1, N_FFT + 2, 120) * (torch.arange(N_FFT + 2) <= N_FFT // 2)[:, None]
    audio = Chain([noise_phase(), InverseStft(N_FFT, hop_length=HOP)])(flat)
    real, imag = Stft(N_FFT, hop_length=HOP)(audio)[:, :, 8:].chunk(2, 1)
    found = (real.square() + imag.square()).sqrt()[:, BINS[1] : -1]
    # Phases drawn bin by bin give 0.5 here: four windows overlap.
    assert float(found.mean()) > 0.8


def test_the_noise_is_what_it_was() -> None:
    # Weights are trained with it: another noise is another decoder.
    layer = NoisePhase(640, hop_length=160, bins=(48, 68), period=64)
    assert layer.cos[[0, 1, 63], [100, 200, 300]].tolist() == pytest.approx(NOISE[:3], abs=1e-5)
    assert layer.sin[[0, 1, 63], [100, 200, 300]].tolist() == pytest.approx(NOISE[3:], abs=1e-5)


NOISE = [0.827456, -0.957636, -0.824714, -0.561531, -0.28798, -0.56555]


def test_periods_in_frames_of_the_decoder() -> None:
    def period(*layers: Layer) -> int:
        return Chain(layers).period

    assert period(Linear(8, 8)) == 1
    assert period(Linear(8, 2 * (N_FFT + 2)), Split(2), ExpandSpectrum(0.3), noise_phase(40)) == 20
    assert period(Linear(8, 2 * (N_FFT + 2)), Split(2), noise_phase(5)) == 5
    assert period(noise_phase(4), noise_phase(6)) == 12


def test_a_part_from_a_whole_period_on_is_that_part_of_the_whole() -> None:
    config = SpectralDecoderConfig(dim=8, hidden_dim=8, n_blocks=1, n_fine_blocks=1, noise_bins=(4, 8), noise_period=6)
    torch.manual_seed(0)
    decoder = spectral_decoder(config, 4, hop_length=32).requires_grad_(False)
    frames = torch.randn(1, 4, 40)
    whole = decoder(frames)
    assert decoder.receptive_field is not None
    before = decoder.receptive_field - 1
    assert before + 13 < 40
    from_12 = decoder(frames[..., 12:])
    assert torch.allclose(from_12[..., before * 32 :], whole[..., (12 + before) * 32 :], atol=1e-6)
    from_13 = decoder(frames[..., 13:])
    assert not torch.allclose(from_13[..., before * 32 :], whole[..., (13 + before) * 32 :], atol=1e-3)


@pytest.mark.parametrize(
    ("bins", "period", "found"),
    [((5, 5), 4, "noise_bins"), ((-1, 5), 4, "noise_bins"), ((5, 40), 4, "noise_bins"), ((5, 9), 0, "noise_period")],
)
def test_sizes_that_cannot_be(bins: tuple[int, int], period: int, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        NoisePhase(N_FFT, hop_length=HOP, bins=bins, period=period)


def test_one_number_is_no_band() -> None:
    with pytest.raises(ConfigError, match="noise_bins: two bins"):
        spectral_decoder(SpectralDecoderConfig(noise_bins=(5,)), 4, hop_length=320)
