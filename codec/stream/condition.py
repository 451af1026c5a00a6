"""The vector that some decoders need beside the codes, checked at the door and put where the network looks for it.

>>> info = ModelInfo("m", 16000, 320, 0, (32,), (1,), (1,), {}, "", condition=2)
>>> check_condition(info, [0.5, 1.0], channels=None).tolist()
[[0.5, 1.0]]
>>> check_condition(info, None, channels=None)
Traceback (most recent call last):
codec.errors.CodesError: m: decodes with a condition of 2 numbers, and got none; give the one that encode() gave
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.codesfile.condition import Condition
from codec.config import ModelInfo
from codec.engine import Engine, State
from codec.errors import CodesError

__all__ = ["Condition", "begin_decoder", "check_condition"]


def check_condition(info: ModelInfo, condition: Any, *, channels: int | None) -> Condition | None:
    """Vectors from outside, (N,) or (channels, N), as (C, N); None where the model takes none.

    Raises:
        CodesError: one that is missing, not wanted, of another size, or not finite.
    """
    if condition is None:
        if info.condition:
            raise CodesError(
                f"{info.name}: decodes with a condition of {info.condition} numbers, and got none; "
                "give the one that encode() gave"
            )
        return None
    if not info.condition:
        raise CodesError(f"{info.name}: takes no condition; codes that have one are of another model")
    try:
        array = np.asarray(condition, np.float32)
    except (TypeError, ValueError):
        raise CodesError(f"{info.name}: condition is no array of numbers; give the one that encode() gave") from None
    expected = (info.condition,) if channels is None else (channels, info.condition)
    if array.shape != expected:
        raise CodesError(f"{info.name}: condition of shape {array.shape}, expected {expected}; encode again")
    if not np.isfinite(array).all():
        raise CodesError(f"{info.name}: condition holds numbers that are not finite; encode again")
    return array.reshape(-1, info.condition)


def begin_decoder(engine: Engine, condition: Condition | None, n_rows: int) -> list[State]:
    """The decoder's state before the first frame for each row, a condition as the first of its arrays."""
    states = [engine.init_decoder(1) for _ in range(n_rows)]
    if condition is None:
        return states
    return [(row[None], *state[1:]) for row, state in zip(condition, states, strict=True)]
