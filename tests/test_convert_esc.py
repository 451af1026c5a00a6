"""ESC's checkpoint against the same computation, written anew from its description, under its own key names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import codec
from codec.convert.esc import convert_esc
from codec.errors import ModelError
from codec.network import Network
from codec.train.config import read_recipe

WIDTHS, HEADS, DIMS = (6, 8, 12), (2, 2, 2), (6, 5, 4)  # fine to coarse; HEADS of the first stage and of both others
SIZE = 64
# row of the bias table for query i and key j of a window, counted along time first
AWAY = torch.tensor([[7 * (i // 4 - j // 4 + 3) + (i % 4 - j % 4 + 3) for j in range(16)] for i in range(16)])


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(0.5 * torch.randn(49, heads))
        self.register_buffer("relative_position_index", torch.zeros(16, 16, dtype=torch.int64))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)


class Block(nn.Module):
    """One query after another: each looks at the places of its window that come from the same region."""

    def __init__(self, dim: int, heads: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C)."""
        _, h, w, dim = x.shape
        high, wide = 4 * math.ceil(h / 4), 4 * math.ceil(w / 4)
        y = F.pad(self.norm1(x), (0, 0, 0, wide - w, 0, high - h))
        qkv = self.attn.qkv(y).view(1, high, wide, 3, self.attn.heads, -1)
        out = torch.zeros(1, high, wide, dim)
        for top in range(0, high, 4):
            for left in range(0, wide, 4):
                cells = [((top + a + self.shift), (left + b + self.shift)) for a in range(4) for b in range(4)]
                rows, cols = [r % high for r, _ in cells], [c % wide for _, c in cells]
                q, k, v = qkv[0, rows, cols].permute(1, 2, 0, 3)  # (heads, 16, d) each
                score = q @ k.mT / math.sqrt(q.shape[-1])
                score = score + self.attn.relative_position_bias_table[AWAY].permute(2, 0, 1)
                beyond = torch.tensor([2 * (r >= high) + (c >= wide) for r, c in cells])
                score = score - 100 * (beyond[:, None] != beyond)
                out[0, rows, cols] = self.attn.proj((score.softmax(-1) @ v).transpose(0, 1).flatten(1))
        x = x + out[:, :h, :w]
        y2: Tensor = x + self.mlp.linear_2(F.gelu(self.mlp.linear_1(self.norm2(x))))
        return y2


