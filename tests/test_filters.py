"""Speech through other channels: what a filter may and may not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.train.config import DataConfig
from codec.train.data import Batches, Corpus
from codec.train.filters import LOWER, UPPER, draw_curves, through
from codec.train.launch import Ranks

RATE, LENGTH = 16000, 4096


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decibels(curves: Tensor, hz: float) -> Tensor:
    return 20 * curves[:, round(hz / (RATE / 2) * (curves.shape[1] - 1))].log10()


def test_only_the_asked_share_of_crops_is_filtered() -> None:
    curves = draw_curves(1000, LENGTH, RATE, share=0.3, generator=generator())
    changed = (curves != 1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.05)
    whole = draw_curves(1000, LENGTH, RATE, share=1.0, generator=generator())
    assert torch.equal(whole[changed], curves[changed])  # which crops, and nothing else
    audio = torch.randn(1000, LENGTH, generator=generator())
    assert torch.allclose(through(audio, curves)[~changed], audio[~changed], atol=1e-5)


def test_channels_lack_lows_or_highs_or_neither() -> None:
    curves = draw_curves(2000, LENGTH, RATE, share=1.0, generator=generator())
    middle = decibels(curves, 1000)
    dull = (middle - decibels(curves, 7950)) > 40  # what no tilt and no wave does
    thin = (middle - decibels(curves, 50)) > 40
    assert 0.2 < float(dull.float().mean()) < 0.5
    assert 0.05 < float(thin.float().mean()) < 0.5
    assert bool((dull & thin).any())
    assert bool((~dull & ~thin).any())
    # Between the steepest cuts a voice stays: nowhere less than tilt, waves and the foot of a cut take.
    kept = [decibels(curves, hz).min() for hz in (LOWER[1] * 1.5, 1000, UPPER[0] * RATE / 2 * 0.8)]
    assert min(float(x) for x in kept) > -25


def test_a_filtered_crop_is_as_loud_and_not_late() -> None:
    audio = torch.zeros(50, LENGTH)
    audio[:, 1000] = 1.0
    made = through(audio, draw_curves(50, LENGTH, RATE, share=1.0, generator=generator()))
    assert made.square().sum(1).sqrt().tolist() == pytest.approx([1.0] * 50, rel=1e-4)
    assert made.argmax(1).tolist() == [1000] * 50
    assert not through(torch.zeros(2, LENGTH), torch.ones(2, LENGTH // 2 + 1)).any()  # silence stays silence


def test_a_tone_gets_the_gain_of_its_bin() -> None:
    bins = (100, 900)
    t = torch.arange(LENGTH) / LENGTH
    audio = torch.stack([torch.sin(2 * torch.pi * k * t) for k in bins]).sum(0, keepdim=True)
    curves = draw_curves(1, LENGTH, RATE, share=1.0, generator=generator(5))
    before, after = (torch.fft.rfft(x).abs()[0] for x in (audio, through(audio, curves)))
    ratio = [float(after[k] / before[k] / curves[0, k]) for k in bins]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-4)


def test_batches_filter_alike_in_one_process_and_in_two() -> None:
    pcm = (torch.randn(20000, generator=generator()) * 3000).to(torch.int16)
    speech = Corpus(pcm, torch.tensor([0]), torch.tensor([20000]), torch.tensor([False]), ("a",))

    def batch(share: float, ranks: Ranks) -> Tensor:
        config = DataConfig(batch=8, gain_db=(0.0, 0.0), filter_share=share)
        levels = {2: 1.0}
        made = Batches(speech, config, length=LENGTH, sample_rate=RATE, seed=0, levels=levels, noise=None, ranks=ranks)
        return made(3).audio[:, 0]

    plain, mixed = batch(0.0, Ranks()), batch(0.5, Ranks())
    same = (plain - mixed).abs().amax(1) < 1e-4
    assert 0 < int(same.sum()) < 8
    assert torch.equal(torch.cat([batch(0.5, Ranks(rank, 2)) for rank in range(2)]), mixed)
