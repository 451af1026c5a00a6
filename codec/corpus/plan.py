"""The plan: which utterances become which shard. It is written once, before the work, and every run obeys it.

So a shard's content depends neither on workers nor on interruptions. `plan.jsonl` has a line for each utterance,
`plan.json` the settings, the columns and where each shard begins.
"""

from __future__ import annotations

import array
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from codec.corpus.reading import Reader
from codec.corpus.rows import PARALLEL
from codec.corpus.sources import list_utterances
from codec.corpus.utterance import Utterance, from_line, passed_name, to_line
from codec.errors import CorpusError
from codec.files import atomic_path, describe_os_error

FORMAT = 1
PLAN, LINES, DUPLICATES = "plan.json", "plan.jsonl", "duplicates.jsonl"
MAX_ROWS = 20000  # utterances of a shard: files of a folder, rows of a table
MAX_FIELDS = 256  # columns that a manifest may bring along
SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar", "codes": "", "npy": ""}  # output -> suffix; "" is a folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What decides the content of the shards. A run with others on the same folder is refused.

    Attributes:
        source: what is tokenized, as the user wrote it.
        root: the folder of a manifest's relative paths.
        output: parquet, webdataset, codes or npy.
        shard_hours: hours of audio in a shard.
        dedupe: leave out what has the same bytes as something before it.
        model: the model's name.
        weights_hash: SHA-256 of its weights.
        codebooks: codebooks in use.
        mode: block or frame.
        engine: onnx or torch; their codes agree to 99.9 % and more, not always to the last one.
        layout: how codes are written.
        batch: utterances that go through the network together.
    """

    source: str
    root: str | None
    output: str
    shard_hours: float
    dedupe: bool
    model: str
    weights_hash: str
    codebooks: int
    mode: str
    engine: str
    layout: str = PARALLEL
    batch: int = 1


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its number, where its lines begin in `plan.jsonl`, how many there are, seconds of audio as planned."""

    number: int
    offset: int
    n_rows: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """All shards.

    Attributes:
        folder: where it lies.
        settings: what it was made with.
        fields: passed-through columns: name to `int`, `float`, `bool` or `str`.
        shards: in order.
        n_duplicates: utterances left out.
    """

    folder: Path
    settings: Settings
    fields: dict[str, str]
    shards: tuple[ShardPlan, ...]
    n_duplicates: int

    @property
    def n_rows(self) -> int:
        """Utterances."""
        return sum(shard.n_rows for shard in self.shards)

    @property
    def seconds(self) -> float:
        """Seconds of audio, as planned."""
        return sum(shard.seconds for shard in self.shards)

    def items(self, shard: ShardPlan) -> Iterator[Utterance]:
        """The utterances of a shard."""
        return read_items(self.folder, shard)

    def name(self, shard: ShardPlan) -> str:
        """File or folder of a shard."""
        return f"tokens-{shard.number:06d}{SUFFIXES[self.settings.output]}"


def read_items(folder: Path, shard: ShardPlan) -> Iterator[Utterance]:
    """The utterances of a shard, from `plan.jsonl`."""
    with (folder / LINES).open("rb") as file:
        file.seek(shard.offset)
        for _ in range(shard.n_rows):
            yield from_line(file.readline())


def open_plan(folder: Path, settings: Settings, say: Say) -> Plan:
    """The folder's plan; made now where it has none.

    Raises:
        CorpusError: the folder belongs to a run with other settings, is damaged, or the source cannot be listed.
    """
    if not (folder / PLAN).is_file():
        if (folder / "index.json").exists() or (folder / "done").exists():
            raise CorpusError(f"{folder}: has tokens but no {PLAN}; choose an empty folder")
        say(f"planning: listing {settings.source}")
        _write_plan(folder, settings)
    plan = read_plan(folder)
    for name, wanted in asdict(settings).items():
        found = getattr(plan.settings, name)
        if found != wanted:
            raise CorpusError(
                f"{folder}: was begun with {name} {found!r}, now it is {wanted!r}; go on as before, or choose an empty "
                f"folder"
            )
    return plan


def read_plan(folder: Path) -> Plan:
    """Raises: CorpusError: no plan, or a damaged one."""
    try:
        data = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise CorpusError(
                f"{folder / PLAN}: plan format {data['format']!r}, this build reads {FORMAT}; upgrade codec"
            )
        shards = tuple(ShardPlan(number, *row) for number, row in enumerate(data["shards"]))
        plan = Plan(folder, Settings(**data["settings"]), data["fields"], shards, data["n_duplicates"])
        if (folder / LINES).stat().st_size != data["size_bytes"]:
            raise CorpusError(f"{folder / LINES}: not of the size that {PLAN} says; choose an empty folder")
    except CorpusError:
        raise
    except OSError as error:
        raise CorpusError(f"{folder}: its plan cannot be read: {describe_os_error(error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{folder / PLAN}: damaged ({error}); choose an empty folder") from None
    return plan


