"""Every layer keeps one contract; each also equals its reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.attention import Attention, Gelu, Scale, transformer_block
from codec.nn.convs import CausalConv, CausalConvTranspose, ConvNeXt
from codec.nn.layers import Chain, ChannelNorm, Elu, Layer, Linear, Residual, Split
from codec.nn.mimi import (
    ChannelwiseUp,
    MimiDecoderConfig,
    MimiEncoderConfig,
    StillConv,
    mimi_decoder,
    mimi_encoder,
)
from codec.nn.noisephase import NoisePhase
from codec.nn.recurrent import Gru, Lstm
from codec.nn.seanet import SeanetDecoderConfig, SeanetEncoderConfig, residual_unit, seanet_decoder, seanet_encoder
from codec.nn.spectral import (
    CompressedSpectrum,
    ExpandSpectrum,
    SpectralDecoderConfig,
    SpectralEncoderConfig,
    spectral_decoder,
    spectral_encoder,
)
from codec.nn.stft import InverseStft, Stft
from codec.nn.vocos import PolarSpectrum, VocosDecoderConfig, vocos_decoder

Sizes = Callable[[int, int], int]  # (least, most) -> a number that hypothesis chooses


def seanet_sizes(n: Sizes) -> dict[str, object]:
    """Small sizes for both sides; strides (s, 2)."""
    return {
        "n_filters": 4,
        "strides": (n(1, 3), 2),
        "n_residual": n(0, 2),
        "kernel_size": n(1, 5),
        "last_kernel_size": n(1, 3),
        "true_skip": bool(n(0, 1)),
        "recurrent": ("lstm", "gru")[n(0, 1)],
        "n_recurrent": n(0, 1),
        "n_attention": n(0, 1),
        "n_heads": 2,
        "context": n(1, 4),
        "norm": ("none", "layer", "rms")[n(0, 2)],
    }


def small_seanet_encoder(n: Sizes) -> Layer:
    config = SeanetEncoderConfig(**seanet_sizes(n))  # type: ignore[arg-type]
    return seanet_encoder(config, 5, hop_length=math.prod(config.strides))


def small_seanet_decoder(n: Sizes) -> Layer:
    config = SeanetDecoderConfig(**seanet_sizes(n))  # type: ignore[arg-type]
    return seanet_decoder(config, 5, hop_length=math.prod(config.strides))


def small_spectral_encoder(n: Sizes) -> Layer:
    config = SpectralEncoderConfig(dim=6, hidden_dim=8, n_blocks=n(0, 2), kernel_size=n(1, 4), n_fft=n(8, 20))
    return spectral_encoder(config, 5, hop_length=8)


def small_spectral_decoder(n: Sizes) -> Layer:
    noise = (n(0, 3), 5) if n(0, 1) else ()
    config = SpectralDecoderConfig(
        dim=6, hidden_dim=8, n_blocks=1, n_fine_blocks=n(0, 2), kernel_size=n(1, 4), noise_bins=noise, noise_period=2
    )
    return spectral_decoder(config, 5, hop_length=8)


def conv(n: Sizes) -> Layer:
    return CausalConv(4, 4, kernel_size=n(1, 7), stride=n(1, 4), dilation=n(1, 3), groups=(1, 4)[n(0, 1)])


def down_and_up(n: Sizes) -> Layer:
    down = CausalConv(4, 3, kernel_size=n(1, 5), stride=n(1, 4))
    return Chain([down, CausalConvTranspose(3, 4, kernel_size=n(1, 5), stride=n(1, 4))])


def up_and_down(n: Sizes) -> Layer:
    stride = n(1, 3)  # of a kernel in whole strides all outputs of a group see equally far
    up = CausalConvTranspose(4, 3, kernel_size=n(1, 3) * stride, stride=stride)
    return Chain([up, CausalConv(3, 4, kernel_size=n(1, 5), stride=n(1, 4))])


def mimi_sizes(n: Sizes) -> dict[str, object]:
    """Small sizes for both sides; a hop of 2 * s * t."""
    return {
        "dim": 4,
        "n_filters": 2,
        "strides": (n(1, 2), 2),
        "frame_stride": n(1, 2),
        "n_blocks": n(0, 1),
        "n_heads": 2,
        "hidden_dim": 5,
        "context": n(1, 4),
    }


def small_mimi_encoder(n: Sizes) -> Layer:
    config = MimiEncoderConfig(**mimi_sizes(n))  # type: ignore[arg-type]
    return mimi_encoder(config, 6, hop_length=math.prod(config.strides) * config.frame_stride)


def small_mimi_decoder(n: Sizes) -> Layer:
    config = MimiDecoderConfig(**mimi_sizes(n))  # type: ignore[arg-type]
    return mimi_decoder(config, 6, hop_length=math.prod(config.strides) * config.frame_stride)


def small_vocos_decoder(n: Sizes) -> Layer:
    config = VocosDecoderConfig(dim=6, hidden_dim=8, n_blocks=n(1, 2), kernel_size=n(1, 4), n_fft=32, causal=True)
    return vocos_decoder(config, 5, hop_length=8)


# name -> input channels, and a layer of sizes that hypothesis chooses
LAYERS: dict[str, tuple[int, Callable[[Sizes], Layer]]] = {
    "attention": (4, lambda n: Attention(4, n_heads=n(1, 2), context=n(1, 6))),
    "channelwise up": (4, lambda n: ChannelwiseUp(4, stride=n(1, 3))),
    "compressed spectrum": (6, lambda n: CompressedSpectrum(n(1, 9) / 10)),
    "conv": (4, conv),
    "conv transpose": (4, lambda n: CausalConvTranspose(4, 3, kernel_size=n(1, 9), stride=n(1, 4))),
    "convnext": (4, lambda n: ConvNeXt(4, 8, kernel_size=n(1, 7))),
    "down and up": (4, down_and_up),
    "elu": (4, lambda n: Elu()),
    "empty chain": (4, lambda n: Chain([])),
    "expand spectrum": (6, lambda n: ExpandSpectrum(n(1, 9) / 10)),
    "gelu": (4, lambda n: Gelu()),
    "gru": (4, lambda n: Gru(4, n_layers=n(1, 2), skip=bool(n(0, 1)))),
    "inverse stft": (18, lambda n: InverseStft(16, hop_length=(2, 4)[n(0, 1)])),
    "linear": (4, lambda n: Linear(4, 3)),
    "lstm": (4, lambda n: Lstm(4, n_layers=n(1, 2), skip=bool(n(0, 1)))),
    "mimi decoder": (6, small_mimi_decoder),
    "mimi encoder": (1, small_mimi_encoder),
    "noise phase": (18, lambda n: NoisePhase(16, hop_length=4, bins=(n(0, 3), 5), period=n(1, 3))),
    "norm": (4, lambda n: ChannelNorm(4, kind=("layer", "rms")[n(0, 1)])),
    "polar spectrum": (6, lambda n: PolarSpectrum()),
    "residual unit": (4, lambda n: residual_unit(4, kernel_size=n(1, 5), dilation=n(1, 4), true_skip=bool(n(0, 1)))),
    "scale": (4, lambda n: Scale(4, 0.5)),
    "seanet decoder": (5, small_seanet_decoder),
    "seanet encoder": (1, small_seanet_encoder),
    "seanet both": (1, lambda n: Chain([small_seanet_encoder(n), small_seanet_decoder(n)])),
    "spectral decoder": (5, small_spectral_decoder),
    "spectral encoder": (1, small_spectral_encoder),
    "spectral and conv": (1, lambda n: Chain([small_spectral_encoder(n), small_seanet_decoder(n)])),
    "split": (6, lambda n: Split(n(1, 3))),
    "still conv": (4, lambda n: StillConv(4, stride=n(1, 3))),
    "stft": (1, lambda n: Stft(n(8, 20), hop_length=n(1, 8))),
    "transformer block": (4, lambda n: transformer_block(4, n_heads=n(1, 2), context=n(1, 5), scale=0.5)),
    "up and down": (4, up_and_down),
    "vocos decoder": (5, small_vocos_decoder),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
drawn = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def draw_layer(name: str, data: st.DataObject) -> tuple[Layer, int]:
    """A layer of drawn sizes in float64, and its input channels."""
    in_dim, build = LAYERS[name]
    layer = build(lambda least, most: int(data.draw(st.integers(least, most))))
    return layer.double(), in_dim


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def cut(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """Parts of the last axis."""
    ends = list(itertools.accumulate(sizes))
    return [x[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


# --- The contract -----------------------------------------------------------------------------------------------------


@every_layer
@drawn
@given(data=st.data())
def test_steps_over_any_cutting_equal_the_whole_and_the_state_is_a_value(name: str, data: st.DataObject) -> None:
    layer, in_dim = draw_layer(name, data)
    batch = data.draw(st.integers(1, 3))
    blocks = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    x = torch.randn(batch, in_dim, sum(blocks) * layer.down, dtype=torch.float64)
    whole = layer(x)
    assert whole.shape[0] == batch
    assert whole.shape[2] == sum(blocks) * layer.up

    state, parts = layer.init_state(batch), []
    shapes = [(tensor.shape, tensor.dtype) for tensor in state]
    for block in cut(x, [block * layer.down for block in blocks]):
        before = [tensor.clone() for tensor in state]
        y, after = layer.step(block, state)
        assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
        parts.append(y)
        state = after
        assert isinstance(state, tuple)
        assert len(state) == layer.n_states
        assert [(tensor.shape, tensor.dtype) for tensor in state] == shapes
        assert all(tensor.shape[0] == batch for tensor in state)
    assert close(torch.cat(parts, -1), whole)


@every_layer
@drawn
@given(data=st.data())
def test_the_gradient_reaches_back_as_far_as_declared_and_never_forward(name: str, data: st.DataObject) -> None:
    layer, in_dim = draw_layer(name, data)
    field = layer.receptive_field
    groups = 6 if field is None else -(-field // layer.down) + 3
    x = torch.randn(1, in_dim, groups * layer.down, dtype=torch.float64, requires_grad=True)
    group = layer(x)[..., (groups - 2) * layer.up : (groups - 1) * layer.up]
    (gradient,) = torch.autograd.grad((group * torch.randn_like(group)).sum(), x)
    reached = gradient.abs().sum((0, 1)).nonzero().flatten()
    end = (groups - 1) * layer.down
    assert len(reached)
    assert int(reached.max()) < end
    # A memory without end reaches the first group. (Not always its first step: an STFT window starts with 0.)
    assert int(reached.min()) // layer.down == 0 if field is None else int(reached.min()) == end - field


@every_layer
@drawn
@given(data=st.data())
def test_rows_of_a_batch_do_not_meet(name: str, data: st.DataObject) -> None:
    layer, in_dim = draw_layer(name, data)
    x = torch.randn(2, in_dim, 4 * layer.down, dtype=torch.float64)
    whole, (y, state) = layer(x), layer.step(x, layer.init_state(2))
    for row in range(2):
        alone, alone_state = layer.step(x[row : row + 1], layer.init_state(1))
        assert close(alone, whole[row : row + 1])
        assert close(alone, y[row : row + 1])
        assert all(close(a, b[row : row + 1]) for a, b in zip(alone_state, state, strict=True))


# --- Delay ------------------------------------------------------------------------------------------------------------


@given(hop=st.integers(1, 12), overlap=st.integers(3, 6), frames=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_inverse_stft_gives_the_signal_late_by_its_delay(hop: int, overlap: int, frames: int) -> None:
    chain = Chain([Stft(overlap * hop, hop_length=hop), InverseStft(overlap * hop, hop_length=hop)]).double()
    x = torch.randn(2, 1, (frames + overlap) * hop, dtype=torch.float64)
    assert chain.delay == (overlap - 1) * hop
    assert close(chain(x)[..., chain.delay :], x[..., : x.shape[-1] - chain.delay], 1e-6)
    assert chain(x)[..., : chain.delay].abs().max() < 1e-6


def test_a_delay_before_a_stride_is_counted_in_output_steps() -> None:
    late = [Stft(64, hop_length=16), InverseStft(64, hop_length=16)]
    pick = CausalConv(1, 1, kernel_size=1, stride=24)
    nn.init.ones_(pick.conv.weight)
    chain, x = Chain([*late, pick]), torch.randn(1, 1, 480)
    assert chain.delay == 2
    assert (chain.down, chain.up) == (48, 2)
    assert close(chain(x)[..., 2:], pick(x)[..., :-2], 1e-5)


def test_a_delay_that_is_no_whole_number_of_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="delay of 3/2 output steps"):
        Chain([Stft(64, hop_length=16), InverseStft(64, hop_length=16), CausalConv(1, 1, kernel_size=4, stride=32)])


def test_branches_of_a_residual_sum_must_be_equally_late() -> None:
    late = Chain([Stft(64, hop_length=16), InverseStft(64, hop_length=16)])
    with pytest.raises(ConfigError, match="same delay"):
        Residual(late)


# --- Each layer against its reference ---------------------------------------------------------------------------------


@given(kernel=st.integers(1, 9), stride=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_the_transposed_conv_is_torchs_on_the_whole(kernel: int, stride: int) -> None:
    layer = CausalConvTranspose(3, 2, kernel_size=kernel, stride=stride).double()
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    expected = layer.conv(x)[..., : 7 * stride]
    assert close(layer(x)[..., : expected.shape[-1]], expected)


@given(kernel=st.integers(1, 7), dilation=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_the_conv_is_torchs_with_zeros_before(kernel: int, dilation: int) -> None:
    layer = CausalConv(3, 2, kernel_size=kernel, dilation=dilation).double()
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    assert close(layer(x), layer.conv(nn.functional.pad(x, ((kernel - 1) * dilation, 0))))


@pytest.mark.parametrize("skip", [False, True])
def test_recurrent_layers_are_torchs(skip: bool) -> None:
    x = torch.randn(2, 4, 9)
    for layer in (Lstm(4, n_layers=2, skip=skip), Gru(4, n_layers=2, skip=skip)):
        reference = layer.lstm if isinstance(layer, Lstm) else layer.gru
        expected = reference(x.transpose(1, 2))[0].transpose(1, 2)
        assert close(layer(x), x + expected if skip else expected, 1e-6)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_the_head_undoes_the_compression_of_the_spectrum(exponent: float) -> None:
    spec = torch.randn(1, 6, 5, dtype=torch.float64)
    compressed = CompressedSpectrum(exponent)(spec)[:, 3:]
    assert close(ExpandSpectrum(exponent)(compressed), spec, 1e-4)
