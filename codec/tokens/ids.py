"""Which token id stands for which code: offsets of the codebooks, special tokens, the size of the vocabulary.

>>> ids = TokenIds((1024, 512), first=100)
>>> ids.offsets, ids.pad, ids.size
((100, 1124), 1636, 1642)
>>> TokenIds((1024, 1024), shared=True).pad
1024
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.errors import CodesError

SPECIALS = ("pad", "bos", "eos", "mask", "audio_start", "audio_end")
BEGINNINGS = ("bos", "audio_start")
TYPES = tuple(np.dtype(name) for name in ("int16", "int32", "int64"))  # of codes and tokens
UNSIGNED = {dtype: np.dtype(f"u{dtype.name}") for dtype in TYPES}


@dataclass(frozen=True)
class TokenIds:
    """Ids of codes and special tokens. The special ones follow the codes, in the order of `SPECIALS`.

    Raises:
        CodesError: no codebooks, an empty codebook, or `first` below 0.
    """

    codebook_sizes: tuple[int, ...]  # entries of each codebook, in code order
    first: int = 0  # the first id that audio takes: the size of the text vocabulary before it
    shared: bool = False  # all codebooks use the same ids, where the model has one embedding table per codebook

    def __post_init__(self) -> None:
        """Check."""
        object.__setattr__(self, "codebook_sizes", tuple(int(size) for size in self.codebook_sizes))
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise CodesError(f"TokenIds.codebook_sizes: {self.codebook_sizes}: give one size, at least 1, per codebook")
        if self.first < 0:
            raise CodesError(f"TokenIds.first: {self.first}: ids count from 0")

    @property
    def n_codebooks(self) -> int:
        """Codebooks."""
        return len(self.codebook_sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """What is added to a code of each codebook."""
        if self.shared:
            return (self.first,) * self.n_codebooks
        return tuple(accumulate(self.codebook_sizes[:-1], initial=self.first))

    @cached_property
    def offset_columns(self) -> dict[np.dtype[Any], npt.NDArray[Any]]:
        """`offsets` as a column (Q, 1), to be added to codes (..., Q, F), in each type that holds the vocabulary."""
        fitting = (dtype for dtype in TYPES if self.size - 1 <= np.iinfo(dtype).max)
        return {dtype: np.array(self.offsets, dtype)[:, None] for dtype in fitting}

    @cached_property
    def n_code_ids(self) -> int:
        """Ids that stand for codes."""
        return max(self.codebook_sizes) if self.shared else sum(self.codebook_sizes)

    @cached_property
    def specials(self) -> dict[str, int]:
        """Id of each special token, by name."""
        return {name: self.first + self.n_code_ids + i for i, name in enumerate(SPECIALS)}

    @property
    def size(self) -> int:
        """Size of the whole vocabulary, with what comes before the audio: one more than the largest id."""
        return self.first + self.n_code_ids + len(SPECIALS)

    @property
    def pad(self) -> int:
        """Fills what carries nothing: the ends of a batch, the corners of a delay pattern."""
        return self.specials["pad"]

    @property
    def bos(self) -> int:
        """Begins a sequence."""
        return self.specials["bos"]

    @property
    def eos(self) -> int:
        """Ends a sequence."""
        return self.specials["eos"]

    @property
    def mask(self) -> int:
        """Stands where a masked model has to guess."""
        return self.specials["mask"]

    @property
    def audio_start(self) -> int:
        """Begins audio within text."""
        return self.specials["audio_start"]

    @property
    def audio_end(self) -> int:
        """Ends audio within text."""
        return self.specials["audio_end"]

    def name_of(self, token: int) -> str:
        """`codebook 1 code 7`, a special token's name, or "" for an id that is not of the audio."""
        at = token - self.first
        if not 0 <= at < self.n_code_ids + len(SPECIALS):
            return ""
        if at >= self.n_code_ids:
            return SPECIALS[at - self.n_code_ids]
        if self.shared:
            return f"code {at}"
        book = next(q for q in reversed(range(self.n_codebooks)) if token >= self.offsets[q])
        return f"codebook {book} code {token - self.offsets[book]}"

    def prefix(self, n_codebooks: int) -> TokenIds:
        """Ids of the first codebooks alone; special tokens move, so a model is trained with one or the other."""
        return TokenIds(self.codebook_sizes[:n_codebooks], self.first, self.shared)

    def is_code(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Where an id, of a type that holds the vocabulary, stands for a code of any codebook."""
        # Unsigned, an id below `first` is huge: one comparison for both ends.
        inside: npt.NDArray[np.bool_] = unsigned(tokens - tokens.dtype.type(self.first)) < self.n_code_ids
        return inside

    def spans(self, tokens: npt.NDArray[Any]) -> list[slice]:
        """Where audio lies in a mixed sequence (N,): between audio_start and audio_end, or the end of the sequence."""
        starts = np.flatnonzero(tokens == self.audio_start) + 1
        ends = np.append(np.flatnonzero(tokens == self.audio_end), len(tokens))
        return [slice(int(start), int(ends[np.searchsorted(ends, start)])) for start in starts]


def unsigned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory without signs: what is below 0, or went below the type's least, is huge."""
    return array.view(UNSIGNED[array.dtype])
