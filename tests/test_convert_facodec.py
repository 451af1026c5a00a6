"""FACodec's checkpoint against the same computation, written anew from its description, under its own key names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import weight_norm

import codec
from codec.convert.facodec import convert_facodec
from codec.errors import ModelError
from codec.network import Network
from codec.nn.aliasfree import AliasFreeSnake
from codec.nn.speaker import SpeakerEncoderConfig, speaker_encoder
from codec.train.config import read_recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
STRIDES, FILTERS, DIM, WIDTH, SIZE = (2, 5), 3, 8, 8, 32  # a hop of 10; DIM: of features and of the vector
COUNTS = (1, 2, 3)


def taps() -> Tensor:
    """A Kaiser-windowed sinc of 12 taps that cuts at a quarter of the double rate."""
    attenuation = 2.285 * 5 * math.pi * 1.2 + 7.95
    assert attenuation > 50
    h = np.kaiser(12, 0.1102 * (attenuation - 8.7)) * np.sinc(0.5 * (np.arange(12) - 5.5))
    return torch.from_numpy(h / h.sum()).float()


class Activation(nn.Module):
    """Zeros between the samples, low pass, snake with two parameters, low pass, every other sample."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.act = nn.Module()
        self.act.alpha, self.act.beta = nn.Parameter(0.3 * torch.randn(dim)), nn.Parameter(0.3 * torch.randn(dim))
        self.upsample, self.downsample = nn.Module(), nn.Module()
        self.downsample.lowpass = nn.Module()
        self.upsample.register_buffer("filter", taps()[None, None])
        self.downsample.lowpass.register_buffer("filter", taps()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        dim, n = x.shape[1:]
        held = F.pad(x, (6, 6), mode="replicate")
        stuffed = torch.stack((held, torch.zeros_like(held)), -1).flatten(2)
        kernel = taps().flip(0).expand(dim, 1, 12)
        y = 2 * F.conv1d(stuffed, kernel, groups=dim)[..., 6 : 6 + 2 * n]
        alpha, beta = self.act.alpha, self.act.beta
        assert isinstance(alpha, Tensor)
        assert isinstance(beta, Tensor)
        y = y + torch.sin(y * alpha.exp()[:, None]) ** 2 / (beta.exp()[:, None] + 1e-9)
        smooth = F.conv1d(F.pad(y, (5, 6), mode="replicate"), taps().expand(dim, 1, 12), groups=dim)
        return smooth[..., ::2]


class Seq(nn.Module):
    """A sequence under the name `block`."""

    def __init__(self, *parts: nn.Module, add: bool = False) -> None:
        super().__init__()
        self.block, self.add = nn.Sequential(*parts), add

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.add else y


def conv(a: int, b: int, k: int, **options: Any) -> nn.Module:
    return weight_norm(nn.Conv1d(a, b, k, **options))


def unit(dim: int, d: int) -> Seq:
    wide = conv(dim, dim, 7, dilation=d, padding=3 * d)
    return Seq(Activation(dim), wide, Activation(dim), conv(dim, dim, 1), add=True)


def make_encoder() -> Seq:
    dim, parts = FILTERS, [conv(1, FILTERS, 7, padding=3)]
    for s in STRIDES:
        down = conv(dim, 2 * dim, 2 * s, stride=s, padding=(s + 1) // 2)
        parts.append(Seq(*[unit(dim, d) for d in (1, 3, 9)], Activation(dim), down))
        dim *= 2
    return Seq(*parts, Activation(dim), conv(dim, DIM, 3, padding=1))


def make_model() -> nn.Sequential:
    dim, parts = WIDTH, [conv(DIM, WIDTH, 7, padding=3)]
    for s in STRIDES[::-1]:
        up = weight_norm(nn.ConvTranspose1d(dim, dim // 2, 2 * s, s, padding=(s + 1) // 2, output_padding=s % 2))
        parts.append(Seq(Activation(dim), up, *[unit(dim // 2, d) for d in (1, 3, 9)]))
        dim //= 2
    return nn.Sequential(*parts, Activation(dim), conv(dim, 1, 7, padding=3), nn.Tanh())


class Book(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj, self.out_proj = weight_norm(nn.Linear(DIM, 4)), weight_norm(nn.Linear(4, DIM))
        self._codebook = nn.Embedding(SIZE, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> the same from codes, by angle, and the codes."""
        small = F.normalize(self.in_proj(x).double(), dim=-1)
        codes = (small @ F.normalize(self._codebook.weight.double(), dim=-1).T).argmax(-1)
        return self.out_proj(self._codebook(codes)), codes


class Vq(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Book() for _ in range(count))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        total, found = torch.zeros_like(x), []
        for layer in self.layers:
            given, codes = layer(x - total)
            total = total + given
            found.append(codes)
        return total, found


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.self_attn = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.ffn = nn.Module()
        self.ffn.ffn_1, self.ffn.ffn_2 = nn.Conv1d(DIM, 24, 5, padding=2), nn.Linear(24, DIM)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(self.ln_1(x), self.self_attn.in_proj_weight, self.self_attn.in_proj_bias)
        q, k, v = (y.view(*y.shape[:2], 4, -1).transpose(1, 2) for y in qkv.chunk(3, -1))
        weights = (q @ k.mT / math.sqrt(DIM // 4)).softmax(-1)
        x = x + self.self_attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        one, two = self.ffn.ffn_1, self.ffn.ffn_2
        assert isinstance(one, nn.Conv1d)
        assert isinstance(two, nn.Linear)
        y: Tensor = x + two(one(self.ln_2(x).mT).relu().mT)
        return y


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quantizer = nn.ModuleList(Vq(n) for n in COUNTS)
        self.model = make_model()
        self.timbre_encoder = nn.Module()
        self.timbre_encoder.layers = nn.ModuleList([Block(), Block()])
        self.timbre_encoder.last_ln = nn.LayerNorm(DIM)
        self.timbre_linear = nn.Linear(DIM, 2 * DIM)
        self.f0_predictor = nn.Linear(DIM, 1)

    def code(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D, T) -> z (B, D, T), codes (B, 6, T), speaker vector (B, D)."""
        rows = x.mT
        prosody, a = self.quantizer[0](rows)
        content, b = self.quantizer[1](rows)
        rest, c = self.quantizer[2](rows - prosody - content)
        y = rows + torch.tensor([0.0, 1.0]).repeat(DIM // 2)  # sine and cosine of place 0
        layers, norm = self.timbre_encoder.layers, self.timbre_encoder.last_ln
        assert isinstance(layers, nn.ModuleList)
        assert isinstance(norm, nn.LayerNorm)
        for layer in layers:
            y = layer(y)
        return (prosody + content + rest).mT, torch.stack([*a, *b, *c], 1), norm(y).mean(1)

    def forward(self, z: Tensor, speaker: Tensor) -> Tensor:
        gamma, beta = self.timbre_linear(speaker)[:, None].chunk(2, -1)
        y: Tensor = self.model((F.layer_norm(z.mT, (DIM,)) * gamma + beta).mT)
        return y


def speech() -> Tensor:
    audio, _ = codec.read_audio(Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac")
    return torch.from_numpy(audio[None, :1, 8000:11000].copy())


def make(folder: Path) -> tuple[Seq, Decoder]:
    torch.manual_seed(0)
    encoder, decoder = make_encoder().eval(), Decoder().eval()
    with torch.no_grad():  # an untrained latent hardly moves about its mean, and would have one code
        encoder.block[-1].bias.sub_(encoder(speech())[0].mean(1))  # type: ignore[operator]
        for name, x in decoder.named_parameters():
            if "proj.bias" in name:
                x.zero_()
    torch.save(encoder.state_dict(), folder / "ns3_facodec_encoder.bin")
    torch.save(decoder.state_dict(), folder / "ns3_facodec_decoder.bin")
    return encoder, decoder


@torch.no_grad()
def test_a_checkpoint_gives_its_codes_its_speaker_vector_and_its_audio(tmp_path: Path) -> None:
    encoder, decoder = make(tmp_path)
    converted = convert_facodec(tmp_path)
    ours, x = Network(converted.config).eval(), speech()
    ours.load_state_dict(converted.weights)
    z, theirs, speaker = decoder.code(encoder(x))
    expected = decoder(z, speaker)
    latent, state = ours.encoder.step(x, ours.encoder.init_state(1))
    codes = ours.bottleneck.encode(latent)
    assert all(len(row.unique()) > 4 for row in theirs[0])
    assert torch.equal(codes, theirs)
    assert float((state[-1] - speaker).abs().max()) < 1e-4
    made, _ = ours.decode_step(codes, (state[-1], *ours.decoder.init_state(1)[1:]))
    assert made.shape == expected.shape == x.shape
    assert expected.abs().max() > 0.01
    assert float((made - expected).abs().max()) < 1e-4
    neutral, _ = ours.decode_step(codes, ours.decoder.init_state(1))
    assert float((neutral - expected).abs().max()) > 1e-3  # the vector is heard


@torch.no_grad()
def test_the_activation_is_exact_where_a_window_is_as_wide_as_it_says() -> None:
    layer, x = AliasFreeSnake(3), torch.randn(1, 3, 60)
    left, right = layer.receptive_field - 1, layer.lookahead
    assert right is not None
    part = layer(x[..., 20 - left : 40 + right])[..., left : left + 20]
    assert torch.allclose(part, layer(x)[..., 20:40], atol=1e-6)
    narrow = layer(x[..., 20 - left + 1 : 40 + right])[..., left - 1 : left + 19]
    assert not torch.allclose(narrow, layer(x)[..., 20:40], atol=1e-6)


@torch.no_grad()
def test_frames_have_places_unless_the_published_weights_are_wanted() -> None:
    sizes = {"n_filters": 2, "strides": (2,), "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    vectors = []
    for positions in ("frame", "none"):
        torch.manual_seed(0)
        config = SpeakerEncoderConfig(**sizes, positions=positions)  # type: ignore[arg-type]
        encoder = speaker_encoder(config, 16, hop_length=2).eval()
        vectors.append(
            encoder.step(torch.randn(1, 1, 40, generator=torch.Generator().manual_seed(1)), encoder.init_state(1))[1][
                -1
            ]
        )
    assert float((vectors[0] - vectors[1]).abs().max()) > 1e-3


def test_the_recipe_has_the_published_rates_and_does_not_stream() -> None:
    with torch.device("meta"):
        info = Network(read_recipe("facodec_16k").model).info("facodec_16k", "MIT")
    assert (info.frame_rate, info.bitrate, info.codebook_sizes) == (80.0, 4800.0, (1024,) * 6)
    assert (info.prefixes, info.lookahead) == ((3, 4, 5, 6), None)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "ns3_facodec_decoder.bin")
    with pytest.raises(ModelError, match="no FACodec of the first version"):
        convert_facodec(tmp_path)
    (tmp_path / "ns3_facodec_decoder.bin").unlink()
    with pytest.raises(ModelError, match="no such file"):
        convert_facodec(tmp_path)
