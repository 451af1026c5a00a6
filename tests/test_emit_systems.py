"""Networks of the published systems in both engines: whole signals of any length, prefixes, missing codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from codec.api import Model
from codec.config import ModelConfig, Part
from codec.engine.onnx_engine import OnnxEngine
from codec.engine.torch_engine import TorchEngine
from codec.errors import ModelError
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.golden import shaped_noise
from codec.modelfolder import ModelFolder
from codec.network import Network
from codec.nn.esc import EscConfig

SNAKE: dict[str, Any] = {"strides": [2, 5]}
DEPTHWISE: dict[str, Any] = {"depthwise": True, "window": 4, "head_dim": 8}
SPEAKER: dict[str, Any] = SNAKE | {"n_layers": 1, "n_heads": 2, "hidden_dim": 8, "n_filters": 2}
ESC: dict[str, Any] = {"widths": [2, 4, 6], "n_heads": [1, 2], "n_blocks": 2}
ESC_DIM = EscConfig(widths=(2, 4, 6), n_heads=(1, 2)).latent_dim
CONV: dict[str, Any] = {"n_filters": 2, "strides": [2, 5], "n_recurrent": 1, "causal": False, "padding": "mirror"}
MEL: dict[str, Any] = {"n_fft": 40, "n_mels": 8, "depths": [1, 1], "dims": [8, 12], "bridge": True}
# name -> encoder, bottleneck, decoder
SYSTEMS: dict[str, tuple[Part, Part, Part]] = {
    "distilcodec": (
        Part("mel", MEL),
        Part("projected", {"codebook_size": 16, "codebook_dim": 6, "n_groups": 2, "n_levels": 2}),
        Part("hifi", {"rates": [5, 2], "kernels": [11, 4], "width": 16}),
    ),
    "esc": (
        Part("esc", ESC),
        Part("cross_scale", ESC | {"codebook_size": 16, "codebook_dims": [3, 3, 3]}),
        Part("esc", ESC),
    ),
    "facodec": (
        Part("speaker", SPEAKER),
        Part("attributes", {"codebook_size": 16, "codebook_dim": 4, "n_passed": 8}),
        Part("speaker", SNAKE | {"width": 16}),
    ),
    "languagecodec": (
        Part("conv", CONV),
        Part("masked", {"codebook_size": 16, "n_masked": 2, "n_codebooks": 4}),
        Part("vocos", {"dim": 12, "hidden_dim": 16, "n_blocks": 1, "n_fft": 40}),
    ),
    "snac": (
        Part("snake", SNAKE | DEPTHWISE | {"n_filters": 4}),
        Part("factorised", {"codebook_size": 16, "n_codebooks": 3, "codebook_dim": 4, "divisors": [4, 2, 1]}),
        Part("snake", SNAKE | DEPTHWISE | {"width": 16, "noise": True}),
    ),
}
MIXING = ("esc",)  # frames see their neighbours between the quantizers


@pytest.fixture(scope="module", params=SYSTEMS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model with random weights, codebooks about as large as its latents, and graphs; named by its system."""
    encoder, bottleneck, decoder = SYSTEMS[request.param]
    hop, dim = (320, ESC_DIM) if request.param == "esc" else (10, 12 if request.param == "distilcodec" else 16)
    config = ModelConfig(encoder, bottleneck, decoder, hop_length=hop, latent_dim=dim)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = Network(config)
        for book in network.bottleneck.codebooks:
            book.embed.copy_(0.3 * torch.randn(book.embed.shape))
    path = tmp_path_factory.mktemp(request.param)
    write_folder(path, request.param, config, network.state_dict(), licence="CC0-1.0", half=False)
    return write_graphs(path)


@pytest.fixture(scope="module")
def engines(folder: ModelFolder) -> tuple[TorchEngine, OnnxEngine]:
    return TorchEngine(folder), OnnxEngine(folder)


Engines = tuple[TorchEngine, OnnxEngine]


@pytest.mark.parametrize("n_frames", [1, 7, 32])
def test_a_signal_of_any_length_gives_the_same_in_both_engines(
    folder: ModelFolder, engines: Engines, n_frames: int
) -> None:
    noise = shaped_noise(16000, 2)
    size = n_frames * folder.info.hop_length
    audio = np.stack((noise[:size], 3 * noise[-size:]))[:, None]
    found = [engine.encode_step(audio, engine.init_encoder(2), folder.info.codebooks) for engine in engines]
    codes = found[0][0]
    assert codes.shape == (2, folder.info.codebooks, n_frames)
    np.testing.assert_array_equal(codes, found[1][0])
    for mine, other in zip(*(state for _, state in found), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
    for prefix in folder.info.prefixes:
        one, other = (engine.decode_step(codes[:, :prefix], engine.init_decoder(2))[0] for engine in engines)
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1, np.abs(one).max()))


def test_frames_whose_last_codes_are_missing_decode_alike_or_are_refused(folder: ModelFolder, engines: Engines) -> None:
    info = folder.info
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 16, (1, info.codebooks, 20))
    counts = generator.choice(info.prefixes, 20)
    codes[:, np.arange(info.codebooks)[:, None] >= counts] = -1
    if info.name in MIXING:
        with pytest.raises(ModelError, match="decodes no frames of fewer codebooks"):
            engines[1].decode_step(codes, engines[1].init_decoder(1))
    elif max(info.divisors) == 1:
        one, other = (engine.decode_step(codes, engine.init_decoder(1))[0] for engine in engines)
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1, np.abs(one).max()))


def test_a_model_says_the_same_with_either_engine(folder: ModelFolder, engines: Engines) -> None:
    audio = shaped_noise(16000, 0.3)[:3333]
    first, second = (Model(folder.info, engine) for engine in engines)
    codes = first.encode(audio)
    np.testing.assert_array_equal(codes.data, second.encode(audio).data)
    np.testing.assert_allclose(first.decode(codes), second.decode(codes), atol=1e-4)  # FACodec's: with its voice
