"""The pieces that every part of a `.codes` file is made of: numbers, text, CRC-32 (docs/codes-format.md, clause 1).

>>> Cursor(varint(300) + b"end", 0).varint("a number")
300
"""

from __future__ import annotations

import struct
import zlib

from codec.errors import CodesFileError

MAGIC = b"\xc0des"  # 0xC0 never occurs in UTF-8: no text file can begin like this
CRC_BYTES = 4
MAX_VARINT_BYTES = 9  # 63 bits: every value fits an int64


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
