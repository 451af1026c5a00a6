"""The STFT of the losses: torch's own values, and the gradient that autograd would send through them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.train.spectrum import Spectrum, stft, window

SIZES = (8, 10, 13, 64)  # even, not four hops, odd


def noise(length: int = 200) -> Tensor:
    return torch.randn(2, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_autograd(audio: Tensor, n_fft: int) -> Spectrum:
    frames = audio.unfold(-1, n_fft, n_fft // 4) * window(n_fft, audio.device)
    spec = torch.fft.rfft(frames).transpose(1, 2)
    return Spectrum(spec.real, spec.imag, (spec.real.square() + spec.imag.square() + 1e-12).sqrt())


@pytest.mark.parametrize("n_fft", SIZES)
@pytest.mark.parametrize("names", [("magnitude",), ("real",), ("imag", "magnitude"), ("real", "imag", "magnitude")])
def test_values_and_gradients_are_those_of_autograd(n_fft: int, names: tuple[str, ...]) -> None:
    results = []
    for transform in (stft, by_autograd):
        audio = noise().requires_grad_()
        planes = [getattr(transform(audio, n_fft), name) for name in names]
        # Every number with a weight of its own, so that none can take another's gradient.
        weights = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape) for x in planes]
        torch.stack([(x * w).sum() for x, w in zip(planes, weights, strict=True)]).sum().backward()  # type: ignore[no-untyped-call]
        assert audio.grad is not None
        results.append([*(x.detach() for x in planes), audio.grad])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)


def test_white_noise_of_deviation_one_has_bins_of_power_one() -> None:
    power = stft(noise(200_000).float(), 256).magnitude[:, 1:-1].square().mean()
    assert float(power) == pytest.approx(1.0, abs=0.01)


def test_only_whole_windows_count() -> None:
    assert stft(noise(64 + 16 + 15), 64).real.shape == (2, 33, 2)
