"""What the headers of audio containers promise, compared with the bytes that are there.

libsndfile reads a truncated WAV, Ogg or MP3 file to its early end and says nothing; these checks do.

>>> import io
>>> header = b"RIFF" + (1000).to_bytes(4, "little") + b"WAVE" + b"data" + (964).to_bytes(4, "little")
>>> missing_bytes(io.BytesIO(header + bytes(36)))
928
"""

from __future__ import annotations

import os
from typing import BinaryIO

AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".opus", ".wav")  # of the files that a folder is searched for

# A WAV written to a pipe cannot know its length: ffmpeg then writes 0xFFFFFFFF, sox and arecord 2 GiB less a little.
UNKNOWN_SIZE = 0x7FFF0000

OGG_PAGE_SIZE = 27 + 255 + 255 * 255  # the longest page there can be, in bytes


def missing_bytes(file: BinaryIO) -> int:
    """Count the bytes by which a WAV or Ogg file is shorter than its own headers say; 0 for whole and other files.

    Args:
        file: seekable, read from its start; the position afterwards is undefined.

    Source: RIFF/WAVE (Microsoft and IBM, 1991, chapter 2); RF64 (EBU Tech 3306); RFC 3533, section 6 (Ogg pages).
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return _missing_in_wav(file, size)
    if head[:4] == b"OggS":
        return _missing_in_ogg(file, size)
    return 0


def has_frame_count(file: BinaryIO) -> bool:
    """Whether an MP3 file says its own length in a Xing or Info tag; without one the length is an estimate.

    Source: Xing VBR header (first frame, after its side information); ID3v2.4, section 3.1 (tag before the audio).
    """
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(256)
    return b"Xing" in frame or b"Info" in frame


def _missing_in_wav(file: BinaryIO, size: int) -> int:
    """Walk the chunks up to `data` and compare its length with the rest of the file."""
    long_size = None
    while len(header := file.read(8)) == 8:
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            if long_size is not None and length == 0xFFFFFFFF:
                length = long_size
            elif length >= UNKNOWN_SIZE:
                return 0
            return max(0, length - (size - file.tell()))
        if header[:4] == b"ds64" and length >= 16:
            long_size = int.from_bytes(file.read(16)[8:], "little")
            length -= 16
        # Chunks are padded to even lengths.
        file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def _missing_in_ogg(file: BinaryIO, size: int) -> int:
    """Find the last page and compare its length with the rest of the file."""
    start = max(0, size - OGG_PAGE_SIZE)
    file.seek(start)
    tail = file.read(OGG_PAGE_SIZE)
    at = tail.rfind(b"OggS\0")
    if at < 0:
        return 0
    segments = tail[at + 26 : at + 27]
    table = tail[at + 27 : at + 27 + segments[0]] if segments else b""
    if not segments or len(table) < segments[0]:
        return 1
    return max(0, at + 27 + len(table) + sum(table) - len(tail))