class Resize(nn.Module):
    def __init__(self, a: int, b: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(2 * a if kind == "down" else a)
        self.add_module(kind, nn.Linear(2 * a if kind == "down" else a, b if kind == "down" else 2 * b, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "down":
            y: Tensor = self.down(self.norm(torch.cat((x[:, ::2], x[:, 1::2]), -1)))  # type: ignore[operator]
            return y
        low, high = self.up(self.norm(x)).chunk(2, -1)  # type: ignore[operator]
        return torch.stack((low, high), 2).flatten(1, 2)


class Stage(nn.Module):
    def __init__(self, a: int, b: int, heads: int, kind: str = "") -> None:
        super().__init__()
        self.swint_blocks = nn.Sequential(Block(a, heads, 0), Block(a, heads, 2))
        if kind:
            self.subsample = Resize(a, b, kind)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.swint_blocks(x)
        return self.subsample(x) if self.kind else x


class Product(nn.Module):
    def __init__(self, dim: int, d: int) -> None:
        super().__init__()
        self.vqs = nn.ModuleList()
        for _ in range(3):
            book = nn.Module()
            book.embedding = nn.Embedding(SIZE, d)
            self.vqs.append(book)
        self.sizes = [dim // 3, dim // 3, dim - 2 * (dim // 3)]
        self.down_projs = nn.ModuleList(nn.Linear(n, d, bias=False) for n in self.sizes)
        self.up_projs = nn.ModuleList(nn.Linear(d, n, bias=False) for n in self.sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1, H, W, C) -> the same from codes, and the codes (3, W / 2)."""
        _, h, w, c = x.shape
        rows = x[0].permute(1, 2, 0).reshape(w // 2, 2 * c * h)  # two patches in time; channel after channel
        given, codes = [], []
        for part, down, book, up in zip(
            torch.split(rows, self.sizes, 1), self.down_projs, self.vqs, self.up_projs, strict=True
        ):
            table = book.embedding.weight  # type: ignore[union-attr]
            assert isinstance(table, Tensor)
            angle = F.normalize(down(part).double(), dim=-1) @ F.normalize(table.double(), dim=-1).T
            codes.append(angle.argmax(-1))
            given.append(up(table[codes[-1]]))
        back = torch.cat(given, 1).view(w, c, h).permute(2, 0, 1)[None]
        return back, torch.stack(codes)


class Esc(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.patch_embed = nn.Module()
        self.encoder.patch_embed.proj, self.encoder.patch_embed.norm = nn.Conv2d(2, a, (3, 2), (3, 2)), nn.LayerNorm(a)
        self.encoder.pre_nn = Stage(a, a, HEADS[0])
        self.encoder.blocks = nn.ModuleList([Stage(a, b, HEADS[1], "down"), Stage(b, c, HEADS[2], "down")])
        self.decoder.blocks = nn.ModuleList([Stage(c, b, HEADS[2], "up"), Stage(b, a, HEADS[1], "up")])
        self.decoder.post_nn = Stage(a, a, HEADS[0])
        self.decoder.patch_deembed = nn.Module()
        self.decoder.patch_deembed.de_proj1 = nn.Conv2d(a, 6 * a, 5, padding=2)
        self.decoder.patch_deembed.de_proj2 = nn.Conv2d(a, 2, 3, padding=1)
        widths = (16 * c * 2, 16 * c * 2, 32 * b * 2)
        self.quantizers = nn.ModuleList(Product(n, d) for n, d in zip(widths, DIMS, strict=True))

    def scales(self, audio: Tensor) -> list[Tensor]:
        spec = torch.stft(audio[:, 0], 382, 80, 320, torch.hann_window(320), center=True, return_complex=True)
        embed, x = self.encoder.patch_embed, torch.view_as_real(spec).permute(0, 3, 1, 2)
        x = embed.norm(embed.proj(x).permute(0, 2, 3, 1))  # type: ignore[union-attr, operator]
        found = [self.encoder.pre_nn(x)]  # type: ignore[operator]
        for stage in self.encoder.blocks:  # type: ignore[union-attr]
            found.append(stage(found[-1]))
        return found

    def forward(self, encoded: list[Tensor], streams: int) -> tuple[Tensor, Tensor]:
        """Scales of (1, 1, T) -> audio, codes (3 * streams, T / 320)."""
        made, codes = self.quantizers[0](encoded[-1])
        found = [codes]
        for i, stage in enumerate(self.decoder.blocks):  # type: ignore[arg-type]
            if i + 1 < streams:
                given, codes = self.quantizers[i + 1](encoded[-1 - i] - made)
                made = made + given
                found.append(codes)
            made = stage(made)
        y = self.decoder.post_nn(made).permute(0, 3, 1, 2)  # type: ignore[operator]
        y = self.decoder.patch_deembed.de_proj1(y)  # type: ignore[union-attr, operator]
        _, _, h, w = y.shape
        y = y.view(3, 2, -1, h, w).permute(2, 3, 0, 4, 1).reshape(1, -1, 3 * h, 2 * w)
        real, imag = self.decoder.patch_deembed.de_proj2(y)[0]  # type: ignore[union-attr, operator]
        return torch.istft(torch.complex(real, imag), 382, 80, 320, torch.hann_window(320)), torch.cat(found)


def speech() -> Tensor:
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(audio[None, :1, 8000 : 8000 + 320 * 9].copy())


def make(path: Path) -> Esc:
    torch.manual_seed(0)
    original = Esc().eval()
    state = original.state_dict() | {"ft.window": torch.hann_window(320), "ift.window": torch.hann_window(320)}
    torch.save({"model_state_dict": state, "epoch": 3}, path)
    return original


@torch.no_grad()
def test_a_checkpoint_gives_its_codes_and_its_audio_at_every_rate(tmp_path: Path) -> None:
    original, x = make(tmp_path / "esc.pth"), speech()
    converted = convert_esc(tmp_path / "esc.pth")
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    scales, latent = original.scales(x), ours.encoder(x)
    for streams in (1, 2, 3):
        expected, theirs = original(scales, streams)
        codes = ours.bottleneck.encode(latent, 3 * streams)
        made = ours.decoder(ours.bottleneck.decode(codes))
        assert len(theirs.unique()) > 8
        assert torch.equal(codes[0], theirs)
        assert made.shape == x.shape
        assert expected.shape[-1] == x.shape[-1] - 80
        assert expected.abs().max() > 0.01
        assert float((made[0, :, :-80] - expected).abs().max()) < 1e-4


def test_the_recipe_has_the_published_sizes_and_does_not_stream() -> None:
    with torch.device("meta"):
        info = Network(read_recipe("esc_16k").model).info("esc_16k", "MIT")
    assert sum(info.parameters.values()) == pytest.approx(8.39e6, rel=0.01)
    assert (info.prefixes, info.lookahead, info.causal) == ((3, 6, 9, 12, 15, 18), None, False)
    assert [info.bitrate_of(count) for count in info.prefixes] == [1500, 3000, 4500, 6000, 7500, 9000]


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"x": torch.zeros(1)}}, tmp_path / "esc.pth")
    with pytest.raises(ModelError, match="no ESC with window attention in it"):
        convert_esc(tmp_path / "esc.pth")
