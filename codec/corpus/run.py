"""Tokenize a corpus: plan, go on where the last run stopped, make the missing shards, write the index.

What lies in the folder:

    plan.json, plan.jsonl    what becomes what (codec.corpus.plan)
    tokens-NNNNNN.parquet    the shards; .tar, or a folder
    done/NNNNNN.json         one for each finished shard: checksum, counts, failures
    index.json               the whole: model, counts, all finished shards; `complete` when none is missing
    failures.jsonl           what could not be read: id, source, reason
    duplicates.jsonl         with `dedupe`: what was left out, and the id that has the same bytes
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.api import load
from codec.corpus.archives import import_parquet
from codec.corpus.encoding import check_batches
from codec.corpus.plan import Plan, Settings, open_plan, remove_leftovers, write_json
from codec.corpus.pool import Finished, Progress, run_pool
from codec.corpus.rows import PARALLEL, RunFacts, choose_layout
from codec.corpus.shard import Done, Job, Work, done_path, read_done
from codec.corpus.sinks import describe
from codec.errors import CorpusError
from codec.files import atomic_path, hold_folder, is_held
from codec.hub import DEFAULT, find_model
from codec.rate import choose_codebooks

INDEX, FAILURES = "index.json", "failures.jsonl"
FORMAT, KIND = 1, "codec tokens"
OUTPUTS = ("parquet", "webdataset", "codes", "npy")


@dataclass(frozen=True)
class Options:
    """How to tokenize.

    Attributes:
        model: an embedded model's name, or a model folder.
        codebooks, bitrate: how many codebooks, or the most bits per second of one channel.
        mode: block or frame.
        output: parquet, webdataset, codes or npy.
        shard_hours: hours of audio in a shard.
        dedupe: leave out what has the same bytes as something before it; reads the corpus once more.
        root: where relative paths of a manifest start.
        part: (i, n): only each n-th shard, from number i on; for machines that share the folder.
        workers: processes; when None the number of cores, one on an accelerator.
        engine: auto, onnx, torch; or ray, onnx on the actors of a Ray cluster.
        device: cpu, cuda or mps.
        address: of the Ray cluster; one on this machine when None.
        layout: how codes are written: one of `codec.tokens.LAYOUTS`, its options behind it.
        batch: utterances that go through the network together; more than 1 gives up that each row's codes are exactly
            those that it has alone, for the speed of accelerators.
    """

    model: str = DEFAULT
    codebooks: int | None = None
    bitrate: float | None = None
    mode: str = "block"
    output: str = "parquet"
    shard_hours: float = 1.0
    dedupe: bool = False
    root: str | None = None
    part: tuple[int, int] = (0, 1)
    workers: int | None = None
    engine: str = "auto"
    device: str = "cpu"
    address: str | None = None
    layout: str = PARALLEL
    batch: int = 1


@dataclass(frozen=True)
class Summary:
    """What lies in the folder now.

    Attributes:
        n_rows, n_failures, n_duplicates: utterances.
        seconds: of audio in all finished shards.
        n_shards, n_done: of the plan, and finished.
        n_before: of those finished, how many were there when this run began.
        agreement: with batches, the share of compared codes that are those of rows run alone; None without.
    """

    n_rows: int
    n_failures: int
    n_duplicates: int
    seconds: float
    n_shards: int
    n_done: int
    n_before: int
    agreement: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no shard is missing."""
        return self.n_done == self.n_shards


def tokenize(
    source: str,
    folder: Path,
    options: Options,
    *,
    say: Callable[[str], None] = lambda line: None,
    begin: Callable[[float, float], None] = lambda todo, done: None,
    progress: Progress = lambda seconds: None,
    plan_only: bool = False,
) -> Summary:
    """Tokenize a source into a folder; run it again on the same folder and it goes on.

    Args:
        source: as `codec.corpus.sources.list_utterances` takes it.
        folder: made where it is missing.
        options: all else.
        say: gets lines for the user.
        begin: gets the seconds of audio of this run's shards, and those of them that are done already.
        progress: gets seconds of audio as they are done.
        plan_only: end when the plan is written.

    Raises:
        CorpusError: another run is at work on this folder, or it belongs to other settings, or a shard cannot be made.
        ModelError, CodesError: a model or codebooks that there are not.
    """
    _check(options)
    model = load(options.model, engine="auto" if options.engine == "ray" else options.engine, device=options.device)
    codebooks = choose_codebooks(model.info, codebooks=options.codebooks, bitrate=options.bitrate)
    check_batches(model.info, options.batch)
    layout = choose_layout(options.layout, model.info, codebooks)
    # Absolute, links as they are: a run may go on from another folder, or on another machine.
    root = None if options.root is None else os.path.abspath(options.root)
    settings = Settings(
        os.path.abspath(source), root, options.output, options.shard_hours, options.dedupe,
        model.info.name, model.info.weights_hash, codebooks, options.mode, model.engine.name, layout,
        options.batch,
    )  # fmt: skip
    with hold_folder(folder, f".lock-{options.part[0]}-{options.part[1]}", error=CorpusError):
        _check_alone(folder, options.part[1])
        if options.part[1] == 1 and options.engine != "ray":
            remove_leftovers(folder)
        plan = open_plan(folder, settings, say)
        facts = RunFacts(model.info, codebooks, options.mode, plan.fields, layout, options.batch)
        path = str(Path(find_model(options.model)).resolve())
        job = Job(str(folder.resolve()), options.output, path, model.engine.name, options.device, facts)
        if plan_only:
            return write_index(plan, facts)
        if options.batch > 1:
            say(f"batches of {options.batch}: for speed; a few codes may differ from those of rows run alone")
        return _make(plan, job, options, say, begin, progress)


