"""The head of a `.codes` file: docs/codes-format.md, clauses 1, 2 and 6."""

from __future__ import annotations

import dataclasses
import io
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from codec import codesfile
from codec.codesfile import Header, Reader, Writer, read, variable
from codec.codesfile.fields import varint
from codec.errors import CodesError, CodesFileError
from support.codesfiles import (
    DEFAULT,
    HASH,
    TINY,
    TINY_BYTES,
    pipe,
    some_file,
    written,
)


def test_a_block_is_about_a_second_by_default_and_whole_groups() -> None:
    """Clause 2.2."""
    assert DEFAULT.frames_per_block == 50
    assert Header("m", HASH, "block", 24000, 320, (8, 8), (1, 8)).frames_per_block == 72
    assert Header("m", HASH, "block", 24000, 1920, (8,)).frames_per_block == 13


def test_rates_are_exact_and_bitrate_counts_divisors_and_channels() -> None:
    header = Header("m", HASH, "block", 24000, 1920, (1024, 256), (1, 2), channels=2)
    assert (header.frame_rate, header.n_codebooks, header.bitrate) == (12.5, 2, 12.5 * 2 * (10 + 8 / 2))


def test_a_whole_sha256_is_cut_to_the_half_that_is_kept() -> None:
    assert dataclasses.replace(TINY, weights_hash=HASH.upper() + "00" * 16).weights_hash == HASH


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": ""}, "model"),
        ({"model": "a\x1b[2J"}, "printable"),
        ({"model": "x" * 256}, "255 bytes"),
        ({"mode": "\ud800"}, "printable"),
        ({"weights_hash": "xyz"}, "weights_hash"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": 16000.0}, "wrong type"),
        ({"hop_length": -1}, "hop_length"),
        ({"codebook_sizes": ()}, "number of codebooks"),
        ({"codebook_sizes": (0, 1)}, "codebook size"),
        ({"divisors": (1,)}, "1 divisors for 2 codebooks"),
        ({"divisors": (1, 3), "frames_per_block": 4}, "multiple"),
        ({"frames_per_block": 9}, "2 seconds"),
        ({"channels": 65}, "channels"),
        ({"sections": {"": b""}}, "section"),
        ({"prior_id": "00112233aabb"}, "prior_id"),
        ({"prior_id": None}, "prior_id"),
        ({"sections": {"a": 1.5}}, "wrong type"),
        ({"sample_rate": 1 << 20, "frames_per_block": 1 << 20, "hop_length": 1}, "more than"),
        ({"codebook_sizes": (2,) * 999, "divisors": tuple(range(1, 1000)), "frames_per_block": 0}, "2 seconds"),
    ],
)
def test_a_header_that_the_format_cannot_hold_is_refused(change: dict[str, Any], text: str) -> None:
    """Clauses 1.2 and 2."""
    with pytest.raises(CodesError, match=text):
        dataclasses.replace(TINY, **change)


def test_sections_keep_any_bytes_and_unknown_ones_are_kept() -> None:
    """Clause 2.3."""
    sections = {"speaker": bytes(range(256)), "a": b"", "ä": b"x" * 300}
    header = dataclasses.replace(TINY, sections=sections)
    assert read(io.BytesIO(written(some_file(header, 3)))).header.sections == sections


def test_sections_beyond_the_header_limit_are_refused_at_writing() -> None:
    with pytest.raises(CodesError, match="make the sections smaller"):
        Writer(io.BytesIO(), dataclasses.replace(TINY, sections={"big": bytes(1 << 20)}))


def header_claims() -> Iterator[tuple[str, bytes]]:
    """Headers with a good CRC-32 and claims that cannot be."""
    body = TINY_BYTES[6:0x2A]
    huge = varint((1 << 63) - 1)
    yield "model name", huge + body[1:]
    yield "channels", body[:0x1A] + huge + body[0x1B:]
    yield "codebooks", body[:0x1C] + huge + body[0x1D:]
    yield "codebook size", body[:0x1D] + huge + body[0x1E:]
    yield "divisor", body[:0x1E] + huge + body[0x1F:]
    yield "2 seconds", body[:0x22] + huge + body[0x23:]
    yield "section", body[:0x23] + huge
    yield "more than 262144 codes", body[:0x18] + varint(1 << 24) + b"\1" + body[0x1A:0x22] + varint(1 << 24) + b"\0"
    yield "frames per block is 0", body[:0x22] + b"\0\0"
    yield "not UTF-8", b"\x01\xff" + body[2:]
    yield "printable", b"\x01\x1b" + body[2:]
    yield "longer form", b"\x81\x00" + body[1:]
    yield "equal to the one before", body[:0x1F] + b"\1\5\1" + body[0x22:]
    yield "too many", body + b"\0"
    yield "out of order", body[:0x23] + b"\2" + b"\1b\0" + b"\1a\0"
    yield "needs", body[:-3]


@pytest.mark.parametrize("wrap", [io.BytesIO, pipe])
@pytest.mark.parametrize(("text", "fields"), list(header_claims()))
def test_an_absurd_header_is_refused_without_allocating(
    text: str, fields: bytes, wrap: Callable[[bytes], BinaryIO]
) -> None:
    """Clause 6."""
    head = TINY_BYTES[:5] + varint(len(fields)) + fields
    data = head + zlib.crc32(head).to_bytes(4, "little") + TINY_BYTES[0x2E:]
    tracemalloc.start()
    try:
        with pytest.raises(CodesFileError, match=f"byte [0-9]+: .*{text}"):
            read(wrap(data))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrap", [io.BytesIO, pipe])
def test_a_header_that_claims_to_be_huge_is_refused_without_allocating(wrap: Callable[[bytes], BinaryIO]) -> None:
    """Clause 6."""
    for size, text in ((1 << 62, "at most 1048576"), (1 << 20, "ends in its header"), (1 << 63, "more than 9 bytes")):
        tracemalloc.start()
        with pytest.raises(CodesFileError, match=text):
            read(wrap(TINY_BYTES[:5] + varint(size) + b"x" * 99))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


def test_an_unknown_version_is_refused_by_name(tmp_path: Path) -> None:
    """Clause 1.4."""
    path = tmp_path / "talk.codes"
    path.write_bytes(TINY_BYTES[:4] + b"\x09" + TINY_BYTES[5:])
    with pytest.raises(CodesFileError) as caught:
        read(path)
    expected = "byte 4: container version 9, this build reads 1 to 3; upgrade codec or encode again"
    assert str(caught.value) == f"{path}: {expected}"


def test_another_file_is_refused() -> None:
    """Clause 1.4."""
    for data, text in (
        (b"RIFF1234WAVE", "not a .codes file"),
        (b"", "first five bytes"),
        (TINY_BYTES[:4], "first five"),
    ):
        with pytest.raises(CodesFileError, match=f"x.wav: byte 0: .*{text}"):
            Reader(io.BytesIO(data), name="x.wav")


def test_every_shipped_version_has_a_reader() -> None:
    assert list(codesfile.READERS) == list(range(1, variable.VERSION + 1))
