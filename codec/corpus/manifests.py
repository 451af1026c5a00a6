"""Manifests: tables (CSV, TSV), lines of JSON, and Lhotse's cuts.

>>> fields = {"audio_filepath": "a.wav", "sentence": "hello", "speaker": 3}
>>> first_of(fields, PATH_KEYS), first_of(fields, TEXT_KEYS), fields
('a.wav', 'hello', {'speaker': 3})
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from codec.corpus.utterance import Place, Utterance
from codec.errors import CorpusError
from codec.files import describe_os_error

PATH_KEYS = ("audio_filepath", "audio_path", "path", "audio", "wav", "file", "filename")
ID_KEYS = ("id", "utt_id", "utterance_id", "key")
TEXT_KEYS = ("text", "sentence", "transcript", "transcription")
START_KEYS = ("start", "offset")
DURATION_KEYS = ("duration", "seconds")
csv.field_size_limit(1 << 24)  # bytes of a cell; the default of 128 KiB is less than a long transcript


def first_of(fields: dict[str, Any], keys: Sequence[str]) -> Any:
    """Take the first of these keys that has a value out of `fields`; None where there is none."""
    for key in keys:
        if fields.get(key) not in (None, ""):
            return fields.pop(key)
    return None


def list_table(path: Path, root: Path) -> Iterator[Utterance]:
    """The rows of a CSV or TSV file with a header line.

    Raises:
        CorpusError: no header with a path, or a broken row.
    """
    is_tsv = path.suffix.lower() == ".tsv"
    with _opened(path) as file:
        # Tab-separated corpora (Common Voice) do not quote; a lone quote mark belongs to the text.
        rows = csv.DictReader(file, dialect="excel-tab" if is_tsv else "excel", quoting=csv.QUOTE_NONE if is_tsv else 0)
        if not set(rows.fieldnames or ()) & set(PATH_KEYS):
            raise CorpusError(f"{path}: line 1: no column of paths; name one of {', '.join(PATH_KEYS)}")
        try:
            for row in rows:
                fields = {key: value for key, value in row.items() if key is not None and value not in (None, "")}
                yield _utterance(fields, root, f"{path}: line {rows.line_num}")
        except csv.Error as error:
            raise CorpusError(f"{path}: line {rows.line_num}: {error}; repair the table") from None


def list_jsonl(path: Path, root: Path) -> Iterator[Utterance]:
    """The lines of a JSONL manifest, of NeMo's or Hugging Face's kind, or of Lhotse's cuts; `.gz` is unpacked.

    Raises:
        CorpusError: a line that is not an object, or names no audio.
    """
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{where}: not JSON ({error}); repair the manifest") from None
            if not isinstance(fields, dict):
                raise CorpusError(f"{where}: not an object; one JSON object a line is needed")
            is_cut = str(fields.get("type", "")).endswith("Cut") or ("recording" in fields and "supervisions" in fields)
            yield _cut(fields, root, where) if is_cut else _utterance(fields, root, where)


def resolve(root: Path, name: str) -> str:
    """A path of a manifest, relative ones from `root`; links are left as they are."""
    return name if os.path.isabs(name) else os.path.normpath(os.path.join(root, name))


def _utterance(fields: dict[str, Any], root: Path, where: str) -> Utterance:
    name = first_of(fields, PATH_KEYS)
    if isinstance(name, dict):
        name = name.get("path")
    if not isinstance(name, str):
        raise CorpusError(f"{where}: no path of an audio file; name it {PATH_KEYS[0]}, path or audio")
    found, text = first_of(fields, ID_KEYS), first_of(fields, TEXT_KEYS)
    start, duration = _number(fields, START_KEYS, where), _number(fields, DURATION_KEYS, where)
    end = _number(fields, ("end",), where)
    if end is None and start is not None and duration is not None:
        end = start + duration
    # Without a start, a duration tells how long the whole file is.
    place = Place(resolve(root, name), start=start, end=end, channel=_channel(fields))
    seconds = duration or 0.0 if end is None else end - (start or 0.0)
    identity = Path(name).with_suffix("").as_posix() if found is None else str(found)
    return Utterance(identity, place, None if text is None else str(text), fields, max(0.0, seconds))


def _channel(fields: dict[str, Any]) -> int | None:
    value = fields.get("channel")
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        del fields["channel"]
        return value
    return None


def _number(fields: dict[str, Any], keys: Sequence[str], where: str) -> float | None:
    value = first_of(fields, keys)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 1e9:
        raise CorpusError(f"{where}: {keys[0]} is {value!r}; seconds of 0 or more are needed")
    return number


def _cut(fields: dict[str, Any], root: Path, where: str) -> Utterance:
    """A cut of Lhotse's. Source: lhotse.cut.MonoCut and MultiCut, `to_dict`."""
    try:
        identity, start, duration = str(fields["id"]), float(fields["start"]), float(fields["duration"])
        sources = list(fields["recording"]["sources"])
    except (KeyError, TypeError, ValueError):
        kind = fields.get("type", "a cut")
        reason = f"{kind} without one recording; save the audio of mixed cuts first (CutSet.save_audios)"
        return Utterance(str(fields.get("id", where)), Place(where), problem=reason)
    spoken = [s for s in fields.get("supervisions") or [] if isinstance(s, dict)]
    text = " ".join(str(s["text"]) for s in spoken if s.get("text"))
    channel = fields.get("channel")
    channels = channel if isinstance(channel, list) else [channel]
    extra = dict(fields.get("custom") or {})
    for key in ("speaker", "language", "gender"):
        values = {str(s[key]) for s in spoken if s.get(key)}
        if len(values) == 1:
            extra.setdefault(key, values.pop())
    one = sources[0] if len(sources) == 1 and isinstance(sources[0], dict) else {}
    problem: str | None = None
    if one.get("type") != "file":
        problem = f"{len(sources)} sources, the first of type {one.get('type')!r}; one file is needed"
    whole = start == 0.0 and duration == fields["recording"].get("duration")
    place = Place(
        resolve(root, str(one.get("source", ""))),
        start=None if whole else start,
        end=None if whole else round(start + duration, 9),
        channel=channels[0] if len(channels) == 1 and fields["recording"].get("num_channels") != 1 else None,
    )
    return Utterance(identity, place, text or None, extra, duration, problem)


def _opened(path: Path) -> IO[str]:
    try:
        if path.name.endswith(".gz"):
            return gzip.open(path, "rt", encoding="utf-8")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise CorpusError(f"{path}: {describe_os_error(error)}") from None
