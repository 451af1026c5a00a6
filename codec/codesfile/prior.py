"""A learned prior: how likely each code is after the codes before it, in whole numbers alone.

A small network reads the codes of the two frames before, a slow average of all earlier frames of the block, and the
lower codebooks of the same frame, and gives each code of a codebook a frequency. Weights and activations are integers.
They are kept in float64, where products and sums below 2^53 are exact in any order, so that every machine gives the
same frequencies whatever its BLAS does. The text that this follows is docs/codes-format.md, clause 9.

>>> int(EXP[0]), int(EXP[64]), len(EXP)
(16777216, 6171992, 1024)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.codesfile.rans import TOTAL_BITS
from codec.errors import ModelError

FORMAT = 1
FILE_NAME = "prior.safetensors"
ID_BYTES = 4
MAX_FILE_BYTES = 1 << 24
MAX_CODEBOOK_SIZE = 4096
ACTIVATION_BITS = 8  # activations count 1/256
LOGIT_BITS = 6  # logits count 1/64 nat
SLOW_BITS = 4  # the slow average has four bits more than the embeddings it averages
SLOW_SHIFT = 3  # and moves by an eighth a frame
LIMIT = 32767.0
# exp(-1/64) * 2^30, rounded: the only number behind the table of exponentials.
EXP_STEP, EXP_BITS = 1057095000, 30

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _exponentials() -> Ints:
    """2^24 * exp(-i / 64), i from 0 to 1023, each 30-bit number from the one before: exact on any machine."""
    table, value = [], 1 << EXP_BITS
    for _ in range(1024):
        table.append(value >> 6)
        value = value * EXP_STEP >> EXP_BITS
    return np.array(table, np.int64)


EXP = _exponentials()


@dataclass(frozen=True, eq=False)
class Layer:
    """A matrix of small integers: `(weight @ x + bias) * 2^-shift`, rounded down."""

    weight: Array  # (n_out, n_in), whole numbers
    bias: Array  # (n_out,), whole numbers
    shift: int  # bits

    def apply(self, x: Array) -> Array:
        """Whole numbers (..., n_out) of whole numbers (..., n_in)."""
        out: Array = np.floor((x @ self.weight.T + self.bias) * 2.0**-self.shift)
        return out


@dataclass(frozen=True, eq=False)
class Memory:
    """What a prior remembers of the frames before; rows are independent (a channel of a block each)."""

    last: Array  # (rows, Q * D), embeddings of the last frame
    before: Array  # (rows, Q * D), of the frame before that
    slow: Array  # (rows, Q * D), average of all


@dataclass(frozen=True, eq=False)
class Prior:
    """The prior of one model. Made by `read_prior`."""

    prior_id: str  # the first four bytes of the file's SHA-256, 8 hexadecimal digits
    weights_hash: str  # of the model whose codes it knows, 64 hexadecimal digits
    embeddings: tuple[Array, ...]  # of each codebook, (K, D)
    embedding_bits: int  # embeddings count 2^-embedding_bits
    frame: Layer  # (H, 3 * Q * D)
    hidden: tuple[Layer, ...]  # of codebook q, (H2, H + q * D)
    query: tuple[Layer, ...]  # (D, H2)
    biases: tuple[Array, ...]  # (K,), logits before the shift

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return tuple(len(table) for table in self.embeddings)

    @property
    def dim(self) -> int:
        """D, length of an embedding."""
        return int(self.embeddings[0].shape[1])

    def start(self, n_rows: int) -> Memory:
        """The memory before the first frame of a block."""
        nothing = np.zeros((n_rows, len(self.embeddings) * self.dim))
        return Memory(nothing, nothing, nothing)

    def remember(self, memory: Memory, codes: Ints) -> Memory:
        """The memory after a frame of codes (rows, Q'), Q' at most Q; codebooks not in use and -1 count as zeros."""
        last = np.zeros_like(memory.last)
        for q in range(codes.shape[1]):
            there = codes[:, q] >= 0
            last[there, q * self.dim : (q + 1) * self.dim] = self.embeddings[q][codes[there, q]]
        slow = memory.slow + np.floor((last * 2.0**SLOW_BITS - memory.slow) * 2.0**-SLOW_SHIFT)
        return Memory(last, memory.last, slow)

    def context(self, memory: Memory) -> Array:
        """What the frames before say about the next one, (rows, H)."""
        scale = 2.0**SLOW_BITS
        x = np.concatenate([memory.last * scale, memory.before * scale, memory.slow], axis=-1)
        return np.clip(self.frame.apply(x), 0.0, LIMIT)

    def frequencies(self, context: Array, lower: Ints) -> Ints:
        """How often each code of codebook q comes, in 2^23: (rows, K), each row sums to 2^23.

        Args:
            context: (rows, H), from `context`.
            lower: (rows, q), the codes of the lower codebooks in this frame.
        """
        q = lower.shape[-1]
        scale = 2.0 ** (ACTIVATION_BITS - self.embedding_bits)
        parts = [context] + [self.embeddings[j][lower[:, j]] * scale for j in range(q)]
        hidden = np.clip(self.hidden[q].apply(np.concatenate(parts, axis=-1)), 0.0, LIMIT)
        query = np.clip(self.query[q].apply(hidden), -LIMIT, LIMIT)
        logits = query @ self.embeddings[q].T + self.biases[q]
        logits = np.floor(logits * 2.0 ** (LOGIT_BITS - ACTIVATION_BITS - self.embedding_bits))
        best = logits.argmax(axis=-1)
        rows = np.arange(len(logits))
        weights = EXP[np.minimum(logits[rows, best, None] - logits, len(EXP) - 1.0).astype(np.int64)]
        counts: Ints = (weights << TOTAL_BITS) // weights.sum(axis=-1, keepdims=True)
        counts[rows, best] += (1 << TOTAL_BITS) - counts.sum(axis=-1)
        return counts


def read_prior(path: str | os.PathLike[str]) -> Prior:
    """Read a prior from its file, or from a model folder.

    Raises: ModelError: missing, damaged, of a later format, or larger than a prior can be.
    """
    file = Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{file}: larger than a prior can be; train it again with codec.train.prior")
        data = file.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            f"{file}: missing: this model has no prior; train it with python -m codec.train.prior"
        ) from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}); copy it again") from None
    return parse_prior(data, str(file))


def parse_prior(data: bytes, name: str) -> Prior:
    """A prior of the bytes of its file; `name` is what messages call it. Raises: ModelError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        facts = _facts(data)
        if facts.get("format") != FORMAT:
            raise ModelError(f"{name}: prior format {facts.get('format')!r}, this build reads {FORMAT}; upgrade codec")
        prior = _build(arrays, facts, hashlib.sha256(data).digest()[:ID_BYTES].hex())
        _check(prior)
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{name}: damaged or no prior ({error}); copy it or train it again") from None
    return prior


def _facts(data: bytes) -> dict[str, Any]:
    """What stands as JSON under `prior` in a safetensors header: 8 bytes of length, then JSON."""
    size = int.from_bytes(data[:8], "little")
    facts: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["prior"])
    return facts


