"""The ONNX graphs compute what torch computes, from the same weights file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import codec
from codec import audio as audio_io
from codec.config import ModelConfig, Part
from codec.engine.onnx_engine import OnnxEngine
from codec.engine.torch_engine import TorchEngine
from codec.errors import ModelError
from codec.export.builder import OPSETS, Builder
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.export.runtime import compare, export_model
from codec.export.speech import Speech
from codec.hub import find_model
from codec.modelfolder import GRAPHS, INT8_GRAPHS, WEIGHTS, ModelFolder, read_model
from codec.network import Network

FIXTURE = Path(__file__).parent / "fixtures" / "demo.flac"

SPECTRAL_ENCODER = Part("spectral", {"dim": 16, "hidden_dim": 24, "n_blocks": 2, "n_fft": 96})
SPECTRAL_DECODER = Part("spectral", {"dim": 16, "hidden_dim": 24, "n_blocks": 1, "n_fine_blocks": 1})
CONV_FAMILY: dict[str, dict[str, int | str]] = {
    "plain": {"n_recurrent": 0},
    "lstm": {"n_recurrent": 2},
    "gru": {"recurrent": "gru", "n_recurrent": 1, "norm": "layer"},
    "attention": {"n_recurrent": 0, "n_attention": 2, "n_heads": 4, "context": 20, "norm": "rms"},
}
BOTTLENECKS = {
    "vq": Part("vq", {"codebook_size": 40}),
    "vq, by gradient": Part("vq", {"codebook_size": 40, "learn": "gradient"}),
    "residual": Part("residual", {"codebook_size": 16, "n_codebooks": 3}),
    "grouped": Part("grouped", {"codebook_size": 16, "n_groups": 2, "n_levels": 2}),
    "masked": Part("masked", {"codebook_size": 16, "n_masked": 2, "n_codebooks": 4}),
    "split": Part("split", {"codebook_size": 16, "n_semantic": 2, "n_codebooks": 5}),
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
    return np.asarray(audio_io.read(FIXTURE)[0][0, :48000], np.float32)


@pytest.mark.parametrize("kind", BOTTLENECKS)
def test_both_engines_agree_for_every_bottleneck(
    kind: str, tmp_path: Path, speech: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    agreement = compare(make_folder(tmp_path, BOTTLENECKS[kind]), speech)
    assert agreement.codes >= 0.999
    assert agreement.audio_db >= 60


@pytest.mark.parametrize("options", CONV_FAMILY.values(), ids=CONV_FAMILY)
def test_both_engines_agree_for_the_conv_family(
    options: dict[str, int | str], tmp_path: Path, speech: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    part = Part("conv", {"n_filters": 4, "strides": [2, 4, 5], **options})
    agreement = compare(make_folder(tmp_path, BOTTLENECKS["grouped"], part, part), speech[:16000])
    assert agreement.codes >= 0.999
    assert agreement.audio_db >= 60


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_graphs_of_the_lowest_and_the_highest_opset_agree(
    opset: int, tmp_path: Path, speech: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    make_folder(tmp_path, BOTTLENECKS["grouped"])
    folder = write_graphs(tmp_path, int8=True, opset=opset)
    for name in (*GRAPHS, *INT8_GRAPHS):
        assert [x.version for x in onnx.load(tmp_path / name, load_external_data=False).opset_import] == [opset]
    assert compare(folder, speech[:16000]).codes >= 0.999
    assert compare(folder, speech[:16000], int8=True).codes > 0.5


@pytest.mark.parametrize("opset", [OPSETS[0] - 1, OPSETS[-1] + 1])
def test_another_opset_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"opset {opset}: the graphs can be written in 17 to 26; 20 is usual"):
        export_model("default_16k", tmp_path / "out", opset=opset)
    assert not list(tmp_path.iterdir())


def test_blocks_of_one_shape_share_a_state(tmp_path: Path) -> None:
    make_folder(tmp_path, BOTTLENECKS["vq"])
    inputs = [x.name for x in onnx.load(tmp_path / "encoder.onnx", load_external_data=False).graph.input]
    assert inputs == ["audio", "state_0", "state_1", "state_2"]  # the STFT's, the first conv's, both blocks'


def test_batch_block_length_and_prefix_are_dynamic(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BOTTLENECKS["grouped"])
    engines = (TorchEngine(folder), OnnxEngine(folder))
    audio = np.random.default_rng(0).standard_normal((3, 1, 40 * 7)).astype(np.float32)
    for n_codebooks in (2, 4):
        steps = [engine.encode_step(audio, engine.init_encoder(3), n_codebooks)[0] for engine in engines]
        assert steps[0].shape == steps[1].shape == (3, n_codebooks, 7)
        made = [engine.decode_step(steps[0], engine.init_decoder(3))[0] for engine in engines]
        np.testing.assert_allclose(made[0], made[1], atol=1e-4)


def step_through(step: Callable[[Any, Any], Any], whole: Any, size: int, state: Any) -> Any:
    """Results of all blocks of `size` along the last axis."""
    found = []
    for start in range(0, whole.shape[-1], size):
        y, state = step(np.ascontiguousarray(whole[..., start : start + size]), state)
        found.append(y)
    return np.concatenate(found, -1)


def test_frames_and_blocks_of_the_embedded_model_agree(
    tmp_path: Path, speech: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    shutil.copytree(find_model("default_16k"), tmp_path / "model")
    engine = OnnxEngine(write_graphs(tmp_path / "model"))
    audio = speech[None, None, : 320 * 128]
    codes = [
        step_through(lambda x, state: engine.encode_step(x, state, 8), audio, 320 * size, engine.init_encoder(1))
        for size in (1, 64)
    ]
    assert np.mean(codes[0] == codes[1]) >= 0.999
    frames, blocks = (step_through(engine.decode_step, codes[0], size, engine.init_decoder(1)) for size in (1, 64))
    assert np.square(frames - blocks).sum() <= 1e-6 * np.square(frames).sum()


def test_the_graphs_hold_no_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BOTTLENECKS["grouped"])
    folder.weights_path.unlink()
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        OnnxEngine(folder).init_encoder(1)


def test_nodes_that_no_output_needs_are_left_out() -> None:
    graph = Builder({})
    x = graph.input("x", ["n"])
    graph.op("Neg", x)
    graph.output("y", graph.op("Abs", x), ["n"])
    assert [node.op_type for node in graph.model("abs", {}).graph.node] == ["Abs", "Identity"]


def test_graphs_of_other_weights_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", BOTTLENECKS["vq"])
    other = make_folder(tmp_path / "b", BOTTLENECKS["vq"], seed=1)
    shutil.copyfile(other.path / "encoder.onnx", folder.path / "encoder.onnx")
    with pytest.raises(ModelError, match=r"encoder\.onnx: damaged"):
        read_model(folder.path)
    with pytest.raises(ModelError, match="made for weights"):
        OnnxEngine(folder).init_encoder(1)


HUM = Speech(np.full(16000, 0.01, np.float32), "a hum")


def test_an_exported_model_is_whole_and_compared(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", BOTTLENECKS["grouped"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / INT8_GRAPHS[0]).write_bytes(b"of another export")
    done = export_model(str(tmp_path / "a"), tmp_path / "b", HUM)
    assert (done.agreement.codes, done.int8, done.speech) == (1.0, None, "a hum")
    assert {file.name for file in (tmp_path / "b").iterdir()} == {*GRAPHS, WEIGHTS, "model.json"}
    assert codec.load(tmp_path / "b").engine.name == "onnx"
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b"}


def test_eight_bits_are_written_where_they_are_asked_for_and_other_files_stay(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", BOTTLENECKS["grouped"])
    (folder.path / "notes.txt").write_text("mine")
    found = export_model(str(folder.path), folder.path, HUM, int8=True).int8
    assert found is not None
    assert found.codes > 0.5
    again = read_model(folder.path)
    assert again.has_graphs
    assert again.has_int8_graphs
    assert (folder.path / "notes.txt").read_text() == "mine"


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "a", BOTTLENECKS["vq"])
    before = contents(folder.path)
    monkeypatch.setattr("codec.export.runtime.MIN_AUDIO_DB", 1000.0)  # what no two engines reach
    for target in (folder.path, tmp_path / "b" / "c"):
        with pytest.raises(ModelError, match=r"nothing written: torch and the graphs agree on 100\.000% of codes"):
            export_model(str(folder.path), target, HUM)
    assert {file.name for file in tmp_path.iterdir()} == {"a"}
    assert contents(folder.path) == before


def test_a_model_of_transformers_class_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BOTTLENECKS["vq"])
    data = json.loads((folder.path / "model.json").read_text())
    data["config"]["encoder"] = {"kind": "transformers", "options": {}}
    (folder.path / "model.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="runs in transformers' own class, which has no ONNX form"):
        write_graphs(folder.path)


@pytest.mark.slow
def test_the_command_says_what_it_compared_on(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", BOTTLENECKS["vq"])
    command = [sys.executable, "-m", "codec", "export", str(tmp_path / "a"), str(tmp_path / "b")]
    given = [*command, "--audio", str(FIXTURE), "--opset", "18"]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'b'}: compared on 60 s of {FIXTURE}, in ")
    assert "torch and onnx: codes agree on 100.0000% of 24000, audio to" in lines[1]
    assert len(lines) == 2
    wrong = subprocess.run([*command, "--calibrate", str(FIXTURE)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "add --int8" in wrong.stderr


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
