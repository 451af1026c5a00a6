"""A binary source, read front to back or, where it can be sought, anywhere: what readers of `.codes` files read from.

>>> import io
>>> source = Bytes(io.BytesIO(b"codes"), "talk.codes")
>>> source.read(2), source.offset, source.size
(b'co', 2, 5)
"""

from __future__ import annotations

import os
from typing import BinaryIO

from codec.errors import CodesFileError


class Bytes:
    """A binary file object, read from where it stands: offsets count from there, and a pipe can go back to a mark."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.offset = 0
        self.size: int | None = None  # None for a pipe
        self._file = file
        self._recent = bytearray()  # of a pipe: the bytes since the mark
        self._ahead = b""  # of a pipe: bytes given back
        if file.seekable():
            self._origin = file.tell()
            self.size = file.seek(0, os.SEEK_END) - self._origin
            file.seek(self._origin)

    def error(self, offset: int, text: str) -> CodesFileError:
        """An error that names the file and a place in it."""
        return CodesFileError(f"{self.name}: byte {offset}: {text}")

    def read(self, size_bytes: int) -> bytes:
        """The next bytes: fewer only at the end."""
        if self.size is not None:
            # Never ask for more than there is: a buffered file allocates what it is asked for.
            size_bytes = max(0, min(size_bytes, self.size - self.offset))
        data, self._ahead = self._ahead[:size_bytes], self._ahead[size_bytes:]
        while len(data) < size_bytes:
            more = self._file.read(size_bytes - len(data))
            if more is not None and not isinstance(more, bytes):
                raise CodesFileError(f"{self.name}: gives {type(more).__name__}, not bytes; open it in binary mode")
            if not more:
                break
            data += more
        self.offset += len(data)
        if self.size is None:
            self._recent += data
        return data

    def go_to(self, offset: int) -> None:
        """Read on from `offset`. A pipe can only go back, and not past its mark."""
        if self.size is not None:
            self._file.seek(self._origin + offset)
        elif offset != self.offset:
            back = self.offset - offset
            assert 0 < back <= len(self._recent), "a pipe is only rewound to its mark"
            self._ahead = bytes(self._recent[-back:]) + self._ahead
            del self._recent[-back:]
        self.offset = offset

    def mark(self) -> None:
        """Let a pipe forget what is before this place."""
        self._recent.clear()
