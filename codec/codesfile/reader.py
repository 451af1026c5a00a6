"""Read `.codes` files of every version ever written: any range of a seekable source, a pipe from front to back.

The text that this follows is docs/codes-format.md. Nothing of a file is believed before it is compared with the bytes
that are there, and only CodesFileError leaves: one line with file, byte offset, what is wrong and what to do.

>>> import io
>>> Reader(io.BytesIO(b"RIFF...."), name="talk.codes")
Traceback (most recent call last):
codec.errors.CodesFileError: talk.codes: byte 0: not a .codes file; give a file that codec encode has written
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from codec.codesfile import packing
from codec.codesfile.fields import CRC_BYTES, MAGIC, MAX_VARINT_BYTES, Cursor, crc_of, part_seed, varint
from codec.codesfile.header import MAX_HEADER_BYTES, Header, parse_header
from codec.codesfile.packed import BodyV2, parse_header_v2
from codec.codesfile.packing import Codes, block_name
from codec.codesfile.pieces import Bytes
from codec.codesfile.prior import Prior
from codec.codesfile.trailer import Trailer, find_trailer, take_trailer
from codec.codesfile.variable import parse_header_v3
from codec.errors import CodesError, CodesFileError


class _BodyV1:
    """Blocks and trailer of version 1, after the header (docs/codes-format.md, clauses 3 and 4)."""

    def __init__(self, source: Bytes, header: Header, crc: bytes) -> None:
        self.header = header
        self.trailer: Trailer | None = None
        self._source, self._crc, self._start = source, crc, source.offset
        self._per_block = header.frames_per_block
        self._length = varint(self._per_block)
        self._full_bytes = packing.block_bytes(header, self._per_block)
        if source.size is not None:
            self.trailer = self._find_trailer(source.size)

    def _find_trailer(self, size: int) -> Trailer | None:
        """The trailer at the end, where as many bytes are before it as its frames take."""
        trailer = find_trailer(self._source, self.header, self._crc, size)
        is_whole = trailer is not None and self._end_of(trailer.n_frames) + trailer.size_bytes == size
        return trailer if is_whole else None

    def _end_of(self, n_frames: int) -> int:
        """Where the blocks of so many frames end."""
        n_full, n_last = divmod(n_frames, self._per_block)
        return self.offset_of(n_full) + (packing.block_bytes(self.header, n_last) if n_last else 0)

    def offset_of(self, number: int) -> int:
        """Where block `number` begins, all before it being full."""
        return self._start + number * self._full_bytes

    def full_run(self, number: int, limit: int | None = None) -> Codes:
        """Good full blocks (n, C, Q, frames_per_block) from `number` on, at most `limit`; none from a pipe.

        It stops without a word before the first block that is not full and good: `block` says what that is.
        """
        offset = self.offset_of(number)
        n_blocks = 0
        if self._source.size is not None:
            n_blocks = min(packing.batch_blocks(self.header), (self._source.size - offset) // self._full_bytes)
            n_blocks = max(0, n_blocks if limit is None else min(n_blocks, limit))
            self._source.go_to(offset)
        data = self._source.read(n_blocks * self._full_bytes)
        blocks = np.frombuffer(data, np.uint8).reshape(-1, self._full_bytes)
        n_good = 0
        while n_good < len(blocks) and self._is_good_full(blocks[n_good].data, number + n_good):
            n_good += 1
        codes, is_valid = packing.unpack(self.header, blocks[:n_good, len(self._length) : -CRC_BYTES], self._per_block)
        return codes if is_valid.all() else codes[: int(np.argmin(is_valid))]

    def _is_good_full(self, block: memoryview, number: int) -> bool:
        is_full = len(block) == self._full_bytes and block[: len(self._length)] == self._length
        return is_full and self._is_intact(block, number)

    def _is_intact(self, block: bytes | memoryview, number: int) -> bool:
        seed = part_seed(self._crc, number)
        return len(block) > CRC_BYTES and crc_of(block[:-CRC_BYTES], seed) == block[-CRC_BYTES:]

    def block(self, number: int) -> Codes | None:
        """The codes (C, Q, f) of block `number`, full or not; None where the trailer or the end of the file stands.

        Raises: CodesFileError that names the damage.
        """
        source, offset = self._source, self.offset_of(number)
        source.go_to(offset)
        source.mark()
        head = source.read(len(self._length))
        is_expected = self.trailer is not None and number * self._per_block < self.trailer.n_frames
        if not is_expected and (not head or head[0] == 0):
            return None
        n_frames, length = self._block_length(head, offset, number)
        size_bytes = packing.block_bytes(self.header, n_frames)
        data = head + source.read(size_bytes - len(head))
        where = block_name(self.header, number, n_frames)
        if len(data) < size_bytes:
            raise source.error(offset, f"{where}: the file ends in it, {size_bytes - len(data)} bytes early")
        if not self._is_intact(data, number):
            raise source.error(offset, f"{block_name(self.header, number)}: CRC-32 does not match")
        codes, is_valid = packing.unpack(self.header, np.frombuffer(data, np.uint8)[None, length:-CRC_BYTES], n_frames)
        if not is_valid.all():
            raise source.error(offset, f"{where}: a code is outside its codebook or a padding bit is not 0")
        block: Codes = codes[0]
        return block

    def _block_length(self, head: bytes, offset: int, number: int) -> tuple[int, int]:
        """The frames of a block and the bytes of its length field, from its first bytes."""
        cursor = Cursor(head, offset)
        try:
            n_frames = cursor.varint("length")
        except CodesFileError:
            n_frames = 0
        if not 1 <= n_frames <= self._per_block:
            text = "the file ends in it" if len(head) < len(self._length) else "its length is damaged"
            raise self._source.error(offset, f"{block_name(self.header, number)}: {text}")
        return n_frames, cursor.at

    def finish(self, n_frames: int) -> None:
        """Check the trailer, which is all that may follow `n_frames` frames.

        Raises: CodesFileError that names the damage.
        """
        n_full, n_last = divmod(n_frames, self._per_block)
        self._source.go_to(self._end_of(n_frames))
        # Without a trailer known from the end, a block whose length became 00 looks like one.
        name = block_name(self.header, n_full)
        unsure = "" if n_last or self.trailer else f" (if a block begins here, {name} is damaged)"
        self.trailer = take_trailer(self._source, self.header, self._crc, n_frames, advice=unsure)

    def n_good_after(self, number: int) -> int:
        """How many good blocks follow the damaged block `number`, taken as full. Reads the rest of the source."""
        self._source.go_to(self.offset_of(number))
        self._source.read(self._full_bytes)
        n_good = 0
        while data := self._source.read(self._full_bytes):
            self._source.mark()
            number += 1
            n_good += self._is_good_full(memoryview(data), number) or self._is_good_last(data, number)
        return n_good

    def _is_good_last(self, data: bytes, number: int) -> bool:
        try:
            n_frames = Cursor(data, 0).varint("length")
        except CodesFileError:
            return False
        is_short = 1 <= n_frames < self._per_block
        return is_short and self._is_intact(data[: packing.block_bytes(self.header, n_frames)], number)


def _read_fields(source: Bytes, version: int) -> tuple[bytes, int, bytes]:
    """The fields of a header, from behind the version byte, where they begin, and their CRC-32, which is right."""
    head = MAGIC + bytes([version])
    for _ in range(MAX_VARINT_BYTES):
        byte = source.read(1)
        head += byte
        if not byte or byte[0] < 0x80:
            break
    cursor = Cursor(head, 0)
    cursor.at = len(MAGIC) + 1
    try:
        size_bytes = cursor.varint("size of the header")
    except CodesFileError as error:
        raise CodesFileError(f"{source.name}: {error}; encode again") from None
    is_too_large = source.size is not None and size_bytes > source.size - source.offset - CRC_BYTES
    if size_bytes > MAX_HEADER_BYTES:
        raise source.error(5, f"the header claims {size_bytes} bytes, at most {MAX_HEADER_BYTES}; encode again")
    data = b"" if is_too_large else source.read(size_bytes + CRC_BYTES)
    if len(data) < size_bytes + CRC_BYTES:
        raise source.error(5, f"the file ends in its header, of {size_bytes} bytes; encode again")
    fields, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if crc_of(head + fields) != crc:
        raise source.error(5, "header: CRC-32 does not match; copy the file again or encode again")
    return fields, len(head), crc


# Container version -> the header from behind the version byte, and the access to the rest. A version once shipped is
# never edited: a new one gets a new line. 2 is entropy-coded, in 3 frames have unlike numbers of codebooks.
Body = _BodyV1 | BodyV2
READERS: dict[int, tuple[Callable[[bytes, int], Header], Callable[[Bytes, Header, bytes], Body]]] = {
    1: (parse_header, _BodyV1),
    2: (parse_header_v2, BodyV2),
    3: (parse_header_v3, BodyV2),
}


def _read_body(source: Bytes, version: int) -> Body:
    parse, body = READERS[version]
    fields, base, crc = _read_fields(source, version)
    try:
        return body(source, parse(fields, base), crc)
    except CodesFileError as error:
        raise CodesFileError(f"{source.name}: {error}; encode again") from None


class Reader:
    """Reads a file block by block, in constant memory.

    Args:
        source: a binary file object; from where it stands to its end. It is not closed.
        name: what messages call it; default its own name.
        partial: stop at the first damage with a line in `warnings` instead of an error.
        priors: model folders or prior files, where the prior of an entropy-coded file is looked for before the
            embedded models; it is wanted at the first block.

    Raises: CodesFileError for a damaged header, an unknown version, or something else than a .codes file.
    """

    def __init__(
        self, source: BinaryIO, *, name: str | None = None, partial: bool = False, priors: Sequence[Path] = ()
    ) -> None:
        own_name = getattr(source, "name", None)
        self.name = name or (own_name if isinstance(own_name, str) else "<stream>")
        self.partial = partial
        self.warnings: tuple[str, ...] = ()
        self._source = Bytes(source, self.name)
        self._is_fresh = True
        magic, version = self._source.read(len(MAGIC)), self._source.read(1)
        if magic != MAGIC or not version:
            is_short = MAGIC.startswith(magic)
            what = "the file ends in its first five bytes" if is_short else "not a .codes file"
            raise self._source.error(0, f"{what}; give a file that codec encode has written")
        if version[0] not in READERS:
            known = f"this build reads {min(READERS)} to {max(READERS)}"
            text = f"container version {version[0]}, {known}; upgrade codec or encode again"
            raise self._source.error(len(MAGIC), text)
        self._body = _read_body(self._source, version[0])
        if isinstance(self._body, BodyV2):
            self._body.priors = tuple(priors)

    @property
    def header(self) -> Header:
        """What the file says about its codes."""
        return self._body.header

    @property
    def n_frames(self) -> int | None:
        """Frames of the whole file; None while the trailer is not known: a pipe before its end, a damaged file."""
        return None if self._body.trailer is None else self._body.trailer.n_frames

    @property
    def n_samples(self) -> int | None:
        """Samples per channel of the whole file at header.sample_rate; None while the trailer is not known."""
        return None if self._body.trailer is None else self._body.trailer.n_samples

    @property
    def offset(self) -> int:
        """How far the source has been read, bytes."""
        return self._source.offset

    def block_offset(self, number: int) -> int:
        """Where block `number` begins in the source, bytes; behind the last full block: where those end."""
        return self._body.offset_of(number)

    def prior(self) -> Prior | None:
        """The prior of an entropy-coded file; None for another. Raises: ModelError where it is not installed."""
        return self._body.prior() if isinstance(self._body, BodyV2) and self.header.prior_id else None

    def require_n_frames(self) -> int:
        """`n_frames` of a seekable source, as an error where it is not known.

        Raises: CodesFileError that names the damage.
        """
        if self.n_frames is None:
            if self._source.size is None:
                raise CodesFileError(f"{self.name}: is a pipe; copy it to a file to jump in it or to append")
            for _ in self._blocks(partial=False):
                pass
        assert self.n_frames is not None, "a file that reads to its end has its trailer"
        return self.n_frames

    def blocks(self) -> Iterator[Codes]:
        """The blocks in order: codes (Q, f), or (C, Q, f) where there are channels. From a pipe only once.

        Raises: CodesFileError at the first damage, after the good blocks before it; not where `partial` is set.
        """
        if self._source.size is None and not self._is_fresh:
            raise CodesFileError(f"{self.name}: is a pipe and has been read; open it again")
        self._is_fresh = False
        return self._blocks(partial=self.partial)

    def _blocks(self, *, partial: bool) -> Iterator[Codes]:
        body, per_block, n_frames = self._body, self.header.frames_per_block, 0
        while True:
            run = body.full_run(n_frames // per_block) if n_frames % per_block == 0 else ()
            for codes in run:
                yield self._squeezed(codes)
            n_frames += len(run) * per_block
            if len(run):
                continue
            try:
                # Nothing but the trailer may follow a block that is not full.
                block = body.block(n_frames // per_block) if n_frames % per_block == 0 else None
                if block is None:
                    body.finish(n_frames)
            except CodesFileError as damage:
                if not partial:
                    raise _advised(damage) from None
                self._warn(damage, n_frames)
                return
            if block is None:
                return
            n_frames += block.shape[-1]
            yield self._squeezed(block)

    def _warn(self, damage: CodesFileError, n_frames: int) -> None:
        per_block = self.header.frames_per_block
        n_after = 0 if n_frames % per_block else self._body.n_good_after(n_frames // per_block)
        seconds = n_frames / self.header.frame_rate
        kept = f"kept the {-(-n_frames // per_block)} blocks before it ({seconds:.2f} seconds)"
        self.warnings = (f"{damage}; {kept}, {n_after} good blocks after it not used",)

    def read_frames(self, start: int, stop: int) -> Codes:
        """Codes (Q, stop - start), or (C, Q, stop - start), of a seekable source; only the blocks they lie in are read.

        Raises: CodesError for a range outside 0 <= start <= stop <= n_frames; CodesFileError for a damaged block among
            those, for a file without a good end, and for a pipe.
        """
        n_frames = self.require_n_frames()
        if not 0 <= start <= stop <= n_frames:
            raise CodesError(f"{self.name}: frames {start} to {stop} are not within 0 to {n_frames}")
        per_block = self.header.frames_per_block
        number, end = start // per_block, -(-stop // per_block)
        origin = number * per_block
        parts: list[Codes] = [np.zeros((self.header.channels, self.header.n_codebooks, 0), np.int64)]
        while number < end and start < stop:
            run = self._body.full_run(number, min(end, n_frames // per_block) - number)
            parts += list(run)
            number += len(run)
            if not len(run):
                try:
                    block = self._body.block(number)
                except CodesFileError as damage:
                    raise _advised(damage) from None
                assert block is not None, "before the last frame stands a block or an error"
                parts.append(block)
                number += 1
        codes: Codes = np.concatenate(parts, axis=-1)[..., start - origin : stop - origin]
        return self._squeezed(codes)

    def _squeezed(self, codes: Codes) -> Codes:
        return codes[0] if self.header.channels == 1 else codes


def _advised(damage: CodesFileError) -> CodesFileError:
    return CodesFileError(f"{damage}; copy the file again, or keep the good blocks before it with partial=True")