def _check_alone(folder: Path, count: int) -> None:
    """Refuse runs side by side that cut the shards in another way: they would make some of them twice."""
    for lock in folder.glob(".lock-*-*"):
        other = lock.name.removeprefix(".lock-").replace("-", "/")
        if not other.endswith(f"/{count}") and is_held(lock):
            raise CorpusError(
                f"{folder}: another run is at work on shard {other} of it; give all the same number behind the slash, "
                "or wait for its end"
            )


def _make(
    plan: Plan,
    job: Job,
    options: Options,
    say: Callable[[str], None],
    begin: Callable[[float, float], None],
    progress: Progress,
) -> Summary:
    """Make the shards that are missing."""
    index, count = options.part
    mine = [shard for shard in plan.shards if shard.number % count == index]
    todo = [shard for shard in mine if read_done(plan.folder, shard.number) is None]
    n_before = len(mine) - len(todo)
    if n_before:
        say(f"going on: {n_before} of {len(mine)} shards are done")
    total, left = sum(shard.seconds for shard in mine), sum(shard.seconds for shard in todo)
    begin(total, total - left)
    works = [Work(shard, plan.name(shard)) for shard in todo]

    def finished(work: Work, done: Done) -> None:
        for failure in done.failures:
            say(f"failed: {failure['id']}: {failure['reason']}")

    try:
        if works:
            _run(job, works, options, progress, finished)
    finally:
        summary = write_index(plan, job.facts, n_before)
    return summary


def _run(job: Job, works: list[Work], options: Options, progress: Progress, finished: Finished) -> None:
    if options.engine == "ray":
        from codec.corpus.cluster import run_ray  # of the extra `ray`

        run_ray(job, works, options.workers, options.address, progress, finished)
    else:
        # An accelerator has room for one batch at a time, whatever the cores.
        n_workers = options.workers or (count_cores() if options.device == "cpu" else 1)
        run_pool(job, works, n_workers, progress, finished)


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_index(plan: Plan, facts: RunFacts, n_before: int = 0) -> Summary:
    """Write `index.json` and `failures.jsonl` from the facts of the finished shards; gives their sums."""
    while True:
        dones = [done for shard in plan.shards if (done := read_done(plan.folder, shard.number)) is not None]
        _write_index(plan, facts, dones)
        # Another machine may have finished a shard, and written its index, in the meantime: ours must not be older.
        if sum(done_path(plan.folder, shard.number).is_file() for shard in plan.shards) == len(dones):
            break
    n_samples = sum(done.n_samples for done in dones)
    return Summary(
        sum(done.n_rows for done in dones),
        sum(len(done.failures) for done in dones),
        plan.n_duplicates,
        n_samples / facts.info.sample_rate,
        len(plan.shards),
        len(dones),
        n_before,
        _agreement(dones),
    )


def _agreement(dones: list[Done]) -> float | None:
    n_compared = sum(done.n_compared for done in dones)
    return sum(done.n_equal for done in dones) / n_compared if n_compared else None


def _write_index(plan: Plan, facts: RunFacts, dones: list[Done]) -> None:
    shards = [
        {
            "name": done.name,
            "sha256": done.sha256,
            "size_bytes": done.size_bytes,
            "n_rows": done.n_rows,
            "n_samples": done.n_samples,
            "n_failures": len(done.failures),
        }
        for done in dones
    ]
    data: dict[str, Any] = {
        "kind": KIND,
        "format": FORMAT,
        "complete": len(dones) == len(plan.shards),
        "source": plan.settings.source,
        "output": plan.settings.output,
        **describe(facts),
        "fields": facts.fields,
        "n_rows": sum(done.n_rows for done in dones),
        "n_samples": sum(done.n_samples for done in dones),
        "n_failures": sum(len(done.failures) for done in dones),
        "n_duplicates": plan.n_duplicates,
        "batch": facts.batch,
        "n_compared": sum(done.n_compared for done in dones),
        "n_equal": sum(done.n_equal for done in dones),
        "agreement": _agreement(dones),
        "shards": shards,
    }
    lines = (json.dumps(failure) + "\n" for done in dones for failure in done.failures)
    with atomic_path(plan.folder / FAILURES, overwrite=True, error=CorpusError) as path, path.open("w") as file:
        file.writelines(lines)
    write_json(plan.folder / INDEX, data)


def read_index(folder: Path) -> dict[str, Any]:
    """`index.json` of a folder of tokens. Raises: CorpusError: none, damaged, or of a later format."""
    try:
        data = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{folder / INDEX}: cannot be read ({error}); run `codec tokenize` again") from None
    if not isinstance(data, dict) or data.get("kind") != KIND or data.get("format") != FORMAT:
        raise CorpusError(f"{folder / INDEX}: not an index of tokens of format {FORMAT}; upgrade codec")
    return data


def _check(options: Options) -> None:
    index, count = options.part
    if not 0 <= index < count:
        raise CorpusError(f"shard {index}/{count}: write 0/{count} to {count - 1}/{count}")
    if options.output not in OUTPUTS:
        raise CorpusError(f"output {options.output!r}: use {', '.join(OUTPUTS)}")
    if not options.shard_hours > 0:
        raise CorpusError(f"shard-hours {options.shard_hours:g}: more than 0 is needed")
    if options.output == "codes" and options.layout != PARALLEL:
        raise CorpusError(f"layout {options.layout}: .codes files hold codes as they are; use another --format")
    if options.workers is not None and options.workers < 1:
        raise CorpusError(f"workers {options.workers}: 1 or more is needed")
    if options.output == "parquet":
        import_parquet()  # refused before anything is made