def _build(arrays: Mapping[str, npt.NDArray[np.integer]], facts: Mapping[str, Any], prior_id: str) -> Prior:
    if any(array.dtype.kind != "i" for array in arrays.values()):
        raise ValueError("a table that is not of integers")
    shifts = {str(name): int(value) for name, value in facts["shifts"].items()}

    def table(name: str) -> Array:
        return np.ascontiguousarray(arrays[name], np.float64)

    def layer(name: str) -> Layer:
        return Layer(table(f"{name}.weight"), table(f"{name}.bias"), shifts[name])

    books = range(int(facts["codebooks"]))
    return Prior(
        prior_id=prior_id,
        weights_hash=str(facts["weights_hash"]),
        embeddings=tuple(table(f"embedding.{q}") for q in books),
        embedding_bits=int(facts["embedding_bits"]),
        frame=layer("frame"),
        hidden=tuple(layer(f"hidden.{q}") for q in books),
        query=tuple(layer(f"query.{q}") for q in books),
        biases=tuple(table(f"bias.{q}") for q in books),
    )


def _check(prior: Prior) -> None:
    """Refuse shapes that do not fit and numbers for which float64 would no longer be exact. Raises: ValueError."""
    n_books, dim = len(prior.embeddings), prior.embeddings[0].shape[-1]
    n_hidden = len(prior.frame.bias)
    wanted = [(prior.frame, n_hidden, 3 * n_books * dim)]
    for q in range(n_books):
        n_inner = len(prior.hidden[q].bias)
        wanted += [(prior.hidden[q], n_inner, n_hidden + q * dim), (prior.query[q], dim, n_inner)]
        size = len(prior.biases[q])
        if prior.embeddings[q].shape != (size, dim) or not 1 <= size <= MAX_CODEBOOK_SIZE:
            raise ValueError(f"tables of codebook {q} do not fit")
        if np.abs(prior.embeddings[q]).max() > 128 or np.abs(prior.biases[q]).max() > 2**31:
            raise ValueError(f"numbers of codebook {q} are too large")
    for layer, n_out, n_in in wanted:
        if layer.weight.shape != (n_out, n_in) or layer.bias.shape != (n_out,) or not n_in <= 1 << 16:
            raise ValueError("a layer does not fit")
        if np.abs(layer.weight).max() > 128 or np.abs(layer.bias).max() > 2**31 or not 0 <= layer.shift <= 31:
            raise ValueError("a layer's numbers are too large")
    if not 0 <= prior.embedding_bits <= ACTIVATION_BITS:
        raise ValueError("embedding_bits is out of range")
