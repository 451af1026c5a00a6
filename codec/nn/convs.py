"""Causal convolutions, down and up, and the block of them that runs at the frame rate.

>>> layer = CausalConv(1, 1, kernel_size=3)
>>> x = torch.randn(2, 1, 8)
>>> head, state = layer.step(x[..., :3], layer.init_state(2))
>>> tail, state = layer.step(x[..., 3:], state)
>>> torch.allclose(torch.cat((head, tail), -1), layer(x), atol=1e-6)
True
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.nn.layers import Layer, State


class CausalConv(Layer):
    """Convolution over the newest inputs; a stride makes it a down-sampling one.

    Output i sees inputs up to (i + 1) * stride - 1, so a stride adds no look-ahead; before the signal stand zeros, and
    behind it too with `ragged`.
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
        self.in_dim = in_dim
        self.reach = (kernel_size - 1) * dilation + 1
        # A stride longer than the kernel skips inputs: the oldest ones of each group.
        self.skip = max(0, stride - self.reach)
        self.memory = max(0, self.reach - stride)

    @property
    def receptive_field(self) -> int:
        """Inputs that the kernel spans."""
        return self.reach

    def init_state(self, batch: int) -> State:
        """Zeros before the signal: (B, C_in, reach - stride)."""
        return (self._zeros(batch, self.in_dim, self.memory),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, C_in, n * stride) -> (B, C_out, n)."""
        x = F.pad(x, (0, -x.shape[-1] % self.down)) if self.ragged else x
        x = torch.cat((state[0], x), -1)
        y: Tensor = self.conv(x[..., self.skip :])
        return y, (x[..., x.shape[-1] - self.memory :],)


class CausalConvTranspose(Layer):
    """Up-sampling by a transposed convolution, (B, C_in, n) -> (B, C_out, n * stride).

    What reaches beyond the block is kept without its bias and added to the next one: the bias counts once.
    """

    def __init__(self, in_dim: int, out_dim: int, *, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_dim, out_dim, kernel_size, stride=stride)
        self.up = stride
        self.out_dim = out_dim
        self.kernel_size = kernel_size
        self.tail = max(0, kernel_size - stride)

    @property
    def receptive_field(self) -> int:
        """Inputs whose kernels overlap one output group."""
        return -(-self.kernel_size // self.up)

    def init_state(self, batch: int) -> State:
        """No tail yet: (B, C_out, kernel_size - stride)."""
        return (self._zeros(batch, self.out_dim, self.tail),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Overlap-add of the kernels, the bias last."""
        y = F.conv_transpose1d(x, self.conv.weight, None, stride=self.up)
        size = x.shape[-1] * self.up
        # A kernel shorter than the stride leaves a gap, a longer one a tail.
        y = F.pad(y, (0, max(0, size + self.tail - y.shape[-1])))
        y = torch.cat((y[..., : self.tail] + state[0], y[..., self.tail :]), -1)
        bias = self.conv.bias
        assert bias is not None
        return y[..., :size] + bias[:, None], (y[..., size : size + self.tail],)


class ConvNeXt(Layer):
    """Depthwise causal conv, layer norm over channels, two matrices with GELU, a learned scale, and the input again.

    Source: Liu et al. 2022 (ConvNeXt), in one dimension as in Siuzdak 2023 (Vocos).
    """

    def __init__(self, dim: int, hidden_dim: int, *, kernel_size: int = 7, scale: float = 0.2) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dim = dim
        self.depthwise = nn.Conv2d(dim, dim, (1, kernel_size), groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, hidden_dim)
        self.project = nn.Linear(hidden_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    @property
    def receptive_field(self) -> int:
        """Steps that the depthwise kernel spans."""
        return self.kernel_size

    def init_state(self, batch: int) -> State:
        """Zeros before the signal: (B, D, kernel_size - 1)."""
        return (self._zeros(batch, self.kernel_size - 1, self.dim).transpose(1, 2),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, D, F) -> (B, D, F). Inside, channels are the fastest axis: the depthwise conv is four times faster so."""
        rows = x.transpose(1, 2)  # (B, F, D)
        seen = torch.cat((state[0].transpose(1, 2), rows), 1)
        y = self.depthwise(seen.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        y = self.project(F.gelu(self.expand(self.norm(y))))
        keep = seen.shape[1] - (self.kernel_size - 1)
        return (rows + self.scale * y).transpose(1, 2), (seen[:, keep:].transpose(1, 2),)
