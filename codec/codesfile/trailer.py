"""The end of a `.codes` file, both ways, and where to find it (docs/codes-format.md, clause 4)."""

from __future__ import annotations

from dataclasses import dataclass

from codec.codesfile.fields import CRC_BYTES, MAX_VARINT_BYTES, Cursor, crc_of, part_seed, varint
from codec.codesfile.header import Header
from codec.codesfile.pieces import Bytes
from codec.errors import CodesFileError

MAX_TRAILER_BYTES = 1 + 2 * MAX_VARINT_BYTES + 1 + CRC_BYTES
MAX_COUNT = 1 << 48  # frames and samples of a file: centuries


@dataclass(frozen=True)
class Trailer:
    """The end of a file (clause 4)."""

    n_frames: int
    n_samples: int
    size_bytes: int  # of the trailer itself


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


def find_trailer(source: Bytes, header: Header, header_crc: bytes, size: int) -> Trailer | None:
    """The trailer at the end of a seekable source of `size` bytes, which stays where it stands.

    None where the file is not whole; a walk through the blocks says what is wrong there.
    """
    start = source.offset
    source.go_to(max(start, size - MAX_TRAILER_BYTES))
    tail = source.read(MAX_TRAILER_BYTES)
    source.go_to(start)
    size_bytes = tail[-CRC_BYTES - 1] if len(tail) > CRC_BYTES else 0
    if not 0 < size_bytes <= len(tail):
        return None
    try:
        trailer = parse_trailer(header, header_crc, tail[-size_bytes:], size - size_bytes)
    except CodesFileError:
        return None
    return trailer if trailer.size_bytes == size_bytes else None


def take_trailer(source: Bytes, header: Header, header_crc: bytes, n_frames: int, *, advice: str = "") -> Trailer:
    """The trailer where the source stands, which is all that may follow `n_frames` frames.

    Raises: CodesFileError that names the damage; `advice` follows where no trailer is there.
    """
    offset = source.offset
    data = source.read(MAX_TRAILER_BYTES + 1)
    if not data:
        raise source.error(offset, "the file ends after a whole block, without its trailer")
    try:
        trailer = parse_trailer(header, header_crc, data, offset)
    except CodesFileError as error:
        raise CodesFileError(f"{source.name}: {error}{advice}") from None
    if trailer.n_frames != n_frames:
        raise source.error(offset, f"trailer: counts {trailer.n_frames} frames, {n_frames} are there")
    if len(data) > trailer.size_bytes:
        raise source.error(offset + trailer.size_bytes, "more bytes follow the trailer")
    return trailer
