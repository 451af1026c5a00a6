"""DistilCodec's checkpoint against the same computation, written anew from its description, under its own key names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import codec
from codec.convert.distilcodec import convert_distilcodec
from codec.errors import ModelError
from codec.network import Network
from codec.train.config import read_recipe

RATE, N_FFT, HOP, MELS = 8000, 64, 16, 10
DEPTHS, DIMS, DIM = (1, 2), (6, 8), 5  # DIM: of an entry
RATES, KERNELS, WIDTH = (4, 2, 2), (12, 4, 4), 16
SETTINGS = {
    "spec_transform": {
        "sampling_rate": RATE,
        "n_fft": N_FFT,
        "win_size": N_FFT,
        "hop_size": HOP,
        "fmin": 0,
        "fmax": None,
    },
    "decoder": {"upsample_rates": list(RATES)},
}


def bands() -> Tensor:
    """Slaney's bands by hand: 3 mels in 200 Hz up to 1 kHz, then 27 in a factor of 6.4; each of area 1."""
    top = 15 + 27 * math.log(RATE / 2 / 1000) / math.log(6.4)
    mels = [top * i / (MELS + 1) for i in range(MELS + 2)]
    hertz = [m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in mels]
    bank = np.zeros((MELS, N_FFT // 2 + 1))
    for i, (low, mid, high) in enumerate(zip(hertz, hertz[1:], hertz[2:], strict=False)):
        for k in range(bank.shape[1]):
            f = k * RATE / N_FFT
            if low < f < high:
                bank[i, k] = ((f - low) / (mid - low) if f <= mid else (high - f) / (high - mid)) * 2 / (high - low)
    return torch.from_numpy(bank).float()


def log_mel(x: Tensor) -> Tensor:
    """(B, 1, T) -> (B, MELS, T / HOP)."""
    side = (N_FFT - HOP) // 2
    x = F.pad(x, (side, side), mode="reflect")[:, 0]
    spec = torch.stft(x, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True)
    return (bands() @ (spec.abs() ** 2 + 1e-6).sqrt()).clamp(min=1e-5).log()


class FirstNorm(nn.Module):
    """Layer norm over channels, which come first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.mT, self.weight.shape, self.weight, self.bias, 1e-6).mT


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x).mT))))
        return x + (self.gamma * y).mT


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv1d(MELS, DIMS[0], 7, padding=3), FirstNorm(DIMS[0]))
        between = nn.Sequential(FirstNorm(DIMS[0]), nn.Conv1d(DIMS[0], DIMS[1], 1))
        self.downsample_layers = nn.ModuleList([first, between])
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(dim) for _ in range(depth)]) for dim, depth in zip(DIMS, DEPTHS, strict=True)
        )
        self.norm = FirstNorm(DIMS[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = log_mel(x)
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        y: Tensor = self.norm(x)
        return y


class Unit(nn.Module):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        rows = [
            [nn.Conv1d(dim, dim, kernel, dilation=d, padding=d * (kernel // 2)) for d in row]
            for row in ((1, 3, 5), (1, 1, 1))
        ]
        self.convs1, self.convs2 = (nn.ModuleList(map(weight_norm, row)) for row in rows)

    def forward(self, x: Tensor) -> Tensor:
        for one, two in zip(self.convs1, self.convs2, strict=True):
            x = x + two(F.silu(one(F.silu(x))))
        return x


class Fused(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Unit(dim, kernel) for kernel in (3, 7, 11))

    def forward(self, x: Tensor) -> Tensor:
        return sum((block(x) for block in self.blocks), torch.zeros_like(x)) / 3


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim = WIDTH
        self.conv_pre = weight_norm(nn.Conv1d(DIMS[-1], dim, 13, padding=6))
        ups, blocks = [], []
        for rate, kernel in zip(RATES, KERNELS, strict=True):
            ups.append(weight_norm(nn.ConvTranspose1d(dim, dim // 2, kernel, rate, padding=(kernel - rate) // 2)))
            dim //= 2
            blocks.append(Fused(dim))
        self.ups, self.resblocks = nn.ModuleList(ups), nn.ModuleList(blocks)
        self.conv_post = weight_norm(nn.Conv1d(dim, 1, 13, padding=6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for up, block in zip(self.ups, self.resblocks, strict=True):
            x = block(up(F.silu(x)))
        return torch.tanh(self.conv_post(F.silu(x)))


class Book(nn.Module):
    embed: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("embed", torch.zeros(1, size, DIM))
        self.register_buffer("initted", torch.ones(1))
        self.register_buffer("cluster_size", torch.ones(1, size))


class Layer(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._codebook = Book(size)


class Rvq(nn.Module):
    def __init__(self, dim: int, levels: int, size: int) -> None:
        super().__init__()
        self.project_in, self.project_out = nn.Linear(dim, DIM), nn.Linear(DIM, dim)
        self.layers = nn.ModuleList(Layer(size) for _ in range(levels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> the same from codes, and the codes (B, T, R)."""
        left, codes = self.project_in(x), []
        total = torch.zeros_like(left)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            table = layer._codebook.embed[0]
            codes.append(torch.cdist(left.double(), table.double()[None]).argmin(-1))
            total, left = total + table[codes[-1]], left - table[codes[-1]]
        return self.project_out(total), torch.stack(codes, -1)


class Quantizer(nn.Module):
    """Groups of residual codebooks; with `bridge` the wrapper whose factor is 1."""

    def __init__(self, groups: int, levels: int, size: int, *, bridge: bool) -> None:
        super().__init__()
        dim = DIMS[-1]
        self.grvq = nn.Module()
        self.grvq.rvqs = nn.ModuleList(Rvq(dim // groups, levels, size) for _ in range(groups))
        down, up = (
            nn.Sequential(nn.Conv1d(dim, dim, 1), Block(dim)),
            nn.Sequential(nn.ConvTranspose1d(dim, dim, 1), Block(dim)),
        )
        self.downsample, self.upsample = (nn.Sequential(*([one] if bridge else [])) for one in (down, up))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, T) -> the same from codes, and the codes (G, B, T, R)."""
        rvqs = self.grvq.rvqs
        assert isinstance(rvqs, nn.ModuleList)
        made = [rvq(part.mT) for rvq, part in zip(rvqs, self.downsample(x).chunk(len(rvqs), 1), strict=True)]
        return self.upsample(torch.cat([y for y, _ in made], -1).mT), torch.stack([codes for _, codes in made])


def speech() -> Tensor:
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(audio[None, :1, 8000 : 8000 + 16 * 300].copy())


def make(folder: Path, groups: int, levels: int, *, bridge: bool) -> tuple[Path, Encoder, Quantizer, Generator]:
    """A checkpoint whose codebooks hold what they see: fresh ones are all zero."""
    torch.manual_seed(0)
    encoder, quantizer, generator = Encoder(), Quantizer(groups, levels, 64, bridge=bridge), Generator()
    rvqs = quantizer.grvq.rvqs
    assert isinstance(rvqs, nn.ModuleList)
    with torch.no_grad():
        latent = quantizer.downsample(encoder(speech()))
        for rvq, part in zip(rvqs, latent.chunk(groups, 1), strict=True):
            assert isinstance(rvq, Rvq)
            left = rvq.project_in(part[0].T)
            for layer in rvq.layers:
                assert isinstance(layer, Layer)
                rows = left[torch.randperm(len(left))[:64]]
                layer._codebook.embed.copy_((rows + 0.3 * left.std(0) * torch.randn_like(rows))[None])
                left = left - layer._codebook.embed[0][torch.cdist(left, layer._codebook.embed[0]).argmin(-1)]
    parts = {"generator": generator, "encoder": encoder, "quantizer": quantizer}
    torch.save({name: part.state_dict() for name, part in parts.items()}, folder / "g_00000001")
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    return folder / "g_00000001", encoder, quantizer, generator


@pytest.mark.parametrize(("groups", "levels", "bridge"), [(1, 1, False), (2, 3, True)])
@torch.no_grad()
def test_a_checkpoint_gives_its_codes_and_its_audio(tmp_path: Path, groups: int, levels: int, bridge: bool) -> None:
    """The student's form of one codebook, and a teacher's of several."""
    path, encoder, quantizer, generator = make(tmp_path, groups, levels, bridge=bridge)
    converted = convert_distilcodec(path)
    ours, x = Network(converted.config).eval(), speech()
    ours.load_state_dict(converted.weights)
    latent, theirs = quantizer(encoder(x))
    expected = generator(latent)
    codes = ours.bottleneck.encode(ours.encoder(x))
    made = ours.decoder(ours.bottleneck.decode(codes))
    assert converted.config.sample_rate == RATE
    assert all(len(theirs[g, 0, :, r].unique()) > 16 for g in range(groups) for r in range(levels))
    assert torch.equal(codes[0], theirs[:, 0].permute(2, 0, 1).flatten(0, 1))  # level-major
    assert expected.shape == made.shape == x.shape
    assert expected.abs().max() > 0.01
    assert float((made - expected).abs().max()) < 1e-4


def test_the_recipe_has_the_published_sizes() -> None:
    """128 bands to 1024 channels in blocks of 3, 3, 9, 3; one codebook of 32,768 x 3584 between two matrices."""
    with torch.device("meta"):
        network = Network(read_recipe("distilcodec_24k").model)
        info = network.info("distilcodec_24k", "MIT")
    blocks = sum(
        n * (8 * d + 2 * d + 8 * d * d + 5 * d + d) for n, d in zip((3, 3, 9, 3), (256, 512, 768, 1024), strict=True)
    )
    between = sum(2 * a + a * b + b for a, b in ((256, 512), (512, 768), (768, 1024)))
    assert info.parameters["encoder"] == 128 * 256 * 7 + 3 * 256 + blocks + between + 2 * 1024
    assert info.parameters["bottleneck"] == 32768 * 3584 + 2 * 1024 * 3584 + 3584 + 1024
    assert (info.frame_rate, info.bitrate, info.codebook_sizes) == (93.75, 1406.25, (32768,))


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path, *_ = make(tmp_path, 1, 1, bridge=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"settings say rates \[8, 4, 2, 2, 2\]; put its config.json beside it"):
        convert_distilcodec(path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="its settings say no spec_transform"):
        convert_distilcodec(path)
    torch.save({"mpd": {}}, tmp_path / "do_00000001")
    with pytest.raises(ModelError, match="no encoder in it"):
        convert_distilcodec(tmp_path / "do_00000001")
