"""Small `.codes` files, their bytes, and any others: what the tests of the container share."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, cast

import numpy as np
from hypothesis import strategies as st

from codec.codesfile import CodesFile, Header, write

HASH = "00112233445566778899aabbccddeeff"
TINY = Header("m", HASH, "block", 8, 2, (5, 2))
TINY_FILE = CodesFile(TINY, np.array([[4, 0, 1, 3, 2], [1, 0, 0, 1, 1]]), 9)
TINY_BYTES = bytes.fromhex(
    "c0646573 01 24 016d 00112233445566778899aabbccddeeff 05626c6f636b 08 02 01 02 010501 010201 04 00 058ace1f"
    "04 4496 3856eda6  01 0a f9dcba5d  00 05 09 08 9d4aa510"
)
DEFAULT = Header("default_16k", HASH, "block", 16000, 320, (1024,) * 4)


class Pipe(io.RawIOBase):
    """Bytes that come and go a few at a time, with no way back."""

    def __init__(self, data: bytes = b"", piece: int = 7) -> None:
        self.incoming, self.outgoing, self.piece = io.BytesIO(data), bytearray(), piece

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "a reader that takes all of a pipe has no bound"
        return self.incoming.read(min(size, self.piece))

    def write(self, data: Any) -> int:
        self.outgoing += data[: self.piece]
        return len(data[: self.piece])


def pipe(data: bytes, piece: int = 7) -> BinaryIO:
    return cast(BinaryIO, Pipe(data, piece))


def written(codes_file: CodesFile) -> bytes:
    file = io.BytesIO()
    write(file, codes_file)
    return file.getvalue()


def some_codes(header: Header, n_frames: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Codes (C, Q, F) by a formula, repeated where a divisor wants it."""
    codes = np.zeros((header.channels, header.n_codebooks, n_frames), np.int64)
    for c in range(header.channels):
        for q, (size, divisor) in enumerate(zip(header.codebook_sizes, header.divisors, strict=True)):
            codes[c, q] = (np.arange(n_frames) // divisor * 7919 + 104729 * q + 31 * c) % size
    return codes


def some_file(header: Header, n_frames: int, n_missing: int = 0) -> CodesFile:
    codes = some_codes(header, n_frames)
    n_samples = max(0, n_frames * header.hop_length - n_missing)
    return CodesFile(header, codes[0] if header.channels == 1 else codes, n_samples)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    n_codebooks = draw(st.integers(1, 4))
    sizes = st.integers(1, 20) | st.sampled_from([255, 256, 257, 1024, 65537, 1 << 31])
    names = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=8)
    return Header(
        model=draw(names),
        weights_hash=draw(st.binary(min_size=16, max_size=16)).hex(),
        mode=draw(st.sampled_from(["block", "frame"])),
        sample_rate=draw(st.integers(100, 48000)),
        hop_length=draw(st.integers(1, 10)),
        codebook_sizes=tuple(draw(st.lists(sizes, min_size=n_codebooks, max_size=n_codebooks))),
        divisors=tuple(draw(st.lists(st.sampled_from([1, 1, 2, 3, 4]), min_size=n_codebooks, max_size=n_codebooks))),
        channels=draw(st.integers(1, 3)),
        frames_per_block=12,
        sections=draw(st.dictionaries(names, st.binary(max_size=9), max_size=2)),
    )


@st.composite
def codes_files(draw: st.DrawFn) -> CodesFile:
    header = draw(headers())
    n_frames = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    limits = np.array(header.codebook_sizes)[:, None]
    codes = rng.integers(0, limits, (header.channels, header.n_codebooks, n_frames))
    for q, divisor in enumerate(header.divisors):
        codes[:, q] = np.repeat(codes[:, q, ::divisor], divisor, axis=-1)[:, :n_frames]
    n_samples = draw(st.integers(0, n_frames * header.hop_length))
    return CodesFile(header, codes[0] if header.channels == 1 else codes, n_samples)


def assert_same(one: CodesFile, other: CodesFile) -> None:
    assert one.header == other.header
    assert one.n_samples == other.n_samples
    assert one.codes.dtype == other.codes.dtype == np.int64
    np.testing.assert_array_equal(one.codes, other.codes, strict=True)
