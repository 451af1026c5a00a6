"""An ONNX graph, node by node.

The torch exporter makes more nodes, and when one frame is stepped a node costs as much as a small matrix product.
Weights stay in the model's safetensors file: the graph points into it, so that torch and onnxruntime share one file.

>>> graph = Builder({})
>>> x = graph.input("x", ["batch", 2])
>>> graph.output("y", graph.op("Add", x, graph.constant(np.ones(2, np.float32))), ["batch", 2])
>>> [node.op_type for node in graph.model("add", {}).graph.node]
['Add', 'Identity']
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from codec.errors import ModelError

OPSET = 20  # Gelu as an operator
OPSETS = range(17, 27)  # from LayerNormalization as an operator to the last one that every form was run in
TYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT, "I64": TensorProto.INT64}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a safetensors file."""

    location: str  # file name, beside the graph
    kind: str  # safetensors' name of the type
    shape: tuple[int, ...]
    offset: int  # bytes from the file's start
    size_bytes: int


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name. Source: safetensors, Format."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            path.name,
            x["dtype"],
            tuple(x["shape"]),
            8 + size + x["data_offsets"][0],
            x["data_offsets"][1] - x["data_offsets"][0],
        )
        for name, x in header.items()
    }


def check_opset(opset: int) -> None:
    """Refuse a version in which the graphs were not tried. Raises: ModelError: out of range, or too new for onnx."""
    if opset not in OPSETS:
        raise ModelError(f"opset {opset}: the graphs can be written in {OPSETS[0]} to {OPSETS[-1]}; {OPSET} is usual")
    if opset > defs.onnx_opset_version():
        known = f"the onnx package here knows up to {defs.onnx_opset_version()}"
        raise ModelError(f"opset {opset}: {known}; upgrade onnx, or write a lower one")


class Builder:
    """Collects nodes; values are their names.

    Args:
        stored: the tensors that `weight` finds.
        opset: version of the standard's operators, one of `OPSETS`.
    """

    def __init__(self, stored: Mapping[str, StoredTensor], *, opset: int = OPSET) -> None:
        self._stored, self._opset = stored, opset
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._weights: dict[str, str] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
        """A graph input; a text in the shape is a dynamic size."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def batch(self) -> str:
        """How many rows come in, int64 (1,); the runtime makes one node of all that ask."""
        return self.op("Shape", self._inputs[0].name, start=0, end=1)

    def output(self, name: str, value: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> None:
        """A graph output that gives `value`; None: of any shape."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        if kind == "Gelu" and self._opset < 20:
            return self._gelu(*inputs)  # exact, whatever the form that was asked for
        return self.ops(kind, *inputs, count=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """A node with `count` outputs."""
        if self._opset < 18:
            attributes.pop("num_outputs", None)  # equal parts are meant where no sizes are given
        names = [f"{kind.lower()}_{self._next()}" for _ in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def constant(self, array: NDArray[Any] | np.generic | Sequence[int]) -> str:
        """A constant; integers become int64. Equal constants are stored once."""
        value = np.asarray(array)
        value = value.astype(np.int64) if value.dtype.kind == "i" else value
        key = f"constant_{value.dtype}_{value.shape}_{hash(value.tobytes())}"
        if key not in self._initializers:
            self._initializers[key] = numpy_helper.from_array(value, f"constant_{self._next()}")
        return self._initializers[key].name

    def weight(self, name: str) -> str:
        """A stored tensor as float32. The runtime casts it once, when it loads the graph."""
        if name in self._weights:
            return self._weights[name]
        stored = self._stored[name]
        tensor = TensorProto(
            name=name, data_type=TYPES[stored.kind], dims=stored.shape, data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", stored.location), ("offset", stored.offset), ("length", stored.size_bytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor
        is_half = stored.kind == "F16"
        self._weights[name] = self.op("Cast", name, to=TensorProto.FLOAT) if is_half else name
        return self._weights[name]

    def transpose(self, value: str, *order: int) -> str:
        """Axes in another order."""
        return self.op("Transpose", value, perm=list(order))

    def reshape(self, value: str, *shape: int) -> str:
        """Another shape; 0 keeps a size, -1 is what remains."""
        return self.op("Reshape", value, self.constant(list(shape)))

    def slice(self, value: str, axis: int, start: int, end: int = 2**62) -> str:
        """From `start` to `end` of an axis; negative ones count from the end."""
        return self.op("Slice", value, *(self.constant([x]) for x in (start, end, axis)))

    def model(self, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The finished graph. Its metadata says what it belongs to."""
        graph = helper.make_graph(self._needed(), name, self._inputs, self._outputs, list(self._initializers.values()))
        model = helper.make_model(graph, opset_imports=self._opsets(), producer_name="neural-codec")
        # The oldest that knows this opset: older runtimes can read it.
        model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
        helper.set_model_props(model, dict(metadata))
        return model

    def reduce(self, kind: str, value: str, axis: int) -> str:
        """ReduceMean or ReduceMax over one axis, which stays with length 1."""
        if self._opset < 18:
            return self.op(kind, value, axes=[axis], keepdims=1)
        return self.op(kind, value, self.constant([axis]), keepdims=1)

    def _gelu(self, value: str) -> str:
        """In the pattern that onnxruntime makes one node of."""
        half, one, root = (self.constant(np.float32(x)) for x in (0.5, 1, np.sqrt(2)))
        share = self.op("Add", self.op("Erf", self.op("Div", value, root)), one)
        return self.op("Mul", self.op("Mul", value, share), half)

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes that an output depends on: onnxruntime would run the others too."""
        needed = {output.name for output in self._outputs}
        nodes = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        return nodes[::-1]

    def _opsets(self) -> list[onnx.OperatorSetIdProto]:
        """The standard one, and those of other domains that nodes use."""
        domains = sorted({node.domain for node in self._nodes} - {""})
        return [helper.make_opsetid("", self._opset), *(helper.make_opsetid(domain, 1) for domain in domains)]

    def _next(self) -> int:
        self._count += 1
        return self._count
