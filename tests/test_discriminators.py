"""Discriminators: their layouts, their sizes as published, and one score for many lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.train.config import AdversaryConfig
from codec.train.discriminators import Discriminators, level
from codec.train.specdiscriminators import BandDiscriminator, MelDiscriminator, StftDiscriminator
from codec.train.wavediscriminators import PeriodDiscriminator, ScaleDiscriminator, fold

EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def noise(length: int = 2048) -> Tensor:
    return 0.35 * torch.randn(4, length, generator=torch.Generator().manual_seed(0))


def test_the_stft_discriminator_has_encodecs_layout() -> None:
    score, features = StftDiscriminator(512, channels=8)(noise(512 + 128 * 9))
    assert [tuple(x.shape) for x in features] == [(4, 8, 10, bins) for bins in (257, 129, 65, 33, 33)]
    assert score.shape == (4, 1, 10, 33)


def test_the_period_discriminator_has_hifigans_layout() -> None:
    score, features = PeriodDiscriminator(3, channels=2)(noise(729))
    assert [tuple(x.shape) for x in features] == [
        (4, c, n, 3) for c, n in ((2, 81), (8, 27), (32, 9), (64, 3), (64, 3))
    ]
    assert score.shape == (4, 1, 3, 3)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_scale_discriminator_has_hifigans_layout(factor: int) -> None:
    score, features = ScaleDiscriminator(factor, channels=4)(noise(1024))
    n = {1: 1024, 2: 513, 4: 257}[factor]  # four samples with two zeros on each side to one, every second
    lengths = [n, -(-n // 2), -(-n // 4), -(-n // 16), -(-n // 64), -(-n // 64), -(-n // 64)]
    widths = [16, 16, 32, 64, 128, 128, 128]
    assert [tuple(x.shape[1:]) for x in features] == list(zip(widths, lengths, strict=True))
    assert score.shape == (4, 1, lengths[-1])


def test_the_band_discriminator_has_dacs_layout() -> None:
    """Of 257 bins the edges are 0, 25, 64, 128, 192 and 257; each band is halved three times, rounded up."""
    score, features = BandDiscriminator(512, edges=EDGES, channels=3)(noise(512 + 128 * 9))
    widths = [25, 39, 64, 64, 65]
    assert [x.shape[-1] for x in features[::5]] == widths
    assert len(features) == 25
    assert score.shape == (4, 1, 10, sum(-(-w // 8) for w in widths))


def test_the_mel_discriminator_halves_its_bands_three_times_and_hears_no_phase() -> None:
    """A recording played backwards has the magnitudes of its frames, in the other order."""
    judge = MelDiscriminator(512, channels=8, sample_rate=16000)
    audio = noise(512 + 128 * 9)
    score, features = judge(audio)
    assert [tuple(x.shape) for x in features] == [(4, 8, 10, bands) for bands in (40, 20, 10, 5, 5)]
    assert score.shape == (4, 1, 10, 5)
    still = 0.1 * torch.sin(torch.arange(2048.0) * (2 * torch.pi * 8 / 128))[None]  # every frame like the one before
    torch.testing.assert_close(judge(still)[0], judge(-still)[0])
    torch.testing.assert_close(judge(still)[0], judge(still.flip(-1))[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "windows", "channels", "millions"),
    [
        pytest.param("period", (), 32, 41.1, marks=pytest.mark.slow),
        pytest.param("scale", (), 32, 29.6, marks=pytest.mark.slow),
        ("stft", (2048, 1024, 512, 256, 128), 32, 0.472),
        ("mel", (512, 1024, 2048), 16, 0.0713),
    ],
)
def test_sizes_are_the_published_ones(kind: str, windows: tuple[int, ...], channels: int, millions: float) -> None:
    """Of HiFi-Codec's and EnCodec's code, and the default model's; weight norm has one number more for each row."""
    judges = Discriminators(AdversaryConfig(kinds=(kind,), windows=windows, channels=channels), 16000)
    assert sum(p.numel() for p in judges.parameters()) == pytest.approx(millions * 1e6, rel=0.003)


@pytest.mark.parametrize("kind", ["period", "scale", "stft", "band", "mel"])
def test_each_kind_gives_one_family_and_hears_its_gradient(kind: str) -> None:
    judges = Discriminators(
        AdversaryConfig(kinds=(kind,), windows=(256,), periods=(2,), scales=(2,), channels=1), 16000
    )
    audio = noise(1000).requires_grad_()
    scores, features = judges(audio)
    assert judges.families == (1,)
    assert len(scores) == len(features) == 1
    scores[0].sum().backward()
    assert audio.grad is not None
    assert bool(torch.isfinite(audio.grad).all())
    assert float(audio.grad.abs().max()) > 0


def test_windows_without_a_mel_band_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"adversary\.windows"):
        AdversaryConfig(kinds=("mel",), windows=(15,))
    judges = Discriminators(AdversaryConfig(kinds=("mel",), windows=(16,), channels=1), 16000)
    assert judges(noise(200))[0][0].shape[-1] == 1


@pytest.mark.parametrize("kind", ["scale", "band"])
def test_bfloat16_leaves_the_score_near_that_of_float32(kind: str) -> None:
    judges = Discriminators(AdversaryConfig(kinds=(kind,), windows=(256,), channels=2), 16000).eval()
    full = judges(noise())[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = judges(noise())[0]
    for a, b in zip(full, half, strict=True):
        assert float((a - b.float()).detach().abs().max()) < 0.05 * max(1.0, float(a.detach().abs().max()))


@pytest.mark.parametrize("length", [12, 13, 14, 15])
@pytest.mark.parametrize("period", [2, 3, 5, 7])
def test_folding_pads_only_to_the_next_multiple(length: int, period: int) -> None:
    audio = torch.arange(float(length))[None]
    folded = fold(audio, period)
    assert folded.shape == (1, 1, -(-length // period), period)
    assert torch.equal(folded.flatten()[:length], audio[0])


def test_levelled_audio_tells_nothing_of_its_loudness() -> None:
    loud, soft = (level(noise() * gain + 0.1, 0.8) for gain in (1.0, 0.01))
    assert torch.allclose(loud, soft, atol=1e-4)
    assert float(loud.abs().amax(-1).min()) == pytest.approx(0.8)
    assert bool(torch.isfinite(level(torch.zeros(1, 8), 0.8)).all())


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ({"kinds": ("wave",)}, "kinds"),
        ({"kinds": ()}, "kinds"),
        ({"loss": "wasserstein"}, "loss"),
        ({"total": "median"}, "total"),
        ({"scales": (3,)}, "scales"),
        ({"edges": (0.0, 0.5, 0.5)}, "edges"),
    ],
)
def test_what_cannot_be_is_refused(words: dict[str, tuple[str, ...]], place: str) -> None:
    with pytest.raises(ConfigError, match=rf"adversary\.{place}"):
        AdversaryConfig(**words)  # type: ignore[arg-type]
