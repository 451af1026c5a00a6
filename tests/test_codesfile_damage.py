"""Damaged and hostile `.codes` files: every one is found, and the good blocks before it are kept."""

from __future__ import annotations

import dataclasses
import io
import re
import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codec.codesfile import Header, Reader, Writer, read
from codec.codesfile.fields import MAGIC, varint
from codec.codesfile.header import header_bytes
from codec.codesfile.trailer import trailer_bytes
from codec.errors import CodesFileError
from support.codesfiles import (
    DEFAULT,
    HASH,
    TINY,
    TINY_BYTES,
    pipe,
    some_codes,
    some_file,
    written,
)


@pytest.mark.parametrize("wrap", [io.BytesIO, pipe])
def test_every_flipped_bit_is_found(wrap: Callable[[bytes], BinaryIO]) -> None:
    """Clause 1.3."""
    texts = [
        (4, "not a .codes file"),
        (5, "container version|header"),
        (0x2E, "header"),
        (0x35, "block 0"),
        (0x3B, "block 1"),
    ]
    for at in range(len(TINY_BYTES)):
        expected = next((text for end, text in texts if at < end), "trailer|more bytes")
        for bit in range(8):
            data = bytearray(TINY_BYTES)
            data[at] ^= 1 << bit
            with pytest.raises(CodesFileError, match=r"^<stream>: byte [0-9]+: ") as caught:
                read(wrap(bytes(data)))
            assert re.search(expected, str(caught.value)), (at, bit, str(caught.value))


def test_a_damaged_block_is_named_with_its_seconds_and_the_good_ones_after_it_are_counted() -> None:
    """Clause 5.3."""
    data = bytearray(written(some_file(DEFAULT, 320)))
    start = len(header_bytes(DEFAULT))
    data[start + 3 * 255 + 100] ^= 4
    place = f"<stream>: byte {start + 3 * 255}: block 3 (seconds 3.00 to 4.00): CRC-32 does not match"
    for wrap in (io.BytesIO, pipe):
        with pytest.raises(CodesFileError, match=re.escape(place)):
            read(wrap(bytes(data)))
        part = read(wrap(bytes(data)), partial=True)
        assert part.warnings == (
            f"{place}; kept the 3 blocks before it (3.00 seconds), 3 good blocks after it not used",
        )
        np.testing.assert_array_equal(part.codes, some_codes(DEFAULT, 150)[0])
        assert part.n_samples == 150 * 320


@pytest.mark.parametrize("value", [0, 1, 49, 51, 0x80, 0xFF])
def test_a_damaged_length_does_not_hide_the_blocks_after_it(value: int) -> None:
    """Clause 5.3."""
    data = bytearray(written(some_file(DEFAULT, 320)))
    data[len(header_bytes(DEFAULT)) + 255] = value
    for wrap in (io.BytesIO, pipe):
        part = read(wrap(bytes(data)), partial=True)
        assert part.codes.shape == (4, 50)
        assert "5 good blocks after it not used" in part.warnings[0]


