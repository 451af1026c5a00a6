"""Bottlenecks with matrices around their codebooks as ONNX nodes: factorised, attributes apart, projected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto

from codec.export.writer import Value, Writer
from codec.quantize.attributes import Attributes
from codec.quantize.factorised import Factorised, Level
from codec.quantize.projected import Projected, ProjectedGroup
from codec.quantize.vq import VectorQuantizer

Search = Callable[[Writer, tuple[VectorQuantizer, ...], str], list[str]]


def encode_factorised(w: Writer, levels: Sequence[Level], rows: str) -> tuple[list[str], str]:
    """Codes of the frames (B, 1, F, D), each (B * F, 1), and what all levels give, (B, 1, F, D)."""
    g, codes, given = w.graph, list[str](), list[str]()
    for i, level in enumerate(levels):
        frames = g.op("Shape", rows, start=2, end=3)
        mean = _mean(w, rows, level.project_in.in_features, level.divisor, frames)
        index = nearest_by_angle(w, level.book, w.matrix(level.project_in, mean))  # (B, 1, n, 1)
        found = w.matrix(level.project_out, g.op("Gather", w.weight(level.book, "embed"), _squeezed(w, index)))
        given.append(_repeat(w, found, level.divisor, frames))
        codes.append(g.reshape(_repeat(w, index, level.divisor, frames), -1, 1))
        if i < len(levels) - 1:
            rows = g.op("Sub", rows, given[-1])
    return codes, g.op("Sum", *given)


def decode_factorised(w: Writer, levels: Sequence[Level], codes: str) -> str:
    """Codes (B, q, F) of any prefix to (B, 1, F, D): entries of all levels, times the matrix of each, summed.

    A code of -1 adds nothing.
    """
    g = w.graph
    n_used = g.op("Shape", codes, start=1, end=2)

    def used(stacked: str) -> str:
        return g.op("Slice", stacked, g.constant([0]), n_used, g.constant([0]))

    table = g.op("Concat", *(w.weight(level.book, "embed") for level in levels), axis=0)
    sizes = [level.book.codebook_size for level in levels]
    offsets = g.reshape(used(g.constant(np.cumsum([0, *sizes[:-1]]))), -1, 1, 1)
    turned = g.transpose(codes, 1, 0, 2)  # (q, B, F)
    places = g.op("Add", g.op("Max", turned, g.constant(np.int64(0))), offsets)
    entries = g.op("Gather", table, places)  # (q, B, F, d)
    outs = [g.op("Unsqueeze", w.weight(level.project_out, "weight"), g.constant([0])) for level in levels]
    matrices = g.transpose(used(g.op("Concat", *outs, axis=0)), 0, 2, 1)  # (q, d, D)
    given = g.op("MatMul", entries, g.op("Unsqueeze", matrices, g.constant([1])))  # (q, B, F, D)
    biases = [g.reshape(w.weight(level.project_out, "bias"), 1, 1, 1, -1) for level in levels]
    given = g.op("Add", given, used(g.op("Concat", *biases, axis=0)))
    sent = g.op("Cast", g.op("GreaterOrEqual", turned, g.constant(np.int64(0))), to=TensorProto.FLOAT)
    given = g.op("Mul", given, g.op("Unsqueeze", sent, g.constant([3])))
    summed = g.op("ReduceSum", given, g.constant([0]), keepdims=0)
    return g.op("Unsqueeze", summed, g.constant([1]))


def encode_attributes(w: Writer, bottleneck: Attributes, rows: str, dim: int) -> list[str]:
    """Codes of (B, 1, F, D): prosody and content of the frames, the residual of what both leave over."""
    g = w.graph
    coded = g.slice(rows, 3, 0, dim - bottleneck.n_passed)
    prosody, of_prosody = encode_factorised(w, bottleneck.prosody.parts, coded)
    content, of_content = encode_factorised(w, bottleneck.content.parts, coded)
    left = g.op("Sub", coded, g.op("Add", of_prosody, of_content))
    return [*prosody, *content, *encode_factorised(w, bottleneck.residual.parts, left)[0]]


def decode_with_matrices(w: Writer, bottleneck: Factorised | Attributes | Projected, codes: str) -> Value:
    """Codes (B, q, F) of any prefix that decodes to the latent."""
    g = w.graph
    if isinstance(bottleneck, Projected):
        return _decode_projected(w, bottleneck, codes)
    parts = (bottleneck,) if isinstance(bottleneck, Factorised) else bottleneck.parts
    levels = [level for part in parts for level in part.parts]
    rows, dim = decode_factorised(w, levels, codes), levels[0].project_out.out_features
    if isinstance(bottleneck, Attributes) and bottleneck.n_passed:  # what no code carries
        rows = g.op("Pad", rows, g.constant([0] * 7 + [bottleneck.n_passed]))
        dim += bottleneck.n_passed
    return Value(rows, dim, channels_last=True)


def encode_projected(w: Writer, bottleneck: Projected, rows: str, search: Search) -> list[str]:
    """Codes of (N, D), level by level of all groups; `search` codes the levels of one."""
    g, groups = w.graph, _groups(bottleneck)
    n = len(groups)
    pieces = g.ops("Split", rows, count=n, axis=1, num_outputs=n) if n > 1 else [rows]
    chosen = [
        search(w, group.codebooks, w.matrix(group.project_in, piece))
        for group, piece in zip(groups, pieces, strict=True)
    ]
    return [one for level in zip(*chosen, strict=True) for one in level]


def _decode_projected(w: Writer, bottleneck: Projected, codes: str) -> Value:
    """Each group's entries summed, then its matrix; side by side. A row of zeros is what a code of -1 finds."""
    g, groups = w.graph, _groups(bottleneck)
    parts = []
    for i, group in enumerate(groups):
        own = g.op("Slice", codes, *(g.constant([x]) for x in (i, 2**62, 1, len(groups))))  # (B, r, F)
        tables = [w.weight(book, "embed") for book in group.codebooks]
        if len(tables) == 1:  # always there; a copy of a table of 32,768 entries would be large
            summed = g.op("Gather", tables[0], _squeezed(w, own, axis=1))
        else:
            table = g.op("Concat", *(g.op("Pad", table, g.constant([1, 0, 0, 0])) for table in tables), axis=0)
            sizes = [1 + book.codebook_size for book in group.codebooks]
            offsets = g.reshape(g.constant(1 + np.cumsum([0, *sizes[:-1]])), 1, -1, 1)
            n_used = g.op("Shape", own, start=1, end=2)
            used = g.op("Slice", offsets, g.constant([0]), n_used, g.constant([1]))
            entries = g.op("Gather", table, g.op("Add", own, used))  # (B, r, F, d)
            summed = g.op("ReduceSum", entries, g.constant([1]), keepdims=0)
        parts.append(w.matrix(group.project_out, summed))
    rows = g.op("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]
    dim = sum(group.project_out.out_features for group in groups)
    return Value(g.op("Unsqueeze", rows, g.constant([1])), dim, channels_last=True)


def _groups(bottleneck: Projected) -> list[ProjectedGroup]:
    return [group for group in bottleneck.groups if isinstance(group, ProjectedGroup)]


def nearest_by_angle(w: Writer, book: VectorQuantizer, small: str) -> str:
    """Vectors (..., d) to codes (..., 1)."""
    g, table = w.graph, w.weight(book, "embed")
    norms = g.op("ReduceSum", g.op("Mul", table, table), g.constant([1]), keepdims=1)
    unit = g.op("Div", table, g.op("Max", g.op("Sqrt", norms), g.constant(np.float32(1e-12))))
    return g.op("ArgMax", g.op("MatMul", small, g.transpose(unit, 1, 0)), axis=-1, keepdims=1)


def _mean(w: Writer, rows: str, dim: int, divisor: int, frames: str) -> str:
    """The mean of the frames of a code, (B, 1, F, D) -> (B, 1, ceil(F / divisor), D); the last may have fewer."""
    if divisor == 1:
        return rows
    g = w.graph
    spare = g.op("Mod", g.op("Neg", frames), g.constant([divisor]))  # frames (1,)
    ends = g.op("Concat", g.constant([0] * 6), spare, g.constant([0]), axis=0)

    def summed(value: str, dim: int) -> str:
        parts = g.reshape(g.op("Pad", value, ends), 0, 1, -1, divisor, dim)
        return g.op("ReduceSum", parts, g.constant([3]), keepdims=0)

    shape = g.op("Concat", g.constant([1, 1]), frames, g.constant([1]), axis=0)
    ones = g.op("Expand", g.constant(np.float32(1)), shape)
    return g.op("Div", summed(rows, dim), summed(ones, 1))


def _repeat(w: Writer, value: str, divisor: int, frames: str) -> str:
    """What belongs to a code, for each of its frames: (B, 1, n, D) -> (B, 1, F, D)."""
    if divisor == 1:
        return value
    g = w.graph
    many = g.op("Expand", g.op("Unsqueeze", value, g.constant([3])), g.constant([1, 1, 1, divisor, 1]))
    size = g.op("Shape", value, start=3, end=4)
    flat = g.op("Reshape", many, g.op("Concat", g.constant([0, 1, -1]), size, axis=0))
    return g.op("Slice", flat, g.constant([0]), frames, g.constant([2]))


def _squeezed(w: Writer, value: str, axis: int = 3) -> str:
    return w.graph.op("Squeeze", value, w.graph.constant([axis]))
