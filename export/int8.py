"""Matrix products of 8-bit numbers, as standard ONNX nodes with constant scales.

What goes in becomes uint8 by a scale that was measured on speech (static quantization); weights become int8, a scale to
each output. A product is then a sum of whole numbers: exact, so equal on every CPU and for every number of frames in a
block. The graph holds no weights: it quantizes those of the model's file, and the runtime folds that when it loads.

Channels that differ much in level lose by a common scale. After a layer norm a centre and a spread to each channel cost
nothing: they go into the norm's gain and offset, and back into the weights and the bias. Elsewhere each costs a node,
and is taken where it gains much.

Source: Xiao et al., SmoothQuant, 2023, section 4 (the spread, with its exponent 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from codec.export.builder import Builder

Floats = npt.NDArray[np.float32]

WEIGHT_LEVELS = (
    63  # 7 bits: CPUs without VNNI add two products in 16 bits, which holds 2 * 255 * 63 and not 2 * 255 * 127
)
INPUT_LEVELS = 255
MARGIN = 1.2  # of the range over the largest value that was seen: other speech reaches further
SPREAD_POWER = 0.5
LEAST_SPREAD = 1e-3  # of the largest
WORTH_DB = 5.0  # what a node more must gain


@dataclass(frozen=True)
class Seen:
    """What went into a product while the network ran in float32.

    Attributes:
        rows: (n, n_in) some of it.
        low: (n_in,) the least of each channel over all of it.
        high: (n_in,) the largest.
        weight: (n_out, n_in).
    """

    rows: Floats
    low: Floats
    high: Floats
    weight: Floats

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """All of what was seen of one product."""
        low, high = np.min([part.low for part in parts], 0), np.max([part.high for part in parts], 0)
        return cls(np.concatenate([part.rows for part in parts]), low, high, parts[0].weight)


@dataclass(frozen=True)
class Form:
    """How what goes into a product becomes uint8: round((x - centre) / spread / scale) + zero."""

    scale: float
    zero: int
    centre: Floats | None = None  # (n_in,), with a `spread` or not at all
    spread: Floats | None = None

    @property
    def n_nodes(self) -> int:
        """That it costs where no layer norm takes it in."""
        return (self.centre is not None) + (self.spread is not None)


@dataclass(frozen=True)
class Norm:
    """A layer norm in the graph: its input, gain and offset, and epsilon."""

    rows: str
    gain: str
    offset: str
    epsilon: float


@dataclass
class Products:
    """The products of one graph, in the order in which they are written.

    Attributes:
        forms: of each product; None: products stay in float32 and `inputs` says what to observe.
        inputs: value of the rows and of the weights of each product.
        norms: layer norms by the value that they give.
    """

    forms: Sequence[Form] | None = None
    inputs: list[tuple[str, str]] = field(default_factory=list)
    norms: dict[str, Norm] = field(default_factory=dict)
    _one: str | None = None

    def product(self, graph: Builder, rows: str, weight: str, bias: str | None) -> str:
        """Rows (..., n_in) @ weight.T + bias -> (..., n_out).

        Args:
            graph: that grows.
            rows: value of the rows.
            weight: constant value of the weights (n_out, n_in), float32.
            bias: constant value (n_out,), or None.
        """
        self.inputs.append((rows, weight))
        if self.forms is None:
            return float_product(graph, rows, weight, bias)
        form = self.forms[len(self.inputs) - 1]
        if form.spread is not None:
            rows = self._spread(graph, rows, form.centre, form.spread)
            if form.centre is not None:
                shift = graph.reshape(graph.op("MatMul", weight, graph.constant(form.centre[:, None])), -1)
                bias = graph.op("Add", bias, shift) if bias else shift
            weight = graph.op("Mul", weight, graph.constant(form.spread))
        largest = graph.reduce("ReduceMax", graph.op("Abs", weight), 1)
        scale = graph.op("Div", graph.op("Max", largest, _float(graph, 1e-12)), _float(graph, WEIGHT_LEVELS))
        levels = graph.op("Cast", graph.op("Round", graph.op("Div", weight, scale)), to=TensorProto.INT8)
        zero = graph.constant(np.uint8(form.zero))
        whole = graph.op("QuantizeLinear", rows, _float(graph, form.scale), zero)
        y = graph.op("MatMulInteger", whole, graph.transpose(levels, 1, 0))
        scales = graph.op("Mul", graph.reshape(scale, -1), _float(graph, form.scale))
        # What the zero point adds to each output is constant: the bias takes it, the product has less to do.
        totals = graph.op("ReduceSum", graph.op("Cast", levels, to=TensorProto.FLOAT), graph.constant([1]), keepdims=0)
        excess = graph.op("Mul", graph.op("Mul", totals, scales), _float(graph, -form.zero))
        bias = graph.op("Add", bias, excess) if bias else excess
        y = graph.op("Mul", graph.op("Cast", y, to=TensorProto.FLOAT), graph.op("Mul", self._unity(graph), scales))
        return graph.op("Add", y, bias)

    def _spread(self, graph: Builder, rows: str, centre: Floats | None, spread: Floats) -> str:
        """(rows - centre) / spread."""
        norm = self.norms.get(rows)
        if norm is None or centre is None:
            rows = rows if centre is None else graph.op("Sub", rows, graph.constant(centre))
            return graph.op("Mul", rows, graph.constant(1 / spread))
        gain = graph.op("Div", norm.gain, graph.constant(spread))
        offset = graph.op("Div", graph.op("Sub", norm.offset, graph.constant(centre)), graph.constant(spread))
        return graph.op("LayerNormalization", norm.rows, gain, offset, axis=-1, epsilon=norm.epsilon)

    def _unity(self, graph: Builder) -> str:
        """1.0, which the runtime cannot know when it loads: with a product of two scales it makes one node of all.

        Of a constant scale it makes none: product, cast, scale and bias stay four nodes, and in a step nodes count.
        """
        if self._one is None:
            batch = graph.batch()
            self._one = graph.op("Cast", graph.op("Div", batch, batch), to=TensorProto.FLOAT)
        return self._one


def float_product(graph: Builder, rows: str, weight: str, bias: str | None) -> str:
    """Rows (..., n_in) @ weight.T + bias in float32."""
    y = graph.op("MatMul", rows, graph.transpose(weight, 1, 0))
    return graph.op("Add", y, bias) if bias else y


def find_form(seen: Seen, *, after_norm: bool) -> Form:
    """The form for what was seen: with a centre and a spread where they are free or gain `WORTH_DB` for each node."""
    centre = seen.rows.mean(0, dtype=np.float64).astype(np.float32)
    around = _spread_of(np.maximum(seen.high - centre, centre - seen.low))
    low, high = (seen.low - centre) / around, (seen.high - centre) / around
    both = Form(*_range(low, high), centre, around)
    if after_norm:
        return both
    spread = _spread_of(np.maximum(seen.high, -seen.low))
    forms = Form(*_range(seen.low, seen.high)), Form(*_range(seen.low / spread, seen.high / spread), None, spread), both
    return min(forms, key=lambda form: error_of(form, seen) * 10 ** (WORTH_DB / 10 * form.n_nodes))


def _spread_of(reach: Floats) -> Floats:
    """A divisor for each channel, 1 for the one of the widest reach."""
    share = np.maximum(reach, 1e-6) / max(float(reach.max()), 1e-6)
    spread: Floats = (np.maximum(share, LEAST_SPREAD) ** SPREAD_POWER).astype(np.float32)
    return spread


def _range(low: Floats, high: Floats) -> tuple[float, int]:
    """Scale and zero point of a range over all channels."""
    least, most = min(MARGIN * float(low.min()), 0.0), max(MARGIN * float(high.max()), 0.0)
    scale = float(np.float32(max((most - least) / INPUT_LEVELS, 1e-12)))
    return scale, round(-least / scale)


def error_of(form: Form, seen: Seen) -> float:
    """Mean square of the error that 8 bits leave in a product of the rows."""
    centre = np.float32(0) if form.centre is None else form.centre
    spread = np.ones(len(seen.low), np.float32) if form.spread is None else form.spread
    weight = seen.weight * spread
    scale = np.maximum(np.abs(weight).max(1, keepdims=True), 1e-12) / WEIGHT_LEVELS
    levels = np.clip(np.round((seen.rows - centre) / spread / form.scale) + form.zero, 0, INPUT_LEVELS) - form.zero
    y = levels * form.scale @ (np.round(weight / scale) * scale).T
    return float(np.square(y - (seen.rows - centre) @ seen.weight.T).mean())


def _float(graph: Builder, value: float) -> str:
    return graph.constant(np.float32(value))
