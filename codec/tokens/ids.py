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

import numpy as np
import numpy.typing as npt

from codec.errors import CodesError

SPECIALS = ("pad", "bos", "eos", "mask", "audio_start", "audio_end")
BEGINNINGS = ("bos", "audio_start")


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
    def offset_column(self) -> npt.NDArray[np.int64]:
        """`offsets` as a column (Q, 1), to be added to codes (..., Q, F)."""
        return np.array(self.offsets, np.int64)[:, None]

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

    def is_code(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Where an id stands for a code of any codebook."""
        # Unsigned, an id below `first` is huge: one comparison for both ends.
        inside: npt.NDArray[np.bool_] = (tokens - self.first).view(np.uint64) < np.uint64(self.n_code_ids)
        return inside

    def spans(self, tokens: npt.NDArray[np.int64]) -> list[slice]:
        """Where audio lies in a mixed sequence (N,): between audio_start and audio_end, or the end of the sequence."""
        starts = np.flatnonzero(tokens == self.audio_start) + 1
        ends = np.append(np.flatnonzero(tokens == self.audio_end), len(tokens))
        return [slice(int(start), int(ends[np.searchsorted(ends, start)])) for start in starts]
