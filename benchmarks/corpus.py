"""How much of the bare network's speed `codec tokenize` keeps, and whether its memory stays flat: one table.

    OMP_NUM_THREADS=1 python -m benchmarks.corpus FOLDER [--workers 2] [--rounds 3] [--utterances 200,800,3200]

FOLDER's clips are written as 16-bit FLAC and WAV at 16 kHz first, so that both are the same samples, and each counts
several times, so that a run is longer than its start. The bare network: these samples, read before, through
`Model.encode` one after the other, in as many processes as there are workers. tokenize: by the clock from the first
report to the last shard on disk; by the processor all of its workers, with their start. Both in turn, several rounds;
the ratio is that of one round. Where other work shares the machine, the processor says more than the clock.

Memory: `codec tokenize` of so many clips of a second, in four shards a worker, looked at every tenth of a second. PSS
shares out what several processes have in common.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile

from codec.api import load
from codec.audio import read
from codec.corpus.run import Options, count_cores, tokenize
from codec.corpus.sources import list_utterances

RATE = 16000
SHARDS = 4  # of a worker
MIB = 1 << 20


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


def measure_tokenize(source: Path, workers: int, hours: float) -> tuple[float, float, float]:
    """Seconds of audio per second of time, and of one processor; seconds until the first utterance was done."""
    marks: list[float] = []
    first: list[float] = []

    def progress(seconds: float) -> None:
        marks.append(time.perf_counter())
        first.append(seconds)

    before = worker_time()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        options = Options(engine="onnx", workers=workers, shard_hours=hours / workers / SHARDS)
        summary = tokenize(str(source), Path(folder) / "out", options, progress=progress)
    # The clock starts with the first report, whose audio is left out.
    done = (summary.seconds - first[0]) / (time.perf_counter() - marks[0])
    return done, summary.seconds / (worker_time() - before), marks[0] - begin


def worker_time() -> float:
    """Processor time of all children that have ended, seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_memory(source: Path, out: Path, workers: int, hours: float) -> tuple[int, int, int]:
    """Most bytes while `codec tokenize` runs: RSS of the main process, RSS of a worker, PSS of all together.

    A worker has `SHARDS` shards if `hours` is the length of the source.
    """
    command = [sys.executable, "-m", "codec", "tokenize", str(source), "--out", str(out), "--quiet", "--engine", "onnx"]
    command += ["--workers", str(workers), "--shard-hours", str(hours / workers / SHARDS)]
    main = worker = together = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError, ValueError):  # processes end while we look
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                main = max(main, peak_rss(process.pid))
                worker = max([worker, *(peak_rss(int(child)) for child in children)])
                together = max(together, sum(pss(int(pid)) for pid in [process.pid, *children]))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"tokenize ended with {process.returncode}")
    return main, worker, together


def peak_rss(pid: int) -> int:
    """The most memory that a process had, bytes."""
    return _field(f"/proc/{pid}/status", "VmHWM")


def pss(pid: int) -> int:
    """Memory of a process now, what it shares shared out, bytes."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss")


def _field(path: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def write_manifest(path: Path, audio: list[Path], count: int, seconds: float | None = None) -> Path:
    """`count` lines over the clips in turn; the first `seconds` of each."""
    section = {} if seconds is None else {"start": 0.0, "duration": seconds}
    lines = (json.dumps({"id": f"{i:06d}", "audio": str(audio[i % len(audio)]), **section}) for i in range(count))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def compare_speed(folder: Path, clips: list[Path], options: argparse.Namespace) -> None:
    """Rows of speed."""
    print("| files | round | network, h/h | tokenize, h/h | share | network, h/CPU h | tokenize, h/CPU h | share |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("flac", "wav"):
        audio = [folder / f"{i}.{kind}" for i in range(len(clips))]
        for clip, path in zip(clips, audio, strict=True):
            soundfile.write(path, soundfile.read(clip, dtype="int16")[0], RATE)
        count = len(clips) * options.repeat
        source = write_manifest(folder / f"{kind}.jsonl", audio, count)
        hours = sum(soundfile.info(path).duration for path in audio) * options.repeat / 3600
        for number in range(options.rounds):
            network, network_cpu = measure_bare([str(path) for path in audio] * options.repeat, options.workers)
            done, done_cpu, _ = measure_tokenize(source, options.workers, hours)
            shares = done / network, done_cpu / network_cpu
            print(
                f"| {kind} | {number + 1} | {network:.1f} | {done:.1f} | {shares[0]:.0%} | {network_cpu:.1f} | "
                f"{done_cpu:.1f} | {shares[1]:.0%} |",
                flush=True,
            )


def compare_memory(folder: Path, clips: list[Path], options: argparse.Namespace) -> None:
    """Rows of memory."""
    print("\n| utterances | main process, MiB | largest worker, MiB | all processes (PSS), MiB |\n|---|---|---|---|")
    for count in options.utterances:
        source = write_manifest(folder / f"{count}.jsonl", clips, count, 1.0)
        found = measure_memory(source, folder / f"out-{count}", options.workers, count / 3600)
        print(f"| {count} | " + " | ".join(f"{size / MIB:.0f}" for size in found) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=count_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=4, help="how often each clip counts")
    parser.add_argument("--utterances", default="200,800,3200", help="for memory; empty for none")
    options = parser.parse_args()
    options.utterances = [int(count) for count in options.utterances.split(",") if count]
    clips = [Path(item.place.path) for item in list_utterances(options.folder)]
    clips = [clip for clip in clips if soundfile.info(clip).samplerate == RATE]
    if not clips:
        raise SystemExit(f"{options.folder}: no clips at {RATE} Hz; give a folder with some")
    print(f"{len(clips)} clips, {options.workers} workers on {count_cores()} cores\n")
    with tempfile.TemporaryDirectory() as name:
        if options.rounds:
            compare_speed(Path(name), clips, options)
        compare_memory(Path(name), clips, options)


if __name__ == "__main__":
    main()
