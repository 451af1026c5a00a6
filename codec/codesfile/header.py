"""The head of a `.codes` file, both ways (docs/codes-format.md, clause 2).

>>> header = Header(model="m", weights_hash="00" * 16, mode="block", sample_rate=8, hop_length=2, codebook_sizes=(5, 2))
>>> header.frames_per_block, header.frame_rate, len(header_bytes(header))
(4, 4.0, 46)
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from codec.codesfile.condition import condition_of
from codec.codesfile.counts import check_counts
from codec.codesfile.fields import MAGIC, Cursor, crc_of, varint
from codec.codesfile.prior import ID_BYTES
from codec.errors import CodesError, CodesFileError

VERSION = 1
HASH_BYTES = 16
# Clause 6: what a reader accepts as a claim. All far above any model, all harmless to allocate.
MAX_HEADER_BYTES = 1 << 20
MAX_NAME_BYTES = 255
MAX_RATE = 1 << 24
MAX_CODEBOOKS = 1024
MAX_CODEBOOK_SIZE = 1 << 31
MAX_CHANNELS = 64
MAX_BLOCK_CODES = 1 << 18
MAX_BLOCK_SECONDS = 2


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
    # Versions 2 and 3: 8 hexadecimal digits of the prior that the codes are packed with; "" packs without.
    prior_id: str = ""
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
        _check_prior(self)
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


def _short_hash(text: str) -> str:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) not in (HASH_BYTES, 32):
        raise CodesError(f"header: weights_hash {text!r:.80} is not 32 or 64 hexadecimal digits; give the SHA-256")
    return digest[:HASH_BYTES].hex()


def _check_prior(header: Header) -> None:
    if not re.fullmatch(f"([0-9a-f]{{{2 * ID_BYTES}}})?", str(header.prior_id)):
        raise CodesError(f"header: prior_id {header.prior_id!r:.40} is not {2 * ID_BYTES} hexadecimal digits")


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


def runs_of(header: Header) -> Iterator[tuple[int, int, int, int]]:
    """(first codebook, count, size, divisor) of each run of equal codebooks."""
    first = 0
    for (size, divisor), run in groupby(zip(header.codebook_sizes, header.divisors, strict=True)):
        count = len(list(run))
        yield first, count, size, divisor
        first += count


def header_bytes(header: Header) -> bytes:
    """The whole head of a file of version 1.

    Raises: CodesError when the sections make it larger than MAX_HEADER_BYTES.
    """
    return sealed(VERSION, header_fields(header))


def sealed(version: int, fields: bytes) -> bytes:
    """The whole head of a file of any version: magic, version, size, fields, CRC-32. Raises: CodesError: too large."""
    if len(fields) > MAX_HEADER_BYTES:
        raise CodesError(f"header: {len(fields)} bytes, at most {MAX_HEADER_BYTES}; make the sections smaller")
    head = MAGIC + bytes([version]) + varint(len(fields)) + fields
    return head + crc_of(head)


def header_fields(header: Header) -> bytes:
    """The fields of version 1, which later versions have too."""
    model, mode = header.model.encode(), header.mode.encode()
    runs = list(runs_of(header))
    body = [varint(len(model)), model, bytes.fromhex(header.weights_hash), varint(len(mode)), mode]
    body += [varint(value) for value in (header.sample_rate, header.hop_length, header.channels, len(runs))]
    body += [varint(value) for _, *run in runs for value in run]
    body += [varint(header.frames_per_block), varint(len(header.sections))]
    for name, data in ((text.encode(), data) for text, data in header.sections.items()):  # sorted by Header
        body += [varint(len(name)), name, varint(len(data)), data]
    return b"".join(body)


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
