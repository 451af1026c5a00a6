"""Single arguments at the door: numbers, switches and paths, and how a message shows one that cannot be.

>>> as_whole(16000.0), as_whole("8"), as_whole(2.5), as_whole(True)
(16000, None, None, None)
>>> as_number("2k"), as_number(float("nan")), shown("word " * 100)
(None, None, "'word word wo...d word word '")
"""

from __future__ import annotations

import math
import os
from reprlib import repr as shortened
from typing import Any

from codec.errors import CodecError


def shown(x: Any) -> str:
    """What was given, in one short line."""
    return " ".join(shortened(x).split())


def as_whole(x: Any) -> int | None:
    """A whole number of any type; None for anything else: text, switches, arrays, fractions."""
    if isinstance(x, str | bytes | bool) or getattr(x, "shape", ()) != ():
        return None
    try:
        number = int(x)
        return number if x == number else None
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def as_number(x: Any) -> float | None:
    """A number of any type; None for anything else, and for NaN."""
    if isinstance(x, str | bytes | bool) or getattr(x, "shape", ()) != ():
        return None
    try:
        number = float(x)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return None if math.isnan(number) else number


def as_list(x: Any) -> list[Any] | None:
    """What an iterable gives; None for anything else."""
    try:
        return list(x)
    except TypeError:
        return None


def as_switch(x: Any, name: str) -> bool:
    """True or False, also as 1 or 0. Raises: TypeError: anything else, which Python would take for True."""
    if isinstance(x, bool) or as_whole(x) in (0, 1):
        return bool(x)
    raise TypeError(f"{name}={shown(x)}: use True or False")


def check_path(x: Any, error: type[CodecError]) -> None:
    """Check that a file's name is one. Raises: error."""
    if not isinstance(x, str | os.PathLike):
        raise error(f"{shown(x)}: not a path; give the file's name")
    if not isinstance(os.fspath(x), str):
        raise error(f"{shown(x)}: a path in bytes; give it as text")
    if "\0" in os.fspath(x):
        raise error(f"{shown(x)}: no path has a zero byte; give the file's name")