def _write_plan(folder: Path, settings: Settings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / LINES, overwrite=True, error=CorpusError) as path:
        with path.open("w", encoding="ascii", newline="\n") as file:
            planner = _Planner(settings, file)
            if settings.dedupe:
                with (
                    atomic_path(folder / DUPLICATES, overwrite=True, error=CorpusError) as twins,
                    twins.open("w", encoding="utf-8") as duplicates,
                ):
                    planner.run(duplicates)
            else:
                planner.run(None)
        planner.check_ids(path)
        size = path.stat().st_size
    data = {
        "format": FORMAT,
        "settings": asdict(settings),
        "fields": dict(sorted(planner.fields.items())),
        "n_duplicates": planner.n_duplicates,
        "size_bytes": size,
        "shards": planner.shards,
    }
    write_json(folder / PLAN, data)  # last: with it the plan is there


def write_json(path: Path, data: Any) -> None:
    """One JSON object, whole or not at all."""
    with atomic_path(path, overwrite=True, error=CorpusError) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


class _Planner:
    """Cuts the list of utterances into shards; needs 8 bytes an utterance, 100 more with `dedupe`."""

    def __init__(self, settings: Settings, file: IO[str]) -> None:
        self._settings, self._file = settings, file
        self._ids = array.array("Q")
        self._begin = self._at = self._n_rows = 0
        self._seconds = 0.0
        self.shards: list[tuple[int, int, float]] = []
        self.fields: dict[str, str] = {}
        self.n_duplicates = 0

    def run(self, duplicates: IO[str] | None) -> None:
        """List the source, write the lines."""
        reader = Reader(1)
        seen: dict[bytes, str] = {}
        for item in list_utterances(self._settings.source, self._settings.root):
            if duplicates is not None and (digest := reader.hash(item)) is not None:
                key = bytes.fromhex(digest)[:16]
                if key in seen:
                    self.n_duplicates += 1
                    duplicates.write(json.dumps({"id": item.id, "same_as": seen[key]}) + "\n")
                    continue
                seen[key] = item.id
            self._add(item)
        self._close_shard()
        if not self.shards:
            raise CorpusError(
                f"{self._settings.source}: no audio there; give a folder with WAV, FLAC, Ogg, Opus or MP3"
            )

    def _add(self, item: Utterance) -> None:
        if not item.id:
            raise CorpusError(f"{item.place.label}: an empty id; repair the manifest")
        full = self._seconds + item.seconds > self._settings.shard_hours * 3600 or self._n_rows >= MAX_ROWS
        if self._n_rows and full:
            self._close_shard()
        line = to_line(item)
        self._file.write(line)
        self._at += len(line)
        self._n_rows += 1
        self._seconds += item.seconds
        self._ids.append(_short_hash(item.id))
        for name, value in item.fields.items():
            self._learn(passed_name(name), value)

    def _learn(self, name: str, value: Any) -> None:
        """The type of a column is what holds all its values; text holds everything."""
        kind = type(value).__name__ if type(value) in (int, float, bool, str) else "str"
        if kind == "int" and not -(1 << 63) <= value < 1 << 63:
            kind = "str"
        known = self.fields.setdefault(name, kind)
        if known != kind:
            self.fields[name] = "float" if {known, kind} == {"int", "float"} else "str"
        if len(self.fields) > MAX_FIELDS:
            raise CorpusError(f"{self._settings.source}: more than {MAX_FIELDS} different fields; drop some")

    def _close_shard(self) -> None:
        if self._n_rows:
            self.shards.append((self._begin, self._n_rows, round(self._seconds, 3)))
        self._begin, self._n_rows, self._seconds = self._at, 0, 0.0

    def check_ids(self, path: Path) -> None:
        """Refuse a corpus in which two utterances have one id. Raises: CorpusError: names them."""
        import numpy as np

        ids = np.sort(np.frombuffer(self._ids, np.uint64))
        twice = set(ids[1:][ids[1:] == ids[:-1]].tolist())
        if not twice:
            return
        seen: dict[str, str] = {}
        with path.open(encoding="utf-8") as file:
            for item in map(from_line, file):
                if _short_hash(item.id) not in twice:
                    continue
                if item.id in seen:
                    both = f"{seen[item.id]} and {item.place.label}"
                    raise CorpusError(f"id {item.id!r} twice: {both}; rename one, or give ids in a manifest")
                seen[item.id] = item.place.label


def _short_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a run that was killed."""
    for path in folder.glob(".*.part"):
        if path.is_dir():  # of codes or npy, with folders inside where ids have slashes
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
