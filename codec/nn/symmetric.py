"""Layers that look ahead, of networks made for whole files: convolutions that stand in the middle of what they see.

Each takes the block of a step for the whole signal, with zeros on both sides, and has no state. A stream feeds
windows as wide as `receptive_field` and `lookahead` say, and drops what the edges made (`codec.stream.window`).

>>> layer = SymmetricConv(1, 1, kernel_size=7)
>>> x = torch.randn(1, 1, 40)
>>> (layer.receptive_field, layer.lookahead)
(4, 3)
>>> torch.allclose(layer(x[..., 10:30])[..., 3:-3], layer(x)[..., 13:27], atol=1e-6)
True
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import torch  # noqa: F401, the example above
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.layers import Layer, State


class WholeLayer(Layer, ABC):
    """A layer that takes each block for the whole signal."""

    n_states = 0

    @final
    def init_state(self, batch: int) -> State:
        """Nothing to remember."""
        return ()

    @abstractmethod
    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C_in, n * down) -> (B, C_out, n * up), the whole signal."""

    @final
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The whole signal at once."""
        return self.apply_to(x), ()


class SymmetricConv(WholeLayer):
    """Convolution with zeros on both sides, (B, C_in, n * stride) -> (B, C_out, n); more behind with `ragged`.

    An odd zero goes to the left, as in EnCodec and DAC; HiFi-Codec pads so too, where the kernel is 2 * stride.

    Raises:
        ConfigError: a kernel shorter than its stride.

    Source: Défossez et al. 2022 (EnCodec), `causal=False`; Yang et al. 2023 (HiFi-Codec).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        ragged: bool = False,
    ) -> None:
        super().__init__()
        self.ragged = ragged
        self.conv = nn.Conv1d(in_dim, out_dim, kernel_size, stride=stride, dilation=dilation, groups=groups)
        self.down = stride
        self.left, self.right = _sides((kernel_size - 1) * dilation + 1, stride)
        self.lookahead = self.right

    @property
    def receptive_field(self) -> int:
        """The zeros on the left and the own inputs."""
        return self.left + self.down

    def apply_to(self, x: Tensor) -> Tensor:
        """Pad and convolve."""
        lack = -x.shape[-1] % self.down if self.ragged else 0
        y: Tensor = self.conv(F.pad(x, (self.left, self.right + lack)))
        return y


class SymmetricMirrorConv(SymmetricConv):
    """As `SymmetricConv`, but around the signal stands its mirror image, not zeros.

    A signal no longer than the image gets zeros behind it first. Where the kernel leans to the past by a step more than
    to the future, the first outputs of a stride of 1 look one step further ahead than `right`.

    Args: as those of `SymmetricConv`.

    Raises:
        ConfigError: a kernel shorter than its stride.

    Source: Défossez et al. 2022 (EnCodec), `pad_mode="reflect"` with `causal=False`.
    """

    def __init__(self, in_dim: int, out_dim: int, **sizes: Any) -> None:
        super().__init__(in_dim, out_dim, **sizes)
        self.lookahead = max(self.right, self.left - self.down + 1)

    @property
    def receptive_field(self) -> int:
        """The image on the left and the own inputs; where one is missing, the image behind shows older ones."""
        return self.left + self.down + (self.down - 1 if self.ragged else 0)

    def apply_to(self, x: Tensor) -> Tensor:
        """Mirror and convolve."""
        right = self.right + (-x.shape[-1] % self.down if self.ragged else 0)
        short = max(0, max(self.left, right) + 1 - x.shape[-1])
        x = F.pad(F.pad(x, (0, short)), (self.left, right), mode="reflect")
        y: Tensor = self.conv(x[..., : x.shape[-1] - short])
        return y


class SymmetricConvTranspose(WholeLayer):
    """Up-sampling by a transposed convolution cut on both sides, (B, C_in, n) -> (B, C_out, n * stride).

    `normed`: all that it gives is normalised as by `TimeNorm`, before the cut.

    Raises:
        ConfigError: a kernel shorter than its stride.

    Source: as `SymmetricConv`.
    """

    def __init__(self, in_dim: int, out_dim: int, *, kernel_size: int, stride: int, normed: bool = False) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, out_dim) if normed else None
        self.conv = nn.ConvTranspose1d(in_dim, out_dim, kernel_size, stride=stride)
        self.up = stride
        self.left, self.right = _sides(kernel_size, stride)
        places = range(self.left, self.left + stride)  # of a group's outputs before the cut
        self.edges = tuple(((place - kernel_size) // stride + 1, place // stride) for place in places)
        self.lookahead = None if normed else self.edges[-1][1]

    @property
    def receptive_field(self) -> int | None:
        """Inputs up to the own one whose kernels reach the own outputs."""
        return None if self.norm is not None else 1 - self.edges[0][0]

    def apply_to(self, x: Tensor) -> Tensor:
        """Convolve and cut."""
        y: Tensor = self.conv(x)
        y = y if self.norm is None else self.norm(y)
        return y[..., self.left : y.shape[-1] - self.right]


class TimeNorm(WholeLayer):
    """Normalisation over channels and time: every output depends on the whole signal, so it cannot stream.

    Source: EnCodec's `time_group_norm` (48 kHz); GroupNorm with one group.
    """

    lookahead = None

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, dim)

    @property
    def receptive_field(self) -> None:
        """The whole signal."""
        return None

    def apply_to(self, x: Tensor) -> Tensor:
        """Normalise."""
        y: Tensor = self.norm(x)
        return y


def _sides(reach: int, stride: int) -> tuple[int, int]:
    """Left and right share of `reach - stride` steps."""
    total = reach - stride
    if total < 0:
        raise ConfigError(f"symmetric conv: a kernel that spans {reach} is shorter than its stride of {stride}")
    return total - total // 2, total // 2
