"""The ONNX form of each layer: it steps as the layer does in torch, in every opset."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from codec.engine.onnx_engine import Graph
from codec.errors import ModelError
from codec.export.builder import OPSET, OPSETS, Builder, stored_tensors
from codec.export.emit import EMITTERS, emit
from codec.export.writer import Value, Writer
from codec.nn.aliasfree import AliasFreeSnake
from codec.nn.attention import Attention, Gelu, Scale, WindowAttention, transformer_block
from codec.nn.convnext import DropPath, LogMel
from codec.nn.convs import CausalConv, CausalConvTranspose, ConvNeXt
from codec.nn.esc import EscDecoder, EscEncoder
from codec.nn.hifi import Fusion, GroupTimeNorm, LeakyRelu, Silu
from codec.nn.layers import Chain, ChannelNorm, Elu, Layer, Linear, Residual, Split, Stateless
from codec.nn.mimi import ChannelwiseUp, StillConv
from codec.nn.mirror import MirrorConv
from codec.nn.noisephase import NoisePhase
from codec.nn.recurrent import BiLstm, Gru, Lstm
from codec.nn.seanet import residual_unit
from codec.nn.snake import Noise, Snake, Tanh
from codec.nn.speaker import AddSpeaker, ApplySpeaker, SpeakerEncoderConfig
from codec.nn.spectral import CompressedSpectrum, ExpandSpectrum
from codec.nn.stft import InverseStft, Stft
from codec.nn.symmetric import SymmetricConv, SymmetricConvTranspose, SymmetricMirrorConv, TimeNorm
from codec.nn.vocos import CentredInverseStft, PolarSpectrum


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
    "head, noise for phases": lambda: Chain(
        [
            Linear(8, 10),
            ExpandSpectrum(0.3),
            NoisePhase(8, hop_length=2, bins=(1, 3), period=5),
            InverseStft(8, hop_length=2),
        ]
    ),
    "inverse stft": lambda: InverseStft(6, hop_length=2),
    "linear": lambda: Linear(8, 6),
    "lstm": lambda: Lstm(8),
    "lstm, stacked": lambda: Lstm(8, n_layers=3, skip=True),
    "noise phase": lambda: NoisePhase(6, hop_length=2, bins=(0, 2), period=3),
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
    "symmetric transposed conv, normed": lambda: SymmetricConvTranspose(8, 6, kernel_size=7, stride=3, normed=True),
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


class Negative(Stateless):
    """A layer that nobody has written in ONNX."""

    def apply_to(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def test_a_layer_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Negative: this layer has no ONNX form yet; use the torch engine"):
        run_in_onnx(Chain([Elu(), Negative()]), [torch.zeros(1, 8, 1)], tmp_path)
