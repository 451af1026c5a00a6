"""The ONNX graphs compute what torch computes, from the same weights file."""

from __future__ import annotations

import inspect
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
from safetensors.torch import save_file

import codec
from codec import audio as audio_io
from codec.config import ModelConfig, Part
from codec.engine.onnx_engine import Graph, OnnxEngine
from codec.engine.torch_engine import TorchEngine
from codec.errors import ModelError
from codec.export.builder import OPSET, OPSETS, Builder, stored_tensors
from codec.export.emit import EMITTERS, emit
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.export.runtime import compare, export_model
from codec.export.speech import Speech
from codec.export.writer import Value, Writer
from codec.hub import find_model
from codec.modelfolder import GRAPHS, INT8_GRAPHS, WEIGHTS, ModelFolder, read_model
from codec.network import Network
from codec.nn.aliasfree import AliasFreeSnake
from codec.nn.attention import Attention, Gelu, Scale, WindowAttention, transformer_block
from codec.nn.convnext import DropPath, LogMel
from codec.nn.esc import EscDecoder, EscEncoder
from codec.nn.hifi import Fusion, GroupTimeNorm, LeakyRelu, Silu
from codec.nn.layers import (
    CausalConv,
    CausalConvTranspose,
    Chain,
    ChannelNorm,
    ConvNeXt,
    Elu,
    Layer,
    Linear,
    Residual,
    Split,
    Stateless,
)
from codec.nn.mimi import ChannelwiseUp, StillConv
from codec.nn.mirror import MirrorConv
from codec.nn.recurrent import BiLstm, Gru, Lstm
from codec.nn.seanet import residual_unit
from codec.nn.snake import Noise, Snake, Tanh
from codec.nn.speaker import AddSpeaker, ApplySpeaker, SpeakerEncoderConfig
from codec.nn.spectral import CompressedSpectrum, ExpandSpectrum
from codec.nn.stft import InverseStft, Stft
from codec.nn.symmetric import SymmetricConv, SymmetricConvTranspose, SymmetricMirrorConv, TimeNorm
from codec.nn.vocos import CentredInverseStft, PolarSpectrum

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


def run_in_onnx(layer: Layer, blocks: list[torch.Tensor], path: Path, opset: int = OPSET) -> list[Any]:
    """Write one layer as a graph and step it through blocks (B, C, F)."""
    save_file({f"layer.{name}": x for name, x in layer.state_dict().items()}, path / "weights.safetensors")
    graph = Builder(stored_tensors(path / "weights.safetensors"), opset=opset)
    writer = Writer(graph, {module: f"layer.{name}".rstrip(".") for name, module in layer.named_modules()})
    dim = blocks[0].shape[1]
    x = graph.op("Unsqueeze", graph.input("x", ["batch", dim, "frames"]), graph.constant([2]))
    y = writer.first(emit(writer, layer, Value(x, dim)))
    graph.output("y", graph.op("Squeeze", y, graph.constant([2])), ["batch", "channels", "steps"])
    writer.write_states()
    onnx.save(graph.model("layer", {"weights_hash": "0"}), path / "layer.onnx")
    runner = Graph(path / "layer.onnx", "0")
    state, found = runner.init_state(len(blocks[0])), []
    for block in blocks:
        out, state = runner.run(block.numpy(), state)
        found.append(out)
    return found


