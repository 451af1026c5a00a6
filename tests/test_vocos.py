"""The Vocos decoder against the published package, and its sizes."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from codec.errors import ConfigError
from codec.nn.layers import Chain
from codec.nn.stft import InverseStft
from codec.nn.vocos import CentredInverseStft, PolarSpectrum, VocosDecoderConfig, vocos_decoder

SMALL = {"dim": 16, "hidden_dim": 24, "n_blocks": 3}


def randomise(*modules: nn.Module) -> None:
    """As after training: nothing is zero or one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("frames", "hop_length"), [(1, 32), (2, 20), (3, 32), (21, 32)])
def test_the_decoder_is_vocos_own(vocos: types.SimpleNamespace, frames: int, hop_length: int) -> None:
    """Same weights, same audio, within 1e-4; a signal shorter than a window too."""
    n_fft = 4 * hop_length
    backbone = vocos.models.VocosBackbone(6, dim=16, intermediate_dim=24, num_layers=3)
    head = vocos.heads.ISTFTHead(16, n_fft, hop_length)
    randomise(backbone, head)
    ours = vocos_decoder(VocosDecoderConfig(**SMALL, n_fft=n_fft), 6, hop_length=hop_length)  # type: ignore[arg-type]
    theirs = [p for name, p in [*backbone.named_parameters(), *head.named_parameters()] if not name.endswith("gamma")]
    mine = [p for name, p in ours.named_parameters() if not name.endswith("scale")]
    for own, other in zip(mine, theirs, strict=True):
        own.data.copy_(other)
    scales = [p for name, p in ours.named_parameters() if name.endswith("scale")]
    for own, block in zip(scales, backbone.convnext, strict=True):
        own.data.copy_(block.gamma)
    x = torch.randn(2, 6, frames, generator=torch.Generator().manual_seed(1))
    y = head(backbone(x))
    assert y.abs().max() > 0.05
    assert (ours(x)[:, 0] - y).abs().max() < 1e-4


def test_it_begins_as_vocos_does(vocos: types.SimpleNamespace) -> None:
    backbone = vocos.models.VocosBackbone(6, dim=16, intermediate_dim=24, num_layers=3)
    ours = vocos_decoder(VocosDecoderConfig(**SMALL, n_fft=64), 6, hop_length=16)  # type: ignore[arg-type]
    biases = [p for name, p in ours.named_parameters() if name.endswith("bias")]
    assert all(not p.any() for p in biases)
    scales = [p for name, p in ours.named_parameters() if name.endswith("scale")]
    assert all(torch.equal(p, block.gamma) for p, block in zip(scales, backbone.convnext, strict=True))
    weights = torch.cat([p.flatten() for p in ours.parameters() if p.ndim > 1])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_published_sizes() -> None:
    """11.06 M in the backbone (30 k of them conditions that mean nothing) and 0.494 M in the head of Language-Codec."""
    decoder = vocos_decoder(VocosDecoderConfig(), 128, hop_length=320)
    assert sum(p.numel() for p in decoder.parameters()) == pytest.approx(11.06e6 + 0.494e6, rel=0.01)


def test_a_centred_spectrum_comes_back() -> None:
    """The inverse of the usual centred STFT with zeros around the signal."""
    audio = torch.randn(2, 320)
    padded = nn.functional.pad(audio, (24, 24))
    spec = torch.stft(padded, 64, 16, window=torch.hann_window(64), center=False, return_complex=True)
    back = CentredInverseStft(64, hop_length=16)(torch.cat((spec.real, spec.imag), 1))
    assert torch.allclose(back[:, 0], audio, atol=1e-5)


def test_the_causal_form_sees_no_later_frame_and_is_late_by_its_overlap() -> None:
    config = VocosDecoderConfig(**SMALL, n_fft=64, causal=True)
    decoder = vocos_decoder(config, 4, hop_length=16)
    assert isinstance(decoder, Chain)
    assert isinstance(decoder.layers[-1], InverseStft)
    assert (decoder.lookahead, decoder.delay) == (0, 48)


def test_loud_bins_are_cut_at_magnitude_100() -> None:
    spec = PolarSpectrum()(torch.tensor([50.0, 0.0])[None, :, None])
    assert spec.flatten().tolist() == [100.0, 0.0]


@pytest.mark.parametrize("options", [{"n_fft": 63}, {"n_fft": 24}, {"dim": 0}, {"n_fft": 16, "causal": True}])
def test_sizes_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        vocos_decoder(VocosDecoderConfig(**SMALL | options), 4, hop_length=16)  # type: ignore[arg-type]
