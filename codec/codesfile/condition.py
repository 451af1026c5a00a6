"""The section `condition` of a header: what a decoder needs beside the codes, one vector for each channel.

A model such as FACodec makes one vector of a whole recording, the voice, which no code carries (clause 2.5).

>>> data = condition_bytes(np.array([[0.5, -1.0]], np.float32))
>>> data.hex(), condition_from(data, channels=1).tolist()
('0000003f000080bf', [[0.5, -1.0]])
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from codec.errors import CodesError

SECTION = "condition"

Condition = npt.NDArray[np.float32]


def condition_bytes(condition: Condition) -> bytes:
    """The section of vectors (C, N): little-endian, channel after channel."""
    return np.ascontiguousarray(condition, "<f4").tobytes()


def condition_from(data: bytes, *, channels: int) -> Condition:
    """The vectors (C, N) of a section.

    Raises:
        CodesError: not whole vectors for so many channels, or numbers that are not finite.
    """
    if not data or len(data) % (4 * channels):
        raise CodesError(f"header: section {SECTION}: {len(data)} bytes are no float32 vectors of {channels} channels")
    condition = np.frombuffer(data, "<f4").astype(np.float32).reshape(channels, -1)
    if not np.isfinite(condition).all():
        raise CodesError(f"header: section {SECTION}: holds numbers that are not finite; encode again")
    return condition


def condition_of(sections: Mapping[str, bytes], channels: int) -> Condition | None:
    """The vectors (C, N) of a header; None where it has none. Raises: CodesError as `condition_from`."""
    return condition_from(sections[SECTION], channels=channels) if SECTION in sections else None
