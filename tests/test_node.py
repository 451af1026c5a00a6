"""The graphs need no Python: Node gives the same codes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.api import load
from codec.export.graphs import write_graphs
from codec.hub import find_model

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


@pytest.mark.slow
def test_node_encodes_and_decodes_as_python_does(node: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(find_model("default_16k"), model)
    write_graphs(model)
    samples, rate = soundfile.read(DEMO, dtype="int16")
    soundfile.write(tmp_path / "in.wav", samples, rate, subtype="PCM_16")
    files = [tmp_path / name for name in ("in.wav", "codes.json", "out.wav")]
    command = ["node", "roundtrip.mjs", str(model), *map(str, files)]
    subprocess.run(command, cwd=node, capture_output=True, timeout=300, check=True)

    python = load(model, engine="onnx")
    with python.stream_encoder() as encoder:
        audio = (samples / 32768).astype(np.float32)
        expected = np.concatenate((encoder.feed(audio), encoder.flush()), -1)
    codes = np.array(json.loads(files[1].read_text()))
    assert codes.shape == expected.shape
    assert np.mean(codes == expected) >= 0.999

    made = soundfile.read(files[2], dtype="float32")[0]
    decoded = python.decode(python.codes(codes))[: len(audio)]
    assert len(made) == len(audio)
    assert np.square(made - decoded).sum() < 1e-4 * np.square(decoded).sum()  # 40 dB: 16 bit rounding, other cores
