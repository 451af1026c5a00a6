"""What a shard holds for each utterance, and the facts that all rows of a run share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.config import ModelInfo
from codec.corpus.utterance import Utterance, passed_name

LAYOUT = "parallel"  # codes (Q, F): one list a codebook, as codec.tokens calls it

Codes = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class RunFacts:
    """What is the same in all rows.

    Attributes:
        info: the model.
        codebooks: codebooks in use.
        mode: block or frame.
        fields: passed-through columns: name to `int`, `float`, `bool` or `str`.
    """

    info: ModelInfo
    codebooks: int
    mode: str
    fields: dict[str, str]

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest unsigned type of at least 16 bits that holds every code."""
        return np.uint16 if max(self.info.codebook_sizes) <= 1 << 16 else np.uint32


@dataclass(frozen=True, eq=False)
class Row:
    """One row: codes (Q, F) unsigned, the true length in samples at the model's rate, and what goes along."""

    id: str
    codes: Codes
    n_samples: int
    source: str
    text: str | None
    fields: dict[str, Any]


def make_row(item: Utterance, codes: Any, n_samples: int, facts: RunFacts) -> Row:
    """The row of an utterance, its passed-through fields in the types of the columns."""
    passed = {passed_name(name): value for name, value in item.fields.items()}
    fields = {name: _cast(passed.get(name), kind) for name, kind in facts.fields.items()}
    source, text = valid(item.place.label), None if item.text is None else valid(item.text)
    return Row(valid(item.id), codes.astype(facts.dtype), n_samples, source, text, fields)


def to_record(row: Row, facts: RunFacts) -> dict[str, Any]:
    """All columns of a row but its codes, in the order of the table."""
    return {
        "id": row.id,
        "layout": LAYOUT,
        "sample_rate": facts.info.sample_rate,
        "num_samples": row.n_samples,
        "model": facts.info.name,
        "weights_hash": facts.info.weights_hash,
        "source": row.source,
        "text": row.text,
        **row.fields,
    }


def valid(text: str) -> str:
    """Text without what UTF-8 cannot hold: bytes of a file name that are none become a question mark in a diamond."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if not text.isascii() else text


def _cast(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "str":
        return (
            valid(value)
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
        )
    return float(value) if kind == "float" else value
