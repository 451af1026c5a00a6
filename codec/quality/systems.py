"""What a comparison needs to know of any codec, ours or another's: facts, and a function from audio to audio."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from codec.errors import ConfigError

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Coded:
    """One recording after one codec at one operating point."""

    label: str  # the operating point: "4 codebooks", "set to 8 kbit/s"
    audio: Floats  # (T,) at `sample_rate`
    sample_rate: int  # Hz
    n_bits: float  # of the codes or packets alone, counted, without container
    encode_seconds: float  # of work; for a program, its start included
    decode_seconds: float
    codebooks: int | None = None  # that made it
    max_shift: float = 0.06  # s by which it may be out of step; less where the delay is known and taken out


@dataclasses.dataclass(frozen=True)
class Facts:
    """What does not depend on the audio; None is unknown or does not apply."""

    name: str
    sample_rate: int  # Hz, of the audio that the codec works on
    frame_rate: float | None = None  # Hz
    codebook_size: int | None = None
    parameters: int | None = None
    latency: float | None = None  # algorithmic, s
    is_streaming: bool | None = None
    gmacs: float = math.nan  # 10 ** 9 multiplications a second of audio, there and back
    note: str = ""  # how it was run


@dataclasses.dataclass(frozen=True)
class System:
    """One codec, ready to run at all its operating points.

    `code` takes audio (T,) float32 and its sample rate, Hz, and gives one `Coded` per operating point.
    """

    facts: Facts
    code: Callable[[Floats, int], Sequence[Coded]]


def at_most(up_to: float, rates: Sequence[float]) -> tuple[float, ...]:
    """Return the rates that are not above `up_to`; all in kbit/s, as a codec is set.

    >>> at_most(6.5, (3.2, 6, 9.2))
    (3.2, 6)

    Raises:
        ConfigError: none is.
    """
    kept = tuple(rate for rate in rates if rate <= up_to)
    if not kept:
        raise ConfigError(f"no operating point up to {up_to:g} kbit/s; the lowest is {min(rates):g}")
    return kept
