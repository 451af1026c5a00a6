"""Two coders, one stack of bytes: the library's and the one in plain Python (docs/codes-format.md, clause 9)."""

from __future__ import annotations

import numpy as np
import pytest

from codec.codesfile.rans import TOTAL_BITS, Ints, LibraryCoder, PythonCoder, open_coder, starts

KINDS = (LibraryCoder, PythonCoder)


def draw(n: int, size: int, power: int) -> tuple[Ints, Ints]:
    """Symbols (n,) and frequencies (n, size) of sum 2^23, the more uneven the higher the power."""
    rng = np.random.default_rng(size)
    weights = rng.random((n, size)) ** power + 1e-9
    counts = (weights / weights.sum(1, keepdims=True) * 2**TOTAL_BITS).astype(np.int64)
    counts[:, 0] += 2**TOTAL_BITS - counts.sum(1)
    return rng.integers(0, size, n), counts


@pytest.mark.parametrize(("n", "size", "power"), [(1, 2, 1), (7, 1, 1), (60, 3, 40), (200, 1024, 6), (20, 4096, 60)])
def test_both_coders_write_the_same_bytes_and_each_reads_the_others(n: int, size: int, power: int) -> None:
    symbols, counts = draw(n, size, power)
    payloads = []
    for kind in KINDS:
        coder = open_coder(kind=kind)
        coder.encode(symbols, counts)
        payloads.append(coder.payload())
    assert payloads[0] == payloads[1]
    for kind in KINDS:
        coder = open_coder(payloads[0], kind=kind)
        assert coder.decode(counts).tolist() == symbols.tolist()
        assert coder.is_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_is_as_long_as_its_information(kind: type[LibraryCoder] | type[PythonCoder]) -> None:
    symbols, counts = draw(500, 64, 3)
    coder = open_coder(kind=kind)
    coder.encode(symbols, counts)
    bits = sum(24 - np.log2(np.diff(starts(row))[symbol]) for row, symbol in zip(counts, symbols, strict=True))
    # The first symbol is free where its range begins at 0, and the last byte may not be full.
    assert -24 <= len(coder.payload()) * 8 - bits < 16


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_after_the_last_symbol_is_seen(kind: type[LibraryCoder] | type[PythonCoder]) -> None:
    symbols, counts = draw(30, 16, 1)
    coder = open_coder(kind=kind)
    coder.encode(symbols, counts)
    again = open_coder(coder.payload() + b"\x01", kind=kind)
    again.decode(counts)
    assert not again.is_empty()


def test_every_symbol_has_a_range_however_rare() -> None:
    edges = starts(np.array([2**TOTAL_BITS, 0, 0]))
    assert edges[0] == 0
    assert edges[-1] == 2**24
    assert min(np.diff(edges)) == 1
