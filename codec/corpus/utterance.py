"""One item of a corpus: what it is called, where its bytes lie, and what goes along with its codes.

>>> item = Utterance("a/b", Place("a/b.flac"), text="hello", seconds=2.5)
>>> from_line(to_line(item)) == item
True
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from codec.errors import CorpusError

BYTES_PER_SECOND = 32000  # of 16-bit audio at 16 kHz: what a length is guessed from where nothing states it

# Columns of every shard. A field of a manifest that has one of these names comes along with `source_` in front.
COLUMNS = (
    "id", "codes", "layout", "sample_rate", "num_samples", "model", "weights_hash", "source", "text", "condition"
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where audio lies.

    Attributes:
        path: an audio file, tar or Parquet file.
        kind: `file`, `tar` (bytes `offset` to `offset + size`), or `parquet` (row `row` of row group `group`).
        name: member of the archive; names the format in errors.
        offset, size: bytes inside the tar.
        group, row: row group of the Parquet file, row inside it.
        column: audio column of the Parquet file.
        start, end: section, seconds; None is the beginning, the end.
        channel: the channel to take; None is the mean of all.
    """

    path: str
    kind: str = "file"
    name: str = ""
    offset: int = 0
    size: int = 0
    group: int = 0
    row: int = 0
    column: str = ""
    start: float | None = None
    end: float | None = None
    channel: int | None = None

    @property
    def label(self) -> str:
        """How the column `source` and messages call it: `x.flac`, `x.tar#a.flac`, `x.wav@1.5-3`."""
        section = "" if self.start is None and self.end is None else f"@{self.start or 0:g}-"
        section += "" if self.end is None else f"{self.end:g}"
        return self.path + (f"#{self.name}" if self.name else "") + section


@dataclass(frozen=True)
class Utterance:
    """One row of the result to come.

    Attributes:
        id: unique in the corpus.
        place: where its audio lies.
        text: its transcript, None where there is none.
        fields: what else its manifest says of it, passed through: names to JSON values.
        seconds: length for the plan, stated or guessed.
        problem: why it cannot be read, known while planning; it becomes a failure.
    """

    id: str
    place: Place
    text: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str | None = None


def to_line(item: Utterance) -> str:
    """One line of ASCII JSON, defaults left out: names that are no UTF-8 survive in it."""
    data = _sparse(item)
    data["place"] = _sparse(item.place)
    return json.dumps(data, separators=(",", ":")) + "\n"


def from_line(line: str | bytes) -> Utterance:
    """What `to_line` wrote. Raises: CorpusError: it did not."""
    try:
        data = json.loads(line)
        return Utterance(**data | {"place": Place(**data["place"])})
    except (TypeError, ValueError, KeyError) as error:
        raise CorpusError(f"plan: a damaged line ({error}); start again in an empty folder") from None


def passed_name(name: str) -> str:
    """The column of a passed-through field."""
    return f"source_{name}" if name in COLUMNS else name


def _sparse(item: Any) -> dict[str, Any]:
    pairs = {f.name: (getattr(item, f.name), f.default) for f in dataclasses.fields(item)}
    return {name: value for name, (value, default) in pairs.items() if value != default and value != {}}
