"""Matrix products with 8-bit weights, as ONNX nodes.

Weights and what goes in are quantized in blocks of `BLOCK` along the sum, each with a scale of its own, row by row: a
frame's result does not depend on the frames beside it, so one frame a step and many give equal sums. The graph holds
no weights: it quantizes those of the model's file, and the runtime folds that when it loads the graph.

Source: onnxruntime's contrib operators, MatMulNBits.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from codec.export.builder import Builder

BLOCK = 32  # weights to a scale; the errors of 64 are a fifth larger, its time the same
MIDDLE = 128  # the unsigned code of weight 0
INT8_INPUTS = 4  # the operator's `accuracy_level`: what goes in becomes int8 too


def product(graph: Builder, rows: str, weight: str, shape: tuple[int, int], bias: str | None) -> str:
    """Rows (..., n_in) @ weight.T + bias -> (..., n_out).

    Args:
        graph: that grows.
        rows: value of the rows.
        weight: constant value of the weights (n_out, n_in), float32.
        shape: n_out, n_in.
        bias: constant value (n_out,), or None.
    """
    n_out, n_in = shape
    n_blocks = -(-n_in // BLOCK)
    if n_in % BLOCK:
        weight = graph.op("Pad", weight, graph.constant([0, 0, 0, n_blocks * BLOCK - n_in]))
    blocks = graph.reshape(weight, n_out, n_blocks, BLOCK)
    largest = graph.op("ReduceMax", graph.op("Abs", blocks), graph.constant([2]), keepdims=1)
    scale = graph.op("Div", graph.op("Max", largest, _float(graph, 1e-12)), _float(graph, MIDDLE - 1))
    levels = graph.op("Add", graph.op("Round", graph.op("Div", blocks, scale)), _float(graph, MIDDLE))
    inputs = [rows, graph.op("Cast", levels, to=TensorProto.UINT8), graph.reshape(scale, -1)]
    return graph.op(
        "MatMulNBits",
        *inputs,
        *(["", "", bias] if bias else []),
        domain="com.microsoft",
        K=n_in,
        N=n_out,
        bits=8,
        block_size=BLOCK,
        accuracy_level=INT8_INPUTS,
    )


def _float(graph: Builder, value: float) -> str:
    return graph.constant(np.float32(value))
