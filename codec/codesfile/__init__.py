"""Read and write `.codes` files, container versions 1 to 3.

The specification is docs/codes-format.md; in short:

    magic C0 64 65 73, version 01
    header    varint size, fields (model, weights hash, mode, rates, codebooks, sections), CRC-32
    block *   varint frames, codes bit-packed codebook after codebook, CRC-32; every block but the last is equally long
    trailer   00, varint frames, varint samples, size, CRC-32

Version 2 packs the codes of a block by a learned prior (`packed`), in version 3 frames differ in their number of
codebooks (`variable`); the rest is the same. All numbers are
little-endian, a varint is LEB128, a CRC-32 comes last in its part and covers all of the part before it, its length
included; those of blocks and trailer also cover the header's CRC and the block's number. A file is written front to
back; a reader of a seekable file takes the trailer first and computes, or after version 1 looks up, where blocks lie.

>>> import io
>>> header = Header(model="m", weights_hash="00" * 16, mode="block", sample_rate=8, hop_length=2, codebook_sizes=(5, 2))
>>> file = io.BytesIO()
>>> write(file, CodesFile(header, np.array([[4, 0, 1, 3, 2], [1, 0, 0, 1, 1]]), n_samples=9))
>>> read(io.BytesIO(file.getvalue())).codes.tolist()
[[4, 0, 1, 3, 2], [1, 0, 0, 1, 1]]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from codec.codesfile import packing
from codec.codesfile.condition import SECTION
from codec.codesfile.counts import is_wrong
from codec.codesfile.fields import CRC_BYTES, crc_of, part_seed, varint
from codec.codesfile.header import Header, header_bytes
from codec.codesfile.packed import block_v2, header_bytes_v2
from codec.codesfile.packing import Codes
from codec.codesfile.prior import Prior
from codec.codesfile.reader import READERS, Reader
from codec.codesfile.trailer import trailer_bytes
from codec.codesfile.variable import header_bytes_v3
from codec.errors import CodesError, CodesFileError
from codec.files import atomic_path

__all__ = ["READERS", "CodesFile", "Header", "Reader", "Writer", "append", "read", "write"]

Source = str | os.PathLike[str] | BinaryIO

# A whole file is refused where its codes would be more than these: what deflate can reach, and a floor for small files.
MAX_EXPANSION, FREE_BYTES = 1024, 64 << 20


@dataclass(frozen=True, eq=False)
class CodesFile:
    """A `.codes` file in memory. Checked on construction.

    Raises: CodesError for codes or a number of samples that do not fit the header.
    """

    header: Header
    codes: Codes  # (Q, F) for one channel, (C, Q, F) for more; -1 where header.frame_codebooks lets one be missing
    n_samples: int  # per channel, at header.sample_rate; at most F * hop_length
    warnings: tuple[str, ...] = ()  # what is missing from a damaged file; empty for a whole one

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", _squeezed(self.header, _checked(self.header, self.codes)))
        _check_n_samples(self.header, self.codes.shape[-1], self.n_samples)


def write(target: Source, codes_file: CodesFile, *, prior: Prior | None = None) -> None:
    """Write a whole file to a path (replaced at once, at the end) or to a binary file object, which may be a pipe.

    `prior` is the one that the header names, where it names one (`codec.codesfile.packed.with_prior`).

    Raises: CodesError for a divisor's repeats that differ; CodesFileError for a path that cannot be written; OSError.
    """
    if isinstance(target, str | os.PathLike):
        with atomic_path(target, overwrite=True, error=CodesFileError) as path, path.open("wb") as file:
            write(file, codes_file, prior=prior)
        return
    writer = Writer(target, codes_file.header, prior=prior)
    writer.append(codes_file.codes)
    writer.close(codes_file.n_samples)


def read(source: Source, *, partial: bool = False, priors: Sequence[Path] = ()) -> CodesFile:
    """Read a whole file from a path or a binary file object, which may be a pipe.

    With `partial`, a truncated or damaged file gives the good blocks before the first damage; `warnings` then names the
    damage and how many good blocks after it were not used, and `n_samples` is at most the frames kept times hop_length.
    `priors` are model folders or prior files, where an entropy-coded file's prior is looked for first.

    Raises: CodesFileError for a damaged file, or with `partial` for a damaged header; ModelError where the prior of an
        entropy-coded file is not installed; OSError when it cannot be opened.
    """
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            return _read_all(Reader(file, name=os.fspath(source), partial=partial, priors=priors))
    return _read_all(Reader(source, partial=partial, priors=priors))


def _read_all(reader: Reader) -> CodesFile:
    blocks = [np.zeros(_squeezed(reader.header, _empty(reader.header)).shape, np.int64)]
    size_bytes = 0
    for block in reader.blocks():
        blocks.append(block)
        size_bytes += block.nbytes
        if size_bytes > FREE_BYTES + MAX_EXPANSION * reader.offset:
            raise CodesFileError(
                f"{reader.name}: its codes need over {MAX_EXPANSION} times its size; read it by blocks()"
            )
    codes = np.concatenate(blocks, axis=-1)
    n_samples = codes.shape[-1] * reader.header.hop_length
    if reader.n_samples is not None:
        n_samples = min(n_samples, reader.n_samples)
    return CodesFile(reader.header, codes, n_samples, reader.warnings)


@dataclass(frozen=True)
class Resume:
    """Where a writer goes on in an existing file."""

    n_blocks: int  # full blocks that stay
    pending: Codes  # (C, Q, f), f < frames_per_block: the codes of the last block, if it is not full
    offset: int  # bytes; where the full blocks end. The rest is dropped before the first new byte


class Writer:
    """Writes a file front to back to a binary file object, of which only `write` and `flush` are used: a pipe will do.

    As a context manager it closes the file well when the block ends well and writes no trailer after an exception, so
    that nobody takes the result for whole. The file object is the caller's: it is not closed.

    Args:
        target: where the bytes go.
        header: what they say.
        resume: where an existing file goes on, see `append`; the file object is then closed with the writer.
        prior: the one that the header names, where it names one: the file is then entropy-coded, version 2.

    Raises: CodesError for a header too large, or a prior that is not the header's; OSError of the target.
    """

    def __init__(
        self, target: BinaryIO, header: Header, *, resume: Resume | None = None, prior: Prior | None = None
    ) -> None:
        if header.prior_id != (prior.prior_id if prior else ""):
            raise CodesError(f"header: prior {header.prior_id or 'none'}, the writer has another; use with_prior")
        self.header = header
        self._prior = prior
        head = _head_bytes(header)
        self._crc = head[-CRC_BYTES:]
        self._target = target
        self._pending = _empty(header) if resume is None else resume.pending
        self._n_blocks = 0 if resume is None else resume.n_blocks
        self._cut_at = None if resume is None else resume.offset
        self._is_owner = resume is not None
        self._is_open = True
        if resume is None:
            self._put(head)

    @property
    def n_frames(self) -> int:
        """Frames taken so far."""
        n_pending: int = self._pending.shape[-1]
        return self._n_blocks * self.header.frames_per_block + n_pending

    def append(self, codes: npt.ArrayLike) -> None:
        """Take codes (Q, f), or (C, Q, f) where there are channels; f may be 0. Every full block is written at once.

        Raises: CodesError for codes out of range, of a wrong shape, or unequal where a divisor makes them one; nothing
            of them is taken then. OSError of the target.
        """
        if not self._is_open:
            raise CodesError("this .codes file is closed; open it again with codec.codesfile.append")
        codes = np.concatenate([self._pending, _checked(self.header, codes)], axis=-1)
        _check_repeats(self.header, codes, self._n_blocks * self.header.frames_per_block)
        per_block = self.header.frames_per_block
        n_full = codes.shape[-1] // per_block
        step = packing.batch_blocks(self.header)
        for first in range(0, n_full, step):
            part = codes[..., first * per_block : min(first + step, n_full) * per_block]
            self._put_blocks(part, per_block)
        self._pending = codes[..., n_full * per_block :].copy()
        if n_full:
            self._target.flush()

    def close(self, n_samples: int | None = None) -> None:
        """Write the last block and the trailer. A second call does nothing.

        Args:
            n_samples: true length per channel at header.sample_rate, at most F * hop_length, which is the default.

        Raises: CodesError for a number of samples that does not fit the frames; OSError of the target.
        """
        if not self._is_open:
            return
        n_frames = self.n_frames
        n_samples = n_frames * self.header.hop_length if n_samples is None else n_samples
        _check_n_samples(self.header, n_frames, n_samples)
        if self._pending.shape[-1]:
            self._put_blocks(self._pending, self._pending.shape[-1])
        self._put(trailer_bytes(self._crc, self._n_blocks, n_frames, n_samples))
        self._target.flush()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._end()

    def _end(self) -> None:
        self._is_open = False
        if self._is_owner:
            self._target.close()

    def _put_blocks(self, codes: Codes, n_frames: int) -> None:
        """Write codes (C, Q, n * n_frames) as n blocks."""
        channels, n_codebooks, total = codes.shape
        blocks = codes.reshape(channels, n_codebooks, total // n_frames, n_frames).transpose(2, 0, 1, 3)
        length = varint(n_frames)
        out = bytearray()
        if self._prior is None and not self.header.frame_codebooks:
            parts = [length + payload.tobytes() for payload in packing.pack(self.header, blocks)]
        else:
            parts = [block_v2(self._prior, self.header, block) for block in blocks]
        for number, part in enumerate(parts, self._n_blocks):
            out += part + crc_of(part, part_seed(self._crc, number))
        self._put(out)
        self._n_blocks += len(blocks)

    def _put(self, data: bytes | bytearray) -> None:
        if self._cut_at is not None:
            self._target.seek(self._cut_at)
            self._target.truncate()
            self._cut_at = None
        view = memoryview(data)
        while view:
            # A raw pipe may take less than it is given; an object that returns nothing has taken all.
            taken: int | None = self._target.write(view)
            view = view[len(view) if taken is None else taken :]


def append(path: str | os.PathLike[str], *, priors: Sequence[Path] = ()) -> Writer:
    """Open a whole file to continue it: the result's `append` and `close` go on after its last frame.

    The header, the last block and the trailer are checked. The file stays as it was until a block is full or the writer
    is closed; a last block that is partly filled is then written again with the new frames behind its own. `close`
    wants the number of samples of the whole file.

    Raises: CodesFileError for a damaged or truncated file, or one with a condition (clause 2.5); OSError when it cannot
        be opened for writing.
    """
    file = open(path, "r+b")  # noqa: SIM115 - the writer closes it
    try:
        reader = Reader(file, name=os.fspath(path), priors=priors)
        if SECTION in reader.header.sections:
            raise CodesFileError(
                f"{reader.name}: its {SECTION} stands for the recording as it is; encode the longer one"
            )
        per_block, n_frames = reader.header.frames_per_block, reader.require_n_frames()
        last = reader.read_frames(max(0, n_frames - 1) // per_block * per_block, n_frames)
        n_blocks, n_pending = divmod(n_frames, per_block)
        pending = _checked(reader.header, last[..., last.shape[-1] - n_pending :])
        resume = Resume(n_blocks, pending, reader.block_offset(n_blocks))
        return Writer(file, reader.header, resume=resume, prior=reader.prior())
    except BaseException:
        file.close()
        raise


def _head_bytes(header: Header) -> bytes:
    """The head of a file of the lowest version that can hold it."""
    if header.frame_codebooks:
        return header_bytes_v3(header)
    return header_bytes_v2(header) if header.prior_id else header_bytes(header)


def _empty(header: Header) -> Codes:
    return np.zeros((header.channels, header.n_codebooks, 0), np.int64)


def _squeezed(header: Header, codes: Codes) -> Codes:
    """Codes (Q, F) of (C, Q, F) where there is one channel, else as they are."""
    return codes[0] if header.channels == 1 else codes


def _checked(header: Header, codes: npt.ArrayLike) -> Codes:
    """Codes (C, Q, F) int64 of (Q, F) or (C, Q, F), every one within its codebook."""
    array = np.asarray(codes)
    if array.dtype.kind not in "iu":
        raise CodesError(f"codes are {array.dtype}, not integers")
    if array.ndim == 2 and header.channels == 1:
        array = array[None]
    if array.ndim != 3 or array.shape[:2] != (header.channels, header.n_codebooks):
        want = (
            f"({header.n_codebooks}, frames)"
            if header.channels == 1
            else f"({header.channels}, {header.n_codebooks}, frames)"
        )
        raise CodesError(f"codes have shape {np.shape(codes)}, the header wants {want}")
    is_bad = is_wrong(array, header.codebook_sizes, header.frame_codebooks)
    if is_bad.any():
        channel, q, frame = (int(index[0]) for index in np.nonzero(is_bad))
        code, size = array[channel, q, frame], header.codebook_sizes[q]
        raise CodesError(f"code {code} of codebook {q}, frame {frame} is outside 0 <= code < {size}")
    return array.astype(np.int64)


def _check_repeats(header: Header, codes: Codes, first_frame: int) -> None:
    """Refuse codes (C, Q, F), beginning at a whole group, where a divisor's repeats differ."""
    for q, divisor in enumerate(header.divisors):
        plane = codes[:, q]
        is_bad = plane != np.repeat(plane[:, ::divisor], divisor, axis=1)[:, : plane.shape[1]]
        if is_bad.any():
            frame = first_frame + int(np.nonzero(is_bad)[1][0])
            raise CodesError(
                f"codebook {q} holds one code for each {divisor} frames, but frame {frame} differs in its group"
            )


def _check_n_samples(header: Header, n_frames: int, n_samples: int) -> None:
    if not 0 <= n_samples <= n_frames * header.hop_length:
        raise CodesError(f"n_samples {n_samples} does not fit {n_frames} frames of {header.hop_length} samples")
