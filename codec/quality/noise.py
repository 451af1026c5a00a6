"""Speech in noise at a known ratio.

>>> import numpy as np
>>> speech, noise = np.ones(8, np.float32), np.ones(3, np.float32)
>>> add_noise(speech, noise, 20.0, np.random.default_rng(0))[0]
np.float32(1.1)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codec.errors import AudioError

Floats = npt.NDArray[np.float32]


def add_noise(speech: Floats, noise: Floats, snr_db: float, generator: np.random.Generator) -> Floats:
    """Return speech with noise, (T,).

    Args:
        speech: (T,).
        noise: (U,) at the same rate; it is repeated from a random place on as long as the speech lasts.
        snr_db: power of all the speech over that of the noise beside it, decibels.
        generator: draws the place.

    Raises:
        AudioError: the noise is silent.
    """
    start = int(generator.integers(len(noise))) if len(noise) else 0
    beside = np.resize(np.roll(noise, -start), len(speech))
    power = float(np.mean(np.square(beside, dtype=np.float64))) if len(beside) else 0.0
    if power == 0:
        raise AudioError("noise: silent; choose other recordings")
    wanted = float(np.mean(np.square(speech, dtype=np.float64))) / 10 ** (snr_db / 10)
    return np.asarray(speech + beside * np.float32(np.sqrt(wanted / power)), np.float32)
