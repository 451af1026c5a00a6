"""Blocks that say their length: container version 2, packed by a learned prior, and 3 (docs/codes-format.md, 9, 10).

Blocks have no fixed size here, so a seekable file is walked once: each block's CRC-32 says where the next begins, and
after a damaged one the next good block is searched for. So a damaged byte costs one block in this version too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.codesfile.entropy import MAX_BYTES_PER_CODE, check_prior, decode_blocks, encode_block, find_prior
from codec.codesfile.fields import CRC_BYTES, MAX_VARINT_BYTES, Cursor, crc_of, part_seed, varint
from codec.codesfile.header import MAX_BLOCK_CODES, MAX_BLOCK_SECONDS, Header, header_fields, parse_header, sealed
from codec.codesfile.packing import Codes, block_name
from codec.codesfile.pieces import Bytes
from codec.codesfile.prior import ID_BYTES, Prior
from codec.codesfile.trailer import Trailer, find_trailer, take_trailer
from codec.codesfile.variable import most_payload, pack_block, unpack_blocks
from codec.errors import CodesFileError, ModelError

VERSION = 2
MAX_HEAD_BYTES = 2 * MAX_VARINT_BYTES
# Places times bytes of a block that a search for the next good one may cost, a second or two: a stranger's header can
# claim blocks of a megabyte. Blocks up to 8 KB are found wherever the next one begins.
MOST_WORK = 1 << 27
BATCH = 16  # blocks decoded side by side: numpy's cost per call is spread, memory stays constant


def with_prior(header: Header, prior: Prior) -> Header:
    """A header for a file that is packed with a prior; its blocks become as long as they may be, about two seconds.

    Longer blocks tell the prior more. Raises: CodesError for a prior of other codes.
    """
    check_prior(header, prior)
    n_frames = MAX_BLOCK_SECONDS * header.sample_rate // header.hop_length
    n_frames = min(n_frames, MAX_BLOCK_CODES // (header.n_codebooks * header.channels))
    return dataclasses.replace(header, prior_id=prior.prior_id, frames_per_block=n_frames)


def header_bytes_v2(header: Header) -> bytes:
    """The whole head of a file of version 2: the fields of version 1, then the prior's id.

    Raises: CodesError for a header that is too large.
    """
    return sealed(VERSION, header_fields(header) + bytes.fromhex(header.prior_id))


def parse_header_v2(fields: bytes, base: int) -> Header:
    """The header from its fields; `base` is their offset in the file. Raises: CodesFileError."""
    if len(fields) < ID_BYTES:
        raise CodesFileError(f"byte {base}: the header ends before its prior's id")
    header = parse_header(fields[:-ID_BYTES], base)
    return dataclasses.replace(header, prior_id=fields[-ID_BYTES:].hex())


def block_v2(prior: Prior | None, header: Header, codes: Codes) -> bytes:
    """Head and payload of a block of codes (C, Q, f), without its CRC-32; of version 3 too, also without prior."""
    payload = pack_block(header, codes) if prior is None else encode_block(prior, codes, header.frame_codebooks)
    n_frames = codes.shape[-1]
    # Odd: a full block. Even: its frames follow. Never 0, which is the trailer.
    is_full = n_frames == header.frames_per_block
    head = varint(2 * len(payload) + 3 if is_full else 2 * len(payload) + 2)
    return head + (b"" if is_full else varint(n_frames)) + payload


@dataclass(frozen=True)
class Block:
    """Where a block lies: bytes from `start` to `stop`, its payload from `payload` on. Damaged: `n_frames` is 0."""

    start: int
    payload: int
    stop: int  # behind the CRC-32; of a damaged block where the next good one begins
    n_frames: int


class BodyV2:
    """Blocks and trailer of versions 2 and 3, after the header.

    Attributes:
        header: of the file.
        trailer: None while it is not known.
        priors: where the prior is looked for, before the embedded models.
    """

    def __init__(self, source: Bytes, header: Header, crc: bytes) -> None:
        self.header = header
        self.trailer: Trailer | None = None
        self.priors: Sequence[Path] = ()
        self._prior: Prior | None = None
        self._source, self._crc = source, crc
        self._start = source.offset
        self._per_block = header.frames_per_block
        self._blocks: list[Block] = []  # from the first on, as far as is known
        self._most_bytes = MAX_HEAD_BYTES + self._most_payload(self._per_block) + CRC_BYTES
        if source.size is not None:
            self.trailer = find_trailer(source, header, crc, source.size)

    def _most_payload(self, n_frames: int) -> int:
        """The most bytes that a block's payload may have."""
        if not self.header.prior_id:
            return most_payload(self.header, n_frames)
        n_symbols = self.header.n_codebooks + bool(self.header.frame_codebooks)
        return MAX_BYTES_PER_CODE * n_frames * n_symbols * self.header.channels + 4

    def offset_of(self, number: int) -> int:
        """Where block `number` begins, or what follows the block before it."""
        if number and self._source.size is not None:
            self._find(number - 1)
        return self._start if number == 0 or not self._blocks else self._blocks[min(number, len(self._blocks)) - 1].stop

    def _find(self, number: int) -> Block | None:
        """Block `number` of a seekable source, walked to; None where none is found there."""
        assert self._source.size is not None
        while len(self._blocks) <= number:
            at = self._blocks[-1].stop if self._blocks else self._start
            self._source.go_to(at)
            data = self._source.read(self._most_bytes)
            found = self._parse(data, at, len(self._blocks))
            if found is not None:
                self._blocks.append(found)
            elif not data or not self._skip(at):
                return None
        return self._blocks[number]

    def _skip(self, at: int) -> bool:
        """Note the damaged blocks at `at`, where a good one follows within reach."""
        self._source.go_to(at)
        found = self._search(self._source.read(3 * self._most_bytes), 1, len(self._blocks) + 1)
        if found is None:
            return False
        number, block = found
        while len(self._blocks) < number:
            self._blocks.append(Block(at, at, at + block.start, 0))
        return True

    def _search(self, data: bytes, at: int, number: int) -> tuple[int, Block] | None:
        """The first good block from byte `at` of `data` on: block `number` or the next; with its number.

        Its places count from the front of `data`.
        """
        reach = min(2 * self._most_bytes, MOST_WORK // self._most_bytes)
        for start in range(at, min(len(data), at + reach)):
            part = data[start : start + self._most_bytes]
            for candidate in (number, number + 1):
                found = self._parse(part, start, candidate)
                if found is not None:
                    return candidate, found
        return None

    def _parse(self, data: bytes, at: int, number: int) -> Block | None:
        """Block `number` at the front of `data`, which begins at byte `at`, if it is there and good."""
        cursor = Cursor(data, at)
        try:
            n_frames, size_bytes = self._head(cursor)
        except CodesFileError:
            return None
        stop = cursor.at + size_bytes
        crc = data[stop : stop + CRC_BYTES]
        if len(crc) < CRC_BYTES or crc_of(data[:stop], part_seed(self._crc, number)) != crc:
            return None
        return Block(at, at + cursor.at, at + stop + CRC_BYTES, n_frames)

    def _head(self, cursor: Cursor) -> tuple[int, int]:
        """Frames and bytes of payload from a block's first bytes. Raises: CodesFileError."""
        number = cursor.varint("length")
        is_full = number & 1
        n_frames = self._per_block if is_full else cursor.varint("frames")
        size_bytes = (number - 2) >> 1
        if number < 2 or not 1 <= n_frames <= self._per_block - 1 + is_full:
            raise cursor.error("its length is damaged")
        if size_bytes > self._most_payload(n_frames):
            raise cursor.error("its length is damaged")
        return n_frames, size_bytes

    def full_run(self, number: int, limit: int | None = None) -> Codes:
        """Good full blocks (n, C, Q, frames_per_block) from `number` on, at most `limit`; none from a pipe.

        It stops without a word before the first block that is not full and good: `block` says what that is.
        """
        payloads: list[bytes] = []
        most = BATCH if limit is None else min(BATCH, limit)
        while self._source.size is not None and len(payloads) < most:
            found = self._find(number + len(payloads))
            if found is None or found.n_frames != self._per_block:
                break
            payloads.append(self._payload(found))
        codes, is_whole = self._decode(payloads, self._per_block)
        return codes if is_whole.all() else codes[: int(np.argmin(is_whole))]

    def _payload(self, block: Block) -> bytes:
        self._source.go_to(block.payload)
        return self._source.read(block.stop - CRC_BYTES - block.payload)

    def _decode(self, payloads: Sequence[bytes], n_frames: int) -> tuple[Codes, npt.NDArray[np.bool_]]:
        shape = (self.header.channels, self.header.n_codebooks, n_frames)
        if not payloads:
            return np.zeros((0, *shape), np.int64), np.zeros(0, np.bool_)
        if not self.header.prior_id:
            return unpack_blocks(self.header, payloads, n_frames)
        return decode_blocks(self.prior(), payloads, shape, self.header.frame_codebooks)

    def prior(self) -> Prior:
        """The prior that the header names, looked for at the first call. Raises: ModelError."""
        if self._prior is None:
            try:
                self._prior = find_prior(self.header, self.priors)
            except ModelError as error:
                raise ModelError(f"{self._source.name}: {error}") from None
        return self._prior

    def block(self, number: int) -> Codes | None:
        """The codes (C, Q, f) of block `number`, full or not; None where the trailer or the end of the file stands.

        Raises: CodesFileError that names the damage; ModelError without the prior.
        """
        source, offset = self._source, self.offset_of(number)
        source.go_to(offset)
        source.mark()
        is_expected = self.trailer is not None and number * self._per_block < self.trailer.n_frames
        data = source.read(1)
        if not is_expected and data in (b"", b"\0"):
            return None
        data, n_frames, size_bytes = self._read_head(data, number)
        first, stop = len(data), len(data) + size_bytes
        data += source.read(size_bytes + CRC_BYTES)
        where = block_name(self.header, number, n_frames)
        if len(data) < stop + CRC_BYTES:
            raise source.error(offset, f"{where}: the file ends in it, {stop + CRC_BYTES - len(data)} bytes early")
        found = self._parse(data, offset, number)
        if found is None:
            raise source.error(offset, f"{block_name(self.header, number)}: CRC-32 does not match")
        codes, is_whole = self._decode([data[first:stop]], n_frames)
        if not is_whole.all():
            raise source.error(
                offset, f"{where}: its payload does not end with its last code, or holds one that cannot be"
            )
        if number == len(self._blocks):
            self._blocks.append(found)
        block: Codes = codes[0]
        return block

    def _read_head(self, data: bytes, number: int) -> tuple[bytes, int, int]:
        """The first bytes of a block, byte by byte, its frames and the size of its payload."""
        offset = self.offset_of(number)
        while len(data) <= MAX_HEAD_BYTES:
            try:
                return data, *self._head(Cursor(data, offset))
            except CodesFileError:
                more = self._source.read(1)
            if not more:
                raise self._source.error(offset, f"{block_name(self.header, number)}: the file ends in it")
            data += more
        raise self._source.error(offset, f"{block_name(self.header, number)}: its length is damaged")

    def finish(self, n_frames: int) -> None:
        """Check the trailer, which is all that may follow `n_frames` frames. Raises: CodesFileError."""
        self._source.go_to(self.offset_of(-(-n_frames // self._per_block)))
        self.trailer = take_trailer(self._source, self.header, self._crc, n_frames)

    def n_good_after(self, number: int) -> int:
        """How many good blocks follow the damaged block `number`. Reads the rest of the source, at most 64 MiB."""
        offset = self.offset_of(number)
        self._source.go_to(offset)
        data = self._source.read(1 << 26)
        n_good, at, number = 0, 1, number + 1
        while (found := self._search(data, at, number)) is not None:
            number, stop = found[0] + 1, found[1].stop
            n_good, at = n_good + 1, stop
        return n_good
