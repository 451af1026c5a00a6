"""The graphs need no Python: Node gives the same codes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codec.api import load
from codec.config import ModelConfig, Part
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.hub import find_model
from codec.network import Network
from support.commandline import only_line

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "node"
DEMO = ROOT / "tests" / "fixtures" / "demo.flac"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example and its one package."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "roundtrip.mjs"):
        shutil.copyfile(EXAMPLE / name, folder / name)
    # The binaries are in the package: its install script would only download those for graphics cards.
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install onnxruntime-node: {done.stderr.strip()[-200:]}")
    return folder


# Encoder and decoder of small models with random weights: what their last frames and their steps need differs.
CONV = {"n_filters": 4, "strides": [2, 4, 5], "n_recurrent": 0}
KINDS: dict[str, dict[str, Any]] = {
    "ragged": CONV | {"padding": "mirror", "ragged": True},
    "ahead": CONV | {"causal": False},
    "whole": CONV | {"causal": False, "norm": "time"},
}


def write(folder: Path, name: str) -> Path:
    """A model folder with graphs."""
    if name == "default_16k":
        shutil.copytree(find_model(name), folder)
    else:
        decoder = {key: value for key, value in KINDS[name].items() if key != "ragged"}
        bottleneck = Part("residual", {"codebook_size": 16, "n_codebooks": 2})
        parts = Part("conv", KINDS[name]), bottleneck, Part("conv", decoder)
        config = ModelConfig(*parts, hop_length=40, latent_dim=8)
        torch.manual_seed(8)
        network = Network(config)
        with torch.no_grad():
            latent = network.encoder(
                torch.from_numpy(soundfile.read(DEMO, frames=16000, dtype="float32")[0])[None, None]
            )
            frames = latent[0].T[torch.randperm(latent.shape[-1])[:16]]
            for level, book in enumerate(network.bottleneck.codebooks):  # frames, or all codes would be one
                book.embed.copy_(frames - level * latent[0].mean(-1))
        write_folder(folder, name, config, network.state_dict(), licence="CC0-1.0")
    write_graphs(folder)
    return folder


def roundtrip(node: Path, *words: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", "roundtrip.mjs", *map(str, words)]
    return subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default_16k", *KINDS])
def test_node_encodes_and_decodes_as_python_does(name: str, node: Path, tmp_path: Path) -> None:
    model = write(tmp_path / "model", name)
    samples, rate = soundfile.read(DEMO, dtype="int16")
    samples = samples if name == "default_16k" else samples[16000:26013]  # no whole number of frames
    soundfile.write(tmp_path / "in.wav", samples, rate, subtype="PCM_16")
    files = [tmp_path / name for name in ("in.wav", "codes.json", "out.wav")]
    done = roundtrip(node, model, *files)
    assert done.returncode == 0, done.stderr

    python = load(model, engine="onnx")
    audio = (samples / 32768).astype(np.float32)
    expected = python.encode(audio, mode="frame").data
    codes = np.array(json.loads(files[1].read_text()))
    assert codes.shape == expected.shape
    assert len(np.unique(codes)) > 4
    assert np.mean(codes == expected) >= 0.999
    assert np.array_equal(codes[:, -1], expected[:, -1])

    made = soundfile.read(files[2], dtype="float32")[0]
    decoded = python.decode(python.codes(codes, len(audio)))
    assert len(made) == len(audio)
    wanted = np.clip(decoded, -1, 32767 / 32768)  # as 16 bits hold it
    assert np.square(made - wanted).sum() < 1e-4 * np.square(wanted).sum()  # 40 dB: 16 bit rounding, other cores


@pytest.mark.slow
def test_node_refuses_a_model_that_it_would_code_wrongly(node: Path, tmp_path: Path) -> None:
    for fact, value in (("condition", 256), ("segments", {"length": 48000, "stride": 47520})):
        (tmp_path / "model.json").write_text(json.dumps({"info": {fact: value}}))
        done = roundtrip(node, tmp_path, DEMO, tmp_path / "codes.json", tmp_path / "out.wav")
        assert done.returncode == 1
        assert "this example" in only_line(done.stderr)
