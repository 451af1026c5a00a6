"""What the ONNX forms share: the values between layers, the graph under construction, its states.

Values carry their layout: channels first (B, C, 1, F), as convolutions want them, or channels last (B, 1, F, C), as
norms and matrix products do; a transpose is written only where it changes. The axis of length 1 makes each convolution
a two-dimensional one, for which onnxruntime has its fast kernels: a depthwise one takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto
from torch import nn

from codec.export.builder import Builder
from codec.export.int8 import Norm, Products, float_product


@dataclass(frozen=True)
class Value:
    """A named tensor and where its channels are."""

    name: str
    dim: int  # channels
    channels_last: bool = False
    halves: tuple[str, str] | None = None  # the same, real and imaginary parts of a spectrum, channels last
    even_first: bool = False  # the bins of a spectrum: the even ones first


@dataclass
class State:
    """A state input and what it becomes."""

    shape: tuple[int, ...]  # without the batch
    kind: int  # ONNX type
    after: str | None = None


@dataclass
class Writer:
    """A graph, the names of the modules in the state dict, and the states met so far."""

    graph: Builder
    names: dict[nn.Module, str]
    int8: Products | None = None  # matrix products in 8 bits
    states: dict[str, State] = field(default_factory=dict)

    def weight(self, module: nn.Module, name: str) -> str:
        """A parameter of a module, as float32."""
        return self.graph.weight(f"{self.names[module]}.{name}")

    def state(self, *shape: int, kind: int = TensorProto.FLOAT) -> str:
        """The next state input, (B, *shape); say what it becomes with `set_state`."""
        name = self.graph.input(f"state_{len(self.states)}", ["batch", *shape], kind)
        self.states[name] = State(shape, kind)
        return name

    def set_state(self, name: str, value: str) -> None:
        """What a state becomes."""
        self.states[name].after = value

    def write_states(self) -> None:
        """What the states become as outputs, in order."""
        for name, state in self.states.items():
            assert state.after is not None
            self.graph.output(f"next_{name}", state.after, ["batch", *state.shape], state.kind)

    def first(self, x: Value) -> str:
        """As (B, C, 1, F)."""
        return self.graph.transpose(x.name, 0, 3, 1, 2) if x.channels_last else x.name

    def last(self, x: Value) -> str:
        """As (B, 1, F, C)."""
        return x.name if x.channels_last else self.graph.transpose(x.name, 0, 2, 3, 1)

    def matrix(
        self, linear: nn.Linear, rows: str, scale: str | None = None, *, order: Sequence[int] | None = None
    ) -> str:
        """Give rows @ weight.T + bias; constants are folded at load.

        Args:
            linear: the weight and bias.
            rows: value of the rows.
            scale: value (n_out,) that multiplies each output.
            order: of the outputs, where it is another.
        """
        g, weight = self.graph, self.weight(linear, "weight")
        bias = None if linear.bias is None else self.weight(linear, "bias")
        if order is not None:
            weight = g.op("Gather", weight, g.constant(order))
            bias = bias and g.op("Gather", bias, g.constant(order))
        if scale is not None:
            weight = g.op("Mul", weight, g.reshape(scale, -1, 1))
            bias = bias and g.op("Mul", bias, scale)
        return self.product(rows, weight, bias)

    def product(self, rows: str, weight: str, bias: str | None) -> str:
        """Rows (..., n_in) @ weight.T + bias, of a constant weight (n_out, n_in)."""
        if self.int8 is not None:
            return self.int8.product(self.graph, rows, weight, bias)
        return float_product(self.graph, rows, weight, bias)

    def gelu(self, x: str) -> str:
        """By hyperbolic tangent beside 8-bit products, which round far more than the two forms differ."""
        return self.graph.op("Gelu", x) if self.int8 is None else self.graph.op("Gelu", x, approximate="tanh")

    def layer_norm(self, norm: nn.LayerNorm, rows: str) -> str:
        """Over the last axis."""
        gain, offset = self.weight(norm, "weight"), self.weight(norm, "bias")
        y = self.graph.op("LayerNormalization", rows, gain, offset, axis=-1, epsilon=norm.eps)
        if self.int8 is not None:
            self.int8.norms[y] = Norm(rows, gain, offset, norm.eps)
        return y

    def rms_norm(self, norm: nn.RMSNorm, rows: str) -> str:
        """Over the last axis, in the pattern that onnxruntime makes one node of."""
        assert norm.eps is not None
        g = self.graph
        power = g.reduce("ReduceMean", g.op("Pow", rows, g.constant(np.float32(2))), -1)
        level = g.op("Sqrt", g.op("Add", power, g.constant(np.float32(norm.eps))))
        return g.op("Mul", g.op("Div", rows, level), self.weight(norm, "weight"))

    def group_norm(self, norm: nn.GroupNorm, first: str) -> str:
        """Of (B, C, 1, F) over channels of a group and time: at once an instance norm of (B, groups, the rest)."""
        g, n_groups = self.graph, norm.num_groups
        ones, zeros = (g.constant(np.full(n_groups, number, np.float32)) for number in (1, 0))
        y = g.op("InstanceNormalization", g.reshape(first, 0, n_groups, -1), ones, zeros, epsilon=norm.eps)
        y = g.op("Reshape", y, g.op("Shape", first))
        weight, bias = (g.reshape(self.weight(norm, name), 1, -1, 1, 1) for name in ("weight", "bias"))
        return g.op("Add", g.op("Mul", y, weight), bias)
