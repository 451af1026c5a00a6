"""Worker processes on this machine, one shard at a time each; one that dies is replaced and its shard made again."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from codec.api import load
from codec.corpus.shard import Done, Job, Work, make_shard
from codec.errors import CodecError, CorpusError

CRASHES = 2  # times that one utterance may take its worker down before it counts as a failure
REPORT_EVERY = 0.2  # seconds between two messages of a worker

Progress = Callable[[float], None]  # seconds of audio more
Finished = Callable[[Work, Done], None]


def run_pool(job: Job, shards: Sequence[Work], n_workers: int, progress: Progress, finished: Finished) -> None:
    """Make shards in worker processes.

    Args:
        job: the run.
        shards: which.
        n_workers: processes.
        progress: gets seconds of audio now and then; less than nothing where a dead worker's shard begins again.
        finished: gets each shard that is done.

    Raises:
        CorpusError: a shard cannot be written, or workers die again and again.
        CodecError: the model cannot be loaded.
    """
    pool = _Pool(job, shards, progress, finished)
    try:
        pool.run(min(n_workers, len(shards)))
    finally:
        pool.close()


class _Worker:
    """A process, our end of its pipe, and the shard that it has."""

    def __init__(self, job: Job) -> None:
        # A fresh interpreter: threads of onnxruntime do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(job, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.work: Work | None = None
        self.n_rows, self.seconds = 0, 0.0


class _Pool:
    def __init__(self, job: Job, shards: Sequence[Work], progress: Progress, finished: Finished) -> None:
        self._job, self._waiting = job, deque(shards)
        self._progress, self._finished = progress, finished
        self._workers: list[_Worker] = []
        self._crashes: dict[tuple[int, int], int] = defaultdict(int)  # (shard, row) -> times

    def run(self, n_workers: int) -> None:
        self._workers = [_Worker(self._job) for _ in range(n_workers)]
        for worker in self._workers:
            self._give(worker)
        while any(worker.work for worker in self._workers):
            ready = wait([worker.pipe for worker in self._workers if worker.work])
            for worker in [worker for worker in self._workers if worker.pipe in ready]:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    self._replace(worker)
                else:
                    self._take(worker, message)

    def close(self) -> None:
        """End all processes; those that work are stopped, their half shards vanish."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.work:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _give(self, worker: _Worker) -> None:
        worker.work = self._waiting.popleft() if self._waiting else None
        worker.n_rows, worker.seconds = 0, 0.0
        if worker.work:
            with contextlib.suppress(OSError):  # it is dead, which the next wait finds
                worker.pipe.send(worker.work)

    def _take(self, worker: _Worker, message: tuple[str, Any]) -> None:
        kind, value = message
        if kind == "rows":
            worker.n_rows, seconds = value
            worker.seconds += seconds
            self._progress(seconds)
        elif kind == "error":
            raise value
        else:
            assert worker.work is not None
            self._finished(worker.work, value)
            self._give(worker)

    def _replace(self, worker: _Worker) -> None:
        """A worker died: of the row it was at, or killed by somebody. Its shard is made again from its beginning."""
        assert worker.work is not None
        worker.process.join()
        at = (worker.work.shard.number, worker.n_rows)
        # Of the first death the row is not known for sure; the second attempt goes carefully, row by row.
        self._crashes[at] += 1 if worker.work.is_careful else 0
        skip = worker.work.skip
        if self._crashes[at] == CRASHES:
            code = worker.process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            skip = {**skip, worker.n_rows: f"took its process down {CRASHES} times ({how})"}
        elif self._crashes[at] > CRASHES:
            raise CorpusError(f"{worker.work.name}: its worker dies again and again; look for a lack of memory")
        self._progress(-worker.seconds)
        self._waiting.appendleft(dataclasses.replace(worker.work, skip=skip, is_careful=True))
        worker.pipe.close()
        self._workers.remove(worker)
        self._workers.append(_Worker(self._job))
        self._give(self._workers[-1])


def _serve(job: Job, pipe: Connection) -> None:
    """What a worker process does: shards come, rows and results go; ends when the pipe does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
    _end_with(os.getppid())
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch is not imported yet; a core is one worker's
    try:
        model = load(job.model, engine=job.engine, device=job.device)
        if model.info.weights_hash != job.facts.info.weights_hash:
            raise CorpusError(f"{job.model}: was changed while the run was going on; put its old weights back")
        while True:
            work = pipe.recv()
            reporter = _Reporter(pipe, 0.0 if work.is_careful else REPORT_EVERY)
            done = make_shard(model, job, work, reporter)
            reporter.send()
            pipe.send(("done", done))
    except (EOFError, ConnectionError):  # the main process is gone, maybe while we were telling it
        return
    except CodecError as error:
        with contextlib.suppress(OSError):
            pipe.send(("error", CorpusError(str(error))))


class _Reporter:
    """Tells the main process of rows, a few times a second."""

    def __init__(self, pipe: Connection, every: float) -> None:
        self._pipe, self._every, self._last = pipe, every, 0.0
        self._n_rows, self._seconds = 0, 0.0

    def __call__(self, n_rows: int, seconds: float) -> None:
        self._n_rows, self._seconds = n_rows, self._seconds + seconds
        if time.monotonic() - self._last >= self._every:
            self.send()

    def send(self) -> None:
        """Tell now."""
        with contextlib.suppress(OSError):
            self._pipe.send(("rows", (self._n_rows, self._seconds)))
        self._last, self._seconds = time.monotonic(), 0.0


def _end_with(parent: int) -> None:
    """End this process soon after its parent, however that one ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
