"""The conv family against EnCodec's own modules, and its sizes; the contract of all layers is in test_nn."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.layers import Layer
from codec.nn.mirror import mirror_conv
from codec.nn.seanet import CONVS, SeanetDecoderConfig, SeanetEncoderConfig, seanet_decoder, seanet_encoder


def encodec_seanet(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """EnCodec's own modules; it imports torchaudio at its top and never needs it here."""
    if not all(importlib.util.find_spec(name) for name in ("encodec", "einops")):
        pytest.skip("the encodec package (extra dev) or its einops is not installed")
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    return importlib.import_module("encodec.modules.seanet")


def test_the_conv_family_is_encodecs_but_for_the_zeros_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    seanet = encodec_seanet(monkeypatch)
    sizes = {"dimension": 6, "n_filters": 4, "n_residual_layers": 2, "ratios": [3, 2], "norm": "none", "causal": True}
    small = {"n_filters": 4, "strides": (2, 3), "n_residual": 2, "n_recurrent": 2}
    pairs: list[tuple[nn.Module, Layer, Tensor]] = [
        (
            seanet.SEANetEncoder(**sizes, pad_mode="constant"),
            seanet_encoder(SeanetEncoderConfig(**small), 6, hop_length=6),  # type: ignore[arg-type]
            torch.randn(2, 1, 60),
        ),
        (
            seanet.SEANetDecoder(**sizes, pad_mode="constant"),
            seanet_decoder(SeanetDecoderConfig(**small), 6, hop_length=6),  # type: ignore[arg-type]
            torch.randn(2, 6, 10),
        ),
    ]
    for theirs, ours, x in pairs:
        for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert ours_p.shape == theirs_p.shape
            ours_p.data.copy_(theirs_p.data)
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("causal", "padding"), CONVS)
def test_a_ragged_end_is_encodecs_at_every_length(monkeypatch: pytest.MonkeyPatch, causal: bool, padding: str) -> None:
    """In one step, and where it is causal in several of whole frames before the ragged one."""
    seanet = encodec_seanet(monkeypatch)
    theirs = seanet.SEANetEncoder(
        dimension=6, n_filters=4, n_residual_layers=1, ratios=[3, 5], norm="none", causal=causal,
        pad_mode={"zeros": "constant", "mirror": "reflect"}[padding],
    )  # fmt: skip
    options = SeanetEncoderConfig(n_filters=4, strides=(5, 3), causal=causal, padding=padding, ragged=True)
    ours = seanet_encoder(options, 6, hop_length=15)
    assert ours.ragged
    for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
        ours_p.data.copy_(theirs_p.data)
    for n_samples in (*range(1, 17), 29, 31, 59, 73, 90):
        x = torch.randn(2, 1, n_samples)
        expected = theirs(x)
        assert torch.allclose(ours(x), expected, atol=1e-5), n_samples
        first = max(ours.start, 15)
        if causal and n_samples > first:
            head, state = ours.step(x[..., :first], ours.init_state(2))
            middle = (n_samples - 1) // 15 * 15
            body, state = ours.step(x[..., first:middle], state) if middle > first else (head[..., :0], state)
            tail, _ = ours.step(x[..., max(first, middle) :], state)
            assert torch.allclose(torch.cat((head, body, tail), -1), expected, atol=1e-5), n_samples


def test_a_stride_that_looks_back_too_little_cannot_mirror_a_ragged_end() -> None:
    with pytest.raises(ConfigError, match="a stride of 4 needs a kernel that spans 7"):
        mirror_conv(2, 2, kernel_size=6, stride=4, ragged=True)
    assert mirror_conv(2, 2, kernel_size=7, stride=4, ragged=True).ragged


def test_strides_must_multiply_to_the_hop() -> None:
    with pytest.raises(ConfigError, match="multiply to 320, hop_length is 300"):
        seanet_encoder(SeanetEncoderConfig(), 8, hop_length=300)
    with pytest.raises(ConfigError, match="multiply to 320, hop_length is 300"):
        seanet_decoder(SeanetDecoderConfig(), 8, hop_length=300)


@pytest.mark.parametrize(
    "wrong",
    [{"strides": ()}, {"strides": (2, 0)}, {"n_filters": 0}, {"compress": 3}, {"recurrent": "rnn"}, {"norm": "batch"}],
)
def test_impossible_sizes_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"SeanetDecoderConfig.{next(iter(wrong))}"):
        SeanetDecoderConfig(**wrong)  # type: ignore[arg-type]


def test_the_defaults_are_as_large_as_encodec_at_24_khz() -> None:
    """14.85 million parameters in encoder and decoder, weight norm folded."""
    parts = (
        seanet_encoder(SeanetEncoderConfig(), 128, hop_length=320),
        seanet_decoder(SeanetDecoderConfig(), 128, hop_length=320),
    )
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == 14_846_817
