"""The bytes of a `.codes` file as pure functions: header, blocks, trailer, both ways.

The text that this follows is docs/codes-format.md; its clause numbers stand in the docstrings below.

>>> header = Header(model="m", weights_hash="00" * 16, mode="block", sample_rate=8, hop_length=2, codebook_sizes=(5, 2))
>>> header.frames_per_block, header.frame_rate, block_bytes(header, 4)
(4, 4.0, 7)
>>> pack(header, np.array([[[[4, 0, 1, 3], [1, 0, 0, 1]]]])).tobytes().hex()
'4496'
"""

from __future__ import annotations

import math
import operator
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from codec.codesfile.condition import condition_of
from codec.codesfile.counts import check_counts
from codec.errors import CodesError, CodesFileError

MAGIC = b"\xc0des"  # 0xC0 never occurs in UTF-8: no text file can begin like this
VERSION = 1
CRC_BYTES = 4
HASH_BYTES = 16
MAX_VARINT_BYTES = 9  # 63 bits: every value fits an int64
MAX_TRAILER_BYTES = 1 + 2 * MAX_VARINT_BYTES + 1 + CRC_BYTES
# Clause 6: what a reader accepts as a claim. All far above any model, all harmless to allocate.
MAX_HEADER_BYTES = 1 << 20
MAX_NAME_BYTES = 255
MAX_RATE = 1 << 24
MAX_CODEBOOKS = 1024
MAX_CODEBOOK_SIZE = 1 << 31
MAX_CHANNELS = 64
MAX_BLOCK_CODES = 1 << 18
MAX_BLOCK_SECONDS = 2
MAX_COUNT = 1 << 48  # frames and samples of a file: centuries

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Header:
    """What a `.codes` file says about its codes (clause 2). Checked on construction.

    A `weights_hash` of 64 digits (a whole SHA-256) is cut to the 32 that the file keeps; `frames_per_block` 0 becomes
    about a second.

    Raises: CodesError for a value that the format cannot hold.
    """

    model: str  # name of the model that made the codes
    weights_hash: str  # the first 16 bytes of the weights' SHA-256, 32 hexadecimal digits
    mode: str  # how the encoder ran: "block" or "frame"
    sample_rate: int  # Hz, the model's
    hop_length: int  # samples per frame
    codebook_sizes: tuple[int, ...]  # entries of each codebook
    divisors: tuple[int, ...] = ()  # codebook q stores one code for each divisors[q] frames; default all 1
    channels: int = 1
    frames_per_block: int = 0  # frames; a multiple of every divisor, at most two seconds; default about one second
    sections: Mapping[str, bytes] = field(default_factory=dict, hash=False)  # name -> bytes
    prior_id: str = (
        ""  # versions 2 and 3: 8 hexadecimal digits of the prior that the codes are packed with; "" packs without
    )
    frame_codebooks: tuple[int, ...] = ()  # version 3: numbers of codebooks that a frame may have; () is all in each

    def __post_init__(self) -> None:
        try:
            for name in ("sample_rate", "hop_length", "channels", "frames_per_block"):
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            for name in ("codebook_sizes", "divisors", "frame_codebooks"):
                object.__setattr__(self, name, tuple(operator.index(number) for number in getattr(self, name)))
            object.__setattr__(self, "divisors", self.divisors or (1,) * len(self.codebook_sizes))
            object.__setattr__(self, "sections", {name: bytes(self.sections[name]) for name in sorted(self.sections)})
            object.__setattr__(self, "weights_hash", _short_hash(self.weights_hash))
        except TypeError as error:
            raise CodesError(f"header: a field has a wrong type: {error}") from None
        _check_names(self)
        _check_numbers(self)
        condition_of(self.sections, self.channels)
        check_counts(self.frame_codebooks, self.divisors)
        if self.frames_per_block == 0:
            group = math.lcm(*self.divisors)
            # The nearest whole number of groups, in integers: floats would overflow on a hostile set of divisors.
            n_groups = max(1, (2 * self.sample_rate + self.hop_length * group) // (2 * self.hop_length * group))
            object.__setattr__(self, "frames_per_block", group * n_groups)
        _check_block_length(self)

    @property
    def n_codebooks(self) -> int:
        """Codebooks per channel."""
        return len(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Frames per second: `sample_rate / hop_length`, never rounded, Hz."""
        return self.sample_rate / self.hop_length

    @property
    def bitrate(self) -> float:
        """Bit/s of all channels and codebooks, from log2 of their sizes and the divisors, without the container."""
        per_frame = sum(math.log2(size) / d for size, d in zip(self.codebook_sizes, self.divisors, strict=True))
        return self.frame_rate * self.channels * per_frame


@dataclass(frozen=True)
class Trailer:
    """The end of a file (clause 4)."""

    n_frames: int
    n_samples: int
    size_bytes: int  # of the trailer itself


def _short_hash(text: str) -> str:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) not in (HASH_BYTES, 32):
        raise CodesError(f"header: weights_hash {text!r:.80} is not 32 or 64 hexadecimal digits; give the SHA-256")
    return digest[:HASH_BYTES].hex()


def _check_names(header: Header) -> None:
    names = {"model": header.model, "mode": header.mode, **{f"section {name!r:.60}": name for name in header.sections}}
    for what, name in names.items():
        if not isinstance(name, str):
            raise CodesError(f"header: {what} is {type(name).__name__}, not str")
        # Printable also keeps surrogates out, which UTF-8 cannot carry, and escape sequences out of terminals.
        if not name or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
            raise CodesError(f"header: {what} {name!r:.80} is not 1 to {MAX_NAME_BYTES} bytes of printable text")


def _check_numbers(header: Header) -> None:
    limits = [
        ("sample_rate", (header.sample_rate,), MAX_RATE),
        ("hop_length", (header.hop_length,), MAX_RATE),
        ("channels", (header.channels,), MAX_CHANNELS),
        ("number of codebooks", (header.n_codebooks,), MAX_CODEBOOKS),
        ("codebook size", header.codebook_sizes, MAX_CODEBOOK_SIZE),
        ("divisor", header.divisors, MAX_BLOCK_CODES),
    ]
    for what, values, limit in limits:
        for value in values:
            if not 1 <= value <= limit:
                raise CodesError(f"header: {what} {value} is outside 1 to {limit}")
    if len(header.divisors) != header.n_codebooks:
        raise CodesError(f"header: {len(header.divisors)} divisors for {header.n_codebooks} codebooks; give one each")


def _check_block_length(header: Header) -> None:
    n_frames = header.frames_per_block
    if n_frames * header.hop_length > MAX_BLOCK_SECONDS * header.sample_rate:
        raise CodesError(f"header: frames_per_block, a multiple of every divisor, passes {MAX_BLOCK_SECONDS} seconds")
    if n_frames < 1 or any(n_frames % divisor for divisor in header.divisors):
        raise CodesError(f"header: frames_per_block {n_frames} is not a multiple of every divisor")
    if n_frames * header.n_codebooks * header.channels > MAX_BLOCK_CODES:
        raise CodesError(f"header: a block of {n_frames} frames holds more than {MAX_BLOCK_CODES} codes")


# Varints and text: clause 1.


def varint(value: int) -> bytes:
    """Bytes of an unsigned LEB128 number, the shortest form.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Takes fields off the front of some bytes; `base` is the file offset of the first, for messages."""

    def __init__(self, data: bytes, base: int) -> None:
        self.data, self.base, self.at = data, base, 0

    def error(self, text: str) -> CodesFileError:
        """An error at this place."""
        return CodesFileError(f"byte {self.base + self.at}: {text}")

    def take(self, size_bytes: int, what: str) -> bytes:
        """The next bytes. Raises: CodesFileError when fewer are left."""
        if size_bytes > len(self.data) - self.at:
            raise self.error(f"{what} needs {size_bytes} bytes, {len(self.data) - self.at} are left")
        self.at += size_bytes
        return self.data[self.at - size_bytes : self.at]

    def varint(self, what: str) -> int:
        """The next number. Raises: CodesFileError when it is cut off, too long or not in the shortest form."""
        value = 0
        for n in range(MAX_VARINT_BYTES):
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << 7 * n
            if byte < 0x80:
                if byte == 0 and n > 0:
                    raise self.error(f"{what} is a number in a longer form than needed")
                return value
        raise self.error(f"{what} is a number of more than {MAX_VARINT_BYTES} bytes")

    def text(self, what: str) -> str:
        """The next length and that many bytes of UTF-8. Raises: CodesFileError."""
        data = self.take(self.varint(f"length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8") from None


def crc_of(part: bytes | memoryview, seed: int = 0) -> bytes:
    """The four bytes of a CRC-32, continued from `seed`."""
    return zlib.crc32(part, seed).to_bytes(CRC_BYTES, "little")


def part_seed(header_crc: bytes, number: int) -> int:
    """Where the CRC of block `number`, or of the trailer after `number` blocks, starts: bound to its file and place."""
    return zlib.crc32(header_crc + struct.pack("<Q", number))


def _runs(header: Header) -> Iterator[tuple[int, int, int, int]]:
    """(first codebook, count, size, divisor) of each run of equal codebooks."""
    first = 0
    for (size, divisor), run in groupby(zip(header.codebook_sizes, header.divisors, strict=True)):
        count = len(list(run))
        yield first, count, size, divisor
        first += count


def header_bytes(header: Header) -> bytes:
    """The whole head of a file (clause 2): magic, version, size, fields, CRC-32.

    Raises: CodesError when the sections make it larger than MAX_HEADER_BYTES.
    """
    model, mode = header.model.encode(), header.mode.encode()
    runs = list(_runs(header))
    body = [varint(len(model)), model, bytes.fromhex(header.weights_hash), varint(len(mode)), mode]
    body += [varint(value) for value in (header.sample_rate, header.hop_length, header.channels, len(runs))]
    body += [varint(value) for _, *run in runs for value in run]
    body += [varint(header.frames_per_block), varint(len(header.sections))]
    for name, data in ((text.encode(), data) for text, data in header.sections.items()):  # sorted by Header
        body += [varint(len(name)), name, varint(len(data)), data]
    fields = b"".join(body)
    if len(fields) > MAX_HEADER_BYTES:
        raise CodesError(f"header: {len(fields)} bytes, at most {MAX_HEADER_BYTES}; make the sections smaller")
    head = MAGIC + bytes([VERSION]) + varint(len(fields)) + fields
    return head + crc_of(head)


def parse_header(fields: bytes, base: int) -> Header:
    """The header from its fields (without magic, version, size and CRC); `base` is their offset in the file.

    Raises: CodesFileError.
    """
    cursor = Cursor(fields, base)
    model = cursor.text("model name")
    weights_hash = cursor.take(HASH_BYTES, "weights hash").hex()
    mode = cursor.text("mode")
    sample_rate, hop_length, channels = (cursor.varint(name) for name in ("sample rate", "hop length", "channels"))
    sizes, divisors = _parse_runs(cursor)
    frames_per_block = cursor.varint("frames per block")
    if frames_per_block == 0:
        raise cursor.error("frames per block is 0")
    sections: dict[str, bytes] = {}
    for _ in range(cursor.varint("number of sections")):
        name = cursor.text("section name")
        if sections and name.encode() <= list(sections)[-1].encode():
            raise cursor.error(f"section {name!r:.60} is there twice or out of order")
        sections[name] = cursor.take(cursor.varint("length of a section"), "section")
    if cursor.at != len(fields):
        raise cursor.error(f"{len(fields) - cursor.at} bytes too many in the header")
    try:
        return Header(
            model, weights_hash, mode, sample_rate, hop_length, sizes, divisors, channels, frames_per_block, sections
        )
    except CodesError as error:
        raise CodesFileError(f"byte {base}: {error}") from None


def _parse_runs(cursor: Cursor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes: list[int] = []
    divisors: list[int] = []
    previous = None
    for _ in range(cursor.varint("number of codebook runs")):
        count, *kind = (cursor.varint(name) for name in ("codebooks of a run", "codebook size", "divisor"))
        if count < 1 or kind == previous:
            raise cursor.error("a run of codebooks is empty or equal to the one before")
        if len(sizes) + count > MAX_CODEBOOKS:
            raise cursor.error(f"{len(sizes) + count} codebooks or more, at most {MAX_CODEBOOKS}")
        sizes += [kind[0]] * count
        divisors += [kind[1]] * count
        previous = kind
    return tuple(sizes), tuple(divisors)


def trailer_bytes(header_crc: bytes, n_blocks: int, n_frames: int, n_samples: int) -> bytes:
    """The end of a file of `n_blocks` blocks (clause 4)."""
    fields = b"\0" + varint(n_frames) + varint(n_samples)
    fields += bytes([len(fields) + 1 + CRC_BYTES])
    return fields + crc_of(fields, part_seed(header_crc, n_blocks))


def parse_trailer(header: Header, header_crc: bytes, data: bytes, base: int) -> Trailer:
    """The trailer at the front of `data`, more bytes may follow; `base` is its offset in the file.

    Raises: CodesFileError when it is cut off or damaged, or its numbers cannot be.
    """
    cursor = Cursor(data, base)
    tag = cursor.take(1, "trailer")
    n_frames, n_samples = cursor.varint("number of frames"), cursor.varint("number of samples")
    size_bytes = cursor.take(1, "size of the trailer")[0]
    crc = cursor.take(CRC_BYTES, "CRC-32 of the trailer")
    n_blocks = -(-n_frames // header.frames_per_block)
    if tag != b"\0" or size_bytes != cursor.at or crc != crc_of(data[: cursor.at - 4], part_seed(header_crc, n_blocks)):
        raise CodesFileError(f"byte {base}: trailer: CRC-32 does not match")
    if n_samples > n_frames * header.hop_length or n_frames > MAX_COUNT:
        raise CodesFileError(f"byte {base}: trailer: {n_samples} samples do not fit {n_frames} frames")
    return Trailer(n_frames, n_samples, size_bytes)


# Blocks: clause 3.


def bits_per_code(size: int) -> int:
    """Bits of one code of a codebook: ceil(log2(size)).

    >>> [bits_per_code(size) for size in (1, 2, 3, 1024, 1025)]
    [0, 1, 2, 10, 11]
    """
    return (size - 1).bit_length()


def payload_bits(header: Header, n_frames: int) -> int:
    """Bits of the codes of a block of `n_frames` frames, before the padding to whole bytes."""
    runs = _runs(header)
    return header.channels * sum(n * -(-n_frames // divisor) * bits_per_code(size) for _, n, size, divisor in runs)


def block_bytes(header: Header, n_frames: int) -> int:
    """Bytes of a block of `n_frames` frames: its length, its codes, its CRC-32."""
    return len(varint(n_frames)) + (payload_bits(header, n_frames) + 7) // 8 + CRC_BYTES


def batch_blocks(header: Header) -> int:
    """How many blocks to pack or unpack at once: numpy's cost per call is spread, memory stays constant."""
    return max(1, min(64, MAX_BLOCK_CODES // (header.frames_per_block * header.n_codebooks * header.channels)))


def pack(header: Header, codes: Codes) -> npt.NDArray[np.uint8]:
    """The payloads (n_blocks, bytes) of equally long blocks, codes (n_blocks, C, Q, f), checked before."""
    n_blocks, channels, _, n_frames = codes.shape
    bits = np.zeros((n_blocks, payload_bits(header, n_frames)), np.uint8)
    at = 0
    for channel in range(channels):
        for first, count, size, divisor in _runs(header):
            width = bits_per_code(size)
            plane = codes[:, channel, first : first + count, ::divisor].astype(np.uint32)
            n_bits = count * plane.shape[2] * width
            spread = plane[..., None] >> np.arange(width, dtype=np.uint32) & np.uint32(1)
            bits[:, at : at + n_bits] = spread.reshape(n_blocks, n_bits)
            at += n_bits
    return np.packbits(bits, axis=1, bitorder="little")


def unpack(header: Header, payloads: npt.NDArray[np.uint8], n_frames: int) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """Codes (n_blocks, C, Q, n_frames) of payloads (n_blocks, bytes), and whether each block holds only what it may.

    A block is not valid when a code is not below its codebook's size or a padding bit is not 0.
    """
    n_blocks = len(payloads)
    codes: Codes = np.zeros((n_blocks, header.channels, header.n_codebooks, n_frames), np.int64)
    bits = np.unpackbits(payloads, axis=1, bitorder="little")
    is_valid: npt.NDArray[np.bool_] = np.logical_not(bits[:, payload_bits(header, n_frames) :].any(axis=1))
    at = 0
    for channel in range(header.channels):
        for first, count, size, divisor in _runs(header):
            width, n_codes = bits_per_code(size), -(-n_frames // divisor)
            if width == 0:
                continue
            spread = bits[:, at : at + count * n_codes * width].reshape(n_blocks, count, n_codes, width)
            at += count * n_codes * width
            # float64 is exact up to 2**53 and goes through BLAS, which integers do not.
            plane = (spread.astype(np.float64) @ np.exp2(np.arange(width))).astype(np.int64)
            np.logical_and(is_valid, (plane < size).all(axis=(1, 2)), out=is_valid)
            codes[:, channel, first : first + count] = np.repeat(plane, divisor, axis=2)[..., :n_frames]
    return codes, is_valid
