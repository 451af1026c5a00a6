"""Byte-pair merges over audio tokens: frequent runs become one token, sequences get shorter. Trained by `tokenizers`.

>>> merges = train_merges([np.array([1, 2, 1, 2, 3])] * 2, n_ids=4, size=5)
>>> merges.encode([3, 1, 2]).tolist(), merges.decode([3, 4]).tolist()
([3, 4], [3, 1, 2])

Source: Acoustic BPE (Shen et al. 2023), section 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import as_codes
from codec.errors import CodesError, MissingExtraError
from codec.files import atomic_path

# Each id is one character of the private planes 15 and 16, which no text uses and no normaliser touches.
PLANE, MOST = 0xF0000, 0xFFFE
PIECE = 256  # tokens; merges do not reach over the seams of such pieces while training, which keeps it fast

Tokens = npt.NDArray[np.int64]


class Merges:
    """Trained merges: ids below `n_ids` are tokens as they were, those from there on are runs of them."""

    def __init__(self, tokenizer: Any, n_ids: int) -> None:
        """Take a trained `tokenizers.Tokenizer`; its first ids are those of the tokens."""
        self._tokenizer, self.n_ids = tokenizer, n_ids

    @property
    def size(self) -> int:
        """Size of the vocabulary, merges included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, tokens: Any) -> Tokens:
        """Tokens (N,) to the shorter sequence.

        Raises:
            CodesError: an id that is not below `n_ids`.
        """
        return np.array(self._tokenizer.encode(_to_characters(tokens, self.n_ids)).ids, np.int64)

    def decode(self, merged: Any) -> Tokens:
        """The inverse of `encode`; a truncated sequence gives the tokens it stands for.

        Raises:
            CodesError: an id that is not below `size`.
        """
        array = as_codes(merged, "merged tokens")
        wrong = np.flatnonzero((array < 0) | (array >= self.size))
        if len(wrong):
            raise CodesError(f"merged tokens[{wrong[0]}] = {array[wrong[0]]}: ids are 0 to {self.size - 1}")
        runs = [self._runs[i] for i in array.tolist()]
        return np.concatenate(runs) if runs else np.zeros(0, np.int64)

    @cached_property
    def _runs(self) -> list[Tokens]:
        names = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [np.array([ord(c) - PLANE for c in name], np.int64) for name, _ in names]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer file, JSON of the library."""
        with atomic_path(path, overwrite=True, error=CodesError) as temporary:
            temporary.write_text(self._tokenizer.to_str(), encoding="utf-8")


def load_merges(path: str | os.PathLike[str]) -> Merges:
    """Read what `Merges.save` wrote.

    Raises:
        CodesError: missing or no such file.
        MissingExtraError: `tokenizers` is not installed.
    """
    library = _library()
    try:
        tokenizer = library.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    except Exception as failure:  # the library raises bare Exception
        raise CodesError(f"{os.fspath(path)}: no file of merges ({str(failure).splitlines()[0]})") from None
    return Merges(tokenizer, sum(len(name) == 1 for name in tokenizer.get_vocab()))


def train_merges(sequences: Iterable[Any], *, n_ids: int, size: int, min_frequency: int = 2) -> Merges:
    """Learn merges.

    Args:
        sequences: tokens (N,) each, of a layout of one row.
        n_ids: ids that may occur: `TokenIds.size`.
        size: of the vocabulary with the merges.
        min_frequency: how often a pair must occur.

    Raises:
        CodesError: an id that is not below `n_ids`, or sizes that cannot be.
        MissingExtraError: `tokenizers` is not installed.
    """
    if not 1 <= n_ids <= min(size, MOST):
        raise CodesError(f"merges: n_ids={n_ids}, size={size}: expected 1 <= n_ids <= {MOST}, and size not below")
    library = _library()
    # A start with every id, in order, so that unmerged tokens keep their ids.
    alphabet = {chr(PLANE + i): i for i in range(n_ids)}
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, min_frequency=min_frequency, show_progress=False, initial_alphabet=list(alphabet)
    )
    tokenizer = library.Tokenizer(library.models.BPE())
    texts = (_to_characters(tokens, n_ids) for tokens in sequences)
    pieces = (text[i : i + PIECE] for text in texts for i in range(0, len(text), PIECE))
    tokenizer.train_from_iterator(pieces, trainer)
    if any(tokenizer.token_to_id(name) != i for name, i in alphabet.items()):
        raise CodesError("merges: the library numbered the tokens in another order; use tokenizers 0.15 or later")
    return Merges(tokenizer, n_ids)


def _to_characters(tokens: Any, n_ids: int) -> str:
    array = as_codes(tokens, "tokens")
    wrong = np.flatnonzero((array < 0) | (array >= n_ids))
    if len(wrong):
        raise CodesError(f"tokens[{wrong[0]}] = {array[wrong[0]]}: the merges know ids 0 to {n_ids - 1}")
    return (array + PLANE).astype("<u4").tobytes().decode("utf-32-le")


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.trainers
    except ImportError:
        raise MissingExtraError("tokenizers", "tokens", need="merging tokens") from None
    return tokenizers
