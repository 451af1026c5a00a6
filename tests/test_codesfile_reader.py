"""Any range of a `.codes` file, a pipe from front to back: docs/codes-format.md, clause 5.2."""

from __future__ import annotations

import io
import tracemalloc
from typing import BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.codesfile import CodesFile, Reader, read
from codec.codesfile.header import header_bytes
from codec.codesfile.trailer import MAX_TRAILER_BYTES
from codec.errors import CodesError, CodesFileError
from support.codesfiles import (
    DEFAULT,
    TINY,
    TINY_BYTES,
    TINY_FILE,
    assert_same,
    codes_files,
    pipe,
    some_codes,
    some_file,
    written,
)


class Counted(io.BytesIO):
    """A seekable file that remembers which bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.touched: list[range] = []

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(size)
        self.touched.append(range(start, start + len(data)))
        return data


@given(codes_files(), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_a_range_of_frames_is_that_of_the_whole(codes_file: CodesFile, one: int, two: int) -> None:
    """Clause 5.2."""
    n_frames = codes_file.codes.shape[-1]
    start, stop = sorted((min(one, n_frames), min(two, n_frames)))
    reader = Reader(io.BytesIO(written(codes_file)))
    assert (reader.n_frames, reader.n_samples) == (n_frames, codes_file.n_samples)
    np.testing.assert_array_equal(reader.read_frames(start, stop), codes_file.codes[..., start:stop], strict=True)


def test_a_range_reads_its_blocks_the_header_and_the_trailer_and_nothing_else() -> None:
    """Clause 5.2."""
    file = Counted(written(some_file(DEFAULT, 50 * 200)))
    head, size = len(header_bytes(DEFAULT)), len(file.getvalue())
    codes = Reader(file).read_frames(150 * 50 + 10, 152 * 50 + 20)
    np.testing.assert_array_equal(codes, some_codes(DEFAULT, 10000)[0, :, 7510:7620])
    touched = set().union(*file.touched)
    blocks = range(head + 150 * 255, head + 153 * 255)
    assert touched <= {*range(head), *blocks, *range(size - MAX_TRAILER_BYTES, size)}
    assert sum(map(len, file.touched)) == head + len(blocks) + MAX_TRAILER_BYTES


def test_a_range_checks_its_own_blocks_alone() -> None:
    """Clause 5.2."""
    data = bytearray(written(some_file(DEFAULT, 500)))
    data[len(header_bytes(DEFAULT)) + 4 * 255 + 9] ^= 1
    reader = Reader(io.BytesIO(bytes(data)))
    assert reader.read_frames(0, 200).shape == (4, 200)
    assert reader.read_frames(250, 500).shape == (4, 250)
    with pytest.raises(CodesFileError, match=r"block 4 \(seconds 4\.00 to 5\.00\)"):
        reader.read_frames(199, 201)
    for start, stop in ((-1, 2), (3, 2), (0, 501)):
        with pytest.raises(CodesError, match="not within 0 to 500"):
            reader.read_frames(start, stop)


def test_a_range_of_a_truncated_file_or_a_pipe_is_refused() -> None:
    with pytest.raises(CodesFileError, match="without its trailer"):
        Reader(io.BytesIO(TINY_BYTES[:0x3B])).read_frames(0, 1)
    with pytest.raises(CodesFileError, match="is a pipe"):
        Reader(pipe(TINY_BYTES)).read_frames(0, 1)


def test_a_pipe_knows_its_length_at_the_end_and_is_read_once() -> None:
    reader = Reader(pipe(TINY_BYTES), name="-")
    assert (reader.header, reader.n_frames, reader.n_samples) == (TINY, None, None)
    assert [block.shape for block in reader.blocks()] == [(2, 4), (2, 1)]
    assert (reader.n_frames, reader.n_samples) == (5, 9)
    with pytest.raises(CodesFileError, match="has been read"):
        reader.blocks()


def test_a_reader_begins_where_the_file_object_stands() -> None:
    file = io.BytesIO(b"before" + TINY_BYTES)
    file.seek(6)
    assert_same(read(file), TINY_FILE)


def test_blocks_of_a_long_file_take_constant_memory() -> None:
    data = written(some_file(DEFAULT, 50 * 3600))
    tracemalloc.start()
    n_frames = sum(block.shape[-1] for block in Reader(io.BytesIO(data)).blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_frames == 50 * 3600
    assert peak < 8 << 20


def test_a_text_file_object_is_refused() -> None:
    with pytest.raises(CodesFileError, match="binary mode"):
        read(cast(BinaryIO, io.StringIO("\xc0des")))
