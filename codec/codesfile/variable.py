"""Container version 3: frames of unlike numbers of codebooks (docs/codes-format.md, 10).

Each frame says first how many codebooks it has, as an index into the header's `frame_codebooks`; then come the codes
that it has. The blocks are those of version 2, bit-packed or packed with the prior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codec.codesfile import packing
from codec.codesfile.counts import MAX_COUNTS, MISSING, counts_of
from codec.codesfile.fields import Cursor, varint
from codec.codesfile.header import Header, header_fields, parse_header, sealed
from codec.codesfile.packing import Codes
from codec.codesfile.prior import ID_BYTES, Ints
from codec.codesfile.rans import TOTAL_BITS
from codec.errors import CodesError, CodesFileError

VERSION = 3
NO_PRIOR = bytes(ID_BYTES)
# How likely a frame has one of the counts, after one that is so many places away: a quarter for each place.
STEP_BITS, MAX_STEPS = 2, 8


def header_bytes_v3(header: Header) -> bytes:
    """The whole head of a file of version 3: prior's id, the counts, then the fields of version 1.

    Raises: CodesError for a header that is too large.
    """
    counts = b"".join(varint(count) for count in (len(header.frame_codebooks), *header.frame_codebooks))
    return sealed(VERSION, (bytes.fromhex(header.prior_id) or NO_PRIOR) + counts + header_fields(header))


def parse_header_v3(fields: bytes, base: int) -> Header:
    """The header from its fields; `base` is their offset in the file. Raises: CodesFileError."""
    cursor = Cursor(fields, base)
    prior_id = cursor.take(ID_BYTES, "prior's id")
    n_counts = cursor.varint("number of counts")
    if not 1 <= n_counts <= MAX_COUNTS:
        raise cursor.error(f"{n_counts} numbers of codebooks of a frame, 1 to {MAX_COUNTS} can be")
    counts = tuple(cursor.varint("codebooks of a frame") for _ in range(n_counts))
    header = parse_header(fields[cursor.at :], base + cursor.at)
    try:
        named = "" if prior_id == NO_PRIOR else prior_id.hex()
        return dataclasses.replace(header, prior_id=named, frame_codebooks=counts)
    except CodesError as error:
        raise CodesFileError(f"byte {base}: {error}") from None


def indices_of(codes: Codes, frame_codebooks: Sequence[int]) -> Ints:
    """Which of the counts each frame of checked codes (..., Q, F) has: (..., F)."""
    return np.searchsorted(frame_codebooks, counts_of(codes)).astype(np.int64)


def index_frequencies(last: Ints, n_counts: int) -> Ints:
    """How often each index comes after the index `last` (rows,), -1 before the first: (rows, n_counts) of 2^23."""
    steps = np.minimum(np.abs(np.arange(n_counts) - last[:, None]), MAX_STEPS)
    weights = np.where(last[:, None] < 0, 1, np.left_shift(1, STEP_BITS * (MAX_STEPS - steps)))
    counts: Ints = (weights << TOTAL_BITS) // weights.sum(1, keepdims=True)
    counts[np.arange(len(last)), np.maximum(last, 0)] += (1 << TOTAL_BITS) - counts.sum(1)
    return counts


def _widths(header: Header, counts: Ints) -> npt.NDArray[np.int64]:
    """Bits of each code of a block (C, Q, f), 0 for one that is not there; `counts` (C, f)."""
    widths = np.array([packing.bits_per_code(size) for size in header.codebook_sizes], np.int64)
    is_there = np.arange(header.n_codebooks)[:, None] < counts[:, None, :]
    return np.where(is_there, widths[:, None], 0)


def most_payload(header: Header, n_frames: int) -> int:
    """Bytes of a payload without a prior in which every frame has all codebooks."""
    index_bits = header.channels * n_frames * packing.bits_per_code(len(header.frame_codebooks))
    return (packing.payload_bits(header, n_frames) + index_bits + 7) // 8


def pack_block(header: Header, codes: Codes) -> bytes:
    """The payload of one block of codes (C, Q, f) without a prior: all indices, then the codes as in clause 3."""
    index_bits = packing.bits_per_code(len(header.frame_codebooks))
    indices = indices_of(codes, header.frame_codebooks)
    widths = _widths(header, counts_of(codes))
    values = np.concatenate([indices.ravel(), codes.ravel()])
    sizes = np.concatenate([np.full(indices.size, index_bits, np.int64), widths.ravel()])
    bits = np.repeat(values, sizes) >> _places(sizes) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def unpack_blocks(header: Header, payloads: Sequence[bytes], n_frames: int) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """Codes (n, C, Q, n_frames) of payloads of equally long blocks, and whether each holds only what it may."""
    shape = (header.channels, header.n_codebooks, n_frames)
    codes: Codes = np.full((len(payloads), *shape), MISSING, np.int64)
    is_whole = np.array([_unpack_block(header, payload, out) for payload, out in zip(payloads, codes, strict=True)])
    return codes, is_whole


def _unpack_block(header: Header, payload: bytes, codes: Codes) -> bool:
    """Fill in the codes (C, Q, f) of one payload; whether it is whole and nothing else."""
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little").astype(np.int64)
    channels, _, n_frames = codes.shape
    sizes = np.full(channels * n_frames, packing.bits_per_code(len(header.frame_codebooks)), np.int64)
    n_index_bits = int(sizes.sum())
    if n_index_bits > len(bits):
        return False
    indices = _numbers(bits[:n_index_bits], sizes)
    if (indices >= len(header.frame_codebooks)).any():
        return False
    counts = np.array(header.frame_codebooks)[indices].reshape(channels, n_frames)
    widths = _widths(header, counts)
    end = n_index_bits + int(widths.sum())
    if -(-end // 8) != len(payload) or bits[end:].any():
        return False
    is_there = np.arange(header.n_codebooks)[:, None] < counts[:, None, :]
    codes[is_there] = _numbers(bits[n_index_bits:end], widths[is_there])
    return bool((codes < np.array(header.codebook_sizes)[:, None]).all())


def _places(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The place of each bit in its number, for numbers of so many bits one behind the other: 0, 1, .. 0, 1, .."""
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)


def _numbers(bits: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of so many bits each, lowest bit first."""
    found = np.zeros(len(sizes), np.int64)
    np.add.at(found, np.repeat(np.arange(len(sizes)), sizes), bits << _places(sizes))
    return found
