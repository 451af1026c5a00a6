"""Audio tokens as text, and as new entries of a text tokenizer.

>>> vocabulary = Vocabulary(TokenIds((1024, 1024)))
>>> vocabulary.to_text([512, 1024])
'<|a0_512|><|a1_0|>'
>>> vocabulary.from_text("<|a0_512|> <|a1_0|>").tolist()
[512, 1024]
"""

from __future__ import annotations

import json
import os
import re
import string
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import as_codes
from codec.errors import CodesError
from codec.files import atomic_path
from codec.tokens.ids import TokenIds

FORMAT = 1


@dataclass(frozen=True)
class Vocabulary:
    """A name for each audio token. Names must differ and none may be another's beginning.

    Raises:
        CodesError: a pattern without its field, or names that are not distinct.
    """

    ids: TokenIds
    code: str = "<|a{codebook}_{code}|>"  # of a code; with shared ids `codebook` may be left out
    special: str = "<|{name}|>"  # of a special token: pad, bos, eos, mask, audio_start, audio_end

    def __post_init__(self) -> None:
        """Check."""
        for pattern, known in ((self.code, {"codebook", "code"}), (self.special, {"name"})):
            fields = {field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None}
            if not fields or not fields <= known:
                raise CodesError(f"vocabulary: pattern {pattern!r}: expected the fields {', '.join(sorted(known))}")
        if len(set(self.names)) != len(self.names):
            raise CodesError(f"vocabulary: patterns {self.code!r} and {self.special!r} give a name twice")

    @cached_property
    def names(self) -> list[str]:
        """The name of each token, in the order of ids, from `ids.first` on."""
        sizes = (self.ids.n_code_ids,) if self.ids.shared else self.ids.codebook_sizes
        codes = [self.code.format(codebook=q, code=code) for q, size in enumerate(sizes) for code in range(size)]
        return codes + [self.special.format(name=name) for name in self.ids.specials]

    @cached_property
    def ids_by_name(self) -> dict[str, int]:
        """The mapping: name to id."""
        return {name: self.ids.first + i for i, name in enumerate(self.names)}

    def to_text(self, tokens: Any) -> str:
        """Tokens (N,) as one text.

        Raises:
            CodesError: an id that is not of the audio.
        """
        array = as_codes(tokens, "tokens").ravel()
        wrong = np.flatnonzero((array < self.ids.first) | (array >= self.ids.size))
        if len(wrong):
            place, allowed = int(wrong[0]), f"{self.ids.first} to {self.ids.size - 1}"
            raise CodesError(f"tokens[{place}] = {array[place]}: ids of audio tokens are {allowed}")
        return "".join([self.names[i] for i in (array - self.ids.first).tolist()])

    def from_text(self, text: str) -> npt.NDArray[np.int64]:
        """The audio tokens of a text (N,). What is no audio token is passed over."""
        return np.array([self.ids_by_name[name] for name in self._pattern.findall(text)], np.int64)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        ordered = sorted(self.names, key=len, reverse=True)  # of two names that begin alike the longer one
        return re.compile("|".join(map(re.escape, ordered)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mapping file, JSON: settings, and the id of each name."""
        about = {"codebook_sizes": self.ids.codebook_sizes, "first": self.ids.first, "shared": self.ids.shared}
        data = {"format": FORMAT, **about, "code": self.code, "special": self.special, "ids": self.ids_by_name}
        with atomic_path(path, overwrite=True, error=CodesError) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read a mapping file.

    Raises:
        CodesError: missing, damaged, of another version, or ids that contradict the settings.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise CodesError(f"{os.fspath(path)}: format {data['format']}, this build reads {FORMAT}")
        ids = TokenIds(tuple(data["codebook_sizes"]), int(data["first"]), bool(data["shared"]))
        vocabulary = Vocabulary(ids, str(data["code"]), str(data["special"]))
        agrees = vocabulary.ids_by_name == data["ids"]
    except (OSError, ValueError, KeyError, TypeError) as failure:
        if isinstance(failure, CodesError):
            raise
        raise CodesError(f"{os.fspath(path)}: no mapping file ({str(failure).splitlines()[0]})") from None
    if not agrees:
        raise CodesError(f"{os.fspath(path)}: its ids are not those of its settings; write it again")
    return vocabulary


def extend_tokenizer(
    tokenizer: Any, codebook_sizes: tuple[int, ...], *, code: str = Vocabulary.code, special: str = Vocabulary.special
) -> Vocabulary:
    """Add audio tokens to a text tokenizer, behind all it has. Resize the model's embeddings to its `len` then.

    Args:
        tokenizer: of transformers, or a `tokenizers.Tokenizer`; changed in place.
        codebook_sizes: entries of each codebook in use.
        code: pattern of the names of codes.
        special: pattern of the names of special tokens.

    Returns:
        The vocabulary; `save` it beside the model.

    Raises:
        CodesError: the tokenizer has some of the names, or gives ids that do not follow each other.
    """
    is_bare = type(tokenizer).__module__.startswith("tokenizers")
    first = tokenizer.get_vocab_size() if is_bare else len(tokenizer)
    vocabulary = Vocabulary(TokenIds(codebook_sizes, first), code, special)
    known = tokenizer.get_vocab()
    taken = next((name for name in vocabulary.names if name in known), None)
    if taken is not None:
        raise CodesError(f"extend_tokenizer: the tokenizer has {taken!r} already; choose other patterns")
    if known and max(known.values()) >= first:
        raise CodesError(f"extend_tokenizer: the tokenizer's ids reach {max(known.values())}, its size is {first}")
    tokenizer.add_tokens(_added(vocabulary.names))
    got = tokenizer.get_vocab()
    wrong = next((name for name, i in vocabulary.ids_by_name.items() if got.get(name) != i), None)
    if wrong is not None:
        raise CodesError(f"extend_tokenizer: {wrong!r} got the id {got.get(wrong)}, expected the next free one")
    return vocabulary


def _added(names: list[str]) -> list[Any]:
    """As the tokenizers library wants them: never split, not normalised, and without eating spaces around."""
    from tokenizers import AddedToken

    return [AddedToken(name, normalized=False, special=False) for name in names]
