"""How much of the bare network's speed `codec tokenize` keeps, and whether its memory stays flat.

    python benchmarks/corpus.py FOLDER [--workers 1]

The bare network: the same files' samples, read before, through `Model.encode` one after the other, in as many
processes as there are workers. tokenize: from the first report to the last shard on disk. Start-up is paid once a run
and left out of both wall times; it is printed. Both are measured in turn, several times, since shared machines change
their speed. The second comparison is of processor time, all of tokenize's workers with their start-up: what others do
on the machine disturbs it less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from codec.api import load
from codec.audio import read
from codec.corpus.run import Options, tokenize
from codec.corpus.sources import list_utterances


def bare(paths: list[str], queue: multiprocessing.Queue[tuple[float, float, float]], barrier: object) -> None:
    """Encode samples that are in memory; puts seconds of audio, of time and of the processor."""
    model = load(engine="onnx")
    clips = [read(path)[0][0] for path in paths]
    model.encode(clips[0])
    barrier.wait()  # type: ignore[attr-defined]
    begin, worked = time.perf_counter(), time.process_time()
    seconds = 0.0
    for clip in clips:
        seconds += model.encode(clip).duration
    queue.put((seconds, time.perf_counter() - begin, time.process_time() - worked))


def measure_bare(paths: list[str], workers: int) -> tuple[float, float]:
    """Seconds of audio per second of time, of all processes; and per second of one processor."""
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(workers)
    parts = [paths[i::workers] for i in range(workers)]
    processes = [context.Process(target=bare, args=(part, queue, barrier)) for part in parts]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    audio = sum(seconds for seconds, _, _ in found)
    return audio / max(elapsed for _, elapsed, _ in found), audio / sum(worked for _, _, worked in found)


def measure_tokenize(source: str, workers: int, shard_hours: float) -> tuple[float, float, float]:
    """Seconds of audio per second of time, and of one processor; seconds until the first utterance was done."""
    marks: list[float] = []
    first: list[float] = []

    def progress(seconds: float) -> None:
        marks.append(time.perf_counter())
        first.append(seconds)

    before = worker_time()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        options = Options(engine="onnx", workers=workers, shard_hours=shard_hours)
        summary = tokenize(source, Path(folder) / "out", options, progress=progress)
    # The clock starts with the first report, whose audio is left out.
    done = (summary.seconds - first[0]) / (time.perf_counter() - marks[0])
    return done, summary.seconds / (worker_time() - before), marks[0] - begin


def worker_time() -> float:
    """Processor time of all children that have ended, seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print one line a round, and the memory of the largest child."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-hours", type=float, default=0.02)
    args = parser.parse_args()
    paths = [item.place.path for item in list_utterances(args.folder)]
    for _ in range(args.rounds):
        network, network_cpu = measure_bare(paths, args.workers)
        done, done_cpu, start = measure_tokenize(args.folder, args.workers, args.shard_hours)
        print(
            f"network {network:.2f} h/h, tokenize {done:.2f} h/h: {done / network:.0%}; per hour of one processor "
            f"{network_cpu:.2f} h and {done_cpu:.2f} h: {done_cpu / network_cpu:.0%}; first row after {start:.1f} s"
        )
    print(f"largest process {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
