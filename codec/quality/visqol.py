"""ViSQOL: how alike two recordings look to an ear, patch by patch of a spectrogram.

The package visqol-python in its speech mode, which needs numpy and scipy alone; its other mode needs a library that has
to be compiled, hence `pip install --no-deps visqol-python==3.8.0`. Of its two scales the exponential one is taken: the
other, by a network, does not always fall where speech gets worse (docs/quality.md).
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.errors import MissingExtraError

Floats = npt.NDArray[np.float32]

SPEECH_RATE = 16000  # Hz, of ViSQOL's speech mode


def visqol(ref: Floats, deg: Floats) -> float:
    """Return the listening quality by ViSQOL v3, speech mode, 1 to 5; nan where there is too little speech to judge.

    Args:
        ref: original, (T,) at 16 kHz.
        deg: decoded, (T,) at 16 kHz; ViSQOL aligns each patch by itself.

    Raises:
        MissingExtraError: visqol-python is not installed.

    Source: Chinen and others, "ViSQOL v3" (2020); the port visqol-python 3.8.0.
    """
    judge = _judge()
    if not ref.any() or not deg.any():
        return math.nan
    try:
        result = judge.measure_from_arrays(ref.astype(np.float64), deg.astype(np.float64), SPEECH_RATE)
    except (ValueError, RuntimeError, IndexError):  # shorter than a patch, or no patch with speech
        return math.nan
    return float(result.moslqo)


@functools.cache
def _judge() -> Any:
    try:
        from visqol import VisqolApi
    except ImportError as missing:
        raise MissingExtraError("visqol-python", "eval-full", need="ViSQOL", alone=True) from missing
    logging.getLogger("visqol").setLevel(logging.ERROR)  # it warns of every patch that it leaves out
    judge = VisqolApi()
    judge.create(mode="speech", use_lattice_model=False)
    return judge
