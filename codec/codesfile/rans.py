"""The coder under `entropy`: rANS, by the library `constriction` or, where it has no wheel, in plain Python.

Both write and read the same bytes (docs/codes-format.md, clause 9). Frequencies are whole numbers of sum 2^23, at most
4096 of them: then every step of the library's own rounding to 24 bits (`perfect=False`) is exact in float64, and is the
integer formula of `starts`.

>>> coder = open_coder(kind=PythonCoder)
>>> counts = np.full((2, 4), 1 << 21)
>>> coder.encode(np.array([3, 1]), counts)
>>> open_coder(coder.payload(), kind=PythonCoder).decode(counts).tolist()
[3, 1]

Source: J. Duda, Asymmetric numeral systems, arXiv:1311.2540; R. Bamler, Understanding entropy coding with ANS,
arXiv:2201.01741.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]

TOTAL_BITS = 23  # frequencies sum to 2^23
PRECISION = 24  # bits of the coder's own probabilities
WORD_BITS = 32


class Coder(Protocol):
    """A stack: what goes in last comes out first."""

    def encode(self, symbols: Ints, counts: Ints) -> None:
        """Put symbols (n,) with frequencies (n, K) on the stack, the last first, so that they come out in order."""

    def decode(self, counts: Ints) -> Ints:
        """Take symbols (n,) with frequencies (n, K) off the stack."""

    def is_empty(self) -> bool:
        """Whether nothing is left."""

    def payload(self) -> bytes:
        """All that is on the stack, without the zeros at its end."""


def starts(counts: Ints) -> list[int]:
    """Where each symbol's range begins in 2^24, and 2^24: at least 1 for every symbol.

    >>> starts(np.array([1 << 22, 0, 1 << 22]))
    [0, 8388607, 8388608, 16777216]
    """
    below = np.concatenate([[0], np.cumsum(counts)])
    free = (1 << PRECISION) - len(counts)
    found: list[int] = ((below * free >> TOTAL_BITS) + np.arange(len(below))).tolist()
    return found


class LibraryCoder:
    """The coder of `constriction`."""

    def __init__(self, words: Words) -> None:
        from constriction import stream

        self._coder = stream.stack.AnsCoder(words) if len(words) else stream.stack.AnsCoder()
        self._model = stream.model.Categorical(perfect=False)

    def encode(self, symbols: Ints, counts: Ints) -> None:
        """As `Coder.encode`."""
        if counts.shape[1] == 1:
            return  # the library wants two symbols; one alone tells nothing
        self._coder.encode_reverse(symbols.astype(np.int32), self._model, counts.astype(np.float64))

    def decode(self, counts: Ints) -> Ints:
        """As `Coder.decode`."""
        if counts.shape[1] == 1:
            return np.zeros(len(counts), np.int64)
        symbols: Ints = self._coder.decode(self._model, counts.astype(np.float64)).astype(np.int64)
        return symbols

    def is_empty(self) -> bool:
        """As `Coder.is_empty`."""
        return bool(self._coder.is_empty())

    def payload(self) -> bytes:
        """As `Coder.payload`."""
        return _as_bytes(self._coder.get_compressed())


class PythonCoder:
    """The same in Python's integers."""

    def __init__(self, words: Words) -> None:
        self._words: list[int] = words.tolist()
        self._state = 0
        for _ in range(2):
            self._refill()

    def _refill(self) -> None:
        if self._words and self._state < 1 << WORD_BITS:
            self._state = self._state << WORD_BITS | self._words.pop()

    def encode(self, symbols: Ints, counts: Ints) -> None:
        """As `Coder.encode`."""
        for symbol, row in zip(symbols[::-1].tolist(), counts[::-1], strict=True):
            begin, end = starts(row)[symbol : symbol + 2]
            if self._state >= (end - begin) << 64 - PRECISION:
                self._words.append(self._state & (1 << WORD_BITS) - 1)
                self._state >>= WORD_BITS
            high, low = divmod(self._state, end - begin)
            self._state = (high << PRECISION) + begin + low

    def decode(self, counts: Ints) -> Ints:
        """As `Coder.decode`."""
        symbols = np.zeros(len(counts), np.int64)
        for i, row in enumerate(counts):
            edges = starts(row)
            high, low = divmod(self._state, 1 << PRECISION)
            symbols[i] = symbol = int(np.searchsorted(edges, low, side="right")) - 1
            self._state = high * (edges[symbol + 1] - edges[symbol]) + low - edges[symbol]
            self._refill()
        return symbols

    def is_empty(self) -> bool:
        """As `Coder.is_empty`."""
        return not self._state and not self._words

    def payload(self) -> bytes:
        """As `Coder.payload`."""
        mask = (1 << WORD_BITS) - 1
        return _as_bytes(np.array([*self._words, self._state & mask, self._state >> WORD_BITS], np.uint64))


def _as_bytes(words: npt.NDArray[Any]) -> bytes:
    return words.astype("<u4").tobytes().rstrip(b"\0")


def open_coder(payload: bytes = b"", *, kind: type[LibraryCoder] | type[PythonCoder] | None = None) -> Coder:
    """A coder that holds a payload; by default the library's where it is installed."""
    if kind is None:
        kind = PythonCoder if importlib.util.find_spec("constriction") is None else LibraryCoder
    payload = payload.rstrip(b"\0")  # the library refuses a last word of zeros
    padded = payload + bytes(-len(payload) % 4)
    return kind(np.frombuffer(padded, "<u4").astype(np.uint32))
