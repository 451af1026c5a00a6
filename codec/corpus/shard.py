"""Make one shard: read its utterances ahead, run each alone through the network, write all of it or nothing.

A shard is done when `done/NNNNNN.json` is there: its checksum, counts and failures. That file comes last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codec.api import Model
from codec.audio import Audio
from codec.corpus.plan import ShardPlan, read_items, write_json
from codec.corpus.reading import Reader
from codec.corpus.rows import Row, RunFacts, make_row
from codec.corpus.sinks import open_sink
from codec.corpus.utterance import Utterance
from codec.errors import CodecError, CorpusError, MissingExtraError
from codec.files import atomic_path, describe_os_error

DONE = "done"
AHEAD = 8  # chunks that wait for the network: 2 MB of 16 kHz audio

Report = Callable[[int, float], None]  # rows done in this shard, seconds of audio of the last one


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of the whole run.

    Attributes:
        folder: the result's.
        output: parquet, webdataset, codes or npy.
        model: name or folder.
        engine, device: what runs it.
        facts: what all rows share.
    """

    folder: str
    output: str
    model: str
    engine: str
    device: str
    facts: RunFacts


@dataclass(frozen=True)
class Work:
    """One shard to make.

    Attributes:
        shard: which one.
        name: its file or folder.
        skip: utterances by their number in the shard that are not to be tried again, and why.
        is_careful: read nothing ahead, so that a worker that dies was at the utterance after the last reported one.
    """

    shard: ShardPlan
    name: str
    skip: dict[int, str] = field(default_factory=dict)
    is_careful: bool = False


@dataclass(frozen=True)
class Done:
    """A finished shard, as in `done/NNNNNN.json`.

    Attributes:
        name: file or folder.
        sha256: of the file; of a folder's list of checksums.
        size_bytes: of all its files.
        n_rows: rows.
        n_samples: samples at the model's rate, of all rows.
        failures: `id`, `source` and `reason` of what could not be read.
    """

    name: str
    sha256: str
    size_bytes: int
    n_rows: int
    n_samples: int
    failures: tuple[dict[str, str], ...]


def done_path(folder: Path, number: int) -> Path:
    """Where a shard's facts lie."""
    return folder / DONE / f"{number:06d}.json"


def read_done(folder: Path, number: int) -> Done | None:
    """What is known of a shard; None where it is not done. Raises: CorpusError: damaged."""
    path = done_path(folder, number)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Done(**data | {"failures": tuple(data["failures"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorpusError(f"{path}: damaged ({error}); remove it and run again") from None


def make_shard(model: Model, job: Job, work: Work, report: Report) -> Done:
    """Encode the utterances of a shard and write it.

    Args:
        model: what `job` names, loaded.
        job: the run.
        work: which shard.
        report: called after each utterance.

    Raises:
        CorpusError: the shard cannot be written.
    """
    folder = Path(job.folder)
    failures: list[dict[str, str]] = []
    n_rows = n_samples = 0
    with _target(folder / work.name, is_folder=job.output in ("codes", "npy")) as path:
        with open_sink(job.output, path, job.facts) as sink:
            rows = _encode(model, job, work)
            with contextlib.closing(rows):
                for count, (item, row, reason) in enumerate(rows, 1):
                    if row is not None:
                        sink.append(row)
                        n_rows, n_samples = n_rows + 1, n_samples + row.n_samples
                    else:
                        failures.append({"id": item.id, "source": item.place.label, "reason": reason})
                    report(count, item.seconds if row is None else row.n_samples / model.info.sample_rate)
        digest, size = checksum_of(path)
    done = Done(work.name, digest, size, n_rows, n_samples, tuple(failures))
    done_path(folder, 0).parent.mkdir(exist_ok=True)
    write_json(done_path(folder, work.shard.number), asdict(done))
    return done


def checksum_of(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a shard; of a folder, that of the lines `CHECKSUM  NAME` of its files, sorted by name."""
    if path.is_file():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest(), path.stat().st_size
    digest, size = hashlib.sha256(), 0
    for file in sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.relative_to(path).as_posix()):
        checksum, file_size = checksum_of(file)
        digest.update(f"{checksum}  {file.relative_to(path).as_posix()}\n".encode())
        size += file_size
    return digest.hexdigest(), size


@contextlib.contextmanager
def _target(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """A temporary file or folder that gets its name when all is written."""
    for old in path.parent.glob(f".{path.name}.*.part"):  # of a worker that was killed
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    try:
        if not is_folder:
            with atomic_path(path, overwrite=True, error=CorpusError) as temporary:
                yield temporary
            return
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            yield temporary
            if path.exists():  # written, and killed before it was noted as done
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if isinstance(error, CodecError):
            raise
        raise CorpusError(f"{path}: cannot be written: {describe_os_error(error)}") from error


def _encode(model: Model, job: Job, work: Work) -> Generator[tuple[Utterance, Row | None, str], None, None]:
    """Each utterance of the shard with its row, or why there is none."""
    ahead = _ReadAhead(Path(job.folder), work, model.info.sample_rate)
    with contextlib.closing(ahead):
        for item in ahead.items():
            encoder = model.stream_encoder(codebooks=job.facts.codebooks, mode=job.facts.mode)
            parts = []
            try:
                for chunk in ahead.chunks():
                    parts.append(encoder.feed(chunk[0]))
            except MissingExtraError:
                raise
            except CodecError as error:  # bad audio: noted, and the run goes on
                yield item, None, str(error)
                continue
            parts.append(encoder.flush())
            yield item, make_row(item, np.concatenate(parts, -1), encoder.n_samples, job.facts), ""


class _ReadAhead:
    """Reads, decodes and resamples on a thread of its own, some chunks ahead of the network."""

    def __init__(self, folder: Path, work: Work, sample_rate: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(AHEAD)
        self._ended, self._work, self._asked = threading.Event(), work, threading.Semaphore(0)
        self._thread = threading.Thread(target=self._read, args=(folder, sample_rate), daemon=True)
        self._thread.start()

    def items(self) -> Iterator[Utterance]:
        """The utterances; `chunks` gives the audio of the last one and must be used up before the next."""
        self._asked.release()
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            self._asked.release()

    def chunks(self) -> Iterator[Audio]:
        """Chunks (1, t). Raises: AudioError: bad audio."""
        while (chunk := self._queue.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._asked.release()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)

    def _read(self, folder: Path, sample_rate: int) -> None:
        try:
            reader = Reader(sample_rate)
            for number, item in enumerate(read_items(folder, self._work.shard)):
                if self._work.is_careful:
                    self._asked.acquire()
                if self._ended.is_set():
                    return
                self._queue.put(item)
                reason = self._work.skip.get(number)
                self._queue.put(self._read_one(reader, item) if reason is None else CorpusError(reason))
            self._queue.put(None)
        except BaseException as error:  # whatever it is, the network's thread must hear of it
            self._queue.put(error)

    def _read_one(self, reader: Reader, item: Utterance) -> CodecError | None:
        try:
            with contextlib.closing(reader.chunks(item)) as chunks:
                for chunk in chunks:
                    self._queue.put(chunk)
                    if self._ended.is_set():
                        return None
        except CodecError as error:
            return error
        return None
