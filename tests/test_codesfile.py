"""The container of docs/codes-format.md, clause by clause.

The files in tests/golden/*.codes were written once, when version 1 was made, by `write(path, codes_file)` for each item
of `golden_files()` below. They must never change: a reader of any later build gives the same codes.
"""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.codesfile import CodesFile, Header, Writer, append, read, write
from codec.codesfile.header import header_bytes
from codec.errors import CodesError, CodesFileError
from support.codesfiles import (
    DEFAULT,
    HASH,
    TINY,
    TINY_BYTES,
    TINY_FILE,
    Pipe,
    assert_same,
    codes_files,
    pipe,
    some_file,
    written,
)

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"


def golden_files() -> dict[str, CodesFile]:
    one = Header("default_16k", HASH, "block", 16000, 320, (1024,) * 4)
    odd = Header(
        "odd", HASH, "frame", 24000, 300, (1000, 1000, 3, 1, 65536), (1, 1, 4, 2, 8), 2, 64, {"speaker": b"\0\1"}
    )
    none = Header("münchen", HASH, "block", 44100, 512, (2,))
    return {
        "one_channel_short_last_block": some_file(one, 120, 17),
        "two_channels_divisors_odd_sizes_section": some_file(odd, 150, 299),
        "no_frames": some_file(none, 0),
    }


# The law, and the bytes.


@given(codes_files())
@settings(max_examples=25, deadline=None)
def test_reading_gives_what_was_written(codes_file: CodesFile) -> None:
    data = written(codes_file)
    assert_same(read(io.BytesIO(data)), codes_file)
    assert_same(read(pipe(data)), codes_file)
    assert read(io.BytesIO(data)).warnings == ()


def test_the_worked_example_is_written_byte_for_byte() -> None:
    """Clause 8."""
    assert written(TINY_FILE) == TINY_BYTES
    assert_same(read(io.BytesIO(TINY_BYTES)), TINY_FILE)


def test_the_document_shows_these_bytes() -> None:
    """Clause 8."""
    text = (ROOT / "docs" / "codes-format.md").read_text(encoding="utf-8").split("## 8.")[1]
    rows = re.findall(r"^([0-9A-F]{2})  ((?:[0-9A-F]{2} )+) ", text, re.M)
    assert b"".join(bytes.fromhex(row) for _, row in rows) == TINY_BYTES
    assert [int(at, 16) for at, _ in rows] == [
        sum(len(bytes.fromhex(r)) for _, r in rows[:n]) for n in range(len(rows))
    ]


@pytest.mark.parametrize("name", golden_files())
def test_a_golden_file_gives_its_codes_for_ever(name: str) -> None:
    data = (GOLDEN / f"{name}.codes").read_bytes()
    assert_same(read(io.BytesIO(data)), golden_files()[name])
    assert written(golden_files()[name]) == data


@given(codes_files())
@settings(max_examples=30, deadline=None)
def test_blocks_are_packed_as_the_specification_says(codes_file: CodesFile) -> None:
    """Clauses 3.2 to 3.4, once more and bit by bit, from the text."""
    header, data = codes_file.header, written(codes_file)
    codes = codes_file.codes.reshape(header.channels, header.n_codebooks, -1)
    head = header_bytes(header)
    expected = head
    for number, start in enumerate(range(0, codes.shape[-1], 12)):
        part = codes[..., start : start + 12]
        bits = ""
        for c in range(header.channels):
            for q, (size, divisor) in enumerate(zip(header.codebook_sizes, header.divisors, strict=True)):
                width = int(np.ceil(np.log2(size)))
                bits += "".join(f"{code:0{width}b}"[::-1] for code in part[c, q, ::divisor] if width)
        bits += "0" * (-len(bits) % 8)
        block = bytes([part.shape[-1]]) + bytes(int(bits[n : n + 8][::-1], 2) for n in range(0, len(bits), 8))
        crc = zlib.crc32(head[-4:] + number.to_bytes(8, "little") + block)
        expected += block + crc.to_bytes(4, "little")
    assert data[: len(expected)] == expected
    assert data[len(expected)] == 0


def test_overhead_at_2_kbps_over_10_seconds_is_at_most_5_percent() -> None:
    """Clause 7."""
    assert DEFAULT.bitrate == 2000
    raw_bytes = 2500
    assert len(written(some_file(DEFAULT, 500))) - raw_bytes == 117 <= 0.05 * raw_bytes


# Writing.


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        ([[5], [0]], "code 5 of codebook 0, frame 0 is outside 0 <= code < 5"),
        ([[0, 0], [0, -1]], "code -1 of codebook 1, frame 1"),
        ([[0.0], [0.0]], "not integers"),
        ([0, 0], "shape"),
        ([[0], [0], [0]], "shape"),
        ([[[0], [0]]] * 2, "shape"),
    ],
)
def test_codes_that_do_not_fit_are_refused_and_nothing_is_taken(codes: Any, text: str) -> None:
    writer = Writer(io.BytesIO(), TINY)
    with pytest.raises(CodesError, match=text):
        writer.append(np.array(codes))
    assert writer.n_frames == 0
    with pytest.raises(CodesError, match=text):
        CodesFile(TINY, np.array(codes), 0)


