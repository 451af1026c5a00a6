"""The contract of every layer, chains of them, and the simple ones.

A layer steps: `y, state = layer.step(x, state)`. The state is a flat tuple of tensors that the caller owns, and the
offline pass is the same function from the initial state, so a block-wise run and a whole run are one implementation.

>>> layer = Chain([Linear(3, 8), Split(2), Elu()])
>>> y, state = layer.step(torch.randn(1, 3, 5), layer.init_state(1))
>>> y.shape, layer.up, layer.receptive_field
(torch.Size([1, 4, 10]), 2, 1)
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor, nn

from codec.errors import ConfigError

State = tuple[Tensor, ...]


class Layer(nn.Module, ABC):
    """A map (B, C_in, n * down) -> (B, C_out, n * up) with its memory as a value; causal, but for `lookahead`.

    Attributes:
        n_states: tensors in its state.
        down, up: `down` input steps give `up` output steps.
        delay: output steps by which the output lags behind the input it describes.
        lookahead: input steps behind its own group that a group of `up` outputs sees, None where it sees them all. A
            layer that looks ahead takes each block for the whole signal: it is exact where that is all it sees.
        start: input steps that its first block must have, because the first outputs see them; 0 where a group is
            enough.
        condition: numbers of a vector that stands for the whole signal, or 0. An encoder's last state is then that
            vector, (B, condition), once it has seen all; a decoder takes it as the first of its initial states.
        ragged: a last block may end within a group; the layer puts behind it what the group lacks.
        period: input steps after which what depends on a step's place alone, as a fixed noise, comes again; 1 where
            nothing does.
        edges: oldest and newest input step that each of the `up` outputs sees, counted from its group's first; empty
            where all see what the group sees.
    """

    n_states: int = 1
    down: int = 1
    up: int = 1
    delay: int = 0
    lookahead: int | None = 0
    start: int = 0
    condition: int = 0
    ragged: bool = False
    period: int = 1
    edges: tuple[tuple[int, int], ...] = ()

    @property
    @abstractmethod
    def receptive_field(self) -> int | None:
        """Input steps, its own group's last one and back, that `up` outputs see; None where the memory never ends."""

    @abstractmethod
    def init_state(self, batch: int) -> State:
        """The state before the first sample, for `batch` rows."""

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One block of input steps to its output steps and the next state."""

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, x: Tensor) -> Tensor:
        """The whole input at once: `step` from the initial state."""
        return self.step(x, self.init_state(x.shape[0]))[0]

    def _zeros(self, *shape: int) -> Tensor:
        """Zeros on the device and of the type of the layer's first tensor."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        like = next(tensors, torch.zeros(()))
        return torch.zeros(shape, device=like.device, dtype=like.dtype)


def check_hop(where: str, strides: Sequence[int], hop_length: int) -> None:
    """Check that the strides `where` multiply to the hop, in samples. Raises: ConfigError."""
    product = math.prod(strides)
    if product != hop_length:
        raise ConfigError(f"{where}: {list(strides)} multiply to {product}, hop_length is {hop_length}")


class Chain(Layer):
    """Layers one after another; the state is their states in order."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        for layer in self._items():
            # Not reduced: down by 4 and then up by 2 takes 4 steps at a time, not 2.
            groups = math.lcm(self.up, layer.down)
            self.down *= groups // self.up
            self.up = groups // layer.down * layer.up
        self.n_states = sum(layer.n_states for layer in self._items())
        self.condition = max((layer.condition for layer in self._items()), default=0)
        self.ragged = self.down > 1 and all(layer.ragged or layer.down == 1 for layer in self._items())
        self.delay = self._delay()
        self.lookahead = self._lookahead()
        self.start = self._start()
        self.period = self._period()

    def _items(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _delay(self) -> int:
        delay = Fraction(0)
        for layer in self._items():
            delay = delay * layer.up / layer.down + layer.delay
        if delay.denominator != 1:
            raise ConfigError(f"delay of {delay} output steps: layers before a stride must be late by a multiple of it")
        return int(delay)

    def _start(self) -> int:
        """Whole groups, so many that the first block of each layer is long enough."""
        start, rate = 0, Fraction(1)
        for layer in self._items():
            start = max(start, math.ceil(layer.start / rate))
            rate = rate * layer.up / layer.down
        return -(-start // self.down) * self.down

    def _period(self) -> int:
        """Input steps after which all layers' periods end together."""
        period, rate = 1, Fraction(1)
        for layer in self._items():
            period = math.lcm(period, (layer.period / rate).numerator)
            rate = rate * layer.up / layer.down
        return period

    def _lookahead(self) -> int | None:
        """Followed from the last output step of a group back to the newest input that it sees."""
        newest = self.up - 1
        for layer in reversed(self._items()):
            if layer.lookahead is None:
                return None
            group, place = divmod(newest, layer.up)
            ahead = layer.edges[place][1] if layer.edges else layer.down - 1 + layer.lookahead
            newest = group * layer.down + ahead
        return newest - (self.down - 1)

    @property
    def receptive_field(self) -> int | None:
        """Followed from the first output step of a group, the one that sees the oldest input, back to the input.

        A bound where a stride picks from a transposed conv whose kernel is no multiple of its own stride.
        """
        oldest = 0
        for layer in reversed(self._items()):
            own = layer.receptive_field
            if own is None:
                return None
            group, place = divmod(oldest, layer.up)
            oldest = group * layer.down + (layer.edges[place][0] if layer.edges else layer.down - own)
        return self.down - oldest

    def init_state(self, batch: int) -> State:
        """The states of all layers, in order."""
        return tuple(tensor for layer in self._items() for tensor in layer.init_state(batch))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Each layer's step in order."""
        after: list[Tensor] = []
        start = 0
        for layer in self._items():
            x, own = layer.step(x, state[start : start + layer.n_states])
            after.extend(own)
            start += layer.n_states
        return x, tuple(after)


