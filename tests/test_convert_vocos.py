"""Vocos for EnCodec's codes: the parts of the packages encodec and vocos, and ours."""

from __future__ import annotations

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

# The published packages' weight norm is of the old style.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
DIM, SIZE, HOP = 16, 32, 48


def speech(n_samples: int = HOP * 200) -> Tensor:
    """A clip's beginning (1, 1, T)."""
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(np.ascontiguousarray(audio[:1, 4800 : 4800 + n_samples]))[None]


class Original(nn.Module):
    """The published networks, small: EnCodec at 24 kHz, and Vocos behind its codes."""

    def __init__(self, encodec: Any, vocos: Any, heads: Any) -> None:
        super().__init__()
        sizes = {"n_filters": 4, "ratios": [4, 3, 2, 2], "dimension": DIM, "causal": True, "norm": "weight_norm"}
        self.encodec: Any = nn.Module()
        self.encodec.encoder = encodec.model.m.SEANetEncoder(channels=1, **sizes)
        self.encodec.decoder = encodec.model.m.SEANetDecoder(channels=1, **sizes)
        self.encodec.quantizer = encodec.model.qt.ResidualVectorQuantizer(dimension=DIM, n_q=10, bins=SIZE)
        self.backbone: Any = vocos.VocosBackbone(DIM, 16, 24, 3, adanorm_num_embeddings=4)
        self.head = heads.ISTFTHead(16, 4 * HOP, HOP)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in [*self.backbone.parameters(), *self.head.parameters()]:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
            encoder: Any = self.encodec.encoder
            left = encoder(speech())[0].T  # (F, D): a fresh codebook is all zero
            for layer in self.books:
                rows = left[torch.randperm(len(left), generator=generator)[:SIZE]]
                rows = rows + 0.3 * left.std(0) * torch.randn(rows.shape, generator=generator)
                layer._codebook.embed.copy_(rows)
                left = left - rows[torch.cdist(left, rows).argmin(1)]

    @property
    def books(self) -> Any:
        """EnCodec's codebooks."""
        return self.encodec.quantizer.vq.layers

    @property
    def tables(self) -> Tensor:
        """All codebooks, one below the other, as `vocos.feature_extractors.EncodecFeatures` keeps them."""
        return torch.cat([layer.codebook for layer in self.books])

    @torch.no_grad()
    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (8, F) and audio (1, T) at 6 kbit/s."""
        codes = self.encodec.quantizer.vq.encode(self.encodec.encoder(audio), 8)[:, 0]
        latent = nn.functional.embedding(codes + SIZE * torch.arange(8)[:, None], self.tables).sum(0).T[None]
        return codes, self.head(self.backbone(latent, bandwidth_id=torch.tensor([2])))

    def save(self, folder: Path) -> Path:
        """The two files as they are published."""
        parts = {k: x for k, x in self.state_dict().items() if not k.startswith("encodec.")}
        torch.save(parts | {"feature_extractor.codebook_weights": self.tables}, folder / "pytorch_model.bin")
        torch.save(self.encodec.state_dict(), folder / "encodec_24khz-d7cc33bc.th")
        return folder


@pytest.fixture
def original(vocos: types.SimpleNamespace) -> Original:
    torch.manual_seed(0)
    return Original(vocos.encodec, vocos.models, vocos.heads).eval()


def test_the_published_files_give_the_same_codes_and_audio(original: Original, tmp_path: Path) -> None:
    converted = convert_checkpoint(original.save(tmp_path), "vocos")
    assert converted.licence == "CC-BY-NC-4.0"
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    for n_samples in (HOP * 200, HOP * 200 - 47, HOP * 200 - 13):
        theirs, audio_hat = original(speech(n_samples))
        with torch.no_grad():
            codes = ours.bottleneck.encode(ours.encoder(speech(n_samples)))
            made = ours.decoder(ours.bottleneck.decode(codes))
        assert all(len(row.unique()) > 8 for row in theirs)
        assert torch.equal(codes[0], theirs)
        assert audio_hat.abs().max() > 0.01
        assert (made[:, 0] - audio_hat).abs().max() < 1e-4


def test_what_is_not_both_files_of_one_pair_is_refused(original: Original, tmp_path: Path) -> None:
    original.save(tmp_path)
    encoder, weights = tmp_path / "encodec_24khz-d7cc33bc.th", tmp_path / "pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    torch.save(state | {"backbone.extra": torch.zeros(1)}, weights)
    with pytest.raises(ModelError, match=r"backbone\.extra"):
        convert_checkpoint(tmp_path, "vocos")
    torch.save(state | {"feature_extractor.codebook_weights": state["feature_extractor.codebook_weights"] + 1}, weights)
    with pytest.raises(ModelError, match="codebooks are not those of encodec_24khz"):
        convert_checkpoint(tmp_path, "vocos")
    torch.save({"backbone.embed.weight": torch.zeros(1)}, weights)
    with pytest.raises(ModelError, match="not the state dict of Vocos"):
        convert_checkpoint(tmp_path, "vocos")
    encoder.unlink()
    with pytest.raises(ModelError, match=r"must lie beside the weights"):
        convert_checkpoint(tmp_path, "vocos")
