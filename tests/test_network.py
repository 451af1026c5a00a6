"""Encoder, bottleneck and decoder combine freely, and a network is no later than it says."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from codec.config import ModelConfig, Part, from_dict, to_dict
from codec.errors import ConfigError
from codec.network import Network, count_parameters
from codec.nn.decoder import DECODERS
from codec.nn.encoder import ENCODERS
from codec.quantize.build import BOTTLENECKS

HOP = 16
SEANET = {"n_filters": 4, "strides": [2, 8], "n_recurrent": 1, "n_attention": 1, "n_heads": 2, "context": 4}
ENCODER_OPTIONS = {
    "conv": SEANET,
    "spectral": {"dim": 8, "hidden_dim": 12, "n_blocks": 1, "n_fft": 32},
}
DECODER_OPTIONS = {
    "conv": SEANET,
    "spectral": {"dim": 8, "hidden_dim": 12, "n_blocks": 1, "n_fine_blocks": 1},
}
BOTTLENECK_OPTIONS = {
    "grouped": {"n_groups": 2, "n_levels": 2},
    "masked": {"n_masked": 2, "n_codebooks": 3},
    "residual": {"n_codebooks": 3},
    "vq": {},
}
# Of published systems: their own tests compare them with the originals, tests/test_recipes.py trains them.
PUBLISHED = {
    *("attributes", "cross_scale", "factorised", "projected", "split"),
    *("esc", "hifi", "mel", "mimi", "snake", "speaker", "vocos"),
}
NETWORKS = list(itertools.product(ENCODER_OPTIONS, BOTTLENECK_OPTIONS, DECODER_OPTIONS))
every_network = pytest.mark.parametrize(("encoder", "bottleneck", "decoder"), NETWORKS)
# For laws of steps, in which no part knows of the one before the last: half of the networks, but any two parts meet.
every_pair = pytest.mark.parametrize(
    ("encoder", "bottleneck", "decoder"), [one for i, one in enumerate(NETWORKS) if i.bit_count() % 2 == 0]
)


def config_of(encoder: str, bottleneck: str, decoder: str) -> ModelConfig:
    plain = {
        "encoder": {"kind": encoder, "options": ENCODER_OPTIONS[encoder]},
        "bottleneck": {"kind": bottleneck, "options": {"codebook_size": 16, **BOTTLENECK_OPTIONS[bottleneck]}},
        "decoder": {"kind": decoder, "options": DECODER_OPTIONS[decoder]},
        "sample_rate": 8000,
        "hop_length": HOP,
        "latent_dim": 8,
    }
    return from_dict(ModelConfig, plain)


def network_of(encoder: str, bottleneck: str, decoder: str) -> Network:
    """A network with random weights, and codebooks as wide as its latent."""
    torch.manual_seed(1)
    network = Network(config_of(encoder, bottleneck, decoder))
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # or the latent is nearly constant
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        width = float(network.encoder(torch.randn(1, 1, 64 * HOP)).std())
    for book in network.bottleneck.codebooks:
        torch.nn.init.normal_(book.embed, std=width)
    return network


def encode(network: Network, audio: Tensor, n_frames: int) -> Tensor:
    """Codes (B, Q, F), `n_frames` at a time."""
    state, parts = network.encoder.init_state(audio.shape[0]), []
    for start in range(0, audio.shape[-1], n_frames * HOP):
        codes, state = network.encode_step(audio[..., start : start + n_frames * HOP], state)
        parts.append(codes)
    return torch.cat(parts, -1)


def decode(network: Network, codes: Tensor, n_frames: int) -> Tensor:
    """Audio (B, 1, T), `n_frames` at a time."""
    state, parts = network.decoder.init_state(codes.shape[0]), []
    for start in range(0, codes.shape[-1], n_frames):
        audio, state = network.decode_step(codes[..., start : start + n_frames], state)
        parts.append(audio)
    return torch.cat(parts, -1)


def test_every_kind_is_tested() -> None:
    assert ENCODER_OPTIONS.keys() == ENCODERS.keys() - PUBLISHED
    assert DECODER_OPTIONS.keys() == DECODERS.keys() - PUBLISHED
    assert BOTTLENECK_OPTIONS.keys() == BOTTLENECKS.keys() - PUBLISHED


@every_network
def test_any_three_parts_make_a_network_that_learns(encoder: str, bottleneck: str, decoder: str) -> None:
    network = network_of(encoder, bottleneck, decoder)
    audio = torch.randn(2, 1, 6 * HOP)
    output = network(audio)
    assert output.audio_hat.shape == audio.shape
    assert output.latent.shape == (2, 8, 6)
    assert output.quantized.codes.shape == (2, network.bottleneck.n_codebooks, 6)
    (output.audio_hat.square().mean() + output.quantized.loss).backward()
    for part in (network.encoder, network.decoder):
        gradients = [parameter.grad for parameter in part.parameters()]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(gradient is not None and bool(gradient.any()) for gradient in gradients)


@every_pair
@torch.no_grad()
def test_blocks_of_any_size_give_the_codes_and_the_audio_of_the_whole(
    encoder: str, bottleneck: str, decoder: str
) -> None:
    network = network_of(encoder, bottleneck, decoder)
    audio = torch.randn(2, 1, 13 * HOP)
    output = network(audio)
    codes = output.quantized.codes
    assert len(codes.unique()) > 2
    for n_frames in (1, 5):
        assert torch.equal(encode(network, audio, n_frames), codes)
        assert torch.allclose(decode(network, codes, n_frames), output.audio_hat, atol=1e-5)


@pytest.mark.parametrize(("encoder", "decoder"), list(itertools.product(ENCODER_OPTIONS, DECODER_OPTIONS)))
@torch.no_grad()
def test_no_output_depends_on_audio_beyond_the_latency(encoder: str, decoder: str) -> None:
    network = network_of(encoder, "residual", decoder)
    latency = round(network.info("x", "none").latency * 8000)
    assert latency == HOP + network.encoder.delay * HOP + network.decoder.delay
    places = range(6 * HOP, 8 * HOP)
    audio = torch.randn(1, 1, 16 * HOP).repeat(1 + len(places), 1, 1)  # a row for each place, after the unchanged one
    for row, changed in enumerate(places, 1):
        audio[row, :, changed:] = torch.randn(16 * HOP - changed)
    before, *rows = network(audio).audio_hat
    reacts = []
    for changed, after in zip(places, rows, strict=True):
        # audio_hat[t + delay] describes audio[t], and may not know audio[t + latency] or later.
        settled = changed - latency + 1 + network.delay
        assert torch.allclose(after[..., :settled], before[..., :settled], atol=1e-5)
        reacts.append(settled < 8 * HOP and not torch.equal(after, before))
    assert any(reacts)


@pytest.mark.parametrize("decoder", DECODER_OPTIONS)
@torch.no_grad()
def test_a_frame_is_heard_from_its_first_sample_on_and_not_before(decoder: str) -> None:
    network = network_of("conv", "vq", decoder)
    latent = torch.randn(1, 8, 12)
    other = latent.clone()
    other[..., 5] += 1
    difference = (network.decoder(other) - network.decoder(latent)).abs()[0, 0]
    assert difference[: 5 * HOP].max() < 1e-6
    # The part that describes frame 5 starts `delay` samples after the frame itself.
    assert difference[5 * HOP + network.delay : 6 * HOP + network.delay].max() > 1e-5


@pytest.mark.parametrize(("encoder", "decoder"), list(itertools.product(ENCODER_OPTIONS, DECODER_OPTIONS)))
def test_networks_learn_in_half_precision(encoder: str, decoder: str) -> None:
    network = network_of(encoder, "residual", decoder)
    audio = torch.randn(2, 1, 6 * HOP)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(audio)
    assert torch.allclose(output.latent.float(), network.encoder(audio), atol=0.05)
    output.audio_hat.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.decoder.parameters())


@every_pair
@torch.no_grad()
def test_every_prefix_of_codebooks_decodes(encoder: str, bottleneck: str, decoder: str) -> None:
    network = network_of(encoder, bottleneck, decoder)
    audio = torch.randn(1, 1, 4 * HOP)
    whole = encode(network, audio, 4)
    for n_codebooks in network.bottleneck.prefixes:
        codes, _ = network.encode_step(audio, network.encoder.init_state(1), n_codebooks)
        assert torch.equal(codes, whole[:, :n_codebooks])
        assert decode(network, codes, 4).shape == audio.shape


def test_info_is_counted_from_the_parts() -> None:
    network = network_of("conv", "grouped", "spectral")
    info = network.info("small", "CC0-1.0")
    assert info.delay == network.delay == 4 * HOP // 2 - HOP // 2
    assert info.latency == (HOP + info.delay) / 8000
    assert info.codebook_sizes == (16,) * 4
    assert info.bitrate == 500 * 4 * 4
    assert info.parameters["encoder"] == sum(p.numel() for p in network.encoder.parameters())
    assert sum(info.parameters.values()) == count_parameters(network)


def test_a_network_without_end_of_memory_says_so() -> None:
    """A decoder with an LSTM has no context after which it forgets; a spectral one has."""
    assert network_of("conv", "vq", "conv").decoder.receptive_field is None
    assert network_of("conv", "vq", "spectral").decoder.receptive_field is not None


def test_a_configuration_comes_back_from_plain_data() -> None:
    config = config_of("conv", "masked", "spectral")
    assert from_dict(ModelConfig, to_dict(config)) == config


@pytest.mark.parametrize("room", ["encoder", "bottleneck", "decoder"])
def test_an_unknown_kind_or_option_is_refused_by_name(room: str) -> None:
    plain = to_dict(config_of("conv", "vq", "conv"))
    with pytest.raises(ConfigError, match=rf"{room}.kind: unknown 'nothing'; known are"):
        Network(from_dict(ModelConfig, {**plain, room: to_dict(Part("nothing"))}))
    part = {"kind": plain[room]["kind"], "options": {"colour": 1}}
    with pytest.raises(ConfigError, match=rf"{room}.options: unknown key 'colour'"):
        Network(from_dict(ModelConfig, {**plain, room: part}))
