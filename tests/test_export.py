"""The ONNX graphs compute what torch computes, from the same weights file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import codec
from codec import audio as audio_io
from codec.config import ModelConfig, Part
from codec.engine.onnx_engine import OnnxEngine
from codec.engine.torch_engine import TorchEngine
from codec.errors import ModelError
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.export.runtime import compare, export_model
from codec.modelfolder import ModelFolder, read_model
from codec.network import Network

FIXTURE = Path(__file__).parent / "fixtures" / "demo.flac"

SPECTRAL_ENCODER = Part("spectral", {"dim": 16, "hidden_dim": 24, "n_blocks": 2, "n_fft": 96})
SPECTRAL_DECODER = Part("spectral", {"dim": 16, "hidden_dim": 24, "n_blocks": 1, "n_fine_blocks": 1})
CONV_ENCODER = Part("conv", {"n_filters": 4, "strides": [2, 4, 5], "n_recurrent": 0})
CONV_DECODER = Part("conv", {"n_filters": 4, "strides": [2, 4, 5], "n_recurrent": 0})
BOTTLENECKS = {
    "vq": Part("vq", {"codebook_size": 40}),
    "residual": Part("residual", {"codebook_size": 16, "n_codebooks": 3}),
    "grouped": Part("grouped", {"codebook_size": 16, "n_groups": 2, "n_levels": 2}),
    "masked": Part("masked", {"codebook_size": 16, "n_masked": 2, "n_codebooks": 4}),
}


def make_folder(
    path: Path,
    bottleneck: Part,
    encoder: Part = SPECTRAL_ENCODER,
    decoder: Part = SPECTRAL_DECODER,
    *,
    seed: int = 0,
) -> ModelFolder:
    config = ModelConfig(encoder, bottleneck, decoder, hop_length=40, latent_dim=12)
    torch.manual_seed(seed)
    network = Network(config)
    for book in network.bottleneck.codebooks:
        book.embed.data.normal_(std=0.3)
    write_folder(path, "random", config, network.state_dict(), licence="CC0-1.0")
    return write_graphs(path)


@pytest.fixture(scope="module")
def speech() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.asarray(audio_io.read(FIXTURE)[0][0], np.float32)


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_both_engines_agree_for_every_bottleneck(
    kind: str, tmp_path: Path, speech: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    agreement = compare(make_folder(tmp_path, BOTTLENECKS[kind]), speech)
    assert agreement.codes >= 0.999
    assert agreement.audio_db >= 60


def test_both_engines_agree_for_the_conv_family(
    tmp_path: Path, speech: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    agreement = compare(make_folder(tmp_path, BOTTLENECKS["grouped"], CONV_ENCODER, CONV_DECODER), speech[:16000])
    assert agreement.codes >= 0.999
    assert agreement.audio_db >= 60


def test_batch_block_length_and_prefix_are_dynamic(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BOTTLENECKS["grouped"])
    engines = (TorchEngine(folder), OnnxEngine(folder))
    audio = np.random.default_rng(0).standard_normal((3, 1, 40 * 7)).astype(np.float32)
    for n_codebooks in (2, 4):
        steps = [engine.encode_step(audio, engine.init_encoder(3), n_codebooks)[0] for engine in engines]
        assert steps[0].shape == steps[1].shape == (3, n_codebooks, 7)
        made = [engine.decode_step(steps[0], engine.init_decoder(3))[0] for engine in engines]
        np.testing.assert_allclose(made[0], made[1], atol=1e-4)


def test_the_graphs_hold_no_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BOTTLENECKS["grouped"])
    folder.weights_path.unlink()
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        OnnxEngine(folder).init_encoder(1)


def test_a_layer_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    encoder = Part("conv", {"n_filters": 4, "strides": [2, 4, 5], "n_recurrent": 1})
    with pytest.raises(ModelError, match="Lstm: this layer has no ONNX form yet; use the torch engine"):
        make_folder(tmp_path, BOTTLENECKS["vq"], encoder)


def test_graphs_of_other_weights_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", BOTTLENECKS["vq"])
    other = make_folder(tmp_path / "b", BOTTLENECKS["vq"], seed=1)
    shutil.copyfile(other.path / "encoder.onnx", folder.path / "encoder.onnx")
    with pytest.raises(ModelError, match=r"encoder\.onnx: damaged"):
        read_model(folder.path)
    with pytest.raises(ModelError, match="made for weights"):
        OnnxEngine(folder).init_encoder(1)


def test_an_exported_model_is_whole_and_compared(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", BOTTLENECKS["grouped"])
    agreement = export_model(str(tmp_path / "a"), tmp_path / "b", np.zeros(16000, np.float32) + 0.01)
    assert agreement.codes == 1.0
    assert codec.load(tmp_path / "b").engine.name == "onnx"


def test_encoding_and_decoding_with_the_graphs_needs_no_torch(tmp_path: Path) -> None:
    make_folder(tmp_path, BOTTLENECKS["grouped"])
    code = f"""
import sys
sys.modules["torch"] = None  # an import of it fails
import numpy as np, codec
model = codec.load({str(tmp_path)!r})
codes = model.encode(np.zeros(1000, np.float32))
assert model.decode(codes).shape == (1000,)
print(model.engine.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "onnx"