def test_unsigned_codes_are_compared_as_numbers() -> None:
    with pytest.raises(CodesError, match="outside"):
        CodesFile(TINY, np.full((2, 1), 2**64 - 1, np.uint64), 0)


def test_a_number_of_samples_beyond_the_frames_is_refused() -> None:
    """Clause 4."""
    for n_samples in (-1, 11):
        with pytest.raises(CodesError, match="n_samples"):
            CodesFile(TINY, TINY_FILE.codes, n_samples)


def test_repeats_that_differ_are_refused_whatever_the_steps() -> None:
    """Clause 3.3."""
    header = Header("m", HASH, "block", 100, 10, (8, 8), (1, 4), frames_per_block=12)
    writer = Writer(io.BytesIO(), header)
    writer.append(np.array([[1, 2], [3, 3]]))
    with pytest.raises(CodesError, match=r"codebook 1 .* frame 2 differs"):
        writer.append(np.array([[1, 2], [4, 4]]))
    writer.append(np.array([[5], [3]]))
    assert writer.n_frames == 3


@given(codes_files(), st.lists(st.integers(0, 30), max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_steps_into_a_pipe_give_the_bytes_of_one_go(codes_file: CodesFile, steps: list[int]) -> None:
    """Clause 1.5."""
    target = Pipe()
    with Writer(cast(BinaryIO, target), codes_file.header) as writer:
        for part in np.split(codes_file.codes, sorted(steps), axis=-1):
            writer.append(part)
        writer.close(codes_file.n_samples)
    assert bytes(target.outgoing) == written(codes_file)


def test_every_full_block_leaves_at_once() -> None:
    file = io.BytesIO()
    writer = Writer(file, TINY)
    assert file.getvalue() == TINY_BYTES[:0x2E]
    writer.append(TINY_FILE.codes)
    assert file.getvalue() == TINY_BYTES[:0x35]


def interrupted(writer: Writer, codes: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    with writer:
        writer.append(codes)
        raise KeyboardInterrupt


def test_an_exception_leaves_no_trailer() -> None:
    file = io.BytesIO()
    writer = Writer(file, TINY)
    with pytest.raises(KeyboardInterrupt):
        interrupted(writer, TINY_FILE.codes)
    assert file.getvalue() == TINY_BYTES[:0x35]
    with pytest.raises(CodesError, match="closed"):
        writer.append(TINY_FILE.codes)


def test_a_writer_that_is_left_without_close_takes_all_samples() -> None:
    file = io.BytesIO()
    with Writer(file, TINY) as writer:
        writer.append(TINY_FILE.codes)
    assert read(io.BytesIO(file.getvalue())).n_samples == 10


def test_a_path_is_replaced_only_by_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.codes"
    write(path, TINY_FILE)
    header = Header("m", HASH, "block", 100, 10, (8,), (2,))
    with pytest.raises(CodesError, match="differs"):
        write(path, CodesFile(header, np.array([[1, 2]]), 3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.codes"]
    assert_same(read(path), TINY_FILE)


# Appending.


@given(codes_files(), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_appending_gives_the_bytes_of_one_go(
    tmp_path_factory: pytest.TempPathFactory, codes_file: CodesFile, one: int, two: int
) -> None:
    """Clauses 1.5 and 5.4."""
    header, codes = codes_file.header, codes_file.codes
    first, second, third = np.split(codes, sorted((one, two)), axis=-1)
    path = tmp_path_factory.getbasetemp() / "appended.codes"
    path.write_bytes(written(CodesFile(header, first, 0)))
    with append(path) as writer:
        writer.append(second)
    with append(path) as writer:
        writer.append(third)
        writer.close(codes_file.n_samples)
    assert path.read_bytes() == written(codes_file)


def test_appending_changes_nothing_before_a_block_is_full(tmp_path: Path) -> None:
    """Clause 5.4."""
    path = tmp_path / "x.codes"
    path.write_bytes(TINY_BYTES)
    with pytest.raises(KeyboardInterrupt):
        interrupted(append(path), TINY_FILE.codes[:, :2])
    assert path.read_bytes() == TINY_BYTES
    with pytest.raises(KeyboardInterrupt):
        interrupted(append(path), TINY_FILE.codes)
    assert read(path, partial=True).codes.shape == (2, 8)


@pytest.mark.parametrize("cut", [0x2D, 0x36, len(TINY_BYTES) - 1])
def test_a_truncated_file_is_not_appended_to(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.codes"
    path.write_bytes(TINY_BYTES[:cut])
    with pytest.raises(CodesFileError, match=r"x\.codes: byte"):
        append(path)
    assert path.read_bytes() == TINY_BYTES[:cut]
