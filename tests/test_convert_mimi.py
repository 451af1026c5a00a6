"""Mimi's folders: transformers' class and our network give the same codes and the same audio."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import codec
from codec.convert.build import convert_checkpoint
from codec.convert.run import convert
from codec.errors import ModelError
from codec.export.folder import write_folder
from codec.golden import codes_agreement, difference_db
from codec.network import Network
from codec.train.config import read_recipe

SIZES = {
    "num_filters": 4, "upsampling_ratios": [4, 3, 2, 2], "hidden_size": 16, "codebook_size": 32, "num_quantizers": 5,
    "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_hidden_layers": 2, "intermediate_size": 24,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 7, "upsample_groups": 16,
    "sampling_rate": 24000, "frame_rate": 250.0,
}  # fmt: skip


def speech() -> Tensor:
    """A clip's beginning (1, 1, T): 120 whole frames of 96 samples, far more than attention sees at once."""
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(np.ascontiguousarray(audio[:1, 4800 : 4800 + 96 * 120]))[None]


@torch.no_grad()
def fill(quantizer: Any, latent: Tensor) -> None:
    """Codewords are rows of what each codebook sees of real latents (1, D, F); sums are not the codewords."""
    generator = torch.Generator().manual_seed(0)
    for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        left = part.input_proj(latent)[0].T
        for layer in part.layers:
            book = layer.codebook
            entries = left[torch.randperm(len(left), generator=generator)[: len(book.embed_sum)]]
            noise = torch.randn(entries.shape, generator=generator)
            entries = entries + 0.3 * left.std(0) * noise  # else two rows may be one
            book.cluster_usage.copy_(0.5 + torch.rand(book.cluster_usage.shape, generator=generator))
            book.embed_sum.copy_(entries * book.cluster_usage[:, None])
            left = left - entries[torch.cdist(left, entries).argmin(1)]


@pytest.fixture(scope="module")
def original() -> Any:
    """A small MimiModel as after training: no scale is small, no codebook is zero."""
    transformers = pytest.importorskip("transformers", reason="the extra interop is not installed")
    torch.manual_seed(0)
    model = transformers.MimiModel(transformers.MimiConfig(**SIZES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "scale" in name:
                parameter.fill_(0.4)
        latent = model.encoder(speech()).latents
    fill(model.quantizer, latent)
    return model


@pytest.fixture(scope="module")
def folder(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mimi")
    original.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    converted = convert_checkpoint(folder, "mimi")
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    return ours


@torch.no_grad()
def test_a_transformers_folder_gives_the_same_codes_and_audio(original: Any, network: Network) -> None:
    audio = speech()
    theirs = original.encode(audio).audio_codes
    codes = network.bottleneck.encode(network.encoder(audio))
    assert all(len(row.unique()) > 8 for row in theirs[0])
    assert torch.equal(codes, theirs)
    for count in (1, 3, 5):
        expected = original.decode(theirs[:, :count]).audio_values
        made = network.decoder(network.bottleneck.decode(codes[:, :count]))
        assert expected.abs().max() > 0.01
        assert (made - expected).abs().max() < 1e-4


@torch.no_grad()
def check_streams(original: Any, model: codec.Model, n_samples: int, mode: str) -> None:
    """Codes and audio of streams: equal for any chunking, and transformers' own of the whole signal."""
    audio, n_frames = speech()[..., :n_samples], -(-n_samples // 96)
    theirs = original.encode(audio).audio_codes
    expected = original.decode(theirs).audio_values[0, 0].numpy()
    generator = np.random.default_rng(n_samples)
    encoder, decoder = model.stream_encoder(mode=mode), model.stream_decoder(mode=mode)
    chunks = np.split(audio[0, 0].numpy(), np.sort(generator.integers(0, n_samples + 1, 9)))
    found = np.concatenate([*(encoder.feed(chunk) for chunk in chunks), encoder.flush()], 1)
    assert np.array_equal(found, model.encode(audio[0, 0].numpy(), mode=mode).data)
    assert codes_agreement(theirs[0].numpy(), found) >= 0.999
    pieces = np.split(theirs[0].numpy(), np.sort(generator.integers(0, n_frames + 1, 9)), 1)
    heard = np.concatenate([*(decoder.feed(codes) for codes in pieces), decoder.flush()])
    assert np.array_equal(heard, model.decode(model.codes(theirs[0].numpy(), mode=mode)))
    assert difference_db(expected, heard) >= 60


def test_streams_give_the_originals_codes_and_audio_from_the_first_frame_on(
    original: Any, folder: Path, tmp_path: Path
) -> None:
    """Its last stride lets the first step stand before the signal: no frame has to wait for another."""
    converted = convert_checkpoint(folder, "mimi")
    write_folder(tmp_path / "small", "small", converted.config, converted.weights, licence="", half=False)
    model = codec.load(tmp_path / "small")
    assert (model.info.encoder_start, model.info.decoder_start, model.info.latency) == (1, 1, 96 / 24000)
    for n_frames, mode in ((1, "block"), (20, "frame"), (70, "block")):
        check_streams(original, model, 96 * n_frames, mode)


def test_a_last_frame_that_is_not_whole_is_the_originals_too(original: Any, folder: Path, tmp_path: Path) -> None:
    """Zeros fill what each strided convolution gets, the last step what the last one gets: not zeros in the audio."""
    converted = convert_checkpoint(folder, "mimi")
    write_folder(tmp_path / "small", "small", converted.config, converted.weights, licence="", half=False)
    model = codec.load(tmp_path / "small")
    assert model.info.ragged
    for i, rest in enumerate((1, 60, 95)):
        check_streams(original, model, 96 * 3 * i + rest, ("frame", "block")[i % 2])


@torch.no_grad()
@pytest.mark.parametrize("at", [0, 5, 40])
def test_the_latency_is_a_frame_as_measured_by_an_impulse(network: Network, at: int) -> None:
    """The first sample behind a frame changes none of its latents; the frame's last sample does."""
    audio = speech()[..., : 96 * 60]
    before = network.encoder(audio)[..., at]
    for place, changes in ((96 * (at + 1), False), (96 * (at + 1) - 1, True)):
        hit = audio.clone()
        hit[..., place] += 0.5
        assert torch.equal(network.encoder(hit)[..., at], before) != changes


@pytest.mark.slow  # the forms alone are in test_emit
def test_convert_writes_a_folder_with_graphs_that_agree(original: Any, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    lines: list[str] = []
    written = convert(folder, tmp_path / "small", "mimi", lines.append)
    assert written.has_graphs
    share = re.search(r"codes agree on ([\d.]+)%", lines[-1])
    assert share is not None
    assert float(share[1]) >= 99.9
    model = codec.load(written.path)
    assert model.engine.name == "onnx"
    for n_samples in (1, 95, 97, 5000, 96 * 120 - 48, 96 * 120):
        check_streams(original, model, n_samples, "frame")


def test_the_recipe_has_the_published_sizes() -> None:
    """79.3 M parameters, codebooks apart: they are learnt by averages."""
    with torch.device("meta"):
        network = Network(read_recipe("mimi_24k").model)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(79.3e6, rel=0.01)
    info = network.info("mimi_24k", "")
    assert (info.frame_rate, info.codebooks, info.bitrate, info.latency) == (12.5, 8, 1100.0, 0.08)


def test_folders_of_other_models_and_other_layers_are_refused(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for change, message in (({"model_type": "dac"}, "not of a mimi"), ({"compress": 4}, "compress is 4")):
        (tmp_path / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(ModelError, match=message):
            convert_checkpoint(tmp_path, "mimi")
