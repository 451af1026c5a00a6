"""The causal convolution of EnCodec: before the signal stands the signal itself, mirrored, not zeros; behind it too.

So the first outputs see a little of the future: the first block must have `start` steps. A shorter one is taken for the
whole signal and mirrored as EnCodec mirrors a short one, with zeros behind it.

>>> layer = MirrorConv(1, 1, kernel_size=3)
>>> x = torch.randn(1, 1, 8)
>>> mirrored = torch.cat((x[..., 2:3], x[..., 1:2], x), -1)
>>> torch.allclose(layer(x), layer.conv(mirrored), atol=1e-6)
True
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.convs import CausalConv
from codec.nn.layers import Layer, State


class MirrorConv(CausalConv):
    """As `CausalConv`, but for what stands before the signal, and with `ragged` behind it.

    Args: as those of `CausalConv`.

    Raises:
        ConfigError: a kernel that reaches no further than its stride, which sees nothing before the signal; with
            `ragged`, one that remembers less than the image behind the signal.

    Source: Défossez et al. 2022 (EnCodec), `pad_mode="reflect"` with `causal=True`.
    """

    n_states = 2

    def __init__(self, in_dim: int, out_dim: int, **sizes: Any) -> None:
        super().__init__(in_dim, out_dim, **sizes)
        self.memory = self.reach - self.down
        if self.memory < 1:
            raise ConfigError(
                f"MirrorConv: a kernel that spans {self.reach} sees nothing before a stride of {self.down}"
            )
        if self.ragged and self.memory < self.down - 1:
            raise ConfigError(
                f"MirrorConv: ragged, a stride of {self.down} needs a kernel that spans {2 * self.down - 1}"
            )
        self.start = self.memory + 1

    def init_state(self, batch: int) -> State:
        """Nothing yet: (B, C_in, reach - stride), and (B, 1, 1) that is 0 until the signal begins."""
        return self._zeros(batch, self.in_dim, self.memory), self._zeros(batch, 1, 1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, C_in, n * stride) -> (B, C_out, n)."""
        memory, begun = state
        mirrored = F.pad(x, (0, self.memory))[..., 1 : self.memory + 1].flip(-1)
        seen = torch.cat((torch.where(begun > 0, memory, mirrored), x), -1)
        after = seen[..., seen.shape[-1] - self.memory :]
        if self.ragged and (lack := -x.shape[-1] % self.down):
            seen = torch.cat((seen, torch.where(begun > 0, _image(seen, lack), self._end(x, lack))), -1)
        y: Tensor = self.conv(seen)
        return y, (after, torch.ones_like(begun))

    def _end(self, x: Tensor, lack: int) -> Tensor:
        """What stands behind a whole signal: its image, but behind a short one zeros first."""
        short = max(0, self.memory + 1 - x.shape[-1])
        longer = F.pad(x, (0, short))
        return torch.cat((longer[..., x.shape[-1] :], _image(longer, lack)), -1)[..., :lack]


def _image(x: Tensor, size: int) -> Tensor:
    """The mirror image behind (B, C, T), its first `size` steps."""
    return x[..., x.shape[-1] - 1 - size : -1].flip(-1)


def mirror_conv(
    in_dim: int, out_dim: int, *, kernel_size: int, stride: int = 1, dilation: int = 1, **more: Any
) -> Layer:
    """A `MirrorConv`, or a `CausalConv` where there is nothing to mirror."""
    make = MirrorConv if (kernel_size - 1) * dilation + 1 > stride else CausalConv
    return make(in_dim, out_dim, kernel_size=kernel_size, stride=stride, dilation=dilation, **more)
