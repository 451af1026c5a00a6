"""Checkpoints of the snake family, DAC and SNAC: their own networks and ours give the same codes and the same audio."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import codec
from codec.convert.dac import convert_dac
from codec.convert.snac import convert_snac
from codec.convert.state import Converted
from codec.errors import ModelError
from codec.export.folder import write_folder
from codec.network import Network

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
]


def speech(hop: int, seconds: float = 0.5) -> Tensor:
    """Speech (1, 1, T), T a multiple of the hop."""
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(audio[None, :1, 8000 : 8000 + int(16000 * seconds) // hop * hop])


@torch.no_grad()
def fill(model: Any, x: Tensor) -> None:
    """Activations that are not all alike, and codebooks around what real latents are projected to."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            parameter.add_(0.3 * torch.rand(parameter.shape, generator=generator))
    left = model.encoder(x)
    for level in model.quantizer.quantizers:
        seen = nn.functional.avg_pool1d(left, level.stride) if hasattr(level, "stride") else left
        small = level.in_proj(seen).transpose(1, 2)[0]
        table = level.codebook.weight
        rows = small[torch.randint(len(small), (len(table),), generator=generator)]
        table.copy_(rows + 0.5 * small.std(0) * torch.randn(table.shape, generator=generator))
        left = left - level(left)[0]


def load(converted: Converted) -> Network:
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    return ours


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A small DAC of the authors' package; of audiotools it needs a base class and two names here."""
    found = importlib.util.find_spec("dac")
    if found is None or not importlib.util.find_spec("einops"):
        pytest.skip("descript-audio-codec (pip install --no-deps) or its einops is not installed")
    tools: Any = types.ModuleType("audiotools")
    ml: Any = types.ModuleType("audiotools.ml")
    ml.BaseModel = type("BaseModel", (nn.Module,), {"INTERN": [], "EXTERN": []})
    tools.AudioSignal, tools.ml, tools.STFTParams = object, ml, lambda **sizes: sizes
    for name in [name for name in sys.modules if name.partition(".")[0] == "dac"]:
        monkeypatch.delitem(sys.modules, name)
    package = types.ModuleType("dac")  # its own __init__ wants what its command line needs
    package.__path__ = list(found.submodule_search_locations or ())
    monkeypatch.setitem(sys.modules, "dac", package)
    monkeypatch.setitem(sys.modules, "audiotools", tools)
    monkeypatch.setitem(sys.modules, "audiotools.ml", ml)
    torch.manual_seed(0)
    made = importlib.import_module("dac.model.dac").DAC(
        encoder_dim=8, encoder_rates=[2, 4, 8], decoder_dim=32, decoder_rates=[8, 4, 2], n_codebooks=4,
        codebook_size=64, codebook_dim=8, sample_rate=16000,
    )  # fmt: skip
    model: nn.Module = made.eval()
    fill(model, speech(64))
    return model


def save_dac(model: Any, path: Path) -> None:
    names = ("encoder_dim", "encoder_rates", "decoder_dim", "decoder_rates", "n_codebooks", "codebook_size")
    kwargs = {name: getattr(model, name) for name in (*names, "codebook_dim", "sample_rate")}
    torch.save({"state_dict": model.state_dict(), "metadata": {"kwargs": kwargs}}, path)


def test_the_authors_dac_gives_its_codes_and_its_audio(original: nn.Module, tmp_path: Path) -> None:
    save_dac(original, tmp_path / "weights.pth")
    ours, x = load(convert_dac(tmp_path / "weights.pth")), speech(64)
    with torch.no_grad():
        _, theirs, _, _, _ = original.encode(x)  # type: ignore[operator]
        audio = original.decode(original.quantizer.from_codes(theirs)[0])  # type: ignore[operator, union-attr]
        codes = ours.bottleneck.encode(ours.encoder(x))
        audio_hat = ours.decoder(ours.bottleneck.decode(codes))
    assert len(theirs.unique()) > 32
    assert torch.equal(codes, theirs)
    assert audio.shape == audio_hat.shape
    assert float((audio - audio_hat).abs().max()) < 1e-4


