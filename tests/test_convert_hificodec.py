"""HiFi-Codec's checkpoint against the same computation, written anew from its description, under its own key names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import weight_norm

import codec
from codec.convert.hificodec import convert_hificodec
from codec.errors import ModelError
from codec.network import Network

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
RATES, KERNELS, WIDTH = (5, 3, 2), (11, 7, 4), 64  # decoder order; a hop of 30
BLOCKS, DILATIONS = (3, 7, 11), (1, 3, 5)


class Block(nn.Module):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        convs = [
            [nn.Conv1d(dim, dim, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in row]
            for row in (DILATIONS, (1, 1, 1))
        ]
        self.convs1, self.convs2 = (nn.ModuleList(map(weight_norm, row)) for row in convs)

    def forward(self, x: Tensor) -> Tensor:
        for one, two in zip(self.convs1, self.convs2, strict=True):
            x = x + two(F.leaky_relu(one(F.leaky_relu(x, 0.1)), 0.1))
        return x


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim = WIDTH >> len(RATES)
        self.conv_pre = weight_norm(nn.Conv1d(1, dim, 7, padding=3))
        ups, blocks, norms = [], [], []
        for rate, kernel in zip(RATES[::-1], KERNELS[::-1], strict=True):
            ups.append(weight_norm(nn.Conv1d(dim, 2 * dim, kernel, rate, padding=(kernel - rate) // 2)))
            dim *= 2
            for size in BLOCKS[::-1]:
                blocks.append(Block(dim, size))
                norms.append(nn.GroupNorm(dim // 16, dim, eps=1e-6))
        self.ups, self.resblocks, self.normalize = nn.ModuleList(ups), nn.ModuleList(blocks), nn.ModuleList(norms)
        self.conv_post = nn.Conv1d(dim, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            total = torch.zeros_like(x)
            for n in range(3 * i, 3 * i + 3):
                total = self.normalize[n](total + self.resblocks[n](x))
            x = total / 3
        y: Tensor = self.conv_post(F.leaky_relu(x))
        return y


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim = WIDTH
        self.conv_pre = weight_norm(nn.Conv1d(WIDTH, dim, 7, padding=3))
        ups, blocks = [], []
        for rate, kernel in zip(RATES, KERNELS, strict=True):
            ups.append(weight_norm(nn.ConvTranspose1d(dim, dim // 2, kernel, rate, padding=(kernel - rate) // 2)))
            dim //= 2
            blocks += [Block(dim, size) for size in BLOCKS]
        self.ups, self.resblocks = nn.ModuleList(ups), nn.ModuleList(blocks)
        self.conv_post = weight_norm(nn.Conv1d(dim, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(self.resblocks[n](x) for n in range(3 * i, 3 * i + 3)) / 3
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


class Books(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, WIDTH // 2)


class Quantizer(nn.Module):
    """Two layers of two codebooks."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer_modules = nn.ModuleList([Books(), Books()])
        self.quantizer_modules2 = nn.ModuleList([Books(), Books()])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, F) -> (B, F, 4) in the published order, and the sum of both layers."""
        left, total, codes = x, torch.zeros_like(x), []
        for layer in (self.quantizer_modules, self.quantizer_modules2):
            given = []
            for half, module in zip(left.chunk(2, 1), layer, strict=True):
                rows = half.transpose(1, 2)
                assert isinstance(module, Books)
                table = module.embedding.weight
                index = torch.cdist(rows.double(), table.double()[None]).argmin(-1)
                codes.append(index)
                given.append(table[index].transpose(1, 2))
            total, left = total + torch.cat(given, 1), left - torch.cat(given, 1)
        return torch.stack(codes, -1), total


def speech() -> Tensor:
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(audio[None, :1, 8000:15500])


def make(path: Path) -> tuple[Encoder, Generator, Quantizer]:
    torch.manual_seed(0)
    encoder, generator, quantizer = Encoder(), Generator(), Quantizer()
    generator_of = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in encoder.normalize:
            norm.weight.add_(0.2 * torch.randn(norm.weight.shape, generator=generator_of))  # type: ignore[operator, arg-type]
        latent = encoder(speech())
        for layer in (quantizer.quantizer_modules, quantizer.quantizer_modules2):
            for half, module in zip(latent.chunk(2, 1), layer, strict=True):
                rows = half[0].T[torch.randint(half.shape[-1], (64,), generator=generator_of)]
                noise = 0.5 * half[0].std(1) * torch.randn(rows.shape, generator=generator_of)
                assert isinstance(module, Books)
                module.embedding.weight.copy_(rows + noise)
            latent = latent - quantizer(latent)[1] if layer is quantizer.quantizer_modules else latent
    parts = {"encoder": encoder, "generator": generator, "quantizer": quantizer}
    torch.save({name: part.state_dict() for name, part in parts.items()}, path)
    return encoder, generator, quantizer


def test_hificodecs_file_gives_its_codes_and_its_audio(tmp_path: Path) -> None:
    path = tmp_path / "HiFi-Codec-16k-30d"
    encoder, generator, quantizer = make(path)
    converted = convert_hificodec(path)
    ours, x = Network(converted.config).eval(), speech()
    ours.load_state_dict(converted.weights)
    with torch.no_grad():
        theirs, latent = quantizer(encoder(x))
        audio = generator(latent)
        codes = ours.bottleneck.encode(ours.encoder(x))
        audio_hat = ours.decoder(ours.bottleneck.decode(codes))
    assert converted.config.sample_rate == 16000
    assert len(theirs.unique()) > 32
    assert torch.equal(codes.transpose(1, 2), theirs)
    assert audio.shape == audio_hat.shape == x.shape
    assert float((audio - audio_hat).abs().max()) < 1e-4


def test_the_normed_encoder_cannot_stream_and_the_one_without_can(tmp_path: Path) -> None:
    make(tmp_path / "g_16k")
    config = convert_hificodec(tmp_path / "g_16k").config
    assert Network(config).info("x", "MIT").lookahead is None
    plain = codec.config.replace(config, encoder=codec.config.Part("hifi", config.encoder.options | {"norm": "none"}))
    assert Network(plain).info("x", "MIT").lookahead is not None


def test_a_checkpoint_of_no_known_rate_and_one_of_discriminators_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "g_00005000")
    with pytest.raises(ModelError, match="which sample rate"):
        convert_hificodec(tmp_path / "g_00005000")
    (tmp_path / "config.json").write_text('{"sampling_rate": 24000}')
    assert convert_hificodec(tmp_path / "g_00005000").config.sample_rate == 24000
    torch.save({"mpd": {}}, tmp_path / "do_00005000")
    with pytest.raises(ModelError, match="no encoder in it"):
        convert_hificodec(tmp_path / "do_00005000")
