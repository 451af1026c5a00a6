"""Shards on a Ray cluster: one actor for each worker, one shard at a time each; the folder is shared by all machines.

A shard counts when its `done` file is there, so each is there exactly once whatever dies: an actor that dies is started
again by Ray, and its shard is made again.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codec.api import Model, load
from codec.corpus.pool import Finished, Progress
from codec.corpus.shard import Done, Job, Work, make_shard
from codec.errors import CorpusError, MissingExtraError

MOST_DEATHS = 20  # deaths of one shard's workers, machines that go away included, before the run gives up


class ShardWorker:
    """Makes shards; an actor of Ray's. The model is loaded with the first one."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: Model | None = None

    def make(self, work: Work) -> Done:
        """One shard."""
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if not Path(self._job.folder).is_dir():
            raise CorpusError(
                f"{self._job.folder}: not on this machine; --out must be a folder that all machines share"
            )
        if self._model is None:
            self._model = load(self._job.model, engine=self._job.engine, device=self._job.device)
            if self._model.info.weights_hash != self._job.facts.info.weights_hash:
                raise CorpusError(f"{self._job.model}: has other weights on this machine; install the same everywhere")
        return make_shard(self._model, self._job, work, lambda n_rows, seconds: None)


def run_ray(
    job: Job, works: Sequence[Work], n_workers: int | None, address: str | None, progress: Progress, finished: Finished
) -> None:
    """Make shards on a Ray cluster.

    Args:
        job: the run.
        works: the shards.
        n_workers: actors, of one core each; all cores of the cluster when None.
        address: of the cluster; None starts one on this machine for the time of the run.
        progress: gets the seconds of audio of each shard that is done.
        finished: gets each shard that is done.

    Raises:
        MissingExtraError: ray is not installed.
        CorpusError: a shard cannot be made.
    """
    try:
        ray: Any = importlib.import_module("ray")  # of the extra `ray`
    except ModuleNotFoundError:
        raise MissingExtraError("ray", "ray", need="--engine ray") from None
    # Without these, Ray counts cores for a local cluster; an address that is given has its own.
    local: dict[str, Any] = {} if address else {"num_cpus": n_workers, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **local)
    except Exception as error:  # its errors have no common base: it raises plain Exception for a slow start
        raise CorpusError(
            f"Ray does not start: {str(error).splitlines()[0]}; check --address, or wait for a free machine"
        ) from None
    try:
        count = min(len(works), n_workers or int(ray.cluster_resources().get("CPU", 1)))
        _drive(ray, job, deque(works), count, progress, finished)
    finally:
        ray.shutdown()


def _drive(ray: Any, job: Job, waiting: deque[Work], count: int, progress: Progress, finished: Finished) -> None:
    # max_restarts: Ray starts a dead actor again. Its task is given out again here, where failures are counted.
    remote = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0)(ShardWorker)
    idle = [remote.remote(job) for _ in range(count)]
    busy: dict[Any, tuple[Any, Work]] = {}
    deaths: dict[int, int] = {}
    while waiting or busy:
        while waiting and idle:
            actor, work = idle.pop(), waiting.popleft()
            busy[actor.make.remote(work)] = (actor, work)
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        actor, work = busy.pop(ready)
        idle.append(actor)
        try:
            done = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise CorpusError(str(error.cause)) from None
        except ray.exceptions.RayError as error:  # an actor, a worker or a machine that died
            number = work.shard.number
            deaths[number] = deaths.get(number, 0) + 1
            if deaths[number] >= MOST_DEATHS:
                raise CorpusError(f"{work.name}: its workers die again and again ({type(error).__name__})") from None
            waiting.append(work)
        else:
            progress(work.shard.seconds)
            finished(work, done)
