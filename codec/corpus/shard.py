"""Make one shard: read its utterances ahead, run them through the network, write all of it or nothing.

A shard is done when `done/NNNNNN.json` is there: its checksum, counts and failures. That file comes last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from codec.api import Model
from codec.corpus.encoding import Agreement, encode_alone, encode_batched
from codec.corpus.plan import ShardPlan, read_items, write_json
from codec.corpus.reading import ReadAhead
from codec.corpus.rows import RunFacts
from codec.corpus.sinks import open_sink
from codec.errors import CodecError, CorpusError
from codec.files import atomic_path, describe_os_error

DONE = "done"

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
        is_careful: read nothing ahead and run each utterance alone, so that a worker that dies was at the utterance
            after the last reported one.
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
        n_compared, n_equal: with batches, codes that were compared with those of rows run alone, and equal ones.
    """

    name: str
    sha256: str
    size_bytes: int
    n_rows: int
    n_samples: int
    failures: tuple[dict[str, str], ...]
    n_compared: int = 0
    n_equal: int = 0


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
    agreement = Agreement()
    with _target(folder / work.name, is_folder=job.output in ("codes", "npy")) as path:
        with open_sink(job.output, path, job.facts) as sink:
            items = read_items(folder, work.shard)
            ahead = ReadAhead(items, model.info.sample_rate, skip=work.skip, is_careful=work.is_careful)
            batched = job.facts.batch > 1 and not work.is_careful
            rows = (
                encode_batched(model, job.facts, ahead, agreement) if batched else encode_alone(model, job.facts, ahead)
            )
            with contextlib.closing(ahead), contextlib.closing(rows):
                for count, (item, row, reason) in enumerate(rows, 1):
                    if row is not None:
                        sink.append(row)
                        n_rows, n_samples = n_rows + 1, n_samples + row.n_samples
                    else:
                        failures.append({"id": item.id, "source": item.place.label, "reason": reason})
                    report(count, item.seconds if row is None else row.n_samples / model.info.sample_rate)
        digest, size = checksum_of(path)
    done = Done(work.name, digest, size, n_rows, n_samples, tuple(failures), agreement.n_compared, agreement.n_equal)
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
