"""codec.quantize.cross_scale: a bottleneck that owns the decoder's inner stages has laws of its own, and no streams."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec.api import Model
from codec.config import ModelConfig, Part
from codec.engine import open_engine
from codec.errors import AudioError, CodecError, CodesError, ConfigError
from codec.export.folder import write_folder
from codec.network import Network
from codec.quantize.build import build_bottleneck
from codec.quantize.cross_scale import CrossScale

SIZES = {"widths": (4, 6, 8), "n_heads": (2, 2), "n_blocks": 2}
DIM = 2 * (16 * 8 + 32 * 6)
OPTIONS = SIZES | {"codebook_size": 16, "codebook_dims": (5, 4, 3)}


def make() -> CrossScale:
    torch.manual_seed(2)
    bottleneck = build_bottleneck(Part("cross_scale", OPTIONS), DIM)
    assert isinstance(bottleneck, CrossScale)
    for book in bottleneck.codebooks:
        torch.nn.init.normal_(book.embed)
    return bottleneck


def make_latent(batch: int = 3, frames: int = 4) -> Tensor:
    return torch.randn(batch, DIM, frames, generator=torch.Generator().manual_seed(0))


def test_decoding_gives_what_training_does_for_every_prefix() -> None:
    bottleneck, latent = make(), make_latent()
    whole = bottleneck(latent)
    codes = bottleneck.encode(latent)
    assert torch.equal(codes, whole.codes)
    assert len(set(codes.flatten().tolist())) > 8
    assert bottleneck.prefixes == (3, 6, 9)
    for count in bottleneck.prefixes:
        assert torch.equal(bottleneck.encode(latent, count), codes[:, :count])  # none depends on later ones
        made = bottleneck(latent, torch.full((3,), count)).latent
        assert made.shape == (3, 2 * 64 * 4, 4)  # the finest scale, not the encoder's latent
        torch.testing.assert_close(bottleneck.decode(codes[:, :count]), made, rtol=1e-4, atol=1e-5)
    with pytest.raises(CodesError, match="codes with 3, 6, 9 codebooks"):
        bottleneck.encode(latent, 4)


def test_rows_use_the_streams_that_their_levels_say() -> None:
    bottleneck, latent = make(), make_latent()
    mixed = bottleneck(latent, torch.tensor([3, 6, 9]))
    for row, count in enumerate((3, 6, 9)):
        alone = bottleneck(latent[row : row + 1], torch.tensor([count])).latent
        torch.testing.assert_close(mixed.latent[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_stages_not_started_contribute_nothing_and_the_next_one_collects() -> None:
    bottleneck, latent = make(), make_latent()
    whole = bottleneck(latent)
    for n_stages in (1, 2):
        result = bottleneck(latent, n_stages=n_stages)
        assert torch.equal(result.codes[:, : 3 * n_stages], whole.codes[:, : 3 * n_stages])
        assert not result.codes[:, 3 * n_stages :].any()
        expected = bottleneck(latent, torch.full((3,), 3 * n_stages)).latent
        torch.testing.assert_close(result.latent, expected, rtol=1e-4, atol=1e-5)
        assert [x is not None for x in result.inputs] == [stage <= n_stages for stage in bottleneck.stages]


def test_before_any_stage_starts_the_matrices_let_the_latent_pass_and_learn() -> None:
    """ESC's first epochs: no codebooks, but all streams."""
    bottleneck, latent = make(), make_latent().requires_grad_()
    result = bottleneck(latent, n_stages=0)
    assert not result.codes.any()
    result.latent.square().mean().backward()
    assert latent.grad is not None
    assert all(bool((latent.grad[:, i] != 0).any()) for i in (0, DIM - 1))  # coarsest and finest
    for name, parameter in bottleneck.named_parameters():
        assert (parameter.grad is not None) != name.endswith("embed"), name


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"latent_dim: 16, the scales of widths .* have {DIM}"):
        build_bottleneck(Part("cross_scale", OPTIONS), 16)
    with pytest.raises(ConfigError, match="codebook_dims: expected 3 numbers, found"):
        build_bottleneck(Part("cross_scale", OPTIONS | {"codebook_dims": (4,)}), DIM)


def test_a_model_codes_whole_signals_and_refuses_streams(tmp_path: Path) -> None:
    config = ModelConfig(
        Part("esc", SIZES), Part("cross_scale", OPTIONS), Part("esc", SIZES), hop_length=320, latent_dim=DIM
    )
    torch.manual_seed(0)
    network = Network(config)
    for book in network.bottleneck.codebooks:
        torch.nn.init.normal_(book.embed)
    folder = write_folder(tmp_path / "esc", "esc", config, network.state_dict(), licence="MIT")
    model = Model(folder.info, open_engine(folder, engine="torch"))
    audio = (0.1 * torch.randn(5000, generator=torch.Generator().manual_seed(1))).numpy()
    codes = model.encode(audio, codebooks=6)
    assert codes.data.shape == (6, 16)
    assert model.decode(codes).shape == audio.shape
    for stream in (model.stream_encoder, model.stream_decoder):
        with pytest.raises(CodecError, match="whole signal") as failure:
            stream()
        assert not isinstance(failure.value, AudioError)
