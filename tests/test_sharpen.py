"""The postfilter: what it does to spectra, that learning does not see it, and that old models are without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.sharpen import Sharpen
from codec.nn.spectral import SpectralDecoderConfig, spectral_decoder

N_FFT = 640
BINS = torch.arange(N_FFT // 2 + 1)


def spectrum(decibels: Tensor, phase: float = 0.7) -> Tensor:
    """Levels (bins, n) as one row (1, 2 * bins, n)."""
    magnitude = 10 ** (decibels / 20)
    return torch.cat((magnitude * torch.tensor(phase).cos(), magnitude * torch.tensor(phase).sin()))[None]


def levels(spec: Tensor) -> Tensor:
    real, imag = spec[0].chunk(2)
    return 10 * (real.square() + imag.square()).log10()


def waves(period: float) -> Tensor:
    """Levels (bins, 3) of 6 dB up and down, with so many bins from one formant to the next."""
    return 6 * torch.cos(BINS * (2 * torch.pi / period))[:, None].expand(-1, 3) - 20


def test_formants_rise_a_little_and_valleys_between_them_fall_more() -> None:
    layer = Sharpen(N_FFT, strength=0.5, bins=(48, 68)).eval()
    before, after = waves(40), levels(layer(spectrum(waves(40))))
    inner = (BINS > 80) & (BINS < 300)
    peaks, valleys = (inner & (before[:, 0] > -14.1)), (inner & (before[:, 0] < -25.9))
    assert peaks.sum() > 5
    assert valleys.sum() > 5
    assert 0 < float((after - before)[peaks].mean()) < 2.5
    assert -6 < float((after - before)[valleys].mean()) < -3
    torch.testing.assert_close(after[:49], before[:49], atol=1e-3, rtol=0)


def test_contrast_grows_by_the_strength_where_formants_are_near() -> None:
    """Ripples of 11 bands vanish in their surroundings; the band itself blurs them by little."""
    before = waves(44) + 20
    contrast = [
        float(
            levels(Sharpen(N_FFT, strength=s, bins=(4, 8)).eval()(spectrum(before)))[80:300].std()
            / before[80:300].std()
        )
        for s in (0.25, 0.5, 1.0)
    ]
    assert contrast == pytest.approx([1.25, 1.5, 2.0], rel=0.06)


def test_silence_and_overload_are_finite_and_slopes_stay() -> None:
    layer = Sharpen(N_FFT, strength=1.0, bins=(0, 1)).eval()
    for scale in (0.0, 1e-20, 1e8):
        assert bool(torch.isfinite(layer(torch.full((1, N_FFT + 2, 2), scale))).all())
    slope = -0.1 * BINS[:, None].float().expand(-1, 2)  # 4 dB in a kHz
    changed = levels(layer(spectrum(slope)))[40:280] - slope[40:280]
    assert float(changed.abs().max()) < 0.5


def test_a_network_that_learns_does_not_see_it() -> None:
    layer = Sharpen(N_FFT, strength=0.5, bins=(48, 68))
    x = spectrum(waves(40))
    assert torch.equal(layer.train()(x), x)
    assert not torch.equal(layer.eval()(x), x)


def test_it_adds_no_weights_and_is_not_there_unless_asked_for() -> None:
    torch.manual_seed(0)
    plain = spectral_decoder(SpectralDecoderConfig(dim=8, hidden_dim=8, n_blocks=1, n_fine_blocks=1), 4, hop_length=320)
    config = SpectralDecoderConfig(dim=8, hidden_dim=8, n_blocks=1, n_fine_blocks=1, sharpness=0.5)
    sharp = spectral_decoder(config, 4, hop_length=320)
    assert not any(isinstance(module, Sharpen) for module in plain.modules())
    assert len(list(plain.parameters())) == len(list(sharp.parameters()))
    assert plain.delay == sharp.delay


@pytest.mark.parametrize(
    ("strength", "bins", "found"),
    [
        (0.5, (5, 5), "sharp_bins"),
        (0.5, (-1, 5), "sharp_bins"),
        (0.5, (5, 400), "sharp_bins"),
        (-1, (5, 9), "sharpness"),
    ],
)
def test_sizes_that_cannot_be(strength: float, bins: tuple[int, int], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        Sharpen(N_FFT, strength=strength, bins=bins)


def test_one_number_is_no_band() -> None:
    with pytest.raises(ConfigError, match="sharp_bins: two bins"):
        spectral_decoder(SpectralDecoderConfig(sharpness=0.5, sharp_bins=(5,)), 4, hop_length=320)
