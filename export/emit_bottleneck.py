"""Bottlenecks as ONNX nodes: the same computation as their `encode` and `decode`."""

from __future__ import annotations

import dataclasses

import numpy as np

from codec.errors import ModelError
from codec.export.emit_esc import decode_cross_scale, encode_cross_scale
from codec.export.emit_factorised import (
    decode_with_matrices,
    encode_attributes,
    encode_factorised,
    encode_projected,
)
from codec.export.writer import Value, Writer
from codec.quantize.attributes import Attributes
from codec.quantize.base import Bottleneck
from codec.quantize.cross_scale import CrossScale
from codec.quantize.factorised import Factorised
from codec.quantize.grouped import Grouped
from codec.quantize.masked import Masked
from codec.quantize.projected import Projected
from codec.quantize.residual import Residual
from codec.quantize.split import Split
from codec.quantize.vq import VectorQuantizer


def emit_encode(w: Writer, bottleneck: Bottleneck, latent: Value) -> str:
    """Latent to the codes of all codebooks, (B, Q, F) int64; always in float32. Raises: ModelError."""
    w = dataclasses.replace(w, int8=None)
    g, books = w.graph, bottleneck.codebooks
    rows = g.reshape(w.last(latent), -1, latent.dim)  # (B * F, D): a product and a sum are one node on matrices
    if isinstance(bottleneck, Masked):
        codes = _encode_masked(w, bottleneck, rows)
    elif isinstance(bottleneck, Grouped):
        n = bottleneck.prefixes[0]
        pieces = g.ops("Split", rows, count=n, axis=1, num_outputs=n) if n > 1 else [rows]
        chosen = [_encode_in_turn(w, books[group::n], piece) for group, piece in enumerate(pieces)]
        codes = [one for level in zip(*chosen, strict=True) for one in level]
    elif isinstance(bottleneck, Split):
        pieces = g.ops("Split", rows, count=2, axis=1, num_outputs=2)
        parts = (bottleneck.semantic, bottleneck.acoustic)
        chosen = [_encode_in_turn(w, part.codebooks, piece) for part, piece in zip(parts, pieces, strict=True)]
        codes = chosen[0] + chosen[1]
    elif isinstance(bottleneck, Factorised):
        codes, _ = encode_factorised(w, bottleneck.parts, w.last(latent))
    elif isinstance(bottleneck, Attributes):
        codes = encode_attributes(w, bottleneck, w.last(latent), latent.dim)
    elif isinstance(bottleneck, Projected):
        codes = encode_projected(w, bottleneck, rows, _encode_in_turn)
    elif isinstance(bottleneck, CrossScale):
        codes = encode_cross_scale(w, bottleneck, w.last(latent))
    elif isinstance(bottleneck, VectorQuantizer | Residual):
        codes = _encode_in_turn(w, books, rows)
    else:
        raise ModelError(f"{type(bottleneck).__name__}: this bottleneck has no ONNX form yet; use the torch engine")
    shape = g.op("Concat", g.batch(), g.constant([-1, len(books)]), axis=0)
    return g.transpose(g.op("Reshape", g.op("Concat", *codes, axis=1), shape), 0, 2, 1)


def _encode_masked(w: Writer, bottleneck: Masked, rows: str) -> list[str]:
    """The masked codebooks side by side, the others on what those together left over."""
    g, n = w.graph, bottleneck.n_masked
    found = [
        _nearest(w, book, g.op("Mul", rows, g.constant(mask.numpy())))
        for book, mask in zip(bottleneck.codebooks[:n], bottleneck.get_buffer("masks"), strict=True)
    ]
    for book, index in zip(bottleneck.codebooks, found, strict=False):
        rows = _left_over(w, book, rows, index)
    return found + _encode_in_turn(w, bottleneck.codebooks[n:], rows)


def _encode_in_turn(w: Writer, books: tuple[VectorQuantizer, ...], rows: str) -> list[str]:
    """Residual codes of (N, D), each (N, 1)."""
    codes = []
    for i, book in enumerate(books):
        index = _nearest(w, book, rows)
        codes.append(index)
        if i < len(books) - 1:
            rows = _left_over(w, book, rows, index)
    return codes


def _left_over(w: Writer, book: VectorQuantizer, rows: str, index: str) -> str:
    """(N, D) less the entries of (N, 1)."""
    entries = w.graph.op("GatherND", w.weight(book, "embed"), index)
    return w.graph.op("Sub", rows, entries)


def _nearest(w: Writer, book: VectorQuantizer, rows: str) -> str:
    """(N, D) -> (N, 1): argmin of |e|^2 / 2 - x e."""
    g, embed = w.graph, w.weight(book, "embed")
    half_norms = g.op("ReduceSum", g.op("Mul", embed, embed), g.constant([1]), keepdims=0)
    half_norms = g.op("Mul", half_norms, g.constant(np.float32(0.5)))
    distance = g.op("Gemm", rows, embed, half_norms, transB=1, alpha=-1.0)
    return g.op("ArgMin", distance, axis=1, keepdims=1)


def emit_decode(w: Writer, bottleneck: Bottleneck, codes: str) -> Value:
    """Codes (B, q, F) of any prefix that decodes to the latent: one gather from all tables, summed over levels.

    A row of zeros before each table is what a code of -1 finds: it adds nothing.
    """
    if isinstance(bottleneck, Factorised | Attributes | Projected):
        return decode_with_matrices(w, bottleneck, codes)
    if isinstance(bottleneck, CrossScale):
        return decode_cross_scale(w, bottleneck, codes)
    g, books = w.graph, bottleneck.codebooks
    n_groups = bottleneck.prefixes[0] if isinstance(bottleneck, Grouped) else 1
    tables = [w.weight(book, "embed") for book in books]
    if isinstance(bottleneck, Split):  # each table as wide as both halves
        n_groups, spare, n = 2, books[0].dim, bottleneck.n_semantic
        sides = [[0, 0, 0, spare] if i < n else [0, spare, 0, 0] for i in range(len(books))]
        tables = [g.op("Pad", table, g.constant(side)) for table, side in zip(tables, sides, strict=True)]
    table = g.op("Concat", *(g.op("Pad", table, g.constant([1, 0, 0, 0])) for table in tables), axis=0)
    offsets = g.constant(1 + np.cumsum([0, *(1 + book.codebook_size for book in books[:-1])]))  # (Q,)
    used = g.op("Slice", offsets, g.constant([0]), g.op("Shape", codes, start=1, end=2), g.constant([0]))
    entries = g.op("Gather", table, g.op("Add", g.transpose(codes, 0, 2, 1), used))  # (B, F, q, d)
    dim = books[0].dim * n_groups
    summed = g.op("ReduceSum", g.reshape(entries, 0, 0, -1, dim), g.constant([2]), keepdims=0)  # levels
    return Value(g.op("Unsqueeze", summed, g.constant([1])), dim, channels_last=True)
