"""ESC's networks: a complex spectrum in patches, through stages of window attention; and back.

The encoder's latent holds the features of every scale that the bottleneck `cross_scale` codes, coarse to fine; the
decoder's is the finest scale alone, which that bottleneck's own stages make. Both see the whole signal.

>>> config = EscEncoderConfig(widths=(4, 6), n_heads=(2,), n_blocks=1)
>>> esc_encoder(config, config.latent_dim, hop_length=320)(torch.randn(1, 1, 960)).shape
torch.Size([1, 384, 3])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.layers import Layer
from codec.nn.swin import SwinStage
from codec.nn.symmetric import WholeLayer

BINS, WINDOW, HOP = 192, 320, 80  # of the STFT; window and hop in samples
PATCH = (3, 2)  # bins and STFT frames
JOINED = 2  # patches in time of one code
N_FFT = 2 * (BINS - 1)
HEIGHT = BINS // PATCH[0]  # places in frequency at the finest scale
FRAME = HOP * PATCH[1] * JOINED  # samples of one code


@dataclass(frozen=True)
class EscConfig:
    """What encoder, bottleneck and decoder have in common; the defaults are those of ESC's base model.

    Raises:
        ConfigError: sizes that cannot be.
    """

    widths: tuple[int, ...] = (45, 72, 96, 144, 192, 384)  # channels of each scale, fine to coarse
    n_heads: tuple[int, ...] = (3, 6, 12, 24, 24)  # of each stage, fine to coarse
    n_blocks: int = 2  # of each stage; the large model has 4

    def __post_init__(self) -> None:
        """Check values."""
        where = type(self).__name__
        if len(self.widths) != len(self.n_heads) + 1 or not self.n_heads or min(*self.widths, *self.n_heads) < 1:
            raise ConfigError(f"{where}.n_heads: one less than widths, found {list(self.n_heads)}, {list(self.widths)}")
        if HEIGHT % (1 << len(self.n_heads)) or self.n_blocks < 1:
            raise ConfigError(f"{where}: {HEIGHT} places cannot be halved {len(self.n_heads)} times, or no blocks")

    @property
    def scales(self) -> tuple[tuple[int, int], ...]:
        """Height and channels of each scale, fine to coarse."""
        return tuple((HEIGHT >> i, width) for i, width in enumerate(self.widths))

    @property
    def coded(self) -> tuple[tuple[int, int], ...]:
        """Height and channels of each scale that is coded, coarse to fine; the coarsest is coded twice."""
        return tuple(reversed(self.scales[1:]))

    @property
    def latent_dim(self) -> int:
        """Channels of all coded scales in one frame."""
        return JOINED * sum(height * width for height, width in self.coded)


@dataclass(frozen=True)
class EscEncoderConfig(EscConfig):
    """Options of the encoder `esc`."""


@dataclass(frozen=True)
class EscDecoderConfig(EscConfig):
    """Options of the decoder `esc`."""


class EscEncoder(WholeLayer):
    """Audio (B, 1, F * hop) to the coded scales (B, D, F), coarse to fine."""

    lookahead = None
    down = FRAME
    window: Tensor

    def __init__(self, config: EscConfig) -> None:
        super().__init__()
        widths = config.widths
        self.patch = nn.Conv2d(2, widths[0], PATCH, PATCH)
        self.norm = nn.LayerNorm(widths[0])
        self.first = SwinStage(widths[0], widths[0], n_heads=config.n_heads[0], n_blocks=config.n_blocks)
        sizes = zip(widths, widths[1:], config.n_heads, strict=False)
        self.stages = nn.ModuleList(
            SwinStage(a, b, n_heads=heads, n_blocks=config.n_blocks, scale="down") for a, b, heads in sizes
        )
        self.register_buffer("window", _window(), persistent=False)

    @property
    def receptive_field(self) -> None:
        """The whole signal: windows of attention have fixed places."""
        return None

    def apply_to(self, x: Tensor) -> Tensor:
        """Spectrum, patches, stages; in time the last STFT frame has no partner and is left out."""
        x = x[:, 0].to(torch.promote_types(x.dtype, torch.float32))
        short = max(0, N_FFT // 2 + 1 - x.shape[-1])
        padded = F.pad(F.pad(x, (0, short))[:, None], (N_FFT // 2, N_FFT // 2), mode="reflect")[:, 0]
        frames = padded.unfold(-1, N_FFT, HOP)[:, : x.shape[-1] // HOP] * self.window
        spec = torch.view_as_real(torch.fft.rfft(frames)).permute(0, 3, 2, 1)  # (B, 2, bins, frames)
        y = self.norm(self.patch(spec).permute(0, 2, 3, 1))  # (B, H, W, C)
        y, scales = self.first(y), list[Tensor]()
        for stage in self.stages:
            y = stage(y)
            scales.append(y)
        return torch.cat([join(scale) for scale in reversed(scales)], 1)


class EscDecoder(WholeLayer):
    """The finest scale (B, D, F) to audio (B, 1, F * hop)."""

    lookahead = None
    up = FRAME
    window: Tensor

    def __init__(self, config: EscConfig) -> None:
        super().__init__()
        dim = config.widths[0]
        self.last = SwinStage(dim, dim, n_heads=config.n_heads[0], n_blocks=config.n_blocks)
        self.spread = nn.Conv2d(dim, dim * PATCH[0] * PATCH[1], 5, padding=2)
        self.mix = nn.Conv2d(dim, 2, 3, padding=1)
        self.register_buffer("window", _window(), persistent=False)

    @property
    def receptive_field(self) -> None:
        """The whole signal."""
        return None

    def apply_to(self, x: Tensor) -> Tensor:
        """A last stage, patches to bins, inverse STFT.

        Their own code ends 80 samples earlier; those that the last windows still reach are here.
        """
        y = self.last(part(x, HEIGHT)).permute(0, 3, 1, 2)  # (B, C, H, W)
        y = self.spread(y)
        batch, _, height, width = y.shape
        y = y.view(batch, *PATCH, -1, height, width).permute(0, 3, 4, 1, 5, 2)
        spec = self.mix(y.reshape(batch, -1, height * PATCH[0], width * PATCH[1]))
        spec = spec.to(torch.promote_types(spec.dtype, torch.float32))
        frames = torch.fft.irfft(torch.complex(spec[:, 0], spec[:, 1]), N_FFT, dim=1) * self.window[:, None]
        envelope = self.window.square()[:, None].expand(1, -1, frames.shape[-1])
        return self._overlap_add(frames) / self._overlap_add(envelope)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, n_fft, n) -> (B, 1, n * hop), the first frame's middle first."""
        size = frames.shape[-1] * HOP
        whole = F.fold(frames, (1, (frames.shape[-1] - 1) * HOP + N_FFT), kernel_size=(1, N_FFT), stride=(1, HOP))
        return whole[:, :, 0, N_FFT // 2 : N_FFT // 2 + size]


def join(x: Tensor) -> Tensor:
    """Features (B, H, W, C) to vectors of `JOINED` patches in time, (B, JOINED * C * H, F)."""
    batch, height, width, dim = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, width // JOINED, JOINED * dim * height)
    return rows.transpose(1, 2)


def part(x: Tensor, height: int) -> Tensor:
    """Vectors (B, JOINED * C * H, F) to features (B, H, W, C): `join` undone."""
    batch, size, frames = x.shape
    rows = x.transpose(1, 2).reshape(batch, frames * JOINED, size // (JOINED * height), height)
    return rows.permute(0, 3, 1, 2)


def esc_encoder(config: EscEncoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """Audio (B, 1, F * hop) to latent (B, D, F).

    Raises:
        ConfigError: another hop than 320, or a latent_dim that is not that of the coded scales.

    Source: Gu and Diao 2024 (ESC), section 3, and its code.
    """
    if latent_dim != config.latent_dim:
        scales = f"the scales of widths {list(config.widths)} have {config.latent_dim} channels"
        raise ConfigError(f"latent_dim: {latent_dim}, but {scales}")
    _check_hop(hop_length)
    return EscEncoder(config)


def esc_decoder(config: EscDecoderConfig, latent_dim: int, *, hop_length: int) -> Layer:
    """The finest scale (B, D', F), which `cross_scale` gives, to audio (B, 1, F * hop).

    Raises:
        ConfigError: as `esc_encoder`.

    Source: as `esc_encoder`.
    """
    if latent_dim != config.latent_dim:
        raise ConfigError(f"decoder: other widths than the encoder, {config.latent_dim} channels for {latent_dim}")
    _check_hop(hop_length)
    return EscDecoder(config)


def _check_hop(hop_length: int) -> None:
    if hop_length != FRAME:
        raise ConfigError(f"hop_length: {hop_length}; ESC codes {FRAME} samples at a time")


def _window() -> Tensor:
    """A Hann window of WINDOW samples in the middle of N_FFT: (N_FFT,)."""
    side = (N_FFT - WINDOW) // 2
    return F.pad(torch.hann_window(WINDOW), (side, N_FFT - WINDOW - side))
