"""The ConvNeXt family, of DistilCodec: a log-mel spectrum into ConvNeXt blocks at the frame rate; phase is never coded.

>>> config = MelEncoderConfig(sample_rate=8000, n_fft=64, n_mels=8, depths=(1, 1), dims=(6, 12))
>>> encoder = mel_encoder(config, 12, hop_length=16)
>>> encoder(torch.randn(1, 1, 160)).shape, encoder.lookahead
(torch.Size([1, 12, 10]), 168)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.attention import Gelu, Scale
from codec.nn.layers import Chain, ChannelNorm, Layer, Linear, Residual, Stateless
from codec.nn.symmetric import SymmetricConv, WholeLayer

POWER_FLOOR, MEL_FLOOR = 1e-6, 1e-5  # below the root, and below the logarithm
STEP, BREAK = 200 / 3, 1000.0  # Hz: of a mel below the break, and where the scale becomes logarithmic
LOG_STEP = math.log(6.4) / 27  # of a mel above it


class LogMel(WholeLayer):
    """Log magnitudes of slaney mel bands, (B, 1, n * hop) -> (B, n_mels, n); around the signal stands its mirror image.

    Windows are centred on their hop. A signal no longer than the image gets zeros behind it first.

    Raises:
        ConfigError: a window that cannot stand centred on a hop.

    Source: Slaney 1998 (Auditory Toolbox), the mel scale; HiFi-GAN's mel spectrogram.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, sample_rate: int, *, n_fft: int, hop_length: int, n_mels: int, top: float) -> None:
        super().__init__()
        if n_fft < hop_length or (n_fft - hop_length) % 2:
            raise ConfigError(f"n_fft: {n_fft} cannot stand centred on hop_length {hop_length}")
        self.n_fft = n_fft
        self.down = hop_length
        self.side = (n_fft - hop_length) // 2
        self.lookahead = self.side
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("bank", mel_bank(sample_rate, n_fft=n_fft, n_mels=n_mels, top=top), persistent=False)

    @property
    def receptive_field(self) -> int:
        """The image on the left and the own hop."""
        return self.side + self.down

    def apply_to(self, x: Tensor) -> Tensor:
        """Mirror, transform, sum into bands, at least in float32."""
        frames, short = x.shape[-1] // self.down, max(0, self.side + 1 - x.shape[-1])
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = F.pad(F.pad(x, (0, short)), (self.side, self.side), mode="reflect")[:, 0]
        rows = x.unfold(-1, self.n_fft, self.down)[:, :frames] * self.window  # (B, n, n_fft)
        spec = torch.view_as_real(torch.fft.rfft(rows))
        magnitude = (spec.square().sum(-1) + POWER_FLOOR).sqrt()  # (B, n, bins)
        return (magnitude @ self.bank.T).clamp(min=MEL_FLOOR).log().transpose(1, 2)


