"""Language-Codec's checkpoints: its parts (of the packages encodec and vocos, its quantizer as described) and ours."""

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
from codec.train.config import read_recipe

# The published packages' weight norm is of the old style.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
DIM, SIZE, THIRDS = 20, 32, ((0, 6), (6, 13), (13, 20))  # as 128 is cut at 42 and 85


def quantize_as_described(latent: Tensor, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Codes (Q, F) and sum (D, F) of (D, F): three tables see a third each, the others in turn what is left over."""

    def distances(x: Tensor, table: Tensor) -> Tensor:
        return ((x[:, :, None] - table.T[:, None]) ** 2).sum(0)

    codes, total = [], torch.zeros_like(latent)
    for table, (begin, end) in zip(tables, THIRDS, strict=False):
        masked = torch.zeros_like(latent)
        masked[begin:end] = latent[begin:end]
        codes.append(distances(masked, table).argmin(1))
        total = total + table[codes[-1]].T
    left = latent - total
    for table in tables[3:]:
        codes.append(distances(left, table).argmin(1))
        entries = table[codes[-1]].T
        left, total = left - entries, total + entries
    return torch.stack(codes), total


@torch.no_grad()
def fill(tables: list[Tensor], latent: Tensor) -> None:
    """Entries are rows of what each codebook sees of a real latent (D, F): a fresh codebook is all zero."""
    generator = torch.Generator().manual_seed(0)
    seen = []
    for begin, end in THIRDS:
        seen.append(torch.zeros_like(latent))
        seen[-1][begin:end] = latent[begin:end]
    for i, table in enumerate(tables):
        x = seen[i] if i < 3 else latent - quantize_as_described(latent, tables[:i])[1]
        rows = x[:, torch.randperm(x.shape[1], generator=generator)[:SIZE]].T
        noise = torch.randn(rows.shape, generator=generator) * (rows != 0)  # else two rows may be one
        table.copy_(rows + 0.3 * x.std(1) * noise)


def speech() -> Tensor:
    """A clip's beginning (1, 1, T), whole frames of 48."""
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(np.ascontiguousarray(audio[:1, 4800 : 4800 + 48 * 200]))[None]


class Original(nn.Module):
    """The published network, small: its keys are those of a Lightning file."""

    def __init__(self, encodec: Any, vocos: Any, heads: Any) -> None:
        super().__init__()
        sizes = {"n_filters": 4, "ratios": [4, 3, 2, 2], "dimension": DIM, "causal": False, "norm": "weight_norm"}
        inner: Any = nn.Module()
        inner.encoder = encodec.model.m.SEANetEncoder(channels=1, **sizes)
        inner.decoder = encodec.model.m.SEANetDecoder(channels=1, **sizes)
        inner.quantizer = encodec.model.qt.ResidualVectorQuantizer(dimension=DIM, n_q=6, bins=SIZE)
        self.feature_extractor = nn.Module()
        self.feature_extractor.encodec = inner
        self.backbone: nn.Module = vocos.VocosBackbone(DIM, 16, 24, 3, adanorm_num_embeddings=4)
        self.head = heads.ISTFTHead(16, 192, 48)
        self.multiperioddisc = nn.Linear(2, 2)
        with torch.no_grad():
            for p in [*self.backbone.parameters(), *self.head.parameters()]:
                p.add_(0.1 * torch.randn_like(p))
        fill(self.tables, inner.encoder(speech())[0].detach())

    @property
    def inner(self) -> Any:
        """Encoder and quantizer."""
        return self.feature_extractor.encodec

    @property
    def tables(self) -> list[Tensor]:
        """Entries of each codebook."""
        return [layer._codebook.embed for layer in self.inner.quantizer.vq.layers]

    @torch.no_grad()
    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (Q, F) and audio (1, T), with condition 0."""
        codes, total = quantize_as_described(self.inner.encoder(audio)[0], self.tables)
        return codes, self.head(self.backbone(total[None], bandwidth_id=torch.tensor([0])))


@pytest.fixture
def original(vocos: types.SimpleNamespace) -> Original:
    torch.manual_seed(0)
    return Original(vocos.encodec, vocos.models, vocos.heads).eval()


def save(original: Original, path: Path) -> Path:
    state = original.state_dict()
    torch.save({"epoch": 3, "global_step": 7, "pytorch-lightning_version": "1.8.6", "state_dict": state}, path)
    return path


def test_a_lightning_file_gives_the_same_codes_and_audio(original: Original, tmp_path: Path) -> None:
    converted = convert_checkpoint(save(original, tmp_path / "lc.ckpt"), "languagecodec")
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    for n_samples in (48 * 200, 48 * 200 - 47, 48 * 200 - 13):
        audio = speech()[..., :n_samples]
        theirs, audio_hat = original(audio)
        with torch.no_grad():
            codes = ours.bottleneck.encode(ours.encoder(audio))
            made = ours.decoder(ours.bottleneck.decode(codes))
        assert all(len(row.unique()) > 8 for row in theirs)
        assert torch.equal(codes[0], theirs)
        assert audio_hat.abs().max() > 0.01
        assert (made[:, 0] - audio_hat).abs().max() < 1e-4


def test_the_converted_network_is_the_recipes_but_for_its_sizes(original: Original, tmp_path: Path) -> None:
    converted = convert_checkpoint(save(original, tmp_path / "lc.ckpt"), "languagecodec")
    recipe = read_recipe("languagecodec_24k").model
    for part in ("encoder", "bottleneck", "decoder"):
        assert getattr(converted.config, part).kind == getattr(recipe, part).kind
    assert converted.config.encoder.options["causal"] is recipe.encoder.options["causal"] is False
    assert converted.config.encoder.options["padding"] == recipe.encoder.options["padding"] == "mirror"


def test_keys_without_a_place_and_files_of_others_are_refused(original: Original, tmp_path: Path) -> None:
    state = original.state_dict()
    torch.save({"state_dict": state | {"backbone.extra": torch.zeros(1)}}, tmp_path / "more.ckpt")
    with pytest.raises(ModelError, match=r"backbone\.extra"):
        convert_checkpoint(tmp_path / "more.ckpt", "languagecodec")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match="not Language-Codec's state dict"):
        convert_checkpoint(tmp_path / "other.ckpt", "languagecodec")
