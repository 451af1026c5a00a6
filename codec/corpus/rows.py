"""What a shard holds for each utterance, and the facts that all rows of a run share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.config import ModelInfo
from codec.corpus.utterance import Utterance, passed_name
from codec.errors import CodesError, CorpusError
from codec.tokens import APART, Layout, TokenIds, make_layout, parse_layout

PARALLEL = "parallel"  # codes as they are, (Q, F): one list a codebook

Codes = npt.NDArray[np.unsignedinteger[Any]]
Condition = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunFacts:
    """What is the same in all rows.

    Attributes:
        info: the model.
        codebooks: codebooks in use.
        mode: block or frame.
        fields: passed-through columns: name to `int`, `float`, `bool` or `str`.
        layout: how codes are written, as `make_layout` takes it.
        batch: rows that go through the network together.
    """

    info: ModelInfo
    codebooks: int
    mode: str
    fields: dict[str, str]
    layout: str = PARALLEL
    batch: int = 1

    @cached_property
    def arranger(self) -> Layout:
        """The layout."""
        return open_layout(self.layout, self.info.codebook_sizes[: self.codebooks])

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest unsigned type of at least 16 bits that holds everything that is written."""
        size = max(self.info.codebook_sizes) if self.layout == PARALLEL else self.arranger.ids.size
        return np.uint16 if size <= 1 << 16 else np.uint32


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a model gave for an utterance: codes (Q, F), samples at its rate, and its condition (N,) if it has one."""

    codes: npt.NDArray[np.int64]
    n_samples: int
    condition: Condition | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """One row: codes as the run's layout has them, the true length in samples at the model's rate, what goes along.

    `condition` is what a model with `info.condition` decodes them with, float32 (N,).
    """

    id: str
    codes: Codes
    n_samples: int
    source: str
    text: str | None
    fields: dict[str, Any]
    condition: Condition | None = None


def make_row(item: Utterance, encoded: Encoded, facts: RunFacts) -> Row:
    """The row of an utterance, its passed-through fields in the types of the columns."""
    passed = {passed_name(name): value for name, value in item.fields.items()}
    fields = {name: _cast(passed.get(name), kind) for name, kind in facts.fields.items()}
    source, text = valid(item.place.label), None if item.text is None else valid(item.text)
    laid = encoded.codes if facts.layout == PARALLEL else facts.arranger.arrange(encoded.codes)
    return Row(valid(item.id), laid.astype(facts.dtype), encoded.n_samples, source, text, fields, encoded.condition)


def choose_layout(text: str, info: ModelInfo, codebooks: int) -> str:
    """A layout for a model, with its codebooks' rates where it needs them. Raises: CodesError: one that cannot be.

    >>> from codec.config import ModelInfo
    >>> info = ModelInfo("m", 16000, 320, 0, (32,) * 3, (4, 2, 1), (3,), {}, "")
    >>> choose_layout("multirate", info, 3)
    'multirate:divisors=4,2,1'
    """
    kind, options = parse_layout(text)
    if kind == "multirate" and not options:
        text = f"{kind}:divisors={','.join(map(str, info.divisors[:codebooks]))}"
    open_layout(text, info.codebook_sizes[:codebooks])
    return text


def open_layout(text: str, codebook_sizes: Sequence[int]) -> Layout:
    """The layout of a run: ids from 0 on, one range for all codebooks where the layout keeps them apart.

    Raises:
        CodesError: a layout that cannot be.
    """
    return make_layout(text, TokenIds(tuple(codebook_sizes), shared=parse_layout(text)[0] in APART))


def to_codes(row: dict[str, Any], layout: Layout) -> Any:
    """The codes (Q, F) of a row that was read. Raises: CorpusError: tokens that are not those of whole frames."""
    if row["layout"] == PARALLEL:
        return row["codes"]
    if not row["codes"].size:
        return np.zeros((layout.ids.n_codebooks, 0), np.int64)
    try:
        found = layout.restore(row["codes"])
    except CodesError as error:
        raise CorpusError(f"{row['id']}: {error}; run tokenize again") from None
    if found.n_dropped or found.stopped:
        raise CorpusError(f"{row['id']}: its tokens end in the middle of a frame; run tokenize again")
    return found.codes


def to_record(row: Row, facts: RunFacts) -> dict[str, Any]:
    """All columns of a row but its codes, in the order of the table."""
    return {
        "id": row.id,
        "layout": facts.layout,
        "sample_rate": facts.info.sample_rate,
        "num_samples": row.n_samples,
        "model": facts.info.name,
        "weights_hash": facts.info.weights_hash,
        "source": row.source,
        "text": row.text,
        **({} if row.condition is None else {"condition": row.condition.tolist()}),
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
