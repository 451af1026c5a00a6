"""The snake, HiFi-GAN and mirrored conv families in both engines, and a factorised bottleneck by prefixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codec.config import ModelConfig, Part
from codec.engine.onnx_engine import OnnxEngine
from codec.engine.torch_engine import TorchEngine
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.export.runtime import compare
from codec.golden import shaped_noise
from codec.modelfolder import ModelFolder
from codec.network import Network

SNAKE: dict[str, Any] = {"strides": [2, 5]}
HIFI: dict[str, Any] = {"rates": [5, 2], "kernels": [11, 4]}
CONV = Part("conv", {"n_filters": 2, "strides": [2, 5], "n_recurrent": 1, "padding": "mirror"})
GROUPED = Part("grouped", {"n_levels": 2, "codebook_size": 32})
FACTORISED = Part("factorised", {"n_codebooks": 3, "codebook_size": 32})
FAMILIES = {
    "snake": (Part("snake", SNAKE | {"n_filters": 4}), FACTORISED, Part("snake", SNAKE | {"width": 16, "noise": True})),
    "hifi": (Part("hifi", HIFI | {"n_filters": 16}), GROUPED, Part("hifi", HIFI | {"width": 16})),
    "hifi, causal": (
        Part("hifi", HIFI | {"n_filters": 8, "causal": True, "norm": "layer"}),
        GROUPED,
        Part("hifi", HIFI | {"width": 16, "causal": True}),
    ),
    "conv, mirrored": (CONV, GROUPED, CONV),
}


def make(path: Path, family: tuple[Part, Part, Part]) -> ModelFolder:
    encoder, bottleneck, decoder = family
    config = ModelConfig(encoder, bottleneck, decoder, hop_length=10, latent_dim=12)
    torch.manual_seed(0)
    network = Network(config)
    noise = torch.from_numpy(shaped_noise(16000, 0.5))[None, None]
    with torch.no_grad():
        spread = float(network.encoder(noise).std())
        for book in network.bottleneck.codebooks:
            book.embed.copy_(spread * torch.randn(book.embed.shape))
    return write_folder(path, "random", config, network.state_dict(), licence="CC0-1.0", half=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_engines_agree(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path, FAMILIES[name])
    agreement = compare(write_graphs(folder.path), shaped_noise(2000, 0.5))
    assert agreement.codes >= 0.999
    assert agreement.audio_db >= 60


def test_both_engines_decode_the_same_from_every_prefix_of_a_factorised_bottleneck(tmp_path: Path) -> None:
    folder = write_graphs(make(tmp_path, FAMILIES["snake"]).path)
    engines = TorchEngine(folder), OnnxEngine(folder)
    codes = np.random.default_rng(0).integers(0, 32, (2, 3, 50))
    for count in (1, 2, 3):
        one, other = (engine.decode_step(codes[:, :count], engine.init_decoder(2))[0] for engine in engines)
        assert np.abs(one - other).max() < 1e-4