class Stateless(Layer, ABC):
    """A layer that looks at one step at a time."""

    n_states = 0

    @property
    def receptive_field(self) -> int:
        """One step."""
        return 1

    @final
    def init_state(self, batch: int) -> State:
        """Nothing to remember."""
        return ()

    @abstractmethod
    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C_in, F) -> (B, C_out, F), each step alone."""

    @final
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The same map for every block."""
        return self.apply_to(x), ()


class Linear(Stateless):
    """The same matrix for every step, (B, C_in, F) -> (B, C_out, F)."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=bias)

    def apply_to(self, x: Tensor) -> Tensor:
        """Matrix product over channels."""
        y: Tensor = self.linear(x.transpose(1, 2))
        return y.transpose(1, 2)


class ChannelNorm(Stateless):
    """Layer norm or RMS norm over channels only, so that no step sees another.

    A norm over time (as GroupNorm in HiFi-Codec and EnCodec 48 kHz) would make the past depend on the future.
    """

    def __init__(self, dim: int, *, kind: str = "layer", eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=eps) if kind == "rms" else nn.LayerNorm(dim, eps=eps)

    def apply_to(self, x: Tensor) -> Tensor:
        """Normalise each step."""
        y: Tensor = self.norm(x.transpose(1, 2))
        return y.transpose(1, 2)


class Elu(Stateless):
    """ELU, as in SEANet."""

    def apply_to(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.elu(x)


class Split(Stateless):
    """One step of `parts * C` channels becomes `parts` steps of C channels (sub-frames)."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.up = parts

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, parts * C, F) -> (B, C, F * parts)."""
        batch, dim, frames = x.shape
        y = x.transpose(1, 2).reshape(batch, frames * self.up, dim // self.up)
        return y.transpose(1, 2)


class Residual(Layer):
    """body(x) + shortcut(x); the shortcut is x itself unless it is given.

    Raises:
        ConfigError: branches of different rates or delays.
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = Chain([]) if shortcut is None else shortcut
        self.n_states = body.n_states + self.shortcut.n_states
        self.down, self.up, self.delay = body.down, body.up, body.delay
        if (self.down, self.up, self.delay) != (self.shortcut.down, self.shortcut.up, self.shortcut.delay):
            raise ConfigError("Residual: body and shortcut must have the same rates and the same delay")
        ahead = (body.lookahead, self.shortcut.lookahead)
        self.lookahead = None if ahead[0] is None or ahead[1] is None else max(ahead[0], ahead[1])
        self.start = max(body.start, self.shortcut.start)
        self.period = math.lcm(body.period, self.shortcut.period)

    @property
    def receptive_field(self) -> int | None:
        """The wider of both branches."""
        fields = (self.body.receptive_field, self.shortcut.receptive_field)
        return None if fields[0] is None or fields[1] is None else max(fields[0], fields[1])

    def init_state(self, batch: int) -> State:
        """The body's states, then the shortcut's."""
        return self.body.init_state(batch) + self.shortcut.init_state(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Sum of both branches; both have the same delay."""
        n = self.body.n_states
        y, body_state = self.body.step(x, state[:n])
        z, shortcut_state = self.shortcut.step(x, state[n:])
        return y + z, body_state + shortcut_state