@pytest.mark.parametrize("wrap", [io.BytesIO, pipe])
def test_every_truncation_keeps_the_whole_blocks_and_warns(wrap: Callable[[bytes], BinaryIO]) -> None:
    """Clause 5.3."""
    header = dataclasses.replace(TINY, frames_per_block=2)
    whole = some_file(header, 7, 1)
    data = written(whole)
    head, full, short = len(header_bytes(header)), 6, 6
    for size in range(len(data)):
        if size < head:
            with pytest.raises(CodesFileError, match=r"the file ends|needs"):
                read(wrap(data[:size]), partial=True)
            continue
        part = read(wrap(data[:size]), partial=True)
        n_frames = 7 if size >= head + 3 * full + short else 2 * ((size - head) // full)
        np.testing.assert_array_equal(part.codes, whole.codes[:, :n_frames])
        assert part.n_samples == 2 * n_frames
        assert len(part.warnings) == 1
        assert re.match(r"<stream>: byte \d+: .*; kept the \d blocks before it", part.warnings[0])
        with pytest.raises(CodesFileError, match="partial=True"):
            read(wrap(data[:size]))


@pytest.mark.parametrize("wrap", [io.BytesIO, pipe])
def test_blocks_moved_repeated_or_left_out_are_damage(wrap: Callable[[bytes], BinaryIO]) -> None:
    """Clause 3.4."""
    data = written(some_file(DEFAULT, 200))
    at = len(header_bytes(DEFAULT))
    head, blocks, end = data[:at], [data[at + n * 255 :][:255] for n in range(4)], data[at + 4 * 255 :]
    for order in ([0, 2, 1, 3], [0, 1, 1, 2, 3], [0, 2, 3], [0, 1, 2]):
        with pytest.raises(CodesFileError, match=r"block|trailer"):
            read(wrap(head + b"".join(blocks[n] for n in order) + end))


@pytest.mark.parametrize("wrap", [io.BytesIO, pipe])
def test_bytes_after_the_trailer_are_refused(wrap: Callable[[bytes], BinaryIO]) -> None:
    """Clause 4."""
    for extra in (b"\0", TINY_BYTES):
        with pytest.raises(CodesFileError, match="byte 67: more bytes follow the trailer"):
            read(wrap(TINY_BYTES + extra))


def with_block_crc(data: bytes, start: int, stop: int, number: int) -> bytes:
    crc = zlib.crc32(data[0x2A:0x2E] + number.to_bytes(8, "little") + data[start : stop - 4])
    return data[: stop - 4] + crc.to_bytes(4, "little") + data[stop:]


@pytest.mark.parametrize(
    ("at", "value"), [(0x2F, 0x45), (0x36, 0x1A)], ids=["a code of 5 in 5 entries", "a padding bit"]
)
def test_a_writer_that_breaks_the_rules_is_found_behind_a_good_crc(at: int, value: int) -> None:
    """Clause 3.2."""
    data = TINY_BYTES[:at] + bytes([value]) + TINY_BYTES[at + 1 :]
    data = with_block_crc(with_block_crc(data, 0x2E, 0x35, 0), 0x35, 0x3B, 1)
    for wrap in (io.BytesIO, pipe):
        with pytest.raises(CodesFileError, match="outside its codebook or a padding bit"):
            read(wrap(data))


@pytest.mark.parametrize(("n_frames", "n_samples", "text"), [(5, 11, "do not fit"), (4, 0, "counts 4|CRC|block 1")])
def test_a_trailer_that_cannot_be_is_refused(n_frames: int, n_samples: int, text: str) -> None:
    """Clauses 4 and 5.1."""
    for n_blocks in (1, 2):
        end = trailer_bytes(TINY_BYTES[0x2A:0x2E], n_blocks, n_frames, n_samples)
        for wrap in (io.BytesIO, pipe):
            with pytest.raises(CodesFileError, match=f"{text}|trailer: CRC"):
                read(wrap(TINY_BYTES[:0x3B] + end))


def test_a_small_file_of_huge_codes_is_refused_whole_and_read_by_blocks() -> None:
    """Clause 6."""
    header = Header("m", HASH, "block", 1 << 17, 1, (1,), frames_per_block=1 << 18)
    file = io.BytesIO()
    with Writer(file, header) as writer:
        for _ in range(40):
            writer.append(np.zeros((1, 1 << 18), np.int64))
    with pytest.raises(CodesFileError, match="1024 times its size"):
        read(io.BytesIO(file.getvalue()))
    assert sum(block.shape[-1] for block in Reader(io.BytesIO(file.getvalue())).blocks()) == 40 << 18


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_mutated_files_give_codes_or_one_clear_error(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from([TINY_BYTES, written(some_file(DEFAULT, 120))])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(file)))
        file[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    check_hostile(bytes(file))


@given(st.binary(max_size=200), st.booleans())
@example(b"", False)
@settings(max_examples=80, deadline=None)
def test_random_bytes_give_one_clear_error(tail: bytes, has_good_header: bool) -> None:
    check_hostile((TINY_BYTES[:0x2E] if has_good_header else MAGIC + b"\1") + tail)


@given(st.binary(max_size=80))
@settings(max_examples=80, deadline=None)
def test_random_header_fields_give_one_clear_error(fields: bytes) -> None:
    head = TINY_BYTES[:5] + varint(len(fields)) + fields
    check_hostile(head + zlib.crc32(head).to_bytes(4, "little"))


def check_hostile(data: bytes) -> None:
    """Whatever the bytes: a CodesFile, or a CodesFileError of one line; seekable and piped sources agree."""
    for partial in (False, True):
        seekable, piped = outcome(io.BytesIO(data), partial), outcome(pipe(data, piece=1000), partial)
        assert seekable == piped or (isinstance(seekable, str) and isinstance(piped, str))
        for text in (seekable, piped):
            assert isinstance(text, bytes) or re.fullmatch(r"<stream>: .*[^.]", text)


def outcome(source: BinaryIO, partial: bool) -> bytes | str:
    try:
        return read(source, partial=partial).codes.tobytes()
    except CodesFileError as error:
        return str(error)
