"""The container of docs/codes-format.md, clause by clause.

The files in tests/golden/*.codes were written once, when version 1 was made, by `write(path, codes_file)` for each item
of `golden_files()` below. They must never change: a reader of any later build gives the same codes.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codec import codesfile
from codec.codesfile import CodesFile, Header, Reader, Writer, append, packing, read, variable, write
from codec.errors import CodesError, CodesFileError

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
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


# The law, and the bytes.


@given(codes_files())
@settings(max_examples=60, deadline=None)
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
    head = packing.header_bytes(header)
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


# The header.


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
    varint = packing.varint
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
    head = TINY_BYTES[:5] + packing.varint(len(fields)) + fields
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
            read(wrap(TINY_BYTES[:5] + packing.varint(size) + b"x" * 99))
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
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=40, deadline=None)
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


# Damage.


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
    start = len(packing.header_bytes(DEFAULT))
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
    data[len(packing.header_bytes(DEFAULT)) + 255] = value
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
    head, full, short = len(packing.header_bytes(header)), 6, 6
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
    at = len(packing.header_bytes(DEFAULT))
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
        end = packing.trailer_bytes(TINY_BYTES[0x2A:0x2E], n_blocks, n_frames, n_samples)
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
@settings(max_examples=200, deadline=None)
def test_mutated_files_give_codes_or_one_clear_error(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from([TINY_BYTES, written(some_file(DEFAULT, 120))])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(file)))
        file[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    check_hostile(bytes(file))


@given(st.binary(max_size=200), st.booleans())
@example(b"", False)
@settings(max_examples=150, deadline=None)
def test_random_bytes_give_one_clear_error(tail: bytes, has_good_header: bool) -> None:
    check_hostile((TINY_BYTES[:0x2E] if has_good_header else packing.MAGIC + b"\1") + tail)


@given(st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_random_header_fields_give_one_clear_error(fields: bytes) -> None:
    head = TINY_BYTES[:5] + packing.varint(len(fields)) + fields
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


# Reading in parts.


@given(codes_files(), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
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
    head, size = len(packing.header_bytes(DEFAULT)), len(file.getvalue())
    codes = Reader(file).read_frames(150 * 50 + 10, 152 * 50 + 20)
    np.testing.assert_array_equal(codes, some_codes(DEFAULT, 10000)[0, :, 7510:7620])
    touched = set().union(*file.touched)
    blocks = range(head + 150 * 255, head + 153 * 255)
    assert touched <= {*range(head), *blocks, *range(size - packing.MAX_TRAILER_BYTES, size)}
    assert sum(map(len, file.touched)) == head + len(blocks) + packing.MAX_TRAILER_BYTES


def test_a_range_checks_its_own_blocks_alone() -> None:
    """Clause 5.2."""
    data = bytearray(written(some_file(DEFAULT, 500)))
    data[len(packing.header_bytes(DEFAULT)) + 4 * 255 + 9] ^= 1
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
