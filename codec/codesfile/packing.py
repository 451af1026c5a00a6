"""Codes of blocks to bits and back (docs/codes-format.md, clause 3).

>>> header = Header(model="m", weights_hash="00" * 16, mode="block", sample_rate=8, hop_length=2, codebook_sizes=(5, 2))
>>> block_bytes(header, 4), pack(header, np.array([[[[4, 0, 1, 3], [1, 0, 0, 1]]]])).tobytes().hex()
(7, '4496')
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codec.codesfile.fields import CRC_BYTES, varint
from codec.codesfile.header import MAX_BLOCK_CODES, Header, runs_of

Codes = npt.NDArray[np.int64]


def bits_per_code(size: int) -> int:
    """Bits of one code of a codebook: ceil(log2(size)).

    >>> [bits_per_code(size) for size in (1, 2, 3, 1024, 1025)]
    [0, 1, 2, 10, 11]
    """
    return (size - 1).bit_length()


def payload_bits(header: Header, n_frames: int) -> int:
    """Bits of the codes of a block of `n_frames` frames, before the padding to whole bytes."""
    runs = runs_of(header)
    return header.channels * sum(n * -(-n_frames // divisor) * bits_per_code(size) for _, n, size, divisor in runs)


def block_bytes(header: Header, n_frames: int) -> int:
    """Bytes of a block of `n_frames` frames: its length, its codes, its CRC-32."""
    return len(varint(n_frames)) + (payload_bits(header, n_frames) + 7) // 8 + CRC_BYTES


def block_name(header: Header, number: int, n_frames: int | None = None) -> str:
    """What a message calls block `number`, of `n_frames` frames or of as many as most."""
    first, rate = number * header.frames_per_block, header.frame_rate
    last = first + (n_frames or header.frames_per_block)
    return f"block {number} (seconds {first / rate:.2f} to {last / rate:.2f})"


def batch_blocks(header: Header) -> int:
    """How many blocks to pack or unpack at once: numpy's cost per call is spread, memory stays constant."""
    return max(1, min(64, MAX_BLOCK_CODES // (header.frames_per_block * header.n_codebooks * header.channels)))


def pack(header: Header, codes: Codes) -> npt.NDArray[np.uint8]:
    """The payloads (n_blocks, bytes) of equally long blocks, codes (n_blocks, C, Q, f), checked before."""
    n_blocks, channels, _, n_frames = codes.shape
    bits = np.zeros((n_blocks, payload_bits(header, n_frames)), np.uint8)
    at = 0
    for channel in range(channels):
        for first, count, size, divisor in runs_of(header):
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
        for first, count, size, divisor in runs_of(header):
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