def test_the_transformers_dac_gives_its_codes_and_its_audio_up_to_where_it_ends_early(tmp_path: Path) -> None:
    """At an odd stride DAC's transposed conv loses a sample at its end, and with it what depends on it."""
    transformers = pytest.importorskip("transformers", reason="the extra interop is not installed")
    torch.manual_seed(0)
    config = transformers.DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 5], decoder_hidden_size=32, upsampling_ratios=[5, 2],
        n_codebooks=4, codebook_size=64, codebook_dim=8, hidden_size=32, sampling_rate=16000,
    )  # fmt: skip
    model = transformers.DacModel(config).eval()
    fill(model, speech(10))
    model.save_pretrained(tmp_path / "hf")
    ours, x = load(convert_dac(tmp_path / "hf")), speech(10)
    with torch.no_grad():
        theirs = model.encode(x).audio_codes
        audio = model.decode(audio_codes=theirs).audio_values[:, None]
        codes = ours.bottleneck.encode(ours.encoder(x))
        audio_hat = ours.decoder(ours.bottleneck.decode(codes))
    assert len(theirs.unique()) > 32
    assert torch.equal(codes, theirs)
    assert audio_hat.shape[-1] == x.shape[-1]
    same = audio.shape[-1] - 2 * 39 - 39 - 3  # three units reach 39 steps, at half the rate, then at the full one
    assert audio.shape[-1] < x.shape[-1]
    assert float((audio - audio_hat[..., : audio.shape[-1]])[..., :same].abs().max()) < 1e-4


def small_snac(path: Path, **changes: Any) -> nn.Module:
    snac = pytest.importorskip("snac", reason="the snac package (extra bench) is not installed")
    config = {
        "sampling_rate": 24000, "encoder_dim": 8, "encoder_rates": [2, 4, 5], "decoder_dim": 32,
        "decoder_rates": [5, 4, 2], "attn_window_size": None, "codebook_size": 64, "codebook_dim": 8,
        "vq_strides": [4, 2, 1], "noise": True, "depthwise": True, **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    model: nn.Module = snac.SNAC(**config).eval()
    fill(model, model.preprocess(speech(160)))  # type: ignore[operator]
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    return model


def test_snac_gives_its_codes_and_without_its_noise_its_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_snac(tmp_path / "snac")
    ours, x = load(convert_snac(tmp_path / "snac")), speech(160)
    monkeypatch.setattr(torch, "randn", torch.zeros)
    with torch.no_grad():
        theirs = model.encode(x)  # type: ignore[operator]
        audio = model.decode(theirs)  # type: ignore[operator]
        codes = ours.bottleneck.encode(ours.encoder(x))
        audio_hat = ours.decoder(ours.bottleneck.decode(codes))
    assert ours.bottleneck.divisors == (4, 2, 1)
    for level, divisor in enumerate((4, 2, 1)):
        assert torch.equal(codes[:, level, ::divisor], theirs[level])
    assert len(theirs[2].unique()) > 32
    assert float((audio - audio_hat).abs().max()) < 1e-4


def test_snac_with_attention_gives_its_codes_and_its_audio_where_the_last_window_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at 32 and 44 kHz, one of whose strides is odd."""
    sizes = {"encoder_dim": 16, "encoder_rates": [2, 3], "decoder_dim": 64, "decoder_rates": [3, 2]}
    model = small_snac(tmp_path / "snac", **sizes, attn_window_size=8)
    converted = convert_snac(tmp_path / "snac")
    ours, x = load(converted), speech(48, 0.1)
    monkeypatch.setattr(torch, "randn", torch.zeros)
    with torch.no_grad():
        theirs = model.encode(x)  # type: ignore[operator]
        audio = model.decode(theirs)  # type: ignore[operator]
        codes = ours.bottleneck.encode(ours.encoder(x))
        audio_hat = ours.decoder(ours.bottleneck.decode(codes))
    for level, divisor in enumerate((4, 2, 1)):
        assert torch.equal(codes[:, level, ::divisor], theirs[level])
    assert len(theirs[2].unique()) > 32
    assert float((audio - audio_hat).abs().max()) < 1e-4
    assert ours.info("snac", "").latency == float("inf")


def test_codes_of_several_frames_go_through_a_codes_file_at_their_own_rate(tmp_path: Path) -> None:
    small_snac(tmp_path / "snac")
    converted = convert_snac(tmp_path / "snac")
    write_folder(tmp_path / "model", "x", converted.config, converted.weights, licence="MIT", half=False)
    model = codec.load(tmp_path / "model")
    audio = speech(40, 0.31)[0, 0].numpy()
    codes = model.encode(audio)
    codes.save(tmp_path / "x.codes")
    again = codec.open(tmp_path / "x.codes")
    assert (again.data == codes.data).all()
    assert model.decode(again).shape == audio.shape
    assert model.info.bitrate == pytest.approx(24000 / 40 * 6 * (1 / 4 + 1 / 2 + 1))
    with pytest.raises(ValueError, match="whole"):
        model.stream_encoder()


def test_what_is_no_dac_and_no_snac_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="no metadata with kwargs"):
        convert_dac(tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"config\.json: missing"):
        convert_snac(tmp_path / "x.pth")