class DropPath(Stateless):
    """While training, drops the whole branch of a row with probability `share`; nothing afterwards.

    Source: Huang et al. 2016 (stochastic depth).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def apply_to(self, x: Tensor) -> Tensor:
        """Row by row; what stays is scaled up, so that the mean does not change."""
        if not self.training or not self.share:
            return x
        stays = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.share
        return x * stays.to(x.dtype) / (1 - self.share)


@dataclass(frozen=True)
class MelEncoderConfig:
    """Options of the encoder `mel`; the defaults are DistilCodec's.

    Raises:
        ConfigError: a size that cannot be.
    """

    sample_rate: int = 24000  # Hz, the model's: where the bands lie
    n_fft: int = 1024  # samples of a window
    n_mels: int = 128
    top: float = 0.0  # Hz, of the highest band; half of the sample rate when 0
    depths: tuple[int, ...] = (3, 3, 9, 3)  # blocks of each stage
    dims: tuple[int, ...] = (256, 512, 768, 1024)  # channels of each stage; the last is latent_dim
    kernel_size: int = 7
    drop_path: float = 0.2  # of the last block while training; the earlier ones less, the first none
    bridge: bool = False  # behind it a pointwise conv and a block: the quantizer's wrapper with a factor of 1

    def __post_init__(self) -> None:
        """Check values."""
        where = type(self).__name__
        if not self.depths or len(self.depths) != len(self.dims) or min(*self.depths, *self.dims) < 1:
            raise ConfigError(f"{where}.depths: expected a number for each of dims, found {list(self.depths)}")
        if min(self.n_fft, self.n_mels, self.sample_rate) < 1 or not 0 <= self.top <= self.sample_rate / 2:
            raise ConfigError(f"{where}: n_fft, n_mels, sample_rate at least 1, top at most half of sample_rate")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"{where}.drop_path: must be at least 0 and below 1, found {self.drop_path}")


def mel_encoder(config: MelEncoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Audio (B, 1, F * hop) to latent (B, D, F).

    Raises:
        ConfigError: dims that do not end at latent_dim, or a window that does not fit the hop.

    Source: Wang et al. 2025 (DistilCodec), its code; Liu et al. 2022 (ConvNeXt).
    """
    if config.dims[-1] != latent_dim:
        raise ConfigError(f"encoder.dims: end at {config.dims[-1]} channels, latent_dim is {latent_dim}")
    sizes = {"n_fft": config.n_fft, "n_mels": config.n_mels, "hop_length": hop_length}
    mel = LogMel(config.sample_rate, **sizes, top=config.top or config.sample_rate / 2)
    count, done = max(1, sum(config.depths) - 1), 0
    before, stages = config.n_mels, list[Layer]()
    for i, (depth, dim) in enumerate(zip(config.depths, config.dims, strict=True)):
        if i == 0:
            first: list[Layer] = [SymmetricConv(before, dim, kernel_size=config.kernel_size), ChannelNorm(dim)]
        else:
            first = [ChannelNorm(before), SymmetricConv(before, dim, kernel_size=1)]
        shares = [config.drop_path * (done + j) / count for j in range(depth)]
        blocks = [convnext_block(dim, kernel_size=config.kernel_size, drop_path=share) for share in shares]
        stages.append(Chain([*first, *blocks]))
        before, done = dim, done + depth
    last = [SymmetricConv(before, before, kernel_size=1), convnext_block(before)] if config.bridge else []
    return Chain([mel, *stages, ChannelNorm(before), *last])


def convnext_block(
    dim: int, *, hidden_dim: int | None = None, kernel_size: int = 7, scale: float = 1e-6, drop_path: float = 0.0
) -> Layer:
    """A ConvNeXt block that looks ahead, (B, D, F) -> (B, D, F); inside `hidden_dim` channels, 4 * dim when None.

    Source: Liu et al. 2022 (ConvNeXt), in one dimension.
    """
    hidden = 4 * dim if hidden_dim is None else hidden_dim
    depthwise = SymmetricConv(dim, dim, kernel_size=kernel_size, groups=dim)
    expand, project = Linear(dim, hidden), Linear(hidden, dim)
    drop: list[Layer] = [DropPath(drop_path)] if drop_path else []
    return Residual(Chain([depthwise, ChannelNorm(dim), expand, Gelu(), project, Scale(dim, scale), *drop]))


def mel_bank(sample_rate: int, *, n_fft: int, n_mels: int, top: float) -> Tensor:
    """Triangular filters (n_mels, bins) from 0 Hz to `top` on the slaney scale, each of unit area in Hz."""
    last = top / STEP if top < BREAK else BREAK / STEP + math.log(top / BREAK) / LOG_STEP
    mels = torch.linspace(0, last, n_mels + 2, dtype=torch.float64)
    above = BREAK * torch.exp(LOG_STEP * (mels - BREAK / STEP))
    edges = torch.where(mels < BREAK / STEP, mels * STEP, above)
    freqs = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rise = (freqs - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - freqs) / (edges[2:] - edges[1:-1])[:, None]
    area = 2 / (edges[2:] - edges[:-2])
    return (torch.minimum(rise, fall).clamp(min=0) * area[:, None]).float()
