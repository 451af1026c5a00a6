"""SpeechTokenizer's checkpoints: its network (convolutions of the package encodec, its LSTM as described) and ours."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import codec
from codec.convert.build import convert_checkpoint
from codec.errors import ModelError
from codec.network import Network
from codec.train.config import read_recipe

# The published packages' weight norm is of the old style.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
SETTINGS = {
    "sample_rate": 16000, "strides": [4, 3, 2, 2], "n_filters": 4, "dimension": 12, "n_q": 4, "codebook_size": 32,
    "lstm_layers": 2, "bidirectional": True, "dilation_base": 2, "residual_kernel_size": 3, "n_residual_layers": 1,
    "activation": "ELU", "semantic_dimension": 6,
}  # fmt: skip


class BothWays(nn.Module):
    """Two layers of LSTM in both directions over (B, D, F), the input twice beside each other added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, 2, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 * D, F)."""
        rows = x.permute(2, 0, 1)
        y: Tensor = self.lstm(rows)[0] + rows.repeat(1, 1, 2)
        return y.permute(1, 2, 0)


def speech() -> Tensor:
    """A clip's beginning (1, 1, T), whole frames of 48."""
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(np.ascontiguousarray(audio[:1, 4800 : 4800 + 48 * 200]))[None]


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small SpeechTokenizer whose codebooks hold rows of what they see: fresh ones are all zero."""
    if not all(importlib.util.find_spec(name) for name in ("encodec", "einops")):
        pytest.skip("the encodec package (extra dev) or its einops is not installed")
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    model, conv = importlib.import_module("encodec.model"), importlib.import_module("encodec.modules.conv")
    torch.manual_seed(0)
    sizes = {"n_filters": 4, "ratios": [4, 3, 2, 2], "dimension": 12, "norm": "weight_norm", "causal": False}
    whole: Any = nn.Module()
    whole.encoder, whole.decoder = model.m.SEANetEncoder(**sizes), model.m.SEANetDecoder(**sizes)
    whole.encoder.model[13] = BothWays(64)
    whole.encoder.model[15] = conv.SConv1d(128, 12, 7, norm="weight_norm", causal=False)
    whole.quantizer = model.qt.ResidualVectorQuantizer(dimension=12, n_q=4, bins=32)
    whole.transform = nn.Linear(12, 6)
    with torch.no_grad():
        # An untrained latent hardly moves about its mean, where distances in float32 hardly differ.
        whole.encoder.model[15].conv.conv.bias.sub_(whole.encoder(speech())[0].mean(1))
        left = whole.encoder(speech())[0].T
        for layer in whole.quantizer.vq.layers:
            layer._codebook.inited.fill_(1)
            table = layer._codebook.embed
            rows = left[torch.randperm(len(left))[: len(table)]]
            table.copy_(rows + 0.3 * left.std(0) * torch.randn_like(rows))  # else two rows may be one
            left = left - table[torch.cdist(left, table).argmin(1)]
    return whole.eval()


def save(original: Any, path: Path, **changes: object) -> Path:
    (path / "config.json").write_text(json.dumps(SETTINGS | changes))
    torch.save(original.state_dict(), path / "SpeechTokenizer.pt")
    return path / "SpeechTokenizer.pt"


@torch.no_grad()
def test_a_checkpoint_gives_the_same_codes_and_audio(original: Any, tmp_path: Path) -> None:
    converted = convert_checkpoint(save(original, tmp_path), "speechtokenizer")
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    for n_samples in (48 * 200, 48 * 200 - 47, 48 * 200 - 13):
        audio = speech()[..., :n_samples]
        theirs = original.quantizer.vq.encode(original.encoder(audio), n_q=4)[:, 0]
        expected = original.decoder(original.quantizer.vq.decode(theirs[:, None]))
        codes = ours.bottleneck.encode(ours.encoder(audio))
        assert all(len(row.unique()) > 8 for row in theirs)
        assert torch.equal(codes[0], theirs)
        made = ours.decoder(ours.bottleneck.decode(codes))
        assert expected.abs().max() > 0.01
        assert (made - expected).abs().max() < 1e-4


def test_the_recipe_has_the_published_sizes() -> None:
    """103.67 M parameters with the projection to the teacher's features; codebooks apart, as averages learn them."""
    with torch.device("meta"):
        network = Network(read_recipe("speechtokenizer_16k").model)
    assert sum(p.numel() for p in network.parameters()) + 1024 * 768 + 768 == pytest.approx(103.67e6, rel=0.01)
    assert network.encoder.lookahead is None


def test_others_settings_are_refused(original: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'bidirectional': False"):
        convert_checkpoint(save(original, tmp_path, bidirectional=False), "speechtokenizer")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="is it of a SpeechTokenizer"):
        convert_checkpoint(tmp_path / "SpeechTokenizer.pt", "speechtokenizer")