LAYERS: dict[str, Callable[[], Layer]] = {
    "alias-free snake": lambda: AliasFreeSnake(8),
    "both directions, stacked": lambda: BiLstm(8, n_layers=2, skip=True),
    "both directions": lambda: BiLstm(8),
    "mirrored on both sides": lambda: SymmetricMirrorConv(8, 6, kernel_size=7, dilation=2),
    "mirrored on both sides, strided": lambda: SymmetricMirrorConv(8, 6, kernel_size=4, stride=2),
    "centred inverse stft": lambda: CentredInverseStft(6, hop_length=2),
    "silu": Silu,
    "speaker added": lambda: AddSpeaker(8, SpeakerEncoderConfig(n_layers=1, n_heads=2, hidden_dim=6)).eval(),
    "speaker added, one position": lambda: AddSpeaker(
        8, SpeakerEncoderConfig(n_layers=1, n_heads=1, hidden_dim=6, positions="none")
    ).eval(),
    "speaker applied": lambda: ApplySpeaker(4),
    "attention in windows": lambda: WindowAttention(8, window=3, head_dim=4),
    "norm over time": lambda: TimeNorm(8),
    "path that is dropped in training": lambda: DropPath(0.5).eval(),
    "channelwise up": lambda: ChannelwiseUp(8, stride=3),
    "attention": lambda: Attention(8, n_heads=2, context=5),
    "attention to itself": lambda: Attention(8, n_heads=1, context=1),
    "conv": lambda: CausalConv(8, 6, kernel_size=3, dilation=2),
    "conv that skips": lambda: CausalConv(8, 6, kernel_size=1, stride=2),
    "convnext": lambda: ConvNeXt(8, 12, kernel_size=5),
    "convnext, three of two shapes": lambda: Chain([ConvNeXt(8, 12), ConvNeXt(8, 6), ConvNeXt(8, 6, kernel_size=3)]),
    "convnext of one frame": lambda: ConvNeXt(8, 12, kernel_size=1),
    "elu": Elu,
    "gelu": Gelu,
    "gru": lambda: Gru(8),
    "gru, stacked": lambda: Gru(8, n_layers=2, skip=True),
    "head": lambda: Chain([Linear(8, 10), ExpandSpectrum(0.3), InverseStft(8, hop_length=2)]),
    "head, odd half windows": lambda: Chain([Linear(8, 8), ExpandSpectrum(0.3), InverseStft(6, hop_length=2)]),
    "inverse stft": lambda: InverseStft(6, hop_length=2),
    "linear": lambda: Linear(8, 6),
    "lstm": lambda: Lstm(8),
    "lstm, stacked": lambda: Lstm(8, n_layers=3, skip=True),
    "norm": lambda: ChannelNorm(8),
    "norm, rms": lambda: ChannelNorm(8, kind="rms"),
    "residual": lambda: Chain([residual_unit(8, true_skip=True), Split(2)]),
    "residual of rows": lambda: Chain([Residual(Linear(8, 8)), Split(2)]),
    "scale": lambda: Scale(8, 0.1),
    "spectrum, polar": PolarSpectrum,
    "still conv": lambda: StillConv(8, stride=2),
    "spectrum, compressed": lambda: CompressedSpectrum(0.3),
    "spectrum, expanded": lambda: ExpandSpectrum(0.3),
    "symmetric conv": lambda: SymmetricConv(8, 6, kernel_size=6, stride=2),
    "symmetric transposed conv": lambda: SymmetricConvTranspose(8, 6, kernel_size=6, stride=3),
    "transformer block": lambda: transformer_block(8, n_heads=2, context=4, norm="rms"),
    "transposed conv": lambda: CausalConvTranspose(8, 6, kernel_size=5, stride=2),
    "transposed conv with gaps": lambda: CausalConvTranspose(8, 6, kernel_size=2, stride=5),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_steps_as_in_torch(make: Callable[[], Layer], tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = make().requires_grad_(False)
    blocks = [torch.randn(2, 8, length) for length in (2, 6, 2, 4, 8)]
    state = layer.init_state(2)
    for block, found in zip(blocks, run_in_onnx(layer, blocks, tmp_path), strict=True):
        expected, state = layer.step(block, state)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


RAGGED: dict[str, Callable[[], Layer]] = {
    "conv": lambda: CausalConv(8, 6, kernel_size=6, stride=3, ragged=True),
    "still conv": lambda: StillConv(8, stride=3, ragged=True),
    "mirrored conv": lambda: MirrorConv(8, 6, kernel_size=6, stride=3, ragged=True),
    "symmetric conv": lambda: SymmetricConv(8, 6, kernel_size=6, stride=3, ragged=True),
    "mirrored on both sides": lambda: SymmetricMirrorConv(8, 6, kernel_size=6, stride=3, ragged=True),
}


@pytest.mark.parametrize("make", RAGGED.values(), ids=RAGGED)
def test_a_last_block_may_end_within_a_group(make: Callable[[], Layer], tmp_path: Path) -> None:
    """After whole blocks, and as the whole signal, of every length down to one step."""
    torch.manual_seed(0)
    layer = make().requires_grad_(False)
    for lengths in ((6, 3, 1), (6, 9, 5), (6, 3), *((length,) for length in range(1, 9))):
        blocks, state = [torch.randn(2, 8, length) for length in lengths], layer.init_state(2)
        for block, found in zip(blocks, run_in_onnx(layer, blocks, tmp_path), strict=True):
            expected, state = layer.step(block, state)
            assert found.shape[-1] == -(-block.shape[-1] // 3)
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_every_layer_runs_in_every_opset(opset: int, tmp_path: Path) -> None:
    for make in LAYERS.values():
        torch.manual_seed(0)
        layer, block = make().requires_grad_(False), torch.randn(2, 8, 12)
        expected = layer.step(block, layer.init_state(2))[0]
        np.testing.assert_allclose(run_in_onnx(layer, [block], tmp_path, opset)[0], expected, rtol=1e-4, atol=1e-5)
        onnx.checker.check_model(str(tmp_path / "layer.onnx"))


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


def test_a_stft_steps_as_in_torch(tmp_path: Path) -> None:
    layer = Stft(12, hop_length=4)
    blocks = [torch.randn(2, 1, length) for length in (4, 16, 8)]
    state = layer.init_state(2)
    for block, found in zip(blocks, run_in_onnx(layer, blocks, tmp_path), strict=True):
        expected, state = layer.step(block, state)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("n_fft", [12, 10, 4])
def test_mel_bands_are_as_in_torch(n_fft: int, tmp_path: Path) -> None:
    layer = LogMel(16000, n_fft=n_fft, hop_length=4, n_mels=8, top=8000)
    blocks = [torch.randn(2, 1, length) for length in (4, 16, 8)]
    for block, found in zip(blocks, run_in_onnx(layer, blocks, tmp_path), strict=True):
        np.testing.assert_allclose(found, layer(block).numpy(), rtol=1e-4, atol=1e-4)


def test_windows_of_broken_hops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="InverseStft: windows of 6 samples are not whole hops of 4"):
        run_in_onnx(InverseStft(6, hop_length=4), [torch.zeros(1, 8, 1)], tmp_path)


def test_blocks_of_one_shape_share_a_state(tmp_path: Path) -> None:
    make_folder(tmp_path, BOTTLENECKS["vq"])
    inputs = [x.name for x in onnx.load(tmp_path / "encoder.onnx", load_external_data=False).graph.input]
    assert inputs == ["audio", "state_0", "state_1", "state_2"]  # the STFT's, the first conv's, both blocks'


def test_every_form_is_tested() -> None:
    tested = {type(module) for make in LAYERS.values() for module in make().modules() if isinstance(module, Layer)}
    in_families = {Fusion, GroupTimeNorm, LeakyRelu, MirrorConv, Noise, Snake, Tanh}  # tests/test_emit_snake.py
    in_systems = {EscDecoder, EscEncoder}  # tests/test_emit_systems.py
    assert tested | {LogMel, Stft} | in_families | in_systems == set(EMITTERS)


def kinds(base: type[Any]) -> set[type[Any]]:
    """All layers of the package below a base class."""
    below = {base}.union(*(kinds(kind) for kind in base.__subclasses__()))
    return {kind for kind in below if kind.__module__.startswith("codec.") and not inspect.isabstract(kind)}


def test_every_layer_has_a_form() -> None:
    assert kinds(Layer) == set(EMITTERS)


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


class Negative(Stateless):
    """A layer that nobody has written in ONNX."""

    def apply_to(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def test_nodes_that_no_output_needs_are_left_out() -> None:
    graph = Builder({})
    x = graph.input("x", ["n"])
    graph.op("Neg", x)
    graph.output("y", graph.op("Abs", x), ["n"])
    assert [node.op_type for node in graph.model("abs", {}).graph.node] == ["Abs", "Identity"]


def test_a_layer_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Negative: this layer has no ONNX form yet; use the torch engine"):
        run_in_onnx(Chain([Elu(), Negative()]), [torch.zeros(1, 8, 1)], tmp_path)


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
