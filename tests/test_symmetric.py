"""Layers that look ahead: they see what they declare, and are the published networks' own."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from codec.errors import ConfigError
from codec.nn.convs import CausalConv
from codec.nn.layers import Chain, Layer, Residual
from codec.nn.recurrent import Lstm
from codec.nn.seanet import SeanetDecoderConfig, SeanetEncoderConfig, seanet_decoder, seanet_encoder
from codec.nn.symmetric import SymmetricConv, SymmetricConvTranspose, SymmetricMirrorConv, TimeNorm
from codec.nn.vocos import CentredInverseStft

Sizes = Callable[[int, int], int]


def conv(n: Sizes) -> Layer:
    stride = n(1, 4)
    return SymmetricConv(3, 3, kernel_size=stride + n(0, 6), stride=stride, dilation=n(1, 3))


def conv_transpose(n: Sizes) -> Layer:
    stride = n(1, 4)
    return SymmetricConvTranspose(3, 3, kernel_size=stride + n(0, 2 * stride), stride=stride)


def mirror_conv(n: Sizes) -> Layer:
    stride = n(1, 4)
    return SymmetricMirrorConv(3, 3, kernel_size=stride + 2 * n(0, 3), stride=stride, dilation=1)


def seanet(n: Sizes, *, down: bool) -> Layer:
    sizes = {"n_filters": 4, "strides": (n(1, 3), 2), "n_residual": n(0, 2), "kernel_size": n(1, 5), "causal": False}
    if down:
        config = SeanetEncoderConfig(n_recurrent=0, **sizes)  # type: ignore[arg-type]
        return Chain([CausalConv(3, 1, kernel_size=1), seanet_encoder(config, 3, hop_length=math.prod(config.strides))])
    options = SeanetDecoderConfig(n_recurrent=0, **sizes)  # type: ignore[arg-type]
    return seanet_decoder(options, 3, hop_length=math.prod(options.strides))


def inverse_stft(n: Sizes) -> Layer:
    hop = 2 * n(1, 2)
    return Chain([SymmetricConv(3, 2 * hop + 2, kernel_size=n(1, 4)), CentredInverseStft(4 * hop, hop_length=hop)])


LAYERS: dict[str, Callable[[Sizes], Layer]] = {
    "conv": conv,
    "conv transpose": conv_transpose,
    "conv with a mirror image": mirror_conv,
    "conv after a causal one": lambda n: Chain([CausalConv(3, 3, kernel_size=n(1, 4)), conv(n)]),
    "residual": lambda n: Residual(SymmetricConv(3, 3, kernel_size=n(1, 6)), CausalConv(3, 3, kernel_size=n(1, 4))),
    "inverse stft": inverse_stft,
    "seanet encoder": lambda n: seanet(n, down=True),
    "seanet decoder": lambda n: seanet(n, down=False),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
drawn = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def draw(name: str, data: st.DataObject) -> tuple[Layer, int, int, int]:
    """A layer in float64; input steps that it sees before a group, of a group, and behind it."""
    layer = LAYERS[name](lambda least, most: int(data.draw(st.integers(least, most)))).double()
    field, ahead = layer.receptive_field, layer.lookahead
    assert field is not None
    assert ahead is not None
    return layer, max(0, field - layer.down), layer.down, ahead


@every_layer
@drawn
@given(data=st.data())
def test_the_gradient_reaches_as_far_back_and_ahead_as_declared(name: str, data: st.DataObject) -> None:
    layer, before, down, ahead = draw(name, data)
    first, last = -(-before // down), -(-ahead // down)
    x = torch.randn(1, 3, (first + 1 + last) * down, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape[-1] == (first + 1 + last) * layer.up
    group = y[..., first * layer.up : (first + 1) * layer.up]
    (gradient,) = torch.autograd.grad((group * torch.randn_like(group)).sum(), x)
    reached = gradient.abs().sum((0, 1)).nonzero().flatten()
    assert int(reached.min()) == first * down - before
    assert int(reached.max()) == (first + 1) * down - 1 + ahead


@every_layer
@drawn
@given(data=st.data(), at=st.integers(0, 9))
def test_a_window_with_the_declared_context_gives_the_wholes_own_steps(name: str, data: st.DataObject, at: int) -> None:
    """At the signal's beginning and end too, where the window has its edge."""
    layer, before, down, ahead = draw(name, data)
    x = torch.randn(2, 3, 10 * down, dtype=torch.float64)
    begin, end = max(0, at - -(-before // down)), min(10, at + 1 + -(-ahead // down))
    window = layer(x[..., begin * down : end * down])
    kept = window[..., (at - begin) * layer.up : (at - begin + 1) * layer.up]
    assert torch.allclose(kept, layer(x)[..., at * layer.up : (at + 1) * layer.up], atol=1e-9)


def test_a_memory_without_end_and_a_norm_over_time_have_no_finite_reach() -> None:
    ahead = SymmetricConv(4, 4, kernel_size=3)
    assert Chain([ahead, TimeNorm(4)]).lookahead is None
    assert Residual(TimeNorm(4)).lookahead is None
    assert TimeNorm(4).receptive_field is None
    mixed = Chain([ahead, Lstm(4, n_layers=1)])
    assert (mixed.receptive_field, mixed.lookahead) == (None, 1)


def test_a_norm_over_time_is_torchs() -> None:
    x = torch.randn(2, 4, 9)
    assert torch.equal(TimeNorm(4)(x), nn.GroupNorm(1, 4)(x))


def test_a_kernel_shorter_than_its_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="spans 2 is shorter than its stride of 3"):
        SymmetricConv(1, 1, kernel_size=2, stride=3)


@pytest.mark.parametrize("stride", [2, 3, 5, 8])
def test_resampling_convs_are_dacs_and_hifi_codecs(stride: int) -> None:
    """DAC: padding ceil(stride / 2) with a kernel of 2 * stride; HiFi-Codec: half of kernel - stride on each side."""
    half = math.ceil(stride / 2)
    down = SymmetricConv(2, 3, kernel_size=2 * stride, stride=stride)
    up = SymmetricConvTranspose(3, 2, kernel_size=2 * stride, stride=stride)
    theirs = nn.Conv1d(2, 3, 2 * stride, stride=stride, padding=half)
    back = nn.ConvTranspose1d(3, 2, 2 * stride, stride=stride, padding=half, output_padding=stride % 2)
    theirs.load_state_dict(down.conv.state_dict())
    back.load_state_dict(up.conv.state_dict())
    x = torch.randn(2, 2, 6 * stride)
    y = theirs(x)
    assert torch.allclose(down(x), y, atol=1e-6)
    assert torch.allclose(up(y), back(y), atol=1e-6)


@pytest.mark.parametrize(("padding", "theirs_name"), [("zeros", "constant"), ("mirror", "reflect")])
@pytest.mark.parametrize("frames", [1, 10])
def test_the_conv_family_that_looks_ahead_is_encodecs(
    padding: str, theirs_name: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EnCodec with `causal=False`, the recurrent layers included; of signals shorter than a mirror image too."""
    if not all(importlib.util.find_spec(name) for name in ("encodec", "einops")):
        pytest.skip("the encodec package (extra dev) or its einops is not installed")
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    seanet = importlib.import_module("encodec.modules.seanet")
    sizes = {"dimension": 6, "n_filters": 4, "n_residual_layers": 2, "ratios": [3, 2], "norm": "none", "causal": False}
    small = {"n_filters": 4, "strides": (2, 3), "n_residual": 2, "n_recurrent": 2, "causal": False, "padding": padding}
    encoder = seanet_encoder(SeanetEncoderConfig(**small), 6, hop_length=6)  # type: ignore[arg-type]
    decoder = seanet_decoder(SeanetDecoderConfig(**small), 6, hop_length=6)  # type: ignore[arg-type]
    pairs = [
        (seanet.SEANetEncoder(**sizes, pad_mode=theirs_name), encoder, torch.randn(2, 1, 6 * frames)),
        (seanet.SEANetDecoder(**sizes, pad_mode=theirs_name), decoder, torch.randn(2, 6, frames)),
    ]
    for theirs, ours, x in pairs:
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.data.copy_(other.data)
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
