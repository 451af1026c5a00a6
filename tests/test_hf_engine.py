"""Models that run in transformers' own classes: the codes and audio of the real class, behind the same API."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import codec
from codec.errors import ModelError
from codec.hub import find_model
from codec.modelfolder import WEIGHTS, read_model


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """Not at the top: every process that collects the tests would wait for it."""
    pytest.importorskip("transformers", reason="the extra interop is not installed")


DAC = {
    "model_type": "dac", "encoder_hidden_size": 8, "downsampling_ratios": [8, 5, 4, 2], "decoder_hidden_size": 32,
    "upsampling_ratios": [8, 5, 4, 2], "hidden_size": 16,
}  # fmt: skip
SEMANTIC = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
HUBERT = {
    "model_type": "hubert", "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
BERT = {"model_type": "wav2vec2-bert", "feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 5}


def make_xcodec() -> Any:
    """Six codebooks of 64 entries, at 50 frames a second."""
    import transformers

    config = transformers.XcodecConfig(
        acoustic_model_config=DAC,
        semantic_model_config=SEMANTIC | HUBERT,
        codebook_size=64,
        target_bandwidths=[0.5, 1, 2],
    )
    model = transformers.XcodecModel(config).eval()
    for level in model.quantizer.quantizers:
        level.codebook.embed.normal_(std=0.3)  # fresh ones are all zero
    return model


def make_xcodec2() -> Any:
    """One codebook of 65,536 entries."""
    import transformers

    config = transformers.Xcodec2Config(
        semantic_model_config=SEMANTIC | BERT, hidden_size=64, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, encoder_hidden_size=4, quantization_dim=80,
        quantization_levels=[4] * 8,
    )  # fmt: skip
    model = transformers.Xcodec2Model(config).eval()
    model.quantizer.project_in.weight.data.mul_(10000)  # of the initial ones all codes are one
    return model


MAKERS: dict[str, Callable[[], Any]] = {"xcodec": make_xcodec, "xcodec2": make_xcodec2}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for downloads."""
    monkeypatch.setenv("CODEC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module", params=["xcodec", pytest.param("xcodec2", marks=pytest.mark.slow)])
def original(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAKERS[request.param]()


@pytest.fixture
def folder(original: Any, tmp_path: Path) -> Path:
    """As its class saves it."""
    original.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@torch.inference_mode()
def codes_of(original: Any, audio: Any) -> Any:
    """What the class itself makes of audio (T,), whole frames: its features are made by another way than ours."""
    further = {}
    if original.config.model_type == "xcodec2":
        import transformers

        extractor = transformers.SeamlessM4TFeatureExtractor(num_mel_bins=80, stride=2)
        half = np.zeros(160, np.float32)
        found = extractor(np.concatenate((half, audio, half)), sampling_rate=16000, return_tensors="pt")
        further["input_features"] = found["input_features"][:, : len(audio) // 320]
    return original.encode(torch.from_numpy(audio)[None, None], **further).audio_codes[0].numpy()


def test_a_saved_folder_gives_the_codes_and_the_audio_of_its_class(original: Any, folder: Path) -> None:
    audio = codec.read_audio(Path(__file__).parent / "fixtures" / "demo.flac")[0][0, 16000 : 16000 + 320 * 60]
    model = codec.load(folder)
    assert model.info.weights_hash == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    codes = model.encode(audio)
    theirs = codes_of(original, audio)
    assert len(np.unique(theirs)) > 16
    assert np.array_equal(codes.data, theirs)
    with torch.inference_mode():
        audio_hat = original.decode(torch.from_numpy(theirs)[None]).audio_values.reshape(-1).numpy()
    assert np.abs(model.decode(codes) - audio_hat).max() < 1e-6
    assert (model.info.codebooks, model.info.hop_length, model.engine.name) == (len(theirs), 320, "transformers")
    few = model.encode(audio[:16001], codebooks=1)  # not whole frames
    assert model.decode(few).shape == (16001,)
    with pytest.raises(ModelError, match="does not stream"):
        model.stream_encoder()


@pytest.mark.slow
def test_codes_find_their_model_again_when_the_folder_is_gone(folder: Path, tmp_path: Path) -> None:
    model = codec.load(folder)
    weights = (folder / "model.safetensors").read_bytes()
    assert sum(model.info.parameters.values()) * 4 < len(weights) < sum(model.info.parameters.values()) * 5
    model.encode(np.sin(np.arange(3200) / 9).astype(np.float32)).save(tmp_path / "x.codes")
    kept = codec.open(tmp_path / "x.codes")
    assert model.decode(kept).shape == (3200,)
    shutil.rmtree(folder)
    found = codec.hub.find_by_weights(kept.model.name, kept.model.weights_hash)
    assert found is not None
    assert codec.load(found).info == model.info


@pytest.mark.slow
def test_a_folder_is_converted_once_and_again_when_it_has_changed(folder: Path, home: Path) -> None:
    first = find_model(folder)
    before = (first / WEIGHTS).stat().st_mtime_ns
    assert find_model(str(folder)) == first
    assert (first / WEIGHTS).stat().st_mtime_ns == before
    settings = (folder / "config.json").read_text()
    (folder / "config.json").write_text(settings + "\n")
    assert find_model(folder) != first
    assert not list(home.glob("models/*.part"))


def test_weights_of_another_network_and_settings_that_cannot_be_are_refused(folder: Path, home: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    weights, whole = load_file(file), file.read_bytes()
    save_file({key: x for key, x in weights.items() if key != "fc1.bias" and "fc_encoder.bias" not in key}, file)
    with pytest.raises(ModelError, match="missing keys: fc"):
        codec.load(folder)
    file.write_bytes(b"\x80\x04cos\nsystem\n" * 9)
    with pytest.raises(ModelError, match="not a safetensors file"):
        codec.load(folder)
    file.write_bytes(whole)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("16000", '"loud"'))
    with pytest.raises(ModelError, match=r"config\.json: "):
        codec.load(folder)
    assert not list(home.glob("models/*"))


def test_other_engines_do_not_run_it_and_its_own_runs_no_other(folder: Path, tiny_path: Path) -> None:
    with pytest.raises(ModelError, match="does not run with the engine torch"):
        codec.load(folder, engine="torch")
    with pytest.raises(ModelError, match="does not run with the engine transformers"):
        codec.load(tiny_path, engine="transformers")
    assert read_model(find_model(folder)).config.encoder.kind == "transformers"
